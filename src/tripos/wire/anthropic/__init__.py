"""The Anthropic dialect: messages, token counts, errors."""

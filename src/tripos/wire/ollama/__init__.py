"""The Ollama dialect: chat, generate, the models and their cards, errors."""

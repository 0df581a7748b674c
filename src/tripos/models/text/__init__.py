"""Text and tokens: the tokenizer, the chat template and the sandbox that it is rendered in."""

"""One-shot models: batching by tokens, and encoders that embed and rerank."""

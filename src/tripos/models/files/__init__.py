"""Model files: safetensors, GGUF, packed and quantized checkpoints, adapters, and where they come from."""

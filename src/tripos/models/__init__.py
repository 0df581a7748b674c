"""What each architecture is: config.json read strictly, a short trace per family, checkpoints and tokenizers."""

"""How the demo assistant was made: data, tokenizer, training and evaluation. Tripos never imports it."""

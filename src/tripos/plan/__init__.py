"""The model language: an architecture traced once into a plan of few ops, over two symbolic sizes T and S."""

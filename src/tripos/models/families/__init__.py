"""One declaration per architecture: which ops, in which order, with which weights."""

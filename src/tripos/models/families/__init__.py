"""One declaration per architecture: which ops, in which order, with which weights.

Tested in tests/models/test_golden.py and tests/models/test_encoder_golden.py.
"""

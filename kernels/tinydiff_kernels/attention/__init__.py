"""Attention by key blocks with an online softmax. `descriptor.py` explains it."""

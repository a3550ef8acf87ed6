"""The indirect matmul: linear layers and convolutions by one micro-kernel. `descriptor.py` explains it."""

"""Norms that also quantise: group norm in three kernels (`group.py`), row norms in one (`row.py`)."""

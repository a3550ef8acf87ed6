"""How it is fast: operations, their NumPy specification (`ref/`) and the backends that run them."""

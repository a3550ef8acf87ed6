"""The specification: every operation in plain NumPy, slow and complete.

Each fast kernel names the function here that it must agree with. Functions work in the dtype of their input
(float32, or float64 for error measurements); weights arrive as float32.
"""

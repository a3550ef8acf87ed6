"""What costs memory traffic only: one kernel, `elementwise`, with a mode. `descriptor.py` says what it is told."""

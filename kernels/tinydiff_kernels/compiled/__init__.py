"""The backend "numba": operations are recorded, compiled to a list of kernel calls in one arena, and run together.

trace.py     what a network did, as numbered steps
build.py     steps -> launches; which forms (float, quantised, with a border) each activation is needed in
lower_*.py   one function for each kind of operation
arena.py     where each activation lies, and how long
program.py   launches with all addresses known, and their run
weights.py   weights, packed when first needed
strips.py    a policy: what to keep and what to recompute where memory is short; strip_*.py carry it out and choose it
backend.py   puts these together
"""

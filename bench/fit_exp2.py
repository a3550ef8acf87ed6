"""How the coefficients of `exp2_of_negative` in kernels/tinydiff_kernels/simd/polynomial.py were found, and those of
`weight_bits` in attention/softmax_i8.py. Prints them.

    python bench/fit_exp2.py

2**r on |r| <= 1/2 as 1 + r P(r), P of degree 4, with the smallest relative error; `fit_erf.py` has the method.
The other is 127 * 2**r of degree 2: its result is rounded to seven bits.
"""

from __future__ import annotations

import numpy as np
from fit_erf import nodes, rounded

if __name__ == "__main__":
    r = nodes() / 2
    powers = np.stack([r**i for i in range(1, 6)], axis=1)
    coefficients, error = rounded(powers, np.exp2(r) - 1, np.exp2(-r))
    print(coefficients, f"relative error {error:.1e}")
    powers = np.stack([r**i for i in range(3)], axis=1)
    coefficients, error = rounded(powers, 127 * np.exp2(r), np.exp2(-r) / 127)
    print(coefficients, f"relative error {error:.1e}")

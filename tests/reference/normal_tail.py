"""The polynomial of crates/clip-cube/src/kernels/activation.rs: log(1 - Phi(x)) for x from 0 to 6, how far it is off, and
that it goes on falling from there.

    python tests/reference/normal_tail.py

The Chebyshev fit of the least degree whose error, in single precision, is under 1e-5 of the tail itself.
"""

import numpy as np
import torch

END, NODES, BOUND = 6.0, 4000, 1e-5


def log_tail(x):
    return torch.special.log_ndtr(-torch.from_numpy(x)).numpy()


nodes = (np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES) + 1) / 2 * END
between = np.linspace(0, END, 100_001)
for degree in range(1, 20):
    fit = np.polynomial.chebyshev.Chebyshev.fit(nodes, log_tail(nodes), degree, domain=[0, END])
    numbers = fit.convert(kind=np.polynomial.Polynomial).coef.astype(np.float32)
    log = np.zeros_like(between, dtype=np.float32)
    for number in numbers[::-1]:
        log = log * between.astype(np.float32) + number
    off = np.abs(np.exp(log.astype(np.float64) - log_tail(between)) - 1).max()
    if off < BOUND:
        break
beyond = np.polynomial.Polynomial(numbers.astype(np.float64))(np.geomspace(END, 1e9, 100_001))
assert (np.diff(beyond) < 0).all(), "it rises again"
print(f"degree {degree}, off by {off:.1e} of the tail at most")
for number in numbers:
    print(np.format_float_positional(number, unique=True))

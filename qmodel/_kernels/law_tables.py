"""A law's canonical form with its measured curve: `laws.canonical` reads 16 numbers, the points of a curve follow."""

import numpy as np

from qmodel._kernels import laws

_WIDTH, _GAIN = 16, 11


def canonical(params, size):
    """Return (coefficients, base table of length `size`) of a law from its `kernel_params()`; plain numpy."""
    coef, table = laws.canonical(params[:_WIDTH], size)
    if len(params) > _WIDTH:
        at, times = np.reshape(params[_WIDTH:], (2, -1))
        m = np.arange(size, dtype=float)
        slope = (times[-1] - times[-2]) / (at[-1] - at[-2])
        table = table + params[_GAIN] * (np.interp(m, at, times) + slope * np.maximum(m - at[-1], 0.0))
    return coef, table

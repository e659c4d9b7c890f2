"""The canonical form of a law (see `_kernels.laws`) from the numbers that a law gives of itself; plain numpy."""

import numpy as np

from qmodel._kernels.laws import (
    C_KB,
    C_KK,
    C_KQ,
    C_KR,
    C_O0,
    C_OB,
    C_OR,
    C_SCALE,
    COEF_WIDTH,
)

# As in `qmodel.laws.step`: kinds of laws, and the numbers before the points of a curve.
_PNORM, _LINEAR, _ROOFLINE = 0, 1, 2
_WIDTH = 16


def canonical(params, size):
    """Return (coefficients, base table of length `size`) of a law from its `kernel_params()`."""
    coef = np.zeros(COEF_WIDTH)
    coef[C_SCALE] = 1.0
    m = np.arange(size, dtype=float)
    kind = int(params[0])
    if kind == _PNORM:
        return _p_norm(params, coef, m)
    if kind == _LINEAR:
        alpha, c0, c1, cpf, cattn = params[1:6]
        coef[[C_KB, C_KK, C_KQ]] = c0 - cpf, c1, cattn
        return coef, alpha + cpf * m
    if kind == _ROOFLINE:
        coef[C_O0 : C_OR + 1] = params[1:7]
        k0, kb, kk, kn, kq, kr = params[7:13]
        coef[[C_KB, C_KK, C_KQ, C_KR]] = kb - kn, kk, kq, kr
        return coef, k0 + kn * m
    raise ValueError(f"unknown kind of law {kind}")


def _p_norm(params, coef, m):
    t0, w, a, c, p, ck, ca, cx, floor, floor_b, gain, share, jump, first, last = params[1:_WIDTH]
    coef[[C_O0, C_OB, C_KK, C_KQ, C_KR]] = floor, floor_b, gain * ck, gain * ca, gain * cx
    memory, compute = w * m**a, c * m
    if share > 0:
        memory = memory * -np.expm1(m * np.log1p(-share))
    high, low = np.maximum(memory, compute), np.minimum(memory, compute)
    ratio = np.divide(low, high, out=np.zeros(len(m)), where=high > 0)
    total = t0 + high * (1.0 + ratio**p) ** (1.0 / p)
    if jump > 0:
        total = total + jump * np.clip((m - first) / (last - first), 0.0, 1.0)
    total = gain * total
    if len(params) > _WIDTH:
        at, times = np.reshape(params[_WIDTH:], (2, -1))
        slope = (times[-1] - times[-2]) / (at[-1] - at[-2])
        total = total + gain * (np.interp(m, at, times) + slope * np.maximum(m - at[-1], 0.0))
    return coef, total

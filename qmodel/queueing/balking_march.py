"""The level-crossing equation of one server with thresholds: marched on ever finer grids, and its limit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_balking import march_balking

__all__ = ["common_cell", "first_cells", "marched", "read_off", "romberg"]

FloatArray = npt.NDArray[np.float64]

#: Grid of the one-server march before refinement, and the refinements whose differences Romberg's rule removes.
CELLS = 1024
REFINEMENTS = 3
#: Largest number of cells a common divisor of services and thresholds may ask for, and a cell in mean gaps at first.
MAX_CELLS, FINE = 1 << 14, 0.04
#: Acceptance below which errors do not matter.
LEAST_CHANCE = 1e-9


def marched(
    lam: FloatArray, s: FloatArray, theta: FloatArray, top: float, cells: int
) -> list[tuple[FloatArray, FloatArray]]:
    """Return the CDF of the virtual wait and its integral on ever finer grids of (0, top)."""
    table = []
    for level in range(REFINEMENTS):
        count = cells << level
        f, area = np.empty(count + 1), np.empty(count + 1)
        march_balking(lam, s, theta, top / count, f, area)
        table.append((f / f[-1], area / f[-1]))
    return table


def read_off(
    table: list[tuple[FloatArray, FloatArray]], top: float, at: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """Return P(V <= at), E[V | V <= at] and the relative error of both that Romberg's rule leaves."""
    found = []
    for f, area in table:
        step = top / (len(f) - 1)
        cell = np.minimum((at / step).astype(np.int64), len(f) - 2)
        rest = at - cell * step
        part = rest / step * (f[cell + 1] - f[cell])
        below, chance = area[cell] + rest * (f[cell] + 0.5 * part), f[cell] + part
        # The integral of the CDF gives means to the order of the march, better than the table of the CDF would.
        found.append(np.stack([chance, np.maximum(at - below / np.maximum(chance, 1e-300), 0.0)]))
    best, second = romberg(found), romberg(found[1:])
    seen = best[0] > LEAST_CHANCE
    scale = np.maximum(np.abs(best), [[1e-300], [1e-6 * float(best[1].max(initial=0.0)) + 1e-300]])
    error = float((np.abs(best - second) / scale)[:, seen].max(initial=0.0))
    return np.clip(best[0], 0.0, 1.0), np.maximum(best[1], 0.0), error if np.isfinite(best).all() else math.inf


def romberg(values: list[FloatArray]) -> FloatArray:
    """Return the limit of values computed at h, h/2, h/4 with errors in h^2 and h^4."""
    rows = values
    power = 4.0
    while len(rows) > 1:
        rows = [(power * fine - coarse) / (power - 1) for coarse, fine in itertools.pairwise(rows)]
        power *= 4.0
    return rows[0]


def common_cell(breaks: FloatArray) -> float | None:
    """Return a length of which all `breaks` are multiples, none when there is none that is not tiny."""
    from fractions import Fraction

    unit = float(breaks[breaks > 0].min())
    denominator = 1
    for value in np.unique(breaks[breaks >= 0]):
        ratio = Fraction(float(value) / unit).limit_denominator(64)
        denominator = math.lcm(denominator, ratio.denominator)
        if abs(float(ratio) * unit - value) > 1e-12 * breaks.max() or denominator > MAX_CELLS:
            return None
    return unit / denominator


def first_cells(top: float, rate: float, cell: float | None, most: int) -> int:
    """Return a number of cells of (0, top), fine beside the gaps between arrivals as far as there may be so many."""
    fine = min(math.ceil(top * rate / FINE), most // 2)
    whole = round(top / cell) if cell is not None else most + 1
    if whole > max(most // 2, MAX_CELLS):
        return max(CELLS * 4, fine)
    return whole * max(math.ceil(max(CELLS, fine) / whole), 1)

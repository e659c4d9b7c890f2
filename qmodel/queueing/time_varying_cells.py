"""Cells of backlog for queues with rates by window, and the rates between them at any load."""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from qmodel.queueing.erlang import erlang_c
from qmodel.queueing.metrics import TabulatedTail

__all__ = ["LOADS", "backlog_cells", "log_measure", "rates_between"]

FloatArray = npt.NDArray[np.float64]

#: Loads at which the stationary law is tabulated; between and beyond them the logarithm of the density is linear in the
#: load, that of the odds of waiting in those of M/M/k.
LOADS = (0.05, 0.15, 0.4, 0.6, 0.75, 0.86, 0.94)
#: Loads outside of which the table is not extrapolated.
LEAST_LOAD, LARGEST_LOAD = 0.02, 3.0
#: Least probability of waiting that is told from none.
LEAST_CHANCE = 1e-280
#: Cells of backlog: most of them, and the first cell in units of the diffusion scale.
CELLS, FIRST_CELL = 700, 0.1
#: Growth of cells until they reach the largest size.
GROWTH = 1.06
#: Distance from load 1 within which drift and decay both vanish, and stationary mass (in e-folds) that is out of reach.
NEAR_CRITICAL, OUT_OF_REACH = 0.02, 12.0
#: Standard deviations kept beyond the highest mean backlog, and e-folds of the stationary law; both from this load on.
SPREAD, FOLDS, STATIONARY_UP_TO = 7.0, 12.0, 0.97
#: Share of the cells that are of the largest size, at least, and cells at the end that show the slope far out.
WIDE, FAR_CELLS = 0.8, 60
#: Largest exponent, and least: a flux of zero over zero.
LARGEST_EXPONENT, LEAST_EXPONENT = 500.0, 1e-9


def backlog_cells(loads: FloatArray, widths: FloatArray, diffusion: FloatArray) -> FloatArray:
    """Return the upper edges of the backlog cells, the first at 0: fine near it, uniform far away."""
    backlog = highest = 0.0
    for load, width in zip(loads, widths, strict=True):
        backlog = max(backlog + (load - 1) * width, 0.0)
        highest = max(highest, backlog)
    scale = float(diffusion.max())
    span = float(widths.sum())
    heaviest = float(loads.max())
    # A diffusion spreads by sqrt(2 D t) and a service, but no further than its stationary law at the highest load,
    # whose waits fall e-fold within D/(load (1 - load)).
    service = scale / min(heaviest, 1.0)
    spread = SPREAD * math.sqrt(2 * scale * span) + FOLDS * service
    wander = min(spread, FOLDS * service / (1 - min(heaviest, STATIONARY_UP_TO)))
    top = highest + wander + (spread if heaviest > STATIONARY_UP_TO else 0.0)
    largest = top / (WIDE * CELLS)
    first = min(FIRST_CELL * scale, largest)
    sizes = [first]
    while sizes[-1] < largest:
        sizes.append(min(sizes[-1] * GROWTH, largest))
    done = float(np.sum(sizes))
    sizes.extend([largest] * max(int((top - done) / largest) + 1, 1))
    return np.concatenate([[0.0], np.cumsum(sizes)])


def log_measure(tables: list[TabulatedTail], grid: FloatArray, stretch: float) -> FloatArray:
    """Return log(P(V in cell)/P(V = 0)) of the stationary law at each load of LOADS."""
    out = np.empty((len(tables), len(grid)))
    at = grid / stretch
    for row, table in zip(out, tables, strict=True):
        inside = np.interp(at, table.grid, table.log_tail)
        log_tail = np.where(at > table.grid[-1], table.log_tail[-1] - table.decay * (at - table.grid[-1]), inside)
        drop = np.minimum(np.diff(log_tail), -1e-12)
        row[0] = 0.0
        row[1:] = log_tail[:-1] + np.log(-np.expm1(drop)) - np.log(-np.expm1(log_tail[0]))
    return out


def _level(levels: FloatArray, load: float, k: int) -> FloatArray:
    """Return log(P(V in cell)/P(V = 0)) of the stationary law at a load."""
    i = min(max(bisect_left(LOADS, load) - 1, 0), len(LOADS) - 2)
    part = (min(load, LARGEST_LOAD) - LOADS[i]) / (LOADS[i + 1] - LOADS[i])
    level = (1 - part) * levels[i] + part * levels[i + 1]
    if load < 1 - NEAR_CRITICAL:
        # The odds of waiting grow as a power of the load: those of M/M/k tell how far between the tables they are.
        low, high, at = (_log_odds(x, k) for x in (LOADS[i], LOADS[i + 1], load))
        share = (at - low) / (high - low) if high > low else part
        odds = [np.logaddexp.reduce(row[1:]) for row in (levels[i], levels[i + 1], level)]
        level[1:] += (1 - share) * odds[0] + share * odds[1] - odds[2]
    return np.asarray(level)


def _log_odds(load: float, k: int) -> float:
    """Return log(C/(1 - C)), C Erlang's probability of waiting."""
    delayed = max(erlang_c(k, load * k), LEAST_CHANCE)
    return math.log(delayed) - math.log1p(-delayed)


def rates_between(
    levels: FloatArray, grid: FloatArray, load: float, diffusion: float, k: int
) -> tuple[FloatArray, FloatArray]:
    """Return the rates up and down between cells at a load."""
    load = max(load, LEAST_LOAD)
    level = _level(levels, load, k)
    # Log ratio of neighbouring masses, and slope of the log density far out.
    ratio, size = np.diff(level), np.diff(grid)
    slope = float(level[-1] - level[-FAR_CELLS]) / float(grid[-1] - grid[-FAR_CELLS]) or -1 / float(grid[-1])
    up, down = np.zeros(len(grid)), np.zeros(len(grid))
    # Between cells of the continuum: Scharfetter-Gummel with the log ratio of densities.
    z = ratio[1:] - np.log(size[1:] / size[:-1])
    apart = 0.5 * (size[1:] + size[:-1])
    drift = load - 1
    # Within reach of the stationary law keep it, with the diffusion that gives the true drift; beyond, and in overload,
    # both are true.
    if abs(drift) < NEAR_CRITICAL:
        scale = np.full(len(z), diffusion)
    else:
        beyond = (grid[1:-1] * abs(slope) > OUT_OF_REACH) | (drift > 0)
        z = np.where(beyond, drift * apart / diffusion, z)
        scale = np.where(beyond, diffusion, abs(drift / slope))
    flow = scale / apart
    z = np.clip(z, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    z = np.where(np.abs(z) < LEAST_EXPONENT, LEAST_EXPONENT, z)
    up[1:-1] = flow / size[:-1] * (-z / np.expm1(-z))
    down[2:] = flow / size[1:] * (z / np.expm1(z))
    # Out of and into the mass at 0: backlog falls through the first cell at unit speed.
    through = 1 / (1 + 0.5 * size[0] / diffusion)
    up[0] = through / size[0] * math.exp(min(max(float(ratio[0]), -LARGEST_EXPONENT), LARGEST_EXPONENT))
    down[1] = through / size[0]
    return up, down

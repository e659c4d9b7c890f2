"""Time-varying queues with thresholds or short windows: the profile replayed along sample paths, waits by window."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_paths import balking_replays
from qmodel.queueing.sampling import Choice

__all__ = ["count_waits_by_window"]

FloatArray = npt.NDArray[np.float64]

#: The paths are the same for every question: answers repeat, and differences between them are not noise.
SEED = 20_022
#: Arrivals in all replays together, and their least and largest number.
ARRIVALS, FEWEST, MOST = 350_000, 6, 20_000
#: Groups of replays, at most, whose spread gives the errors.
GROUPS = 64
#: Cells up to the last threshold and beyond it.
FINE, COARSE = 768, 1024
#: Half-width of an error estimate in standard errors.
STANDARD_ERRORS = 2.5


def count_waits_by_window(
    edges: FloatArray,
    rates: FloatArray,
    scales: FloatArray,
    classes: tuple[FloatArray, FloatArray, FloatArray],
    servers: int,
    reach: tuple[float, float],
    at_least: int = ARRIVALS,
) -> tuple[FloatArray, FloatArray, dict[str, float]]:
    """Return the law of the virtual wait that arrivals of each window meet.

    Parameters
    ----------
    edges, rates, scales : ndarray
        Window edges [s], arrival rates [1/s], and factor of all services by window.
    classes : tuple of ndarray
        Shares, services [s] and thresholds [s], infinity for always.
    servers : int
        Number of servers.
    reach : tuple of float
        Waits [s] up to which they are told apart finely, and at all.
    at_least : int
        Arrivals in all replays.

    Returns
    -------
    tuple
        Grid [s], P(V <= grid) by window, and relative half-widths of the share that joins and of their mean wait.
    """
    share, services, limits = classes
    widths, rng, choice = np.diff(edges), np.random.default_rng(SEED), Choice(services, share)
    law = (choice.cumulative, choice.first)
    top = reach[1]
    split = min(max(reach[0], 1e-9 * top), 0.999 * top)
    cells = (split, FINE / split, COARSE / (top - split))
    replays = int(min(max(math.ceil(at_least / max(float(rates @ widths), 1.0)), FEWEST), MOST))
    total = np.zeros((rates.size, FINE + 1 + COARSE))
    grid = np.concatenate([np.linspace(0.0, split, FINE + 1), np.linspace(split, top, COARSE + 1)[1:]])
    middle = np.concatenate([[0.0], 0.5 * (grid[1:] + grid[:-1])])
    joins = share @ (limits[:, None] >= middle[None, :])
    groups = np.array_split(np.arange(replays), min(replays, GROUPS))
    seen = np.empty((len(groups), 3))
    for g, group in enumerate(groups):
        counts = rng.poisson(rates * widths, (len(group), rates.size))
        fine, coarse = np.zeros((rates.size, FINE + 1)), np.zeros((rates.size, COARSE))
        gaps, ranks = rng.standard_exponential(counts.sum() + counts.size), rng.random(counts.sum())
        balking_replays(counts, edges, scales, gaps, ranks, law, services, limits, servers, cells, fine, coarse)
        mine = np.concatenate([fine, coarse], axis=1)
        total += mine
        all_met = mine.sum(axis=0)
        seen[g] = all_met.sum(), all_met @ joins, (all_met * joins) @ middle
    met = total.sum(axis=1, keepdims=True)
    cdfs = np.where(met > 0, np.cumsum(total, axis=1) / np.maximum(met, 1.0), 1.0)
    errors = {"accept": _ratio_error(seen[:, 1], seen[:, 0]), "mean": _ratio_error(seen[:, 2], seen[:, 1])}
    return grid, cdfs, errors


def _ratio_error(above: FloatArray, below: FloatArray) -> float:
    """Return the relative half-width of the ratio of two sums over replays."""
    if not (above.sum() > 0 and below.sum() > 0):
        return 0.0
    off = above - above.sum() / below.sum() * below
    return float(STANDARD_ERRORS * off.std(ddof=1) * math.sqrt(len(off)) / above.sum())

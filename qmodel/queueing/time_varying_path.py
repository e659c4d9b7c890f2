"""Time-varying queues with thresholds: the profile replayed along sample paths, virtual waits counted by window."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_paths import balking_path
from qmodel.queueing.sampling import Choice

__all__ = ["count_waits_by_window"]

FloatArray = npt.NDArray[np.float64]

#: The paths are the same for every question: answers repeat, and differences between them are not noise.
SEED = 20_022
#: Arrivals in all replays together, and their least and largest number.
ARRIVALS, FEWEST, MOST = 350_000, 6, 2_000
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
    top: float,
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
    top : float
        Wait [s] up to which waits are told apart.

    Returns
    -------
    tuple
        Grid [s], P(V <= grid) by window, and relative half-widths of the share that joins and of their mean wait.
    """
    share, services, limits = classes
    widths, rng, choice = np.diff(edges), np.random.default_rng(SEED), Choice(services, share)
    law = (choice.cumulative, choice.first)
    finite = limits[np.isfinite(limits)]
    split = min(max(float(finite.max(initial=0.0)), 1e-9 * top), 0.999 * top) if finite.size else 0.5 * top
    cells = (split, FINE / split, COARSE / (top - split))
    replays = int(min(max(math.ceil(ARRIVALS / max(float(rates @ widths), 1.0)), FEWEST), MOST))
    total = np.zeros((rates.size, FINE + 1 + COARSE))
    grid = np.concatenate([np.linspace(0.0, split, FINE + 1), np.linspace(split, top, COARSE + 1)[1:]])
    middle = np.concatenate([[0.0], 0.5 * (grid[1:] + grid[:-1])])
    joins = share @ (limits[:, None] >= middle[None, :])
    seen = np.empty((replays, 3))
    for r in range(replays):
        free, mine = np.full(servers, edges[0]), np.zeros_like(total)
        for w in range(rates.size):
            gaps = rng.standard_exponential(rng.poisson(rates[w] * widths[w]) + 1)
            gaps *= widths[w] / gaps.sum()
            row = mine[w]
            balking_path(
                gaps[:-1], rng.random(len(gaps) - 1), law, services * scales[w], limits, free, float(edges[w]), cells,
                row[: FINE + 1], row[FINE + 1 :],
            )  # fmt: skip
        total += mine
        all_met = mine.sum(axis=0)
        seen[r] = all_met.sum(), all_met @ joins, (all_met * joins) @ middle
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

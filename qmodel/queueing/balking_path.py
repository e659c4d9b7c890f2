"""Thresholds with several servers by a long sample path: exact dynamics, counted virtual waits, a known error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_paths import balking_path
from qmodel.queueing.sampling import Choice, regressed

__all__ = ["CountedWait", "count_virtual_wait"]

FloatArray = npt.NDArray[np.float64]

#: The path is the same for every question: answers repeat, and differences between them are not noise.
SEED = 20_021
#: Segments of the path whose spread gives the error, arrivals of the first look and of the last, and those left out.
SEGMENTS = 24
FIRST_ARRIVALS, LAST_ARRIVALS, WARM_UP = 1 << 19, 1 << 22, 1 << 13
#: Relative standard error at which the path is long enough.
GOOD_ERROR = 0.003
#: Cells up to the last threshold and beyond it.
FINE, COARSE = 2048, 512
#: Half-width of an error estimate in standard errors, and what the grid adds.
STANDARD_ERRORS, GRID_ERROR = 2.5, 0.002


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountedWait:
    """P(V <= grid) of the virtual wait as counted.

    Parameters
    ----------
    grid_s, cdf : ndarray, shape (points,)
        Points [s] and the law there.
    arrivals : int
        Arrivals counted.
    error_estimate : dict of str to float
        Relative half-widths of the share accepted, and of mean and P95 of the wait of those who join.
    """

    grid_s: FloatArray
    cdf: FloatArray
    arrivals: int
    error_estimate: dict[str, float]


def count_virtual_wait(
    lam: FloatArray,
    s: FloatArray,
    theta: FloatArray,
    k: int,
    *,
    first_arrivals: int = FIRST_ARRIVALS,
    last_arrivals: int = LAST_ARRIVALS,
) -> CountedWait:
    """Return the law of the virtual wait that Poisson classes meet at k servers when they join within thresholds.

    Parameters
    ----------
    lam, s, theta : ndarray, shape (classes,)
        Rates [1/s], services [s] and thresholds [s], infinity for classes that always join.
    k : int
        Number of servers.
    first_arrivals, last_arrivals : int
        Length of the path when errors are first looked at, and at most.

    Returns
    -------
    CountedWait
        The law, corrected by regression on the work that was offered.
    """
    path = _Path(lam, s, theta, k)
    path.extend(WARM_UP // SEGMENTS, counted=False)
    path.extend(first_arrivals // SEGMENTS)
    answer = path.answer()
    while (
        path.arrivals + SEGMENTS <= last_arrivals and max(answer.error_estimate.values()) > STANDARD_ERRORS * GOOD_ERROR
    ):
        path.extend(min(path.arrivals, last_arrivals - path.arrivals) // SEGMENTS)
        answer = path.answer()
    return answer


class _Path:
    """A path of the queue in segments."""

    def __init__(self, lam: FloatArray, s: FloatArray, theta: FloatArray, k: int) -> None:
        self.lam, self.s, self.theta = lam, s, theta
        self.choice = Choice(s, lam)
        self.rng = np.random.default_rng(SEED)
        self.free, self.now = np.zeros(k), 0.0
        self.split, self.top = _reach(lam, s, theta, k)
        self.fine, self.coarse = np.zeros((SEGMENTS, FINE + 1)), np.zeros((SEGMENTS, COARSE))
        self.work, self.time = np.zeros(SEGMENTS), np.zeros(SEGMENTS)
        self.arrivals = 0

    def extend(self, count: int, *, counted: bool = True) -> None:
        """Go on by `count` arrivals in each segment."""
        cells = (self.split, FINE / self.split, COARSE / (self.top - self.split))
        law, rate = (self.choice.cumulative, self.choice.first), float(self.lam.sum())
        for i in range(SEGMENTS):
            gaps, ranks = self.rng.standard_exponential(count) / rate, self.rng.random(count)
            counts = (self.fine[i], self.coarse[i]) if counted else (np.zeros(FINE + 1), np.zeros(COARSE))
            start = self.now
            self.now, offered = balking_path(gaps, ranks, law, self.s, self.theta, self.free, start, cells, *counts)
            if counted:
                self.time[i] += self.now - start
                self.work[i] += offered
        self.arrivals += SEGMENTS * count if counted else 0

    def answer(self) -> CountedWait:
        """Return what the path so far says."""
        share = SEGMENTS / self.arrivals
        counts = np.concatenate([self.fine, self.coarse], axis=1) * share
        cdfs = np.cumsum(counts, axis=1)
        fine = np.linspace(0.0, self.split, FINE + 1)
        grid = np.concatenate([fine, np.linspace(self.split, self.top, COARSE + 1)[1:]])
        control = (self.work / self.time - float(self.lam @ self.s))[:, None]
        cdf, _ = regressed(cdfs, control)
        cdf = np.clip(np.maximum.accumulate(cdf), 0.0, 1.0)
        cdf[-1] = 1.0
        return CountedWait(
            grid_s=grid, cdf=cdf, arrivals=self.arrivals, error_estimate=self._errors(grid, cdfs, cdf, control)
        )

    def _errors(self, grid: FloatArray, cdfs: FloatArray, cdf: FloatArray, control: FloatArray) -> dict[str, float]:
        """Return relative half-widths from the spread over segments."""
        limit = np.minimum(self.theta, self.top)
        accept = np.array([self.lam @ np.interp(limit, grid, row) for row in cdfs])
        # Those who join within x: classes below their threshold, all of a class above it.
        order = np.argsort(limit)
        rest = np.append(np.cumsum(self.lam[order][::-1])[::-1], 0.0)
        above = rest[np.searchsorted(limit[order], grid, side="left")]
        density = np.diff(cdfs, axis=1, prepend=0.0)
        middle = np.concatenate([[0.0], 0.5 * (grid[1:] + grid[:-1])])
        joined = density * above
        mean = (joined @ middle) / joined.sum(axis=1)
        within = np.cumsum(joined, axis=1) / joined.sum(axis=1, keepdims=True)
        pooled = within.mean(axis=0)
        found, errors = regressed(np.stack([accept, mean], axis=1), np.repeat(control, 2, axis=1))
        half = STANDARD_ERRORS * errors / np.maximum(found, 1e-300) + GRID_ERROR
        at = int(np.searchsorted(pooled, 0.95))
        p95 = 0.0
        if 0 < at < len(grid) and grid[at] > 0:
            _, off = regressed(within[:, at : at + 1], control)
            low, high = (int(np.searchsorted(pooled, p)) for p in (0.94, 0.96))
            slope = (pooled[min(high, len(grid) - 1)] - pooled[low]) / max(
                grid[min(high, len(grid) - 1)] - grid[low], 1e-300
            )
            p95 = STANDARD_ERRORS * float(off[0]) / max(float(slope) * float(grid[at]), 1e-300) + GRID_ERROR
        return {"accept": float(half[0]), "mean": min(float(half[1]), 1.0), "p95": min(p95, 1.0)}


def _reach(lam: FloatArray, s: FloatArray, theta: FloatArray, k: int) -> tuple[float, float]:
    """Return the wait [s] up to which cells are fine and the last that is counted apart."""
    always = np.isinf(theta)
    last = float(theta[~always].max(initial=0.0))
    longest = float(s.max())
    if not always.any():
        split = last if last > 0 else 1e-9 * longest
        return split, split + longest
    rate, second = float(lam[always].sum()), float(lam[always] @ s[always] ** 2)
    spare = 1 - float(lam[always] @ s[always]) / k
    # Twenty e-folds of the always-joining classes' queue in heavy traffic.
    span = 20 * second / (2 * k * k * spare) + 20 * float(lam[always] @ s[always]) / rate / k
    return last + 0.4 * span, last + span + longest

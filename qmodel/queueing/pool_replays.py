"""Two coupled pools over time, any number of servers: windows replayed along sample paths, waits counted by window."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_pools import pools_path
from qmodel.queueing.pool_grid import PoolInputs
from qmodel.queueing.pool_path import (
    CELL_ERROR,
    FINE_CELLS,
    FINE_HALF,
    HALF,
    STANDARD_ERRORS,
    CountedPools,
    edges_of,
    level_of,
    shared_out,
)
from qmodel.queueing.sampling import Choice

__all__ = ["count_pools_by_window"]

FloatArray = npt.NDArray[np.float64]

#: The paths are the same for every question: answers repeat, and differences between them are not noise.
SEED = 20_027
#: Groups of replays whose spread gives the error; arrivals in all replays, and the least and largest number of a group.
GROUPS, ARRIVALS, FEWEST, MOST = 24, 2_000_000, 1, 800
#: Counts kept in all, and cells of an axis at least and at most.
COUNTS, LEAST_CELLS, MOST_CELLS = 1 << 23, 64, 160
#: Counts by window, class and wait up to which classes have their own.
CLASS_COUNTS = 1 << 24


def count_pools_by_window(
    inputs: PoolInputs, edges: FloatArray, rates: FloatArray
) -> tuple[list[CountedPools], dict[str, float]]:
    """Return the law of the waits that arrivals of each window meet, and the errors of what all of them meet.

    Parameters
    ----------
    inputs : PoolInputs
        Classes, thresholds and servers; its rates are those of all windows together.
    edges : ndarray, shape (windows + 1,)
        Window edges [s].
    rates : ndarray, shape (windows, classes)
        Rate of each class in each window [1/s].

    Returns
    -------
    tuple
        Laws by window, on the same cells, and half-widths as in `TwoPools.error_estimate`.
    """
    replays = _Replays(inputs, edges, rates)
    replays.run(FEWEST)
    replays.settle()
    expected = float(np.diff(edges) @ rates.sum(axis=1))
    replays.run(int(min(max(math.ceil(ARRIVALS / (GROUPS * max(expected, 1.0))), FEWEST), MOST)))
    return replays.answers()


class _Replays:
    """Runs through all windows from empty pools."""

    def __init__(self, inputs: PoolInputs, edges: FloatArray, rates: FloatArray) -> None:
        self.inputs, self.edges, self.rates = inputs, edges - edges[0], rates
        self.choices = [Choice(inputs.work_s, rate) if rate.sum() > 0 else None for rate in rates]
        self.rng = np.random.default_rng(SEED)
        self.cells = min(max(int(math.sqrt(COUNTS / len(rates))), LEAST_CELLS), MOST_CELLS)
        used = inputs.rates_per_s > 0
        work, host = float(inputs.work_s[used].max()), float(inputs.host_s[used].max())
        self._lay((work, max(host, work)), max(host, work))

    def _lay(self, even_s: tuple[float, float], even_time_s: float) -> None:
        """Lay cells, evenly spaced up to `even_s` at either pool, and begin to count."""
        windows, steps, fine = len(self.rates), [even / (2 * HALF) for even in even_s], even_time_s / (2 * FINE_HALF)
        self.prefill_edges, self.decode_edges = (edges_of(self.cells, HALF) * step for step in steps)
        self.time_edges = edges_of(FINE_CELLS, FINE_HALF) * fine
        node = even_s[1] / (2 * FINE_HALF)
        self.thetas = np.ascontiguousarray(self.inputs.theta_s(edges_of(FINE_CELLS, FINE_HALF) * node))
        self.per_s = (1 / steps[0], 1 / steps[1], 1 / node, 1 / fine)
        self.joint = np.zeros((windows, self.cells + 1, self.cells + 1))
        classes = self.inputs.work_s.size
        counted = classes if 2 * windows * classes * (self.cells + 1) <= CLASS_COUNTS else 0
        self.kept, self.moved = np.zeros((2, windows, counted, self.cells + 1))
        self.met = np.zeros((windows, 2, self.cells + 1))
        self.times = np.zeros((windows, FINE_CELLS))
        self.sums, self.arrivals = np.zeros((windows, GROUPS, 5)), np.zeros((windows, GROUPS))

    def run(self, replays: int) -> None:
        """Run through all windows, so many times in each group."""
        for group in range(GROUPS):
            for _ in range(replays):
                near, far = np.zeros(self.inputs.prefill_servers), np.zeros(self.inputs.decode_servers)
                for w, choice in enumerate(self.choices):
                    if choice is not None:
                        self._window(w, group, choice, near, far)

    def _window(self, w: int, group: int, choice: Choice, near: FloatArray, far: FloatArray) -> None:
        start, width = float(self.edges[w]), float(self.edges[w + 1] - self.edges[w])
        gaps = self.rng.standard_exponential(self.rng.poisson(self.rates[w].sum() * width) + 1)
        gaps *= width / gaps.sum()
        pools_path(
            gaps[:-1], self.rng.random(len(gaps) - 1), (choice.cumulative, choice.first), self.inputs.work_s,
            self.inputs.host_s, self.thetas, (HALF, FINE_HALF), self.per_s, near, far, np.array([start, 0.0, 1.0]),
            self.joint[w], (self.kept[w], self.moved[w], self.met[w]), self.times[w], self.sums[w, group],
        )  # fmt: skip
        self.arrivals[w, group] += len(gaps) - 1

    def settle(self) -> None:
        """Lay the cells where the runs so far have been, and forget their counts."""
        met, spent = self.joint.sum(axis=0), np.concatenate([[0.0], self.times.sum(axis=0)])
        levels = (level_of(met.sum(axis=0), self.prefill_edges), level_of(met.sum(axis=1), self.decode_edges))
        old = float(self.prefill_edges[2 * HALF]), float(self.decode_edges[2 * HALF])
        near, far = (level if level > 0 else before for level, before in zip(levels, old, strict=True))
        self._lay((near, far), level_of(spent, self.time_edges) or max(old))

    def answers(self) -> tuple[list[CountedPools], dict[str, float]]:
        """Return the laws of all windows on the cells that some window reaches, and the errors of all arrivals."""
        met = self.joint.sum(axis=0)
        rows, columns = (max(int(np.flatnonzero(met.any(axis=axis))[-1]) + 1, 2) for axis in (1, 0))
        edges = self.prefill_edges[:columns], self.decode_edges[:rows]
        found = []
        for w in range(len(self.rates)):
            joint = self.joint[w, :rows, :columns]
            if not joint.any():
                joint = met[:rows, :columns]
            tally = self.kept[w, :, :columns], self.moved[w, :, :rows], self.met[w]
            errors = self._errors(self.arrivals[w], self.sums[w], self.times[w])
            found.append(shared_out(self.inputs, joint, tally, edges, errors))
        return found, self._errors(self.arrivals.sum(axis=0), self.sums.sum(axis=0), self.times.sum(axis=0))

    def _errors(self, arrivals: FloatArray, sums: FloatArray, times: FloatArray) -> dict[str, float]:
        """Return half-widths: of mean and share by groups, of percentiles as many times a coin's as of the mean."""
        count = float(arrivals.sum())
        if not count > 0:
            return {"mean": 0.0, "deflected": 0.0, "p95": 0.0, "p99": 0.0}
        mean, share = float(sums[:, 1].sum()) / count, float(sums[:, 2].sum()) / count
        scale = STANDARD_ERRORS * math.sqrt(GROUPS / (GROUPS - 1)) / count
        off = scale * float(np.linalg.norm(sums[:, 1] - mean * arrivals))
        found = {
            "mean": (off / mean if mean > 0 else 0.0) + CELL_ERROR,
            "deflected": scale * float(np.linalg.norm(sums[:, 2] - share * arrivals)),
        }
        middle = 0.5 * (self.time_edges[1:] + self.time_edges[:-1])
        spread = math.sqrt(max(float(times @ (middle - mean) ** 2) / count, 1e-300))
        ratio = max(off / (STANDARD_ERRORS * spread / math.sqrt(count)), 1.0)
        cdf = np.concatenate([[0.0], np.cumsum(times) / count])
        for name, p in (("p95", 0.05), ("p99", 0.01)):
            half = STANDARD_ERRORS * ratio * math.sqrt(p * (1 - p) / count)
            at, low, high = (float(x) for x in np.interp([1 - p, 1 - p - half, 1 - p + half], cdf, self.time_edges))
            found[name] = ((high - low) / (2 * at) if at > 0 else 0.0) + CELL_ERROR
        return found

"""Two coupled pools by a long sample path: any number of servers, exact dynamics, counted waits, a known error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_pools import pools_path, split_by_class
from qmodel.errors import UnstableError
from qmodel.queueing.pool_grid import PoolInputs
from qmodel.queueing.sampling import Choice

__all__ = ["CountedPools", "PoolPath", "count_pools", "edges_of", "level_of", "middles_of", "shared_out"]

FloatArray = npt.NDArray[np.float64]

#: The path is the same for every question: answers repeat, and differences between them are not noise.
SEED = 20_026
#: Segments of the path whose spread gives the error; arrivals that are left out, of the first look and of the last.
SEGMENTS = 24
WARM_UP, FIRST_ARRIVALS, LAST_ARRIVALS = 1 << 15, 1 << 19, 1 << 22
#: Relative standard errors at which the path is long enough: of the mean, and of P95 and P99.
MEAN_ERROR, PERCENTILE_ERROR = 0.004, 0.008
#: Cells a doubling of the waits that are counted, and cells in all; the same for times and for nodes of thresholds.
HALF, CELLS = 16, 160
FINE_HALF, FINE_CELLS = 64, 1280
#: Level of the waits seen in the warm-up that ends the evenly spaced cells.
EVEN_LEVEL = 0.9
#: Arrivals of a class that weigh as much as what all arrivals say of it.
FEW = 2_000.0
#: Half-width of an error estimate in standard errors, and what the cells add.
STANDARD_ERRORS, CELL_ERROR = 2.5, 0.003
#: Backlog at the end, in standard deviations of the work that came along the path, taken for growth without bound: at
#: every look, and when nothing longer follows.
GROWN, GROWN_AT_LAST = 2.0, 0.5
#: Load of the queue with a known mean beyond which the path says too little about it.
HIGHEST_CONTROL = 0.97
#: Share of its level by which the tail is followed each way for its slope.
SLOPE_WIDTH = 0.1


def edges_of(cells: int, half: int) -> FloatArray:
    """Return the edges of cells that are 1 wide up to 2*half, then `half` of them to every doubling."""
    at = np.arange(cells + 1)
    octave = np.maximum(at // half - 1, 0)
    return np.asarray(2.0**octave * (at - half * octave))


def middles_of(edges: FloatArray) -> FloatArray:
    """Return 0 for no wait, and the middles of the cells of waits."""
    return np.concatenate([[0.0], 0.5 * (edges[1:] + edges[:-1])])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountedPools:
    """Law of the waits that arrivals meet, as counted.

    Parameters
    ----------
    prefill_edges_s, decode_edges_s : ndarray, shape (cells + 1,)
        Edges of the cells [s].
    prefill_wait_s, decode_wait_s : ndarray, shape (cells + 1,)
        0, and the mean of the waits met in each cell [s].
    law : ndarray, shape (prefill cells + 1, decode cells + 1)
        Joint law; the first entry of an axis is no wait, the last cell is open.
    kept, moved : ndarray, shape (classes, prefill cells + 1), (classes, decode cells + 1)
        P(an arrival of the class is kept, waiting so long), and deflected likewise.
    arrivals : int
        Arrivals counted.
    error_estimate : dict of str to float
        Relative half-widths of ``mean``, ``p95`` and ``p99`` of the time to the end of prefill, absolute of
        ``deflected``.
    """

    prefill_edges_s: FloatArray
    decode_edges_s: FloatArray
    prefill_wait_s: FloatArray
    decode_wait_s: FloatArray
    law: FloatArray
    kept: FloatArray
    moved: FloatArray
    arrivals: int
    error_estimate: dict[str, float]


def count_pools(
    inputs: PoolInputs, *, first_arrivals: int = FIRST_ARRIVALS, last_arrivals: int = LAST_ARRIVALS
) -> CountedPools:
    """Return the law of the waits that Poisson classes meet at two pools.

    Parameters
    ----------
    inputs : PoolInputs
        Classes, thresholds and servers.
    first_arrivals, last_arrivals : int
        Length of the path when errors are first looked at, and at most.

    Returns
    -------
    CountedPools
        The law, corrected by regression on the work offered and on a queue with a known mean.

    Raises
    ------
    UnstableError
        When a backlog grows along the path.
    """
    path = PoolPath(inputs)
    path.extend(first_arrivals // SEGMENTS)
    errors = path.errors()
    while path.arrivals + SEGMENTS <= last_arrivals and not _good(errors):
        path.check_growth(GROWN)
        path.extend(min(path.arrivals, last_arrivals - path.arrivals) // SEGMENTS)
        errors = path.errors()
    path.check_growth(GROWN_AT_LAST)
    return path.answer(errors)


def _good(errors: dict[str, float]) -> bool:
    return errors["mean"] <= MEAN_ERROR and max(errors["p95"], errors["p99"]) <= PERCENTILE_ERROR


class PoolPath:
    """A path of both pools in segments, begun by a warm-up that says where cells should lie."""

    def __init__(self, inputs: PoolInputs) -> None:
        self.inputs = inputs
        self.choice = Choice(inputs.work_s, inputs.rates_per_s)
        self.rng = np.random.default_rng(SEED)
        self.near, self.far = np.zeros(inputs.prefill_servers), np.zeros(inputs.decode_servers)
        self.state = np.array([0.0, 0.0, float(inputs.prefill_servers)])
        used = inputs.rates_per_s > 0
        unit = np.array([inputs.work_s[used].max(), max(inputs.host_s[used].max(), inputs.work_s[used].max())])
        self._lay(unit, float(unit.max()))
        self.extend(WARM_UP // SEGMENTS)
        self.state[1:] = 0.0, self._whole_speed()
        met = self.joint.sum(axis=0)
        seen = [level_of(met.sum(axis=0), self.prefill_edges), level_of(met.sum(axis=1), self.decode_edges)]
        spent = np.concatenate([[0.0], self.times.sum(axis=0)])
        self._lay(np.where(np.array(seen) > 0, seen, unit), level_of(spent, self.time_edges))

    def _lay(self, even_s: FloatArray, even_time_s: float) -> None:
        """Lay cells, evenly spaced up to `even_s` at either pool, and begin to count."""
        steps, fine = even_s / (2 * HALF), even_time_s / (2 * FINE_HALF)
        self.prefill_edges, self.decode_edges = (edges_of(CELLS, HALF) * step for step in steps)
        self.time_edges = edges_of(FINE_CELLS, FINE_HALF) * fine
        nodes = edges_of(FINE_CELLS, FINE_HALF) * even_s[1] / (2 * FINE_HALF)
        self.thetas = np.ascontiguousarray(self.inputs.theta_s(nodes))
        self.per_s = (1 / steps[0], 1 / steps[1], 2 * FINE_HALF / even_s[1], 1 / fine)
        self.joint = np.zeros((SEGMENTS, CELLS + 1, CELLS + 1))
        self.kept, self.moved = np.zeros((2, SEGMENTS, self.inputs.work_s.size, CELLS + 1))
        self.met = np.zeros((SEGMENTS, 2, CELLS + 1))
        self.times, self.sums = np.zeros((SEGMENTS, FINE_CELLS)), np.zeros((SEGMENTS, 5))
        self.arrivals = 0

    def extend(self, count: int = WARM_UP // SEGMENTS) -> None:
        """Go on by `count` arrivals in each segment."""
        law, rate = (self.choice.cumulative, self.choice.first), float(self.inputs.rates_per_s.sum())
        for i in range(SEGMENTS):
            gaps, ranks = self.rng.standard_exponential(count) / rate, self.rng.random(count)
            pools_path(
                gaps, ranks, law, self.inputs.work_s, self.inputs.host_s, self.thetas, (HALF, FINE_HALF), self.per_s,
                self.near, self.far, self.state, self.joint[i], (self.kept[i], self.moved[i], self.met[i]),
                self.times[i], self.sums[i],
            )  # fmt: skip
        self.arrivals += SEGMENTS * count

    def _whole_speed(self) -> float:
        """Return the prefill work that both pools, as far as they are used, do in a second."""
        lam, inputs = self.inputs.rates_per_s, self.inputs
        moved, host = float(self.sums[:, 2].sum()), float(lam @ inputs.host_s)
        prefill = inputs.prefill_servers if moved < self.arrivals else 0
        decode = inputs.decode_servers * float(lam @ inputs.work_s) / host if moved > 0 and host > 0 else 0.0
        return prefill + decode

    def reach_s(self) -> tuple[float, float]:
        """Return the longest prefill and decode wait met so far [s], by the cells that they are in."""
        met = self.joint.sum(axis=0)
        last = (int(np.flatnonzero(met.any(axis=axis))[-1]) for axis in (0, 1))
        near, far = (
            float(edges[max(at, 1)]) for edges, at in zip((self.prefill_edges, self.decode_edges), last, strict=True)
        )
        return near, far

    def mean_time_s(self) -> float:
        """Return the mean time to the end of service so far [s]."""
        return float(self.sums[:, 1].sum()) / self.arrivals

    def check_growth(self, most: float) -> None:
        """Raise UnstableError when a backlog is longer than chance leaves it without growth."""
        lam = self.inputs.rates_per_s
        for pool, free, work in (("prefill", self.near, self.inputs.work_s), ("decode", self.far, self.inputs.host_s)):
            left = float(free.min()) - self.state[0]
            likely = math.sqrt(float(lam @ work**2) * self.state[0]) / free.size
            if left > most * likely > 0:
                raise UnstableError(
                    f"backlog of a {pool} server after {self.state[0]:.3g} s under these thresholds [s]",
                    left,
                    f"below {most * likely:.3g}",
                    "backlogs seem to grow without bound: deflect earlier or less, or add servers",
                )

    def _weights(self) -> tuple[FloatArray, FloatArray]:
        """Return weights of segments that regress on what is known, and what is left of deviations from a mean.

        Known are the prefill work offered, and the mean work left (Pollaczek-Khinchine) of one queue that takes all of
        it and is as quick as both pools together.
        """
        lam, s, speed = self.inputs.rates_per_s, self.inputs.work_s, float(self.state[2])
        offered = float(lam @ s)
        off = [self.sums[:, 0] / self.sums[:, 3] - offered]
        if offered < HIGHEST_CONTROL * speed:
            left = float(lam @ s**2) / (2 * (speed - offered))
            off.append(self.sums[:, 4] * SEGMENTS / self.arrivals - left)
        known = np.array(off)
        moved = known - known.mean(axis=1, keepdims=True)
        beta = np.linalg.pinv(moved, rcond=1e-9)
        return 1 / SEGMENTS - beta @ known.mean(axis=1), np.eye(SEGMENTS) - 1 / SEGMENTS - beta @ moved

    def errors(self) -> dict[str, float]:
        """Return standard errors of the time to the end of service (relative) and of the share deflected (absolute)."""
        weights, rest = self._weights()
        scale = 1 / math.sqrt((SEGMENTS - 3) * SEGMENTS)
        share = SEGMENTS / self.arrivals
        mean, deflected = self.sums[:, 1] * share, self.sums[:, 2] * share

        def spread(values: FloatArray) -> float:
            return float(np.linalg.norm(rest @ values)) * scale

        found = {"mean": spread(mean) / float(weights @ mean), "deflected": spread(deflected)}
        laws = np.concatenate([np.zeros((SEGMENTS, 1)), np.cumsum(self.times, axis=1) * share], axis=1)
        cdf = np.maximum.accumulate(weights @ laws)
        for name, p in (("p95", 0.05), ("p99", 0.01)):
            levels = [1 - p, 1 - p * (1 + SLOPE_WIDTH), 1 - p * (1 - SLOPE_WIDTH)]
            at, low, high = (float(x) for x in np.interp(levels, cdf, self.time_edges))
            of = int(np.searchsorted(self.time_edges, at))
            found[name] = spread(laws[:, of]) * (high - low) / (2 * SLOPE_WIDTH * p * at) if at > 0 else 0.0
        return found

    def answer(self, errors: dict[str, float]) -> CountedPools:
        """Return the law counted so far, with standard errors as half-widths."""
        weights, _ = self._weights()
        joint, kept, moved, met = (
            SEGMENTS * np.maximum(np.tensordot(weights, counts, axes=1), 0.0)
            for counts in (self.joint, self.kept, self.moved, self.met)
        )
        rows, columns = (max(int(np.flatnonzero(joint.any(axis=axis))[-1]) + 1, 2) for axis in (1, 0))
        half = {
            name: STANDARD_ERRORS * error + (0.0 if name == "deflected" else CELL_ERROR)
            for name, error in errors.items()
        }
        tally = kept[:, :columns], moved[:, :rows], met
        edges = self.prefill_edges[:columns], self.decode_edges[:rows]
        return shared_out(self.inputs, joint[:rows, :columns], tally, edges, half)


def shared_out(
    inputs: PoolInputs,
    joint: FloatArray,
    tally: tuple[FloatArray, FloatArray, FloatArray],
    edges: tuple[FloatArray, FloatArray],
    errors: dict[str, float],
) -> CountedPools:
    """Return counts as laws, by class too.

    A class that arrived often has the law of its own waits. Of a rare one all arrivals tell what it would have met
    (PASTA), up to where its threshold lies within a cell; between the two the law is a mixture.
    """
    arrivals = float(joint.sum())
    joint = np.ascontiguousarray(joint) / arrivals
    limits = np.ascontiguousarray(inputs.theta_s(middles_of(edges[1])))
    kept, moved = np.zeros((limits.shape[0], joint.shape[1])), np.zeros(limits.shape)
    split_by_class(joint, edges[0], limits, kept, moved)
    if tally[0].shape[0] > 0:
        count = (tally[0].sum(axis=1) + tally[1].sum(axis=1))[:, None]
        kept, moved = ((own + FEW * likely) / (count + FEW) for own, likely in ((tally[0], kept), (tally[1], moved)))
    points = []
    for axis, by_class in enumerate(tally[:2]):
        here, middle = by_class.sum(axis=0) if by_class.size else np.zeros(edges[axis].size), middles_of(edges[axis])
        mean = np.where(here > 0, tally[2][axis, : here.size] / np.maximum(here, 1.0), middle)
        points.append(np.clip(mean, np.append(0.0, edges[axis][:-1]), edges[axis]))
    return CountedPools(
        prefill_edges_s=edges[0],
        decode_edges_s=edges[1],
        prefill_wait_s=points[0],
        decode_wait_s=points[1],
        law=joint.T,
        kept=kept,
        moved=moved,
        arrivals=round(arrivals),
        error_estimate=errors,
    )


def level_of(mass: FloatArray, edges: FloatArray) -> float:
    """Return a high level of what is positive, the mass at 0 coming first; 0 when nothing is."""
    positive = np.cumsum(mass[1:])
    if not positive[-1] > 0:
        return 0.0
    return float(edges[1 + np.searchsorted(positive, EVEN_LEVEL * positive[-1])])

"""M/G/k for laws that no solvable law is near: sample paths, corrected by queues whose waits are known exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_lanes import count_lanes, look_up
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.checks import check_load
from qmodel.queueing.controls import CELLS as RANKS
from qmodel.queueing.controls import LANES, controls_of, exponential_table
from qmodel.queueing.decay import lundberg_rate
from qmodel.queueing.matrix import MAX_SERVERS
from qmodel.queueing.metrics import QueueMetrics, TabulatedTail, tabulated
from qmodel.queueing.sampling import regressed
from qmodel.queueing.traits import LawFacts, law_facts

__all__ = ["blended", "solve_coupled"]

FloatArray = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: The path is the same for every question: answers repeat, and differences between them are not noise.
SEED = 20_020
#: Rows of two lanes whose spread gives the error; steps of all lanes at a time; arrivals of the first look and of the
#: last; steps of each lane left out.
ROWS, STEPS = LANES // 2, 512
FIRST_ARRIVALS, LAST_ARRIVALS = 1 << 17, 1 << 21
WARM_UP = 128
#: Standard errors at which a path alone is long enough; errors (estimates) that an average with another should reach.
WANTED = {"mean": 0.004, "p95": 0.008, "p99": 0.008}
TARGETS = {"mean": 0.01, "p95": 0.02, "p99": 0.02}
#: Lengths of the longest path from which on a percentile is not waited for: it is a little above P(W = 0).
HOPELESS = 4.0
LEVELS = {"p95": 0.95, "p99": 0.99}
#: Shortfall of the errors up to which it is made up at once.
LONGER = 4.0
#: Half-width of an error estimate in standard errors, and what the grid adds.
STANDARD_ERRORS = 2.5
GRID_ERROR = 0.002
#: Cells of the counts of waits and their reach in mean delays; points of the tail that is returned.
CELLS, REACH, KEPT = 2048, 14.0, 140
#: Arrivals beyond a point of the tail, and rows that saw any, below which the exact queue's tail is followed instead.
FEW, FEW_ROWS = 400, ROWS // 2
#: Relative error of the mean of waits of which none was seen.
UNKNOWN = 1.0
#: Share of its level by which a tail is followed each way for its slope.
SLOPE_WIDTH = 0.1


def solve_coupled(
    arrival_rate_per_s: float,
    servers: int,
    service: ServiceTime,
    *,
    first_arrivals: int = FIRST_ARRIVALS,
    last_arrivals: int = LAST_ARRIVALS,
    seed: int | Sequence[int] = SEED,
    beside: QueueMetrics | None = None,
) -> QueueMetrics:
    """Approximation with a known error, for any law: sample paths of the queue, corrected by queues solved exactly.

    The same arrivals bring services of the same rank to M/G/k and to queues whose waits V are known: one server k times
    as fast, an exactly solved law like this one, and unlimited servers (`controls_of`). Then

        E[W] = avg(W) - sum beta*(avg(V) - E[V]),    P(W > t) = avg(W > t) - sum beta*(avg(V > u) - P(V > u))

    with beta the regression over groups of 64 independent paths, each started near its steady state. Paths go on until
    the standard errors are small or they are `last_arrivals` long in all; the error estimate is what they then are.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers, at most 128.
    service : ServiceTime
        Law of a service time.
    first_arrivals, last_arrivals : int
        Arrivals when errors are first looked at, and at most.
    seed : int or sequence of int
        Seed of the path.
    beside : QueueMetrics, optional
        Answer that this one will be averaged with (`blended`): the path is then as long as the average needs.

    Returns
    -------
    QueueMetrics
        The law of the wait; the error estimate holds 2.5 standard errors.

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Notes
    -----
    Asmussen & Glynn, Stochastic Simulation (2007), ch. V.2 (control variates).

    Examples
    --------
    >>> metrics = solve_coupled(1.6, 2, ServiceTime.exponential(1.0))
    >>> abs(metrics.mean_wait_s / 1.7778 - 1) < metrics.error_estimate["mean"] < 0.02
    True
    """
    mean = service.mean_s
    check_load(arrival_rate_per_s, servers, mean)
    if servers > MAX_SERVERS:
        raise InputError("servers of the path", servers, f"at most {MAX_SERVERS}", "use method='auto'")
    path = _Path(arrival_rate_per_s * mean, servers, law_facts(service), seed)
    path.extend(WARM_UP * LANES, counted=False)
    path.extend(min(first_arrivals, last_arrivals))
    answer = path.answer()
    wanted = _wanted(beside)
    while path.arrivals + LANES <= last_arrivals:
        short = answer.shortfall(wanted, math.sqrt(HOPELESS * last_arrivals / path.arrivals))
        if short <= 1:
            break
        path.extend(min(int(path.arrivals * (min(short, LONGER) ** 2 - 1)), last_arrivals - path.arrivals))
        answer = path.answer()
    table = answer.table
    return QueueMetrics(
        arrival_rate_per_s=arrival_rate_per_s,
        servers=servers,
        mean_service_s=mean,
        mean_wait_s=answer.mean * mean,
        wait_probability=math.exp(table.log_tail[0]),
        wait_law=TabulatedTail(grid=table.grid * mean, log_tail=table.log_tail, decay=table.decay / mean),
        method=f"path of {path.arrivals} arrivals coupled with exact {path.names}",
        exact=False,
        error_estimate={
            name: STANDARD_ERRORS * error + GRID_ERROR if error > 0 else 0.0 for name, error in answer.errors.items()
        },
    )


def blended(first: QueueMetrics, second: QueueMetrics) -> QueueMetrics:
    """Return two independent answers to one question as one, each weighted by its squared error estimates' inverse.

    Parameters
    ----------
    first, second : QueueMetrics
        Metrics of the same queue, with error estimates; those of `second` are statistical and taken at their word.

    Returns
    -------
    QueueMetrics
        Mean weighted by the errors of means, tails (geometrically) by those of P95 and P99 where they are as high.
    """
    pairs = {name: (_explained(first, second, name), second.error_estimate[name]) for name in ("mean", "p95", "p99")}
    share = {name: b**2 / (a**2 + b**2) if a + b > 0 else 0.5 for name, (a, b) in pairs.items()}
    levels = [(q, share[name]) for q, name in ((0.05, "p95"), (0.01, "p99")) if sum(pairs[name]) > 0]
    table = tabulated(second)
    theirs = np.log(np.maximum(first.wait_law.tail(table.grid), 1e-300))
    if levels:
        weight = np.interp(-table.log_tail, [-math.log(q) for q, _ in levels], [part for _, part in levels])
    else:
        weight = np.full(len(table.grid), share["mean"])
    log_tail = np.minimum.accumulate(weight * theirs + (1 - weight) * table.log_tail)
    return QueueMetrics(
        arrival_rate_per_s=first.arrival_rate_per_s,
        servers=first.servers,
        mean_service_s=first.mean_service_s,
        mean_wait_s=share["mean"] * first.mean_wait_s + (1 - share["mean"]) * second.mean_wait_s,
        wait_probability=math.exp(log_tail[0]),
        wait_law=TabulatedTail(grid=table.grid, log_tail=log_tail, decay=table.decay),
        method=f"{second.method} and (weight {share['mean']:.0%}) {first.method}",
        exact=False,
        error_estimate={name: a * math.sqrt(share[name]) for name, (a, _) in pairs.items()},
    )


def _explained(first: QueueMetrics, second: QueueMetrics, name: str) -> float:
    """Return the error estimate of `first`, enlarged until both estimates explain what the answers differ by."""
    one, two = (m.mean_wait_s if name == "mean" else m.wait_quantile_s(LEVELS[name]) for m in (first, second))
    apart = one / two - 1 if two > 0 else 0.0
    return max(first.error_estimate[name], math.sqrt(max(apart**2 - second.error_estimate[name] ** 2, 0.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """Mean and tail of the wait, and relative standard errors."""

    mean: float
    table: TabulatedTail
    errors: dict[str, float]

    def shortfall(self, wanted: Mapping[str, float], most: float) -> float:
        """Return how many times the standard errors are what is wanted, percentiles beyond `most` times left out."""
        ratios = {name: self.errors[name] / error for name, error in wanted.items()}
        return max(ratio for name, ratio in ratios.items() if name == "mean" or ratio <= most)


def _wanted(beside: QueueMetrics | None) -> dict[str, float]:
    """Return standard errors at which the path, averaged with `beside` by squared errors, is good enough."""
    if beside is None:
        return WANTED
    wanted = {}
    for name, target in TARGETS.items():
        theirs = beside.error_estimate[name]
        half = theirs * target / math.sqrt(theirs**2 - target**2) if theirs > target else math.inf
        wanted[name] = (half - GRID_ERROR) / STANDARD_ERRORS
    return wanted


class _Path:
    """Paths of the coupled queues for a law of mean 1, one in each lane."""

    def __init__(self, rate: float, servers: int, law: LawFacts, seed: int | Sequence[int]) -> None:
        self.rate, service = rate, law.unit
        self.rng = np.random.default_rng(seed)
        rho = rate / servers
        delayed = rate * service.moment(2) / (2 * servers**2 * (1 - rho)) / rho
        reach = REACH * (delayed + 1 / servers)
        self.per_s = CELLS / reach
        self.own, self.controls = controls_of(rate, servers, law, self.rng)
        self.queues = [self.own, *(control.queue for control in self.controls)]
        self.counts = np.zeros((len(self.queues), ROWS, CELLS + 2), np.int32)
        self.sums = np.zeros((len(self.queues), ROWS))
        self.arrivals = 0
        self.decay = lundberg_rate(rate, servers, service) if service.mgf_limit_per_s > 0 else 0.0

    @property
    def names(self) -> str:
        """Return what the path is compared with."""
        return ", ".join(control.name for control in self.controls)

    def extend(self, count: int, *, counted: bool = True) -> None:
        """Go on by `count` arrivals, a multiple of the lanes."""
        left = max(count // LANES, 1)
        while left > 0:
            steps = min(left, STEPS)
            gaps = np.empty((steps, LANES))
            waiting, ranks = self.rng.integers(0, RANKS, (2, steps, LANES), dtype=np.uint16)
            look_up(waiting, exponential_table(), 1 / self.rate, gaps)
            for i, queue in enumerate(self.queues):
                waits = queue.waits(gaps, ranks)
                if counted:
                    count_lanes(waits, self.per_s, self.counts[i], self.sums[i])
            left -= steps
            self.arrivals += steps * LANES if counted else 0

    def answer(self) -> _Answer:
        """Return what the path so far says."""
        share = ROWS / self.arrivals
        sums = self.sums * share
        exact = np.array([control.mean for control in self.controls])
        means, errors = regressed(sums[0][:, None], (sums[1:] - exact[:, None])[..., None])
        cells = np.unique(np.concatenate([np.arange(24), np.geomspace(24, CELLS, KEPT).astype(np.int64)]))
        tail, spread = self._followed(*self._tail(cells), cells)
        grid = cells / self.per_s
        log_tail = np.minimum.accumulate(np.log(np.clip(tail, 1e-300, 1.0)))
        table = TabulatedTail(grid=grid, log_tail=log_tail, decay=self._decay(grid, log_tail))
        relative = {"mean": float(errors[0] / means[0]) if means[0] > 0 else UNKNOWN}
        for name, q in (("p95", 0.95), ("p99", 0.99)):
            relative[name] = _quantile_error(table, spread, q)
        return _Answer(mean=max(float(means[0]), 0.0), table=table, errors=relative)

    def _tail(self, cells: Integers) -> tuple[FloatArray, FloatArray]:
        """Return P(W > t) and its standard error at some t, controls at the same t or where they are as high."""
        own = self._beyond(0, cells)
        seen = own.mean(axis=0)
        off = np.empty((len(self.controls), ROWS, len(cells)))
        for i, control in enumerate(self.controls):
            level = cells
            if not control.aligned:
                theirs = 1.0 - np.cumsum(self.counts[i + 1].sum(axis=0)[:-1]) / self.arrivals
                level = np.maximum(len(theirs) - 1 - np.searchsorted(theirs[::-1], seen, side="right"), 0)
            off[i] = self._beyond(i + 1, level) - control.tail(level / self.per_s)
        return regressed(own, off)

    def _beyond(self, queue: int, cells: Integers) -> FloatArray:
        """Return the share of waits above some cells, increasing, in each row."""
        distinct, place = np.unique(cells, return_inverse=True)
        parts = np.add.reduceat(self.counts[queue], distinct + 1, axis=1)
        above = np.cumsum(parts[:, ::-1], axis=1)[:, ::-1] * (ROWS / self.arrivals)
        return np.asarray(above[:, place])

    def _followed(self, tail: FloatArray, spread: FloatArray, cells: Integers) -> tuple[FloatArray, FloatArray]:
        """Return the tail and its error, in proportion to the fast queue's where too few arrivals or rows are beyond.

        Where few rows saw a wait so long the regression explains them all, and its error says nothing.
        """
        own = self._beyond(0, cells)
        few = (own.mean(axis=0) * self.arrivals < FEW) | (np.count_nonzero(own, axis=0) < FEW_ROWS)
        if not few.any() or few[0]:
            return tail, spread
        end = int(np.argmax(few))
        exact = self.controls[0].tail(cells / self.per_s)
        ratio = tail[max(end - 4, 0) : end] / np.maximum(exact[max(end - 4, 0) : end], 1e-300)
        tail, spread = tail.copy(), spread.copy()
        tail[end:] = np.minimum(float(np.median(ratio)) * exact[end:], tail[end - 1])
        spread[end:] = tail[end:] * (spread[end - 1] / max(tail[end - 1], 1e-300))
        return tail, spread

    def _decay(self, grid: FloatArray, log_tail: FloatArray) -> float:
        """Return the rate at which the tail falls beyond the grid."""
        if self.decay > 0:
            return max(self.decay, 1e-9)
        back = len(grid) // 10
        seen = float((log_tail[-1 - back] - log_tail[-1]) / (grid[-1] - grid[-1 - back]))
        whole = float((log_tail[0] - log_tail[-1]) / grid[-1])
        return max(seen, whole, 1e-9)


def _quantile_error(table: TabulatedTail, spread: FloatArray, q: float) -> float:
    """Return the relative standard error of a quantile: that of the tail there over its slope; 0 where it is 0."""
    p = 1.0 - q
    if math.exp(table.log_tail[0]) <= p:
        return 0.0
    at = table.quantile(q, 1.0)
    near = table.quantile(1 - min(p * (1 + SLOPE_WIDTH), math.exp(table.log_tail[0])), 1.0)
    far = table.quantile(1 - p * (1 - SLOPE_WIDTH), 1.0)
    height = min(p * (1 + SLOPE_WIDTH), math.exp(table.log_tail[0])) - p * (1 - SLOPE_WIDTH)
    error = float(np.interp(at, table.grid, spread))
    return error * (far - near) / (height * max(at, 1e-300))

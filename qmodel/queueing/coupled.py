"""M/G/k for laws that no solvable law is near: a sample path, coupled with a queue whose waits are known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_paths import coupled_path, pick
from qmodel.distributions.service import ServiceTime
from qmodel.queueing.checks import check_load
from qmodel.queueing.decay import lundberg_rate
from qmodel.queueing.metrics import QueueMetrics, TabulatedTail, tabulated
from qmodel.queueing.renewal import renewal_tail

__all__ = ["Choice", "blended", "regressed", "solve_coupled"]

FloatArray = npt.NDArray[np.float64]

#: The path is the same for every question: answers repeat, and differences between them are not noise.
SEED = 20_020
#: Segments of the path whose spread gives the error, arrivals of the first look and of the last, and those left out.
SEGMENTS = 32
FIRST_ARRIVALS, LAST_ARRIVALS = 1 << 18, 1 << 22
WARM_UP = 1 << 14
#: Standard errors at which the path is long enough: of the mean, and of P95 and P99.
MEAN_ERROR, PERCENTILE_ERROR = 0.004, 0.008
#: Half-width of an error estimate in standard errors, and what the grid adds.
STANDARD_ERRORS = 2.5
GRID_ERROR = 0.002
#: Arrivals at least, in relaxation times of the queue, (1 + scv)/(1 - rho)^2 arrivals.
RELAXATIONS = 400
#: Cells of the counts of waits and their reach in mean delays; points of the tail that is returned.
CELLS, REACH, KEPT = 4096, 14.0, 240
#: Arrivals beyond a point of the tail from which on the exact queue's tail is followed in proportion.
FEW = 400
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
    seed: int = SEED,
) -> QueueMetrics:
    """Approximation with a known error, for any law: a long path of the queue, corrected by one solved exactly.

    The same arrivals bring the same work to k servers and to one server k times as fast. Waits W of the first and V of
    the second differ by bounded amounts however long the queue, and V is M/G/1, known exactly, so that

        E[W] = avg(W) - beta*(avg(V) - E[V]),    P(W > t) = avg(W > t) - beta*(avg(V > u) - P(V > u))

    at u where both tails are as high, with beta the regression over segments of the path: in heavy traffic a thousandth
    of the arrivals do. The path goes on until the standard errors are small or it is `last_arrivals` long; the error
    estimate is what they then are.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time.
    first_arrivals, last_arrivals : int
        Length of the path when errors are first looked at, and at most.
    seed : int
        Seed of the path.

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
    path = _Path(arrival_rate_per_s * mean, servers, service.scaled(1 / mean), seed)
    path.extend(WARM_UP // SEGMENTS, counted=False)
    slow = int(RELAXATIONS * (1 + service.scv) / (1 - arrival_rate_per_s * mean / servers) ** 2)
    path.extend(max(min(max(first_arrivals, slow), last_arrivals) // SEGMENTS, 2))
    answer = path.answer()
    while path.arrivals + SEGMENTS <= last_arrivals and not answer.good:
        path.extend(min(path.arrivals, last_arrivals - path.arrivals) // SEGMENTS)
        answer = path.answer()
    table = answer.table
    return QueueMetrics(
        arrival_rate_per_s=arrival_rate_per_s,
        servers=servers,
        mean_service_s=mean,
        mean_wait_s=answer.mean * mean,
        wait_probability=math.exp(table.log_tail[0]),
        wait_law=TabulatedTail(grid=table.grid * mean, log_tail=table.log_tail, decay=table.decay / mean),
        method=f"path of {path.arrivals} arrivals coupled with exact M/G/1",
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
        Metrics of the same queue, with error estimates.

    Returns
    -------
    QueueMetrics
        Mean weighted by the errors of means, tails (geometrically) by those of P99.
    """
    pairs = {name: (first.error_estimate[name], second.error_estimate[name]) for name in ("mean", "p95", "p99")}
    share = {name: b**2 / (a**2 + b**2) if a + b > 0 else 0.5 for name, (a, b) in pairs.items()}
    table = tabulated(second)
    theirs = np.log(np.maximum(first.wait_law.tail(table.grid), 1e-300))
    log_tail = share["p99"] * theirs + (1 - share["p99"]) * table.log_tail
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


class Choice:
    """Draws from weighted values by a table of where to look."""

    def __init__(self, values: FloatArray, weights: FloatArray) -> None:
        cumulative = np.cumsum(weights)
        self.values = np.ascontiguousarray(values)
        self.cumulative = cumulative / cumulative[-1]
        self.cumulative[-1] = 2.0
        cells = 1 << max(len(values).bit_length() + 2, 8)
        self.first = np.searchsorted(self.cumulative, np.arange(cells) / cells, side="right").astype(np.int64)

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return `count` draws."""
        out = np.empty(count)
        pick(rng.random(count), self.cumulative, self.first, self.values, out)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """Mean and tail of the wait, and relative standard errors."""

    mean: float
    table: TabulatedTail
    errors: dict[str, float]

    @property
    def good(self) -> bool:
        """Whether the path is long enough."""
        return self.errors["mean"] <= MEAN_ERROR and max(self.errors["p95"], self.errors["p99"]) <= PERCENTILE_ERROR


class _Path:
    """A path of the two coupled queues for a law of mean 1, in segments."""

    def __init__(self, rate: float, servers: int, service: ServiceTime, seed: int) -> None:
        self.rate, self.k, self.service = rate, servers, service
        self.rng = np.random.default_rng(seed)
        atoms = service.atoms()
        self.law = service if atoms is None else Choice(*atoms)
        self.free, self.state = np.zeros(servers), np.zeros(2)
        rho = rate / servers
        self.exact_mean = rate * service.moment(2) / (2 * servers**2 * (1 - rho))
        self.reach = REACH * (self.exact_mean / rho + 1 / servers)
        self.per_s = CELLS / self.reach
        fast = renewal_tail(rate, 1, service.scaled(1 / servers), self.reach, 2 * CELLS).scaled(rho)
        self.exact = fast.tail(np.arange(CELLS + 1) / self.per_s)
        self.exact[0] = rho
        self.own, self.pooled = np.zeros((SEGMENTS, CELLS + 2)), np.zeros((SEGMENTS, CELLS + 2))
        self.sums = np.zeros((SEGMENTS, 2))
        self.arrivals = 0

    def extend(self, count: int, *, counted: bool = True) -> None:
        """Go on by `count` arrivals in each segment."""
        for i in range(SEGMENTS):
            gaps = self.rng.standard_exponential(count) / self.rate
            works = self.law.sample(count, self.rng)
            counts = (self.own[i], self.pooled[i], self.sums[i])
            if not counted:
                counts = (np.zeros(CELLS + 2), np.zeros(CELLS + 2), np.zeros(2))
            coupled_path(gaps, works, self.free, self.state, self.per_s, *counts)
        self.arrivals += SEGMENTS * count if counted else 0

    def answer(self) -> _Answer:
        """Return what the path so far says."""
        share = SEGMENTS / self.arrivals
        sums = self.sums * share
        means, errors = regressed(sums[:, :1], sums[:, 1:] - self.exact_mean)
        own = 1.0 - np.cumsum(self.own[:, :-1], axis=1) * share
        pooled = 1.0 - np.cumsum(self.pooled[:, :-1], axis=1) * share
        cells = np.unique(np.concatenate([np.arange(24), np.geomspace(24, CELLS, KEPT).astype(np.int64)]))
        tail, spread = self._tail(own[:, cells], pooled)
        tail = self._followed(tail, cells)
        grid = cells / self.per_s
        log_tail = np.minimum.accumulate(np.log(np.clip(tail, 1e-300, 1.0)))
        table = TabulatedTail(grid=grid, log_tail=log_tail, decay=self._decay(grid, log_tail))
        relative = {"mean": float(errors[0] / means[0]) if means[0] > 0 else UNKNOWN}
        for name, q in (("p95", 0.95), ("p99", 0.99)):
            relative[name] = _quantile_error(table, spread, q)
        return _Answer(mean=max(float(means[0]), 0.0), table=table, errors=relative)

    def _tail(self, own: FloatArray, pooled: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return P(W > t) and its standard error at some t, each with the fast queue's tail at the same level."""
        seen = pooled.mean(axis=0)
        tail = own.mean(axis=0)
        level = len(seen) - 1 - np.searchsorted(seen[::-1], tail, side="right")
        spread = tail
        for _ in range(2):
            control = np.take(pooled, np.maximum(level, 0), axis=1) - self.exact[np.maximum(level, 0)]
            tail, spread = regressed(own, control)
            level = len(self.exact) - 1 - np.searchsorted(self.exact[::-1], tail, side="right")
        return tail, spread

    def _followed(self, tail: FloatArray, cells: npt.NDArray[np.int64]) -> FloatArray:
        """Return the tail, in proportion to the fast queue's where too few arrivals are beyond."""
        few = tail * self.arrivals < FEW
        if not few.any() or few[0]:
            return tail
        end = int(np.argmax(few))
        ratio = tail[max(end - 4, 0) : end] / np.maximum(self.exact[cells[max(end - 4, 0) : end]], 1e-300)
        tail = tail.copy()
        tail[end:] = np.minimum(float(np.median(ratio)) * self.exact[cells[end:]], tail[end - 1])
        return tail

    def _decay(self, grid: FloatArray, log_tail: FloatArray) -> float:
        """Return the rate at which the tail falls beyond the grid."""
        back = len(grid) // 10
        seen = float((log_tail[-1 - back] - log_tail[-1]) / (grid[-1] - grid[-1 - back]))
        whole = float((log_tail[0] - log_tail[-1]) / grid[-1])
        if self.service.mgf_limit_per_s > 0:
            return max(lundberg_rate(self.rate, self.k, self.service), 1e-9)
        return max(seen, whole, 1e-9)


def regressed(own: FloatArray, control: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return means of `own` over rows, less the regression on `control` of mean zero, and standard errors."""
    rows = len(own)
    mean, off = own.mean(axis=0), control.mean(axis=0)
    spread, moved = own - mean, control - off
    square = (moved**2).sum(axis=0)
    beta = np.where(square > 0, (spread * moved).sum(axis=0) / np.where(square > 0, square, 1.0), 0.0)
    rest = ((spread - beta * moved) ** 2).sum(axis=0)
    return mean - beta * off, np.sqrt(rest / ((rows - 2) * rows))


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

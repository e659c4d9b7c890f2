"""Queues driven by the same arrivals as M/G/k whose waits are known exactly: what a sample path is corrected by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import gammainc

from qmodel._kernels.queueing_lanes import fcfs_lanes, look_up, mean_by_rank, unlimited_lanes
from qmodel.distributions.service import ServiceTime
from qmodel.queueing.interpolation import heaviest_neighbour
from qmodel.queueing.metrics import QueueMetrics, tabulated
from qmodel.queueing.renewal import LONGEST
from qmodel.queueing.single import solve_mg1
from qmodel.queueing.traits import LawFacts

__all__ = ["LANES", "Control", "Lanes", "Start", "controls_of", "exponential_table", "service_table"]

FloatArray = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.uint16]

#: Queues side by side.
LANES = 64
#: Equally likely cells of a law: ranks have 16 bits.
CELLS = 1 << 16
#: Points of a law that is not made of atoms, and the share of its mean beyond the last of them.
POINTS, BEYOND = 4096, 1e-9
#: Points of the integral for the unlimited queue, and its mean, in mean waits, from which it is useful.
CUBES = np.linspace(0.0, 1.0, 1025) ** 3
USEFUL = 0.1


@lru_cache(maxsize=1)
def exponential_table() -> FloatArray:
    """Return the means of equally likely cells of the exponential law of mean 1."""
    left = 1 - np.arange(CELLS) / CELLS
    # E[X; X > x] = (x + 1) exp(-x) at the lower end of each cell.
    beyond = np.append(left * (1 - np.log(left)), 0.0)
    return np.asarray((beyond[:-1] - beyond[1:]) * CELLS)


@lru_cache(maxsize=16)
def service_table(service: ServiceTime) -> FloatArray:
    """Return the means of equally likely cells of a law, increasing: its mean is kept, its atoms nearly."""
    atoms = service.atoms()
    if atoms is not None:
        values, weights = atoms
        below, mass = np.cumsum(weights), np.cumsum(weights * values)
    else:
        top = service.mean_s
        while float(service.tail_integral(top)) > BEYOND * service.mean_s and top < service.upper_s:
            top *= 2
        grid = min(top, service.upper_s) * np.linspace(0.0, 1.0, POINTS) ** 2
        tail = service.tail(grid)
        below, mass = 1 - tail, service.mean_s - service.tail_integral(grid) - grid * tail
        below[-1], mass[-1] = 1.0, service.mean_s
    below = np.maximum.accumulate(np.concatenate([[0.0], below / below[-1]]))
    mass = np.maximum.accumulate(np.concatenate([[0.0], mass]))
    table = np.empty(CELLS)
    mean_by_rank(below, mass, table)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """One queue in each lane.

    Parameters
    ----------
    table : ndarray, shape (65536,)
        Service times by rank.
    factor : float
        What they are multiplied by.
    free : ndarray, shape (servers, lanes)
        Times at which servers fall free; moved along.
    unlimited : bool
        Whether everybody is served at once.
    """

    table: FloatArray
    factor: float
    free: FloatArray
    unlimited: bool = False

    def waits(self, gaps: FloatArray, ranks: Ranks) -> FloatArray:
        """Return the waits of the next arrivals."""
        works, waits = np.empty(gaps.shape), np.empty(gaps.shape)
        look_up(ranks, self.table, self.factor, works)
        (unlimited_lanes if self.unlimited else fcfs_lanes)(gaps, works, self.free, waits)
        return waits


class _Tail(Protocol):
    def __call__(self, t: FloatArray) -> FloatArray: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A queue whose wait is known: `tail` its law, `mean` its mean.

    Parameters
    ----------
    name : str
        What it is.
    queue : Lanes
        The queue.
    mean : float
        Exact mean wait.
    tail : callable
        Exact P(W > t) of an array of times.
    aligned : bool
        Whether its waits say most about waits beyond the same time, rather than of the same probability.
    """

    name: str
    queue: Lanes
    mean: float
    tail: _Tail
    aligned: bool = False


@dataclass(slots=True)
class Start:
    """Random states to start from."""

    rate: float
    servers: int
    table: FloatArray
    rng: np.random.Generator
    level: FloatArray = field(init=False)
    number: FloatArray = field(init=False)
    served: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.level = (self.rng.permutation(LANES) + 0.5) / LANES
        logs = np.array([j * math.log(self.rate) - math.lgamma(j + 1) for j in range(self.servers)])
        chance = np.cumsum(np.exp(logs - logs.max()))
        self.number = np.searchsorted(chance / chance[-1], self.rng.random(LANES)).astype(np.float64)
        self.served = np.sort(self.residuals(self.servers), axis=0)

    def waits(self, metrics: QueueMetrics) -> FloatArray:
        """Return one wait for each lane, at the same level in every queue."""
        if metrics.wait_probability < 0.5 / LANES:
            return np.zeros(LANES)
        law, wanted = tabulated(metrics), np.log1p(-self.level)
        inside = np.interp(-wanted, -law.log_tail, law.grid, left=0.0)
        return np.asarray(inside + np.maximum(law.log_tail[-1] - wanted, 0.0) / law.decay)

    def residuals(self, count: int) -> FloatArray:
        """Return `count` residual services for each lane."""
        cumulative = np.cumsum(self.table)
        at = np.searchsorted(cumulative, self.rng.random((count, LANES)) * cumulative[-1])
        return np.asarray(self.table[np.minimum(at, CELLS - 1)] * self.rng.random((count, LANES)))

    def unlimited(self) -> FloatArray:
        """Return the k longest residual services with everybody in service, a Poisson number of them."""
        number = self.rng.poisson(self.rate, LANES)
        places = max(int(number.max()), self.servers)
        residuals = np.where(np.arange(places)[:, None] < number, self.residuals(places), 0.0)
        return np.ascontiguousarray(np.sort(residuals, axis=0)[places - self.servers :])

    def busy(self, waits: FloatArray) -> FloatArray:
        """Return k servers: those who wait meet residual services, the others a Poisson number below k."""
        waiting = self.served - self.served[0] + waits
        others = np.where(np.arange(self.servers)[:, None] < self.number, self.served, 0.0)
        return np.ascontiguousarray(np.sort(np.where(waits > 0, waiting, others), axis=0))


def controls_of(rate: float, servers: int, law: LawFacts, rng: np.random.Generator) -> tuple[Lanes, list[Control]]:
    """Return M/G/k, service of mean 1, and the queues that it is compared with, all with the same arrivals and ranks.

    - One server k times as fast: M/G/1. It is close in heavy traffic.
    - M/PH/k or M/D/k, the exactly solved neighbour of `solve_mgk`, short services meeting short ones: close for
      smooth laws.
    - Everybody served at once (M/G/infinity), k-th longest residual service: P(V > t) = P(Poisson(a P(S_e > t)) >= k)
      because those with more than t left are a thinned Poisson number. It is close where few wait.
    """
    unit, k, table = law.unit, servers, service_table(law.unit)
    start = Start(rate, k, table, rng)
    fast = solve_mg1(rate, unit.scaled(1 / k))
    near, metrics, mean_wait = heaviest_neighbour(rate, k, law)
    waits = start.waits(metrics)
    free = start.busy(waits * (mean_wait / metrics.mean_wait_s if metrics.mean_wait_s > 0 else 1.0))
    controls = [
        Control(
            name="M/G/1",
            queue=Lanes(table=table, factor=1 / k, free=start.waits(fast)[None, :]),
            mean=fast.mean_wait_s,
            tail=fast.wait_law.tail,
        ),
        Control(
            name=metrics.method.split(" ")[1],
            queue=Lanes(table=service_table(near), factor=1.0, free=start.busy(waits)),
            mean=metrics.mean_wait_s,
            tail=metrics.wait_law.tail,
        ),
    ]

    def longest(t: FloatArray) -> FloatArray:
        return np.asarray(gammainc(k, rate * unit.residual_tail(t)))

    grid = min(unit.upper_s, LONGEST) * CUBES
    values = longest(grid)
    mean = float((values[1:] + values[:-1]) @ (grid[1:] - grid[:-1]) / 2)
    if mean > USEFUL * metrics.mean_wait_s:
        queue = Lanes(table=table, factor=1.0, free=start.unlimited(), unlimited=True)
        controls.append(Control(name="M/G/infinity", queue=queue, mean=mean, tail=longest, aligned=True))
    return Lanes(table=table, factor=1.0, free=free), controls

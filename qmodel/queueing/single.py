"""Exact M/G/1: services in phases by exponentials, on a lattice by a transform, others by the renewal equation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qmodel.distributions.phase_type import phases_of
from qmodel.distributions.service import ServiceTime
from qmodel.queueing.checks import check_load
from qmodel.queueing.decay import lundberg_rate
from qmodel.queueing.lattice import find_lattice, lattice_law
from qmodel.queueing.matrix import phase_tail
from qmodel.queueing.metrics import QueueMetrics, TabulatedTail, WaitLaw
from qmodel.queueing.renewal import renewal_tail

__all__ = ["solve_mg1"]

#: Points of the renewal equation for laws off the lattice.
POINTS = 1 << 13
#: Its reach over the time in which the tail falls e-fold, or in longest services: beyond, the tail is exponential to
#: 1e-5. Services longer than have this share of the work do not count.
REACH, SETTLED, NO_WORK = 12.0, 6.0, 1e-9
#: Multiples of the mean at which the longest service is looked for.
MULTIPLES = 20.0 * 1.25 ** np.arange(80)
#: Its reach without an exponential tail, in mean waits and mean services; its points lie a 32nd of a mean service
#: apart, as far as so many suffice.
LONG = 100.0
APART, MOST_POINTS = 1 / 32, 1 << 18
#: Last time of a tail without exponential moments over the end of the grid, points between, and the tail of a residual
#: service that rounding leaves.
FAR, FAR_POINTS, FAR_LEAST = 1e6, 240, 1e-12
#: Relative error of percentiles by that equation: at least the first, and the second times the square of the distance
#: of its points in mean services. Against eight times the points, loads .2 to .98: at most 4e-6 with an exponential
#: tail, 1.5e-5 to .053 times the square without.
GRID_ERROR, COARSE_ERROR = 3e-5, 0.06


def solve_mg1(arrival_rate_per_s: float, service: ServiceTime) -> QueueMetrics:
    """Exact: FCFS M/G/1.

    The mean is lam*E[S^2]/(2(1 - rho)) (Pollaczek-Khinchine). For services of up to 32 phases (start a, rates T) the
    tail is rho*p exp((T - T 1 rho*p) t) 1, p = a (-T)^-1/E[S] the phases of a residual service; for services that are
    multiples of a cell see `lattice_law`; otherwise the renewal equation of the wait is solved on a grid, and the
    error of its percentiles stated.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    service : ServiceTime
        Law of a service time.

    Returns
    -------
    QueueMetrics
        The law of the wait.

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Notes
    -----
    Asmussen, Applied Probability and Queues (2003), thm VIII.5.7 and cor. III.4.3 (phases); Franx, Oper. Res. Lett. 29
    (2001), with batches for cells (lattice).
    """
    lam = arrival_rate_per_s
    rho = check_load(lam, 1, service.mean_s)
    mean = lam * service.moment(2) / (2 * (1 - rho))
    law, how, error = _law(lam, rho, service)
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=1,
        mean_service_s=service.mean_s,
        mean_wait_s=mean,
        wait_probability=rho,
        wait_law=law,
        method=f"exact M/G/1 (Pollaczek-Khinchine, {how})",
        error_estimate={"mean": 0.0, "p95": error, "p99": error} if error else {},
    )


def _law(lam: float, rho: float, service: ServiceTime) -> tuple[WaitLaw, str, float]:
    """Return P(W > t), how it was found and the relative error of its percentiles, 0 for rounding alone."""
    phases = phases_of(service)
    if phases is not None:
        first, rates = phases
        mean = service.mean_s
        residual = np.asarray(np.linalg.solve(-rates.T, first) * (rho / mean), dtype=np.float64)
        generator = (rates - np.outer(rates.sum(axis=1), residual)) * mean
        return phase_tail(residual, generator, mean), f"{len(first)} phases", 0.0
    lattice = find_lattice(service)
    if lattice is not None:
        found = lattice_law(lam, service, lattice)
        if found is not None:
            return found, "lattice", 0.0
    grid, apart = _on_a_grid(lam, rho, service)
    return grid, "renewal equation", max(GRID_ERROR, COARSE_ERROR * apart**2)


def _on_a_grid(lam: float, rho: float, service: ServiceTime) -> tuple[TabulatedTail, float]:
    """Return P(W > t) from the renewal equation, followed at Lundberg's rate where nothing else is left.

    The second value is how far apart its points are [mean services] if they are as far as could matter, else 0.
    """
    mean = service.mean_s
    if not service.mgf_limit_per_s > 0:
        delay = service.moment(2) / (2 * mean * (1 - rho))
        reach = LONG * (rho * delay + mean)
        points = _points(reach / mean)
        table = renewal_tail(lam, 1, service, reach_s=reach, points=points).scaled(rho)
        return _with_far_tail(table, service), reach / (points * mean)
    decay, longest = lundberg_rate(lam, 1, service), _longest(service)
    reach = min(REACH / decay + 2 * longest, SETTLED * longest)
    points = _points(reach / mean)
    table = replace(renewal_tail(lam, 1, service, reach_s=reach, points=points).scaled(rho), decay=decay)
    apart = reach / (points * mean)
    return table, apart if apart > APART else 0.0


def _with_far_tail(table: TabulatedTail, service: ServiceTime) -> TabulatedTail:
    """Return a table that goes on as the tail of a residual service does: one of them makes waits that long."""
    times = table.grid[-1] * np.geomspace(1.0, FAR, FAR_POINTS)
    residual = service.residual_tail(times)
    known = int((residual > FAR_LEAST).sum())
    if known < 3:
        return table
    falls = np.log(residual[1:known] / residual[0])
    decay = float((falls[-2] - falls[-1]) / (times[known - 1] - times[known - 2]))
    grid = np.concatenate([table.grid, times[1:known]])
    return TabulatedTail(grid=grid, log_tail=np.concatenate([table.log_tail, table.log_tail[-1] + falls]), decay=decay)


def _points(reach: float) -> int:
    """Return how many points a grid of `reach` mean services takes."""
    return int(min(MOST_POINTS, max(POINTS, 2 ** math.ceil(math.log2(reach / APART)))))


def _longest(service: ServiceTime) -> float:
    """Return the longest service that matters [s], 20 means at least where they may be as long."""
    times = service.mean_s * MULTIPLES
    if service.upper_s <= times[0]:
        return service.upper_s
    some = service.tail_integral(times) > NO_WORK * service.mean_s
    last = int(np.flatnonzero(some)[-1]) + 1 if some.any() else 0
    return float(min(service.upper_s, times[min(last, len(times) - 1)]))

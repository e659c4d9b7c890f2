"""Exact M/G/1: services in phases by exponentials, on a lattice by a transform, others by the renewal equation."""

from __future__ import annotations

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
#: Its reach over the time in which the tail falls e-fold, or in longest services (20 means count as such): beyond, the
#: tail is exponential to 1e-5.
REACH, SETTLED, LONGEST = 12.0, 6.0, 20.0
#: Its reach without an exponential tail, in mean waits and mean services.
LONG = 100.0


def solve_mg1(arrival_rate_per_s: float, service: ServiceTime) -> QueueMetrics:
    """Exact: FCFS M/G/1.

    The mean is lam*E[S^2]/(2(1 - rho)) (Pollaczek-Khinchine). For services of up to 32 phases (start a, rates T) the
    tail is rho*p exp((T - T 1 rho*p) t) 1, p = a (-T)^-1/E[S] the phases of a residual service; for services that are
    multiples of a cell see `lattice_law`; otherwise the renewal equation of the wait is solved on a grid (relative
    error of the tail about 1e-5).

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
    law, how = _law(lam, rho, service)
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=1,
        mean_service_s=service.mean_s,
        mean_wait_s=mean,
        wait_probability=rho,
        wait_law=law,
        method=f"exact M/G/1 (Pollaczek-Khinchine, {how})",
    )


def _law(lam: float, rho: float, service: ServiceTime) -> tuple[WaitLaw, str]:
    """Return P(W > t) and how it was found."""
    phases = phases_of(service)
    if phases is not None:
        first, rates = phases
        mean = service.mean_s
        residual = np.asarray(np.linalg.solve(-rates.T, first) * (rho / mean), dtype=np.float64)
        generator = (rates - np.outer(rates.sum(axis=1), residual)) * mean
        return phase_tail(residual, generator, mean), f"{len(first)} phases"
    lattice = find_lattice(service)
    if lattice is not None:
        found = lattice_law(lam, service, lattice)
        if found is not None:
            return found, "lattice"
    return _on_a_grid(lam, rho, service), "renewal equation"


def _on_a_grid(lam: float, rho: float, service: ServiceTime) -> TabulatedTail:
    """Return P(W > t) from the renewal equation, followed at Lundberg's rate where nothing else is left."""
    mean = service.mean_s
    if not service.mgf_limit_per_s > 0:
        delay = service.moment(2) / (2 * mean * (1 - rho))
        return renewal_tail(lam, 1, service, reach_s=LONG * (rho * delay + mean), points=POINTS).scaled(rho)
    decay, longest = lundberg_rate(lam, 1, service), min(service.upper_s, LONGEST * mean)
    reach = min(REACH / decay + 2 * longest, SETTLED * longest)
    return replace(renewal_tail(lam, 1, service, reach_s=reach, points=POINTS).scaled(rho), decay=decay)

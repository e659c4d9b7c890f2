"""M/G/k: one entry point that picks a method and says which."""

from __future__ import annotations

import math
from typing import Literal, get_args

from qmodel.distributions.phase_type import as_phase_type, fit_phase_type
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.checks import check_load, check_servers, check_service
from qmodel.queueing.correction import OUTSIDE, RARE, solve_mgk
from qmodel.queueing.coupled import blended, solve_coupled
from qmodel.queueing.deterministic import solve_mdk
from qmodel.queueing.erlang import mmk
from qmodel.queueing.matrix import solve_mphk
from qmodel.queueing.metrics import QueueMetrics, TabulatedTail, tabulated
from qmodel.queueing.single import solve_mg1
from qmodel.queueing.traits import law_facts

__all__ = ["MgkMethod", "mgk"]

MgkMethod = Literal["auto", "analytic", "phase-type", "deterministic", "interpolation", "path", "single"]

#: Servers up to which the wait is computed as it is; beyond, it is scaled from this many (Halfin-Whitt).
SCALED_FROM = 40
#: Servers it is scaled from for regular laws, which take three matrix solutions.
REGULAR_FROM = 28
#: SCV below which a law counts as deterministic.
DETERMINISTIC_SCV = 1e-12
#: Error estimate of the mean from which on a queue is not like those learnt from, and a path is followed.
UNLIKE = OUTSIDE["mean"]


def mgk(arrival_rate_per_s: float, servers: int, service: ServiceTime, method: MgkMethod = "auto") -> QueueMetrics:
    """Return the law of the wait in a FCFS queue with Poisson arrivals, any service law and k servers.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson arrival rate [1/s].
    servers : int
        Number of servers k.
    service : ServiceTime
        Law of a service time.
    method : {"auto", "analytic", "phase-type", "deterministic", "interpolation", "path", "single"}
        ``auto`` picks the most exact: the exact solutions for one server, two-phase and deterministic services, else
        ``interpolation`` between them, corrected by what simulated queues taught (.2 to .8 ms), and for queues unlike
        those also sample paths (``path``, 5 to 50 ms). ``analytic`` is the same without them: its error estimate says
        where they were due. ``phase-type`` solves the two-phase law with the same (up to three) moments.

    Returns
    -------
    QueueMetrics
        Mean wait, quantiles, tail; `.method` says how, `.error_estimate` how well.

    Raises
    ------
    UnstableError
        When rate * mean service / servers is 1 or more.

    Examples
    --------
    >>> metrics = mgk(1.8, 2, ServiceTime.exponential(1.0))
    >>> round(metrics.mean_wait_s, 6), metrics.utilisation
    (4.263158, 0.9)
    """
    check_load(arrival_rate_per_s, check_servers(servers), law_facts(check_service(service)).mean_s)
    if not isinstance(method, str) or method not in get_args(MgkMethod):
        raise InputError("method", repr(method), "one of " + ", ".join(get_args(MgkMethod)))
    if method in ("auto", "analytic"):
        return _best(arrival_rate_per_s, servers, service, path=method == "auto")
    if method == "deterministic":
        return solve_mdk(arrival_rate_per_s, servers, service.mean_s)
    if method == "interpolation":
        return solve_mgk(arrival_rate_per_s, servers, service)
    if method == "path":
        return solve_coupled(arrival_rate_per_s, servers, service)
    if method == "phase-type":
        return solve_mphk(arrival_rate_per_s, servers, fit_phase_type(service))
    if servers != 1:
        raise InputError("servers of method 'single'", servers, "1", "use method='auto'")
    return solve_mg1(arrival_rate_per_s, service)


def _best(lam: float, k: int, service: ServiceTime, *, path: bool) -> QueueMetrics:
    """Return the most exact solution, by a path where it takes one if that is wanted."""
    if k > SCALED_FROM:
        return _many_servers(lam, k, service)
    if law_facts(service).scv < DETERMINISTIC_SCV:
        return solve_mdk(lam, k, service.mean_s)
    own = as_phase_type(service)
    if own is not None:
        return solve_mphk(lam, k, own)
    if k == 1:
        return solve_mg1(lam, service)
    found = solve_mgk(lam, k, service)
    if found.error_estimate["mean"] < UNLIKE or not path or found.wait_probability < RARE:
        return found
    return blended(found, solve_coupled(lam, k, service, beside=found))


def _many_servers(lam: float, k: int, service: ServiceTime) -> QueueMetrics:
    """Return M/G/k for many servers: the ratio to M/M/k is that of fewer servers with the same (1 - rho)*sqrt(k).

    In the regime of Halfin & Whitt (Oper. Res. 29, 1981) the delay depends on (1 - rho)*sqrt(k) alone.
    """
    mean = service.mean_s
    spare = (1 - lam * mean / k) * math.sqrt(k)
    few = SCALED_FROM if law_facts(service).scv > 1 else REGULAR_FROM
    load = 1 - spare / math.sqrt(few)
    whole = mmk(lam, k, mean)
    if load <= 0.02:
        # So much spare capacity that nobody waits (P < 1e-9); the exponential law bounds the order of magnitude.
        return whole
    small_rate = load * few / mean
    small, small_exponential = _best(small_rate, few, service, path=False), mmk(small_rate, few, mean)
    ratio = small.mean_wait_s / small_exponential.mean_wait_s
    delayed = min(whole.wait_probability * small.wait_probability / small_exponential.wait_probability, 1.0)
    # Waits given delay shrink as those of M/M/k do.
    shrink = few * (1 - load) / (k * (1 - lam * mean / k))
    law = tabulated(small).scaled(delayed / small.wait_probability)
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=k,
        mean_service_s=mean,
        mean_wait_s=whole.mean_wait_s * ratio,
        wait_probability=delayed,
        wait_law=TabulatedTail(grid=law.grid * shrink, log_tail=law.log_tail, decay=law.decay / shrink),
        method=f"scaled from {few} servers with the same (1 - rho)*sqrt(k) (Halfin-Whitt); {small.method}",
        exact=False,
        error_estimate={"mean": 0.03, "p95": 0.03, "p99": 0.04},
    )

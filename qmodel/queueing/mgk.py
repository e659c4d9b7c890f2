"""M/G/k: one entry point that picks a method and says which."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from qmodel.distributions.phase_type import as_phase_type, fit_phase_type
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.checks import check_load, check_servers, check_service
from qmodel.queueing.correction import NEAREST, OUTSIDE, RARE, solve_mgk
from qmodel.queueing.coupled import blended, solve_coupled
from qmodel.queueing.deterministic import solve_mdk
from qmodel.queueing.erlang import mmk
from qmodel.queueing.matrix import solve_mphk
from qmodel.queueing.metrics import QueueMetrics, TabulatedTail, tabulated
from qmodel.queueing.single import solve_mg1
from qmodel.queueing.traits import law_facts

__all__ = ["MgkMethod", "mgk"]

MgkMethod = Literal["auto", "analytic", "phase-type", "deterministic", "interpolation", "path", "single"]

#: Servers up to which the wait is computed as it is, and those from which it is scaled beyond (Halfin-Whitt): fewer for
#: regular laws, as they take three matrix solutions.
MOST_AS_IT_IS, SCALED_FROM, REGULAR_FROM = 40, (20, 40), (16, 28)
#: Servers up to which services of two phases and of one length are solved: beyond, that takes over 5 ms.
MOST_PHASE_TYPE, MOST_DETERMINISTIC = 64, 1024
#: Ratios to M/M/k near their limit as this power of 1/k: within .1 % of exact M/H2/k, M/E2/k and M/D/k of 64 and 128.
NEARING = 0.62
#: Largest factor by which a percentile goes on changing.
LARGEST_CHANGE = 1.1
#: Least load at which a number of servers is scaled from.
LEAST_LOAD = 0.02
#: SCV below which a law counts as deterministic.
DETERMINISTIC_SCV = 1e-12
#: Relative errors of scaled waits, and of their P(W > 0).
SCALED_ERROR = {"mean": 0.01, "p95": 0.015, "p99": 0.015, "delayed": 0.003}
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
    if law_facts(service).scv < DETERMINISTIC_SCV and k <= MOST_DETERMINISTIC:
        return solve_mdk(lam, k, service.mean_s)
    own = as_phase_type(service)
    if own is not None and own.name == "M":
        return mmk(lam, k, service.mean_s)
    if own is not None and k <= MOST_PHASE_TYPE:
        return solve_mphk(lam, k, own)
    if k > MOST_AS_IT_IS:
        return _many_servers(lam, k, service)
    if k == 1:
        return solve_mg1(lam, service)
    found = solve_mgk(lam, k, service)
    if found.error_estimate["mean"] < UNLIKE or not path or found.wait_probability < RARE:
        return found
    return blended(found, solve_coupled(lam, k, service, beside=found))


def _many_servers(lam: float, k: int, service: ServiceTime) -> QueueMetrics:
    """Return M/G/k for many servers: the ratio to M/M/k follows from fewer servers with the same (1 - rho)*sqrt(k).

    In the regime of Halfin & Whitt (Oper. Res. 29, 1981) the delay depends on (1 - rho)*sqrt(k) alone. The ratios of
    means and of P(W > 0) of two numbers of servers show how fast the limit is neared.
    """
    mean = service.mean_s
    spare = (1 - lam * mean / k) * math.sqrt(k)
    fewer, few = SCALED_FROM if law_facts(service).scv > 1 else REGULAR_FROM
    whole = mmk(lam, k, mean)
    if 1 - spare / math.sqrt(few) <= LEAST_LOAD:
        # So much spare capacity that nobody waits (P < 1e-9); the exponential law bounds the order of magnitude.
        return whole
    small, ratios = _ratios(few, spare, service)
    law = tabulated(small)
    if 1 - spare / math.sqrt(fewer) > LEAST_LOAD:
        smaller, before = _ratios(fewer, spare, service)
        there, last, first = (count**-NEARING for count in (k, few, fewer))
        step = (there - last) / (last - first)
        ratios = (ratios[0] + (ratios[0] - before[0]) * step, ratios[1] + (ratios[1] - before[1]) * step)
        law = _further(law, tabulated(smaller), small.mean_delay_s / smaller.mean_delay_s, step)
    mean_wait = whole.mean_wait_s * math.exp(ratios[0])
    delayed = min(whole.wait_probability * math.exp(ratios[1]), 1.0)
    shrink = mean_wait / delayed / small.mean_delay_s
    law = law.scaled(delayed / small.wait_probability)
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=k,
        mean_service_s=mean,
        mean_wait_s=mean_wait,
        wait_probability=delayed,
        wait_law=TabulatedTail(grid=law.grid * shrink, log_tail=law.log_tail, decay=law.decay / shrink),
        method=f"scaled from {fewer} and {few} servers with the same (1 - rho)*sqrt(k) (Halfin-Whitt); {small.method}",
        exact=False,
        error_estimate=_scaling_errors(delayed, small.error_estimate),
    )


def _further(law: TabulatedTail, before: TabulatedTail, delays: float, step: float) -> TabulatedTail:
    """Return a tail whose times went on by `step` of how they changed from `before`, in mean delays, level by level."""
    levels = law.log_tail[0] - law.log_tail
    earlier = np.interp(levels, before.log_tail[0] - before.log_tail, before.grid) * delays
    known = (law.grid > 0) & (earlier > 0) & (levels <= before.log_tail[0] - before.log_tail[-1])
    change = np.ones(len(levels))
    change[known] = np.clip((law.grid[known] / earlier[known]) ** step, 1 / LARGEST_CHANGE, LARGEST_CHANGE)
    last = int(np.flatnonzero(known)[-1]) if known.any() else 0
    change[last:] = change[last]
    grid = np.maximum.accumulate(law.grid * change)
    return TabulatedTail(grid=grid, log_tail=law.log_tail, decay=law.decay / float(change[-1]))


def _ratios(servers: int, spare: float, service: ServiceTime) -> tuple[QueueMetrics, tuple[float, float]]:
    """Return the wait with few servers, and logarithms of its mean and P(W > 0) over those of M/M/k."""
    mean = service.mean_s
    rate = (1 - spare / math.sqrt(servers)) * servers / mean
    found, exponential = _best(rate, servers, service, path=False), mmk(rate, servers, mean)
    ratio = math.log(found.mean_wait_s / exponential.mean_wait_s)
    return found, (ratio, math.log(found.wait_probability / exponential.wait_probability))


def _scaling_errors(delayed: float, small: dict[str, float]) -> dict[str, float]:
    """Return relative errors of what is scaled, those of fewer servers at least.

    Percentiles a little above P(W = 0) are moved far by small errors.
    """
    errors = {"mean": max(SCALED_ERROR["mean"], small.get("mean", 0.0))}
    for name, level in (("p95", 0.05), ("p99", 0.01)):
        spare = math.log(delayed / level)
        near = max(SCALED_ERROR[name], small.get(name, 0.0)) + SCALED_ERROR["delayed"] / max(spare, NEAREST)
        errors[name] = near if spare > -SCALED_ERROR["delayed"] else 0.0
    return errors

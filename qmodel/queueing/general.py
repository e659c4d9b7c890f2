"""Queues with any arrival law: the method follows from the law."""

from __future__ import annotations

from dataclasses import replace

from qmodel.distributions.arrivals import (
    GAP_PHASES,
    Arrivals,
    MmppArrivals,
    PoissonArrivals,
    RenewalArrivals,
    WindowedArrivals,
)
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.approximations import heavy_traffic_mean_s
from qmodel.queueing.bounds import daley_bound_s
from qmodel.queueing.bursty import map_k
from qmodel.queueing.checks import check_load, check_servers, check_service, shown
from qmodel.queueing.metrics import QueueMetrics
from qmodel.queueing.mgk import mgk
from qmodel.queueing.time_varying import TimeVaryingWaits, mtgk

__all__ = ["ggk", "ggk_bounds_s", "ggk_lower_bound_s"]

#: A window this many times the time between arrivals shows the limit of the index of dispersion.
LIMIT_GAPS = 1e6
#: What fitting two moments of the gaps adds to the error.
RENEWAL_ERROR = 0.05
#: Phases of gaps times configurations of servers, at most.
STATES = 240


def ggk(arrivals: Arrivals, servers: int, service: ServiceTime) -> QueueMetrics | TimeVaryingWaits:
    """Return the law of the wait in a FCFS queue with any of the arrival laws and k servers.

    Poisson arrivals go to `mgk`, renewal and Markov-modulated ones to `map_k`, rates by window to `mtgk`.

    Parameters
    ----------
    arrivals : Arrivals
        Law of arrivals.
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time.

    Returns
    -------
    QueueMetrics or TimeVaryingWaits
        The latter for `WindowedArrivals`; both have `.mean_wait_s` and `.wait_quantile_s(q)`.

    Raises
    ------
    UnstableError
        When the load is 1 or more (rates by window may exceed it).
    InputError
        When the law is none of qmodel's.

    Examples
    --------
    >>> arrivals = RenewalArrivals.hyperexponential(1.6, 4.0)
    >>> waits = ggk(arrivals, 2, ServiceTime.exponential(1.0))
    >>> waits.exact, bool(waits.mean_wait_s > 4)
    (True, True)
    """
    law = checked_arrivals(arrivals)
    if isinstance(law, PoissonArrivals):
        return mgk(law.rate_per_s, servers, service)
    if isinstance(law, WindowedArrivals):
        return mtgk(law.edges_s - law.edges_s[0], law.rates_per_s, service, servers)
    if isinstance(law, MmppArrivals):
        return map_k(*law.as_map()[:2], servers, service)
    # As many phases as leave the matrices small.
    phases = min(max(STATES // (check_servers(servers) + 1), 2), GAP_PHASES)
    quiet, arrive, exact = law.as_map(phases)
    found = map_k(quiet, arrive, servers, service)
    if exact:
        return found
    # More regular gaps than so many phases have: the wait is as the sum of both SCVs.
    missed = max(1 / phases - law.scv, 0.0) / (law.scv + service.scv + 1 / phases)
    more = RENEWAL_ERROR + missed
    errors = {name: found.error_estimate.get(name, 0.0) + more for name in ("mean", "p95", "p99")}
    return replace(found, method=f"{found.method}; gaps fitted by phases", exact=False, error_estimate=errors)


def checked_arrivals(arrivals: object) -> PoissonArrivals | WindowedArrivals | RenewalArrivals | MmppArrivals:
    """Return `arrivals` when it is one of the laws, else raise InputError."""
    if not isinstance(arrivals, PoissonArrivals | WindowedArrivals | RenewalArrivals | MmppArrivals):
        raise InputError(
            "arrivals",
            shown(arrivals),
            "one of the laws of arrivals",
            "e.g. PoissonArrivals(rate_per_s=...), RenewalArrivals.gamma, MmppArrivals, or what fit_arrivals finds",
        )
    return arrivals


def ggk_bounds_s(arrivals: Arrivals, servers: int, service: ServiceTime) -> tuple[float | None, float]:
    """Return (upper bound, heavy-traffic value) of the mean wait [s].

    The bound (`daley_bound_s`, the tightest that is proven) holds for independent gaps alone and is None otherwise; the
    heavy-traffic value takes the limiting index of dispersion of the counts.

    Parameters
    ----------
    arrivals : Arrivals
        Law of arrivals.
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time.

    Returns
    -------
    tuple of float
        Bound, or None, and heavy-traffic value [s].

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Examples
    --------
    >>> bound, heavy = ggk_bounds_s(PoissonArrivals(rate_per_s=0.9), 1, ServiceTime.exponential(1.0))
    >>> round(bound, 3), round(heavy, 3)
    (10.0, 10.056)
    """
    checked_arrivals(arrivals)
    check_service(service)
    rate, independent = arrivals.rate_per_s, isinstance(arrivals, PoissonArrivals | RenewalArrivals)
    bound = daley_bound_s(rate, arrivals.scv, servers, service.mean_s, service.scv) if independent else None
    limit = arrivals.scv if independent else arrivals.idc(LIMIT_GAPS / rate)
    return bound, heavy_traffic_mean_s(rate, limit, servers, service.mean_s, service.scv)


def ggk_lower_bound_s(arrivals: Arrivals, servers: int, service: ServiceTime) -> float:
    """Bound: the least mean wait [s] that a FCFS queue with independent gaps can have.

    E[W] >= W_1 - (k - 1) E[S^2]/(2 k E[S]), W_1 the mean wait at one server k times as fast (Brumelle). W_1 is exact
    for Poisson arrivals (Pollaczek-Khinchine), else at least (lam^2 vs + rho (rho - 2))/(2 lam (1 - rho)), vs the
    variance of its services (Marchal). Never below 0, which is all it says at low loads.

    Parameters
    ----------
    arrivals : Arrivals
        Law of arrivals: Poisson or renewal.
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time.

    Returns
    -------
    float
        Lower bound of the mean wait [s].

    Raises
    ------
    UnstableError
        When the load is 1 or more.
    InputError
        When gaps between arrivals are not independent.

    Notes
    -----
    Brumelle, J. Appl. Prob. 8 (1971); Marchal, Oper. Res. 26 (1978).

    Examples
    --------
    >>> round(ggk_lower_bound_s(PoissonArrivals(rate_per_s=1.8), 2, ServiceTime.exponential(1.0)), 6)
    4.0
    """
    if not isinstance(checked_arrivals(arrivals), PoissonArrivals | RenewalArrivals):
        raise InputError("arrivals", type(arrivals).__name__, "Poisson or renewal: bounds need independent gaps")
    m, second = check_service(service).mean_s, service.moment(2)
    lam, k = arrivals.rate_per_s, check_servers(servers)
    rho = check_load(lam, k, m)
    if isinstance(arrivals, PoissonArrivals):
        single = lam * second / k**2 / (2 * (1 - rho))
    else:
        single = (lam**2 * (second - m * m) / k**2 + rho * (rho - 2)) / (2 * lam * (1 - rho))
    return max(single - (k - 1) * second / (2 * k * m), 0.0)

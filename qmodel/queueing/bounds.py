"""Upper bounds of the mean wait in GI/G/k from two moments: FCFS is no worse than servers taken in turn."""

from __future__ import annotations

import math

from qmodel.errors import ConvergenceError
from qmodel.queueing.checks import check_two_moments

__all__ = ["daley_bound_s", "kingman_bound_s", "whitt_bound_s"]

#: Newton steps for the root of Chen and Whitt: it is reached in a handful.
STEPS = 60
ROOT_TOLERANCE = 1e-14


def kingman_bound_s(
    arrival_rate_per_s: float, arrival_scv: float, servers: int, mean_service_s: float, service_scv: float
) -> float:
    """Bound: E[W] <= lam*(va + vs/k + (1 - 1/k)*m^2/k)/(2(1 - rho)) in GI/G/k, va and vs the variances.

    Parameters
    ----------
    arrival_rate_per_s, arrival_scv : float
        Rate [1/s] and SCV of independent interarrival times.
    servers : int
        Number of servers.
    mean_service_s, service_scv : float
        Mean [s] and SCV of service times.

    Returns
    -------
    float
        Upper bound of the mean wait [s].

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Notes
    -----
    Kingman, Proc. Camb. Phil. Soc. 58 (1962), for k = 1; Brumelle, J. Appl. Prob. 8 (1971), in general.

    Examples
    --------
    >>> round(kingman_bound_s(0.5, 1.0, 1, 1.0, 1.0), 6)
    2.5
    """
    lam, k, m = arrival_rate_per_s, servers, mean_service_s
    rho = check_two_moments(lam, arrival_scv, k, m, service_scv)
    va, vs = arrival_scv / lam**2, service_scv * m**2
    return lam * (va + vs / k + (1 - 1 / k) * m**2 / k) / (2 * (1 - rho))


def daley_bound_s(
    arrival_rate_per_s: float, arrival_scv: float, servers: int, mean_service_s: float, service_scv: float
) -> float:
    """Bound: E[W] <= (k/lam) (rho (2 - rho) ca2/k + rho^2 cs2)/(2 (1 - rho)) in FCFS GI/G/k.

    FCFS waits are least in convex order among all ways of dealing customers to servers whatever their services (Wolff;
    Daley 1987). Dealing them in turn makes k queues GI/G/1 whose gaps are sums of k: mean k/lam, SCV ca2/k. Daley's
    bound for one server, below Kingman's at every load, does the rest. Tighter than `kingman_bound_s` for every k.

    Parameters
    ----------
    arrival_rate_per_s, arrival_scv : float
        Rate [1/s] and SCV of independent interarrival times.
    servers : int
        Number of servers.
    mean_service_s, service_scv : float
        Mean [s] and SCV of service times.

    Returns
    -------
    float
        Upper bound of the mean wait [s].

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Notes
    -----
    Daley, in Z. Wahrsch. verw. Geb. 41 (1977), for one server; Wolff, J. Appl. Prob. 14 (1977) and Daley, Stoch. Proc.
    Appl. 25 (1987), for the comparison. As k grows at a fixed (1 - rho) sqrt(k) it is too large by a factor that grows.

    Examples
    --------
    >>> round(daley_bound_s(0.5, 1.0, 1, 1.0, 1.0), 6)
    2.0
    """
    lam, k, ca2, cs2 = arrival_rate_per_s, servers, arrival_scv, service_scv
    rho = check_two_moments(lam, ca2, k, mean_service_s, cs2)
    return k / lam * (rho * (2 - rho) * ca2 / k + rho**2 * cs2) / (2 * (1 - rho))


def whitt_bound_s(
    arrival_rate_per_s: float, arrival_scv: float, servers: int, mean_service_s: float, service_scv: float
) -> float:
    """Bound, conjectured: E[W] <= (k/lam) (2 (1 - rho) rho/(1 - d) ca2/k + rho^2 cs2)/(2 (1 - rho)), FCFS GI/G/k.

    d in (0, 1) solves d = exp(-(1 - d)/rho). As `daley_bound_s`, with the bound of Chen and Whitt for one server: its
    first term is 1 to 9 % above the wait at the extremal laws with these moments (two-point gaps, one of them 0; rare
    long services). That those are extremal is long conjectured and shown by computation, not proven in general; where a
    theorem is needed take `daley_bound_s`, whose first term is larger by up to a fifth.

    Parameters
    ----------
    arrival_rate_per_s, arrival_scv : float
        Rate [1/s] and SCV of independent interarrival times.
    servers : int
        Number of servers.
    mean_service_s, service_scv : float
        Mean [s] and SCV of service times.

    Returns
    -------
    float
        Upper bound of the mean wait [s].

    Raises
    ------
    UnstableError
        When the load is 1 or more.
    ConvergenceError
        When the root d is not found.

    Notes
    -----
    Chen & Whitt, Algorithms for the upper bound mean waiting time in the GI/GI/1 queue, Queueing Syst. 94 (2020).

    Examples
    --------
    >>> round(whitt_bound_s(0.5, 4.0, 1, 1.0, 4.0), 3)
    7.02
    """
    lam, k, ca2, cs2 = arrival_rate_per_s, servers, arrival_scv, service_scv
    rho = check_two_moments(lam, ca2, k, mean_service_s, cs2)
    return k / lam * (2 * (1 - rho) * rho / (1 - _root(rho)) * ca2 / k + rho**2 * cs2) / (2 * (1 - rho))


def _root(rho: float) -> float:
    """Return d in (0, 1) with d = exp(-(1 - d)/rho), by Newton's method on u = 1 - d from above its root."""
    u = 1.0
    for _ in range(STEPS):
        # u + expm1(-u/rho) is convex with roots 0 and u: Newton comes down to the larger one.
        step = (u + math.expm1(-u / rho)) / (1 - math.exp(-u / rho) / rho)
        u -= step
        if abs(step) < ROOT_TOLERANCE:
            return 1 - u
    raise ConvergenceError(
        "root of the extremal queue", 1 - u, f"a step below {ROOT_TOLERANCE:g}", "take daley_bound_s"
    )

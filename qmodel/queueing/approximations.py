"""Closed forms for M/G/k and G/G/k, each with its known error, and a table that sets them beside the exact methods."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.distributions.service import ServiceTime
from qmodel.errors import ConvergenceError, InputError, OutOfRangeError, QModelError
from qmodel.queueing.bounds import daley_bound_s, kingman_bound_s, whitt_bound_s
from qmodel.queueing.checks import check_load, check_service, check_two_moments
from qmodel.queueing.decay import lundberg_rate
from qmodel.queueing.deterministic import solve_mdk
from qmodel.queueing.erlang import mmk
from qmodel.queueing.metrics import ExponentialSum, QueueMetrics, WaitLaw
from qmodel.queueing.mgk import mgk
from qmodel.queueing.renewal import delayed_mean, least_residual, renewal_tail

__all__ = [
    "APPROXIMATIONS",
    "MethodRow",
    "approximate",
    "compare_methods",
    "heavy_traffic_mean_s",
]

FloatArray = npt.NDArray[np.float64]

#: Relative errors of mean, P95 and P99 over (1 - rho) sqrt(k): (alone, for each unit of SCV below 1, above 1). They
#: hold in 95 % of cases: laws of SCV 0 to 6, 2 to 32 servers, loads .3 to .98 (bench/approximations.py).
APPROXIMATIONS = {
    "lee-longton": {"mean": (0.06, 0.09, 0.26), "p95": (0.08, 0.16, 0.28), "p99": (0.10, 0.18, 0.19)},
    "cosmetatos": {"mean": (0.06, 0.07, 0.18), "p95": (0.08, 0.20, 0.23), "p99": (0.10, 0.23, 0.16)},
    "kimura": {"mean": (0.06, 0.09, 0.11), "p95": (0.09, 0.20, 0.16), "p99": (0.09, 0.24, 0.17)},
    "boxma-cohen-huffels": {"mean": (0.05, 0.07, 0.07), "p95": (0.06, 0.22, 0.19), "p99": (0.11, 0.21, 0.17)},
    "tijms-van-hoorn": {"mean": (0.05, 0.13, 0.10), "p95": (0.06, 0.14, 0.08), "p99": (0.08, 0.10, 0.08)},
    "lundberg": {"mean": (0.31, 0.05, 0.44), "p95": (0.32, 0.0, 0.47), "p99": (0.30, 0.0, 0.25)},
}
#: Least mean wait in mean services: below, nobody waits.
SMALLEST_WAIT = 1e-100
#: Reach of the Tijms-van Hoorn table in mean delays, points at least and at most, and in a service over the servers.
REACH, POINTS, MOST_POINTS, FINE = 16.0, 1 << 12, 1 << 18, 8.0


def approximate(arrival_rate_per_s: float, servers: int, service: ServiceTime, formula: str) -> QueueMetrics:
    """Approximation: M/G/k by a named formula; the tail is C*exp(-C*t/E[W]) unless the formula says more.

    With W_M and W_D the mean waits of M/M/k and M/D/k, c2 the SCV and C Erlang's delay probability:

    - ``lee-longton``: (1 + c2)/2 * W_M (Lee & Longton 1959);
    - ``cosmetatos``: c2*W_M + (1 - c2)*W_D, W_D in closed form (Cosmetatos, Oper. Res. 24, 1976);
    - ``kimura``: (1 + c2)/(2*c2/W_M + (1 - c2)/W_D) (Kimura, Oper. Res. 34, 1986);
    - ``boxma-cohen-huffels``: (1 + c2)*W_M*W_D/(2*a*W_D + (1 - a)*W_M), a from the least of k residual services
      (Boxma, Cohen & Huffels, Oper. Res. 27, 1979);
    - ``tijms-van-hoorn``: the renewal equation of the delay (Tijms, van Hoorn & Federgruen 1981);
    - ``lundberg``: C*exp(-eta*t), eta the exact decay rate.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time.
    formula : str
        One of the names above.

    Returns
    -------
    QueueMetrics
        With the formula's error as `error_estimate`: it holds in 95 % of a family of laws, and grows with the distance
        of c2 from 1 and with (1 - rho) sqrt(k); at low loads on many servers it may exceed 1.

    Raises
    ------
    UnstableError
        When the load is 1 or more.
    InputError
        When the formula is unknown.
    OutOfRangeError
        When so few wait that no number holds their share.
    ConvergenceError
        When the load is too close to 1 for the table of ``tijms-van-hoorn``.

    Examples
    --------
    >>> approximate(1.8, 2, ServiceTime.deterministic(1.0), "lee-longton").mean_wait_s.__round__(4)
    2.1316
    """
    if not isinstance(formula, str) or formula not in APPROXIMATIONS:
        raise InputError("formula", repr(formula), "one of " + ", ".join(APPROXIMATIONS))
    lam, k, mean, c2 = arrival_rate_per_s, servers, check_service(service).mean_s, service.scv
    rho = check_load(lam, k, mean)
    plain = mmk(lam, k, mean)
    delayed = plain.wait_probability
    if not plain.mean_wait_s > SMALLEST_WAIT * mean:
        limit = f"above {SMALLEST_WAIT:g} services"
        raise OutOfRangeError("mean wait of M/M/k", plain.mean_wait_s, limit, "nobody waits: use fewer servers")
    law: WaitLaw | None = None
    if formula == "lee-longton":
        wait = (1 + c2) / 2 * plain.mean_wait_s
    elif formula == "cosmetatos":
        wait = c2 * plain.mean_wait_s + (1 - c2) * _cosmetatos_mdk(rho, k) * plain.mean_wait_s
        wait = max(wait, 0.0)
    elif formula == "kimura":
        wait = (1 + c2) / (2 * c2 / plain.mean_wait_s + (1 - c2) / solve_mdk(lam, k, mean).mean_wait_s)
    elif formula == "boxma-cohen-huffels":
        wait = _boxma(lam, k, service, plain.mean_wait_s)
    elif formula == "tijms-van-hoorn":
        delay = delayed_mean(lam, k, service)
        wait, reach = delayed * delay, REACH * delay
        points = FINE * reach * k / mean
        if points > FINE * MOST_POINTS:
            raise ConvergenceError("load of the table of delays", rho, "further from 1", "use formula='kimura'")
        points = 1 << math.ceil(math.log2(points))
        law = renewal_tail(lam, k, service, reach, min(max(points, POINTS), MOST_POINTS)).scaled(delayed)
    else:
        wait = delayed / lundberg_rate(lam, k, service)
    if not wait > 0:
        raise InputError(f"mean wait by {formula}", wait, "> 0", "SCV is out of its range: take mgk")
    if law is None:
        law = ExponentialSum(coefficients=np.array([delayed + 0j]), rates=np.array([delayed / wait + 0j]))
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=k,
        mean_service_s=mean,
        mean_wait_s=wait,
        wait_probability=delayed,
        wait_law=law,
        method=f"{formula} approximation",
        exact=False,
        error_estimate=_errors(formula, rho, k, c2),
    )


def _errors(formula: str, rho: float, k: int, c2: float) -> dict[str, float]:
    """Return relative errors of mean, P95 and P99: they grow with |c2 - 1| and (1 - rho) sqrt(k)."""
    return {metric: _scaled(constants, rho, k, c2) for metric, constants in APPROXIMATIONS[formula].items()}


def _scaled(constants: tuple[float, float, float], rho: float, k: int, c2: float) -> float:
    alone, below, above = constants
    return (1 - rho) * math.sqrt(k) * (alone + (below * (1 - c2) if c2 < 1 else above * (c2 - 1)))


def _cosmetatos_mdk(rho: float, k: int) -> float:
    """Return W_D/W_M by Cosmetatos' formula: (1 + (1 - rho)(k - 1)(sqrt(4 + 5k) - 2)/(16 rho k))/2."""
    return 0.5 * (1 + (1 - rho) * (k - 1) * (math.sqrt(4 + 5 * k) - 2) / (16 * rho * k))


def _boxma(lam: float, k: int, service: ServiceTime, w_m: float) -> float:
    """Return the mean wait by Boxma, Cohen & Huffels (eq. 2.8); exact for one server."""
    c2, w_d = service.scv, solve_mdk(lam, k, service.mean_s).mean_wait_s
    if k == 1:
        return (1 + c2) / 2 * w_m
    a = (service.moment(2) / (service.mean_s * least_residual(service, k)) - k - 1) / (k - 1)
    return (1 + c2) * w_m * w_d / (2 * a * w_d + (1 - a) * w_m)


def heavy_traffic_mean_s(
    arrival_rate_per_s: float, arrival_scv: float, servers: int, mean_service_s: float, service_scv: float
) -> float:
    """Approximation, exact as the load goes to 1: E[W] ~ lam*(va + vs/k^2)/(2(1 - rho)) in GI/G/k.

    Parameters
    ----------
    arrival_rate_per_s, arrival_scv : float
        Rate [1/s] and SCV of independent interarrival times (for bursty arrivals: their limiting index of dispersion).
    servers : int
        Number of servers.
    mean_service_s, service_scv : float
        Mean [s] and SCV of service times.

    Returns
    -------
    float
        Mean wait [s].

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Notes
    -----
    Koellerstroem, J. Appl. Prob. 11 (1974).

    Examples
    --------
    >>> round(heavy_traffic_mean_s(1.998, 1.0, 2, 1.0, 1.0), 1) # M/M/2: 499.5
    500.0
    """
    lam, k, m = arrival_rate_per_s, servers, mean_service_s
    rho = check_two_moments(lam, arrival_scv, k, m, service_scv)
    return lam * (arrival_scv / lam**2 + service_scv * (m / k) ** 2) / (2 * (1 - rho))


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """One line of `compare_methods`.

    Parameters
    ----------
    method : str
        Name.
    mean_wait_s, p50_s, p95_s, p99_s : float or None
        Mean and quantiles of the wait [s]; None where the method does not apply.
    mean_error : float or None
        Stated relative error of the mean; 0 when exact, None for a bound or a limit.
    note : str
        How it was computed, or why it does not apply.
    """

    method: str
    mean_wait_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    mean_error: float | None
    note: str


def compare_methods(arrival_rate_per_s: float, servers: int, service: ServiceTime) -> list[MethodRow]:
    """Return every method that applies to an M/G/k queue, one row each, the best first, bounds of the mean last.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time.

    Returns
    -------
    list of MethodRow
        Tidy rows; a method that does not apply has None and says why.

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Examples
    --------
    >>> rows = compare_methods(1.6, 2, ServiceTime.gamma(1.0, 2.0))
    >>> rows[0].method, len(rows) > 6
    ('auto', True)
    """
    check_load(arrival_rate_per_s, servers, check_service(service).mean_s)
    rows = []
    for name in ("auto", "phase-type", *APPROXIMATIONS):
        try:
            if name in APPROXIMATIONS:
                found = approximate(arrival_rate_per_s, servers, service, name)
            else:
                found = mgk(arrival_rate_per_s, servers, service, "auto" if name == "auto" else "phase-type")
        except QModelError as error:
            rows.append(
                MethodRow(
                    method=name, mean_wait_s=None, p50_s=None, p95_s=None, p99_s=None, mean_error=None, note=str(error)
                )
            )
            continue
        p50, p95, p99 = (found.wait_quantile_s(q) for q in (0.5, 0.95, 0.99))
        rows.append(
            MethodRow(
                method=name,
                mean_wait_s=found.mean_wait_s,
                p50_s=p50,
                p95_s=p95,
                p99_s=p99,
                mean_error=found.error_estimate.get("mean", 0.0),
                note=found.method,
            )
        )
    return rows + _by_two_moments(arrival_rate_per_s, servers, service)


def _by_two_moments(arrival_rate_per_s: float, servers: int, service: ServiceTime) -> list[MethodRow]:
    """Return what two moments say of the mean: its limit in heavy traffic, and upper bounds of GI/G/k."""
    case = (arrival_rate_per_s, 1.0, servers, service.mean_s, service.scv)
    known = {
        "heavy traffic": (heavy_traffic_mean_s, "exact as the load goes to 1"),
        "kingman bound": (kingman_bound_s, "upper bound"),
        "daley bound": (daley_bound_s, "upper bound, the tightest that is proven"),
        "whitt bound": (whitt_bound_s, "upper bound, by computation"),
    }
    return [
        MethodRow(method=name, mean_wait_s=bound(*case), p50_s=None, p95_s=None, p99_s=None, mean_error=None, note=note)
        for name, (bound, note) in known.items()
    ]

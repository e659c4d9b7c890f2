"""Beside the wait: law of the queue length, busy periods, burstiness of departures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError, OutOfRangeError
from qmodel.queueing.checks import (
    check_array,
    check_load,
    check_scv,
    check_servers,
    check_service,
    shown,
)
from qmodel.queueing.deterministic import FranxLaw
from qmodel.queueing.lattice import LatticeLaw
from qmodel.queueing.metrics import ExponentialSum, QueueMetrics, WaitLaw

__all__ = ["BusyPeriod", "DepartureScv", "busy_period", "departure_scv", "queue_length_tail"]

FloatArray = npt.NDArray[np.float64]

#: Tail of the gamma law at which its integral ends; first point that is looked at, over the last, and how many are;
#: logarithm of what is nothing beside the peak; edges of panels of either kind, and nodes in each.
LEAST, NEAR, LOOKS, NOTHING = 1e-20, 1e-9, 1000, 42.0
PANELS, NODES = 128, 8
#: Jumps of the density up to which panels begin at them.
KINKS = 1000
#: Logarithm of the longest busy period, in mean gaps, that a double can hold.
LONGEST_BUSY = 700.0
#: Error of Whitt's departure formula: alone; for |ca2 - 1| by idle and by busy servers; for |c2 - 1| with one server
#: and with many. Holds in 95 % of cases, 1 to 32 servers, loads .3 to .9 (bench/departures.py).
WHITT_ERRORS = 0.12, 0.90, 0.20, 0.12, 0.30


def queue_length_tail(metrics: QueueMetrics, waiting: npt.ArrayLike) -> FloatArray:
    """Exact given the wait, Poisson arrivals alone: P(more than n customers wait), by the distributional Little law.

    Those who wait when a customer's service starts are the arrivals during its wait, so
    P(N > n) = E[P(W > G)], G the time of n + 1 Poisson arrivals (a gamma law): for a sum of c exp(-theta t) the sum of
    c (lam/(lam + theta))^(n + 1), otherwise integrated.

    Parameters
    ----------
    metrics : QueueMetrics
        The law of the wait in a FCFS queue with Poisson arrivals.
    waiting : array_like of int
        Numbers n >= 0 of waiting customers.

    Returns
    -------
    ndarray
        Probabilities.

    Raises
    ------
    InputError
        When a number is negative or not whole, or the arrivals are not Poisson.

    Notes
    -----
    Haji & Newell, J. Appl. Prob. 8 (1971); Keilson & Servi, Oper. Res. Lett. 7 (1988).

    Examples
    --------
    >>> from qmodel.queueing import mmk
    >>> queue_length_tail(mmk(0.5, 1, 1.0), [0, 1]).round(4).tolist()
    [0.25, 0.125]
    """
    if not isinstance(metrics, QueueMetrics):
        raise InputError("queue", shown(metrics), "the metrics of a queue", "take those that mgk returns")
    n = check_array("number of waiting customers", waiting)
    if not np.all(np.isfinite(n) & (n >= 0) & (n == np.floor(n))):
        raise InputError("number of waiting customers", str(waiting), "whole numbers >= 0")
    if "MAP" in metrics.method:
        raise InputError("arrivals of this queue", metrics.method, "Poisson", "this form of Little's law needs them so")
    law, lam = metrics.wait_law, metrics.arrival_rate_per_s
    if isinstance(law, ExponentialSum):
        powers = (lam / (lam + law.rates)) ** (n[..., None] + 1)
        return np.asarray(np.clip((powers @ law.coefficients).real, 0.0, 1.0))
    several, where = np.unique(n, return_inverse=True)
    found = np.array([_beyond(law, float(count), lam) for count in several])
    return np.asarray(np.minimum(found, metrics.wait_probability)[where.reshape(n.shape)])


def _kinks(law: WaitLaw, low: float, high: float) -> FloatArray:
    """Return where between two times [s] the density of the wait jumps, as far as those are few."""
    cell = law.cell_s if isinstance(law, LatticeLaw) else law.service_s if isinstance(law, FranxLaw) else math.inf
    if not high - low < KINKS * cell < math.inf:
        return np.empty(0)
    return np.asarray(np.arange(math.ceil(low / cell), math.floor(high / cell) + 1) * cell)


def _beyond(law: WaitLaw, n: float, lam: float) -> float:
    """Return E[P(W > G)], G the time of n + 1 arrivals, over where tail times density is within NOTHING of its peak."""
    from scipy.special import gammainccinv, gammaln, xlogy

    def weight(t: FloatArray) -> FloatArray:
        """Return the logarithm of the tail times the gamma density."""
        tail = np.maximum(law.tail(t), 1e-300)
        return np.asarray(np.log(tail) + xlogy(n, lam * t) - lam * t - gammaln(n + 1) + math.log(lam))

    times = float(gammainccinv(n + 1, LEAST)) / lam * np.geomspace(NEAR, 1.0, LOOKS)
    heights = weight(times)
    some = np.flatnonzero(heights > heights.max() - NOTHING)
    low = float(times[some[0] - 1]) if some[0] > 0 else 0.0
    high = float(times[min(some[-1] + 1, LOOKS - 1)])
    # Panels even and by powers: the tail may fall at once and then slowly.
    edges = np.unique(
        np.concatenate(
            [np.linspace(low, high, PANELS), np.geomspace(max(low, NEAR * high), high, PANELS), _kinks(law, low, high)]
        )
    )
    nodes, shares = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(edges)[:, None] / 2
    at = edges[:-1, None] + half * (1 + nodes)
    return float((np.exp(weight(at)) * half * shares).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyPeriod:
    """Means of busy periods.

    Parameters
    ----------
    mean_s : float
        Mean time from the arrival at an empty system until it is empty again [s].
    full_s : float
        Mean time from the moment that all servers are busy until one is idle [s].
    second_moment_s2 : float or None
        Second moment of the busy period [s^2]; None where it is not known in closed form.
    """

    mean_s: float
    full_s: float
    second_moment_s2: float | None


def busy_period(arrival_rate_per_s: float, servers: int, service: ServiceTime) -> BusyPeriod:
    """Exact: busy periods of M/G/1 and M/M/k.

    One server: E[B] = m/(1 - rho), E[B^2] = E[S^2]/(1 - rho)^3. Exponential services: the full busy period lasts
    m/(k(1 - rho)), and 1/p_0 = 1 + lam*E[B].

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time; exponential when there are several servers.

    Returns
    -------
    BusyPeriod
        Means.

    Raises
    ------
    UnstableError
        When the load is 1 or more.
    OutOfRangeError
        When there are several servers and services are not exponential: no closed form is known.

    Notes
    -----
    Kleinrock, Queueing Systems I (1975), eqs 5.141-5.142; Omahen & Marathe, JACM 25 (1978).

    Examples
    --------
    >>> busy_period(0.5, 1, ServiceTime.deterministic(1.0)).mean_s
    2.0
    """
    k, lam, mean = check_servers(servers), arrival_rate_per_s, check_service(service).mean_s
    rho = check_load(lam, k, mean)
    if k == 1:
        each = mean / (1 - rho)
        return BusyPeriod(mean_s=each, full_s=each, second_moment_s2=service.moment(2) / (1 - rho) ** 3)
    if abs(service.scv - 1) > 1e-9 or abs(service.moment(3) / mean**3 - 6) > 1e-6:
        raise OutOfRangeError("scv of services", service.scv, "1 (exponential) with several servers", "simulate it")
    # 1/p_0 = sum_(j<k) a^j/j! + a^k/k!/(1 - rho), in logarithms: either end may leave the range of numbers.
    logs = [j * math.log(rho * k) - math.lgamma(j + 1) for j in range(1, k)]
    logs.append(k * math.log(rho * k) - math.lgamma(k + 1) - math.log1p(-rho))
    most = max(logs)
    log_rest = most + math.log(math.fsum(math.exp(log - most) for log in logs))
    log_total = max(log_rest, 0.0) + math.log1p(math.exp(-abs(log_rest)))
    if log_total > LONGEST_BUSY:
        remedy = "the system is all but never empty: ask for full_s of fewer servers"
        raise OutOfRangeError("logarithm of the mean busy period over mean gap", log_total, "below 700", remedy)
    return BusyPeriod(mean_s=math.exp(log_rest) / lam, full_s=mean / (k * (1 - rho)), second_moment_s2=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartureScv:
    """Squared coefficient of variation of the time between departures.

    Parameters
    ----------
    value : float
        The SCV.
    exact : bool
        Whether exact.
    method : str
        Formula.
    error : float
        Absolute error seen against simulation; 0 when exact.
    """

    value: float
    exact: bool
    method: str
    error: float


def departure_scv(
    arrival_rate_per_s: float, servers: int, service: ServiceTime, arrival_scv: float = 1.0
) -> DepartureScv:
    """Exact for M/M/k and M/G/1, approximation otherwise: burstiness of what leaves a FCFS queue.

    M/M/k: 1 (Burke). M/G/1: 1 + rho^2 (c2 - 1) (Marshall). Otherwise Whitt's
    1 + (1 - rho^2)(ca2 - 1) + rho^2 (max(c2, 0.2) - 1)/sqrt(k), for independent gaps of SCV ca2.

    Parameters
    ----------
    arrival_rate_per_s : float
        Arrival rate [1/s].
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time.
    arrival_scv : float, optional
        SCV of the gaps between arrivals; 1 is taken for Poisson arrivals.

    Returns
    -------
    DepartureScv
        The SCV, and whether it is exact.

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Notes
    -----
    Burke, Oper. Res. 4 (1956); Marshall, Oper. Res. 16 (1968); Whitt, The Queueing Network Analyzer, BSTJ 62 (1983),
    eq. 39.

    Examples
    --------
    >>> departure_scv(0.5, 1, ServiceTime.deterministic(1.0)).value
    0.75
    """
    k = check_servers(servers)
    rho = check_load(arrival_rate_per_s, k, check_service(service).mean_s)
    ca2 = check_scv("scv of arrivals", arrival_scv)
    exponential = abs(service.scv - 1) < 1e-12 and abs(service.moment(3) / service.mean_s**3 - 6) < 1e-9
    if ca2 == 1 and exponential:
        return DepartureScv(value=1.0, exact=True, method="Burke", error=0.0)
    if ca2 == 1 and k == 1:
        return DepartureScv(value=1 + rho**2 * (service.scv - 1), exact=True, method="Marshall", error=0.0)
    value = max(1 + (1 - rho**2) * (ca2 - 1) + rho**2 * (max(service.scv, 0.2) - 1) / math.sqrt(k), 0.0)
    alone, idle, busy, one, many = WHITT_ERRORS
    spread = 1 - 1 / math.sqrt(k)
    error = alone + abs(ca2 - 1) * (idle * (1 - rho**2) * spread + busy * rho**2)
    error += abs(service.scv - 1) * rho**2 * (one * (1 - spread) + many * spread)
    return DepartureScv(value=value, exact=False, method="Whitt (QNA)", error=error)

"""Erlang's formulas and the queues with exponential services: M/M/k and M/M/k/N."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.errors import ConvergenceError, InputError, UnstableError
from qmodel.queueing.checks import check_load, check_number, check_positive, check_servers, check_whole
from qmodel.queueing.metrics import ExponentialSum, FunctionTail, QueueMetrics, brief, checked_times

__all__ = ["FiniteQueue", "erlang_b", "erlang_c", "mmk", "mmkn"]

FloatArray = npt.NDArray[np.float64]

#: Servers up to which Erlang B is computed by its recursion; beyond, by the incomplete gamma function.
RECURSION_LIMIT = 200
#: Servers from which the gamma function is taken by Stirling's series (1e-17 there), distance from 1 of the load per
#: server below which log(1 + x) - x is, with so many terms, and most terms of the continued fraction.
STIRLING_FROM, SERIES_BELOW, SERIES_TERMS, FRACTION_TERMS = 100.0, 0.1, 20, 1000
#: Most room of a finite queue: its law is a table.
MOST_ROOM = 10_000_000


def erlang_b(servers: float, offered_load: float) -> float:
    """Exact: share of customers lost in M/G/k/k, also for a number of servers that is not whole.

    1/B = a * integral_0^inf exp(-a*t) (1 + t)^k dt, a the offered load.

    Parameters
    ----------
    servers : float
        Number of servers k >= 0.
    offered_load : float
        a = rate * mean service > 0.

    Returns
    -------
    float
        Probability of blocking.

    Notes
    -----
    Jagerman, Some properties of the Erlang loss function, BSTJ 53 (1974), eq. 4.

    Examples
    --------
    >>> round(erlang_b(10, 8.0), 6)
    0.121661
    """
    from scipy.special import gammaincc

    a = check_positive("offered load", offered_load)
    servers = check_number("servers", servers)
    if not (math.isfinite(servers) and servers >= 0):
        raise InputError("servers", servers, "finite and >= 0")
    if servers == int(servers) and servers <= RECURSION_LIMIT:
        blocking = 1.0
        for j in range(1, int(servers) + 1):
            blocking = a * blocking / (j + a * blocking)
        return blocking
    # 1/B = exp(a) a^-k Gamma(k+1, a), regularised.
    upper = float(gammaincc(servers + 1, a))
    return math.exp(_log_poisson(servers, a)) / upper if upper > 1e-290 else 1.0 / _inverse_blocking(servers, a)


def _log_poisson(k: float, a: float) -> float:
    """Return log(exp(-a) a^k/Gamma(k + 1)) without the cancellation of its large terms."""
    if k < STIRLING_FROM:
        return k * math.log(a) - a - math.lgamma(k + 1)
    # k log(a/k) + k - a by the series of log(1 + x) - x near x = 0.
    x = (a - k) / k
    gap = -math.fsum((-x) ** n / n for n in range(2, SERIES_TERMS)) if abs(x) < SERIES_BELOW else math.log1p(x) - x
    return k * gap - 0.5 * math.log(2 * math.pi * k) - (1 / 12 - (1 / 360 - 1 / (1260 * k * k)) / (k * k)) / k


def _inverse_blocking(k: float, a: float) -> float:
    """Return exp(a) a^-k Gamma(k + 1, a), a far above k, by the continued fraction of Gamma (Lentz's method).

    Gamma(k + 1, a) = exp(-a) a^(k+1)/(a - k + 1 k/(a - k + 2 + 2 (k - 1)/(a - k + 4 + ...))).
    """
    value = top = a - k
    bottom = 0.0
    for n in range(1, FRACTION_TERMS):
        part, whole = n * (k + 1 - n), a - k + 2 * n
        bottom = 1.0 / (whole + part * bottom)
        top = whole + part / top
        value *= top * bottom
        if abs(top * bottom - 1) < 1e-16:
            return a / value
    raise ConvergenceError("continued fraction of Erlang B", a / value, "settled", "use fewer servers or a lower load")


def erlang_c(servers: float, offered_load: float) -> float:
    """Exact: probability of waiting in M/M/k, continued to a number of servers that is not whole.

    C = B/(1 - rho*(1 - B)), rho = a/k.

    Parameters
    ----------
    servers : float
        Number of servers k > 0.
    offered_load : float
        a = rate * mean service, below k.

    Returns
    -------
    float
        Probability of waiting.

    Raises
    ------
    UnstableError
        When the offered load is not below the number of servers.

    Notes
    -----
    Erlang (1917); Kleinrock, Queueing Systems I (1975), eq. 3.40.

    Examples
    --------
    >>> round(erlang_c(2, 1.8), 6)
    0.852632
    """
    a, k = check_positive("offered load", offered_load), check_positive("servers", servers)
    if a >= k:
        raise UnstableError("offered load per server", a / k, "below 1", f"use more than {a:.6g} servers")
    blocking = erlang_b(k, a)
    return blocking / (1 - a / k * (1 - blocking))


def mmk(arrival_rate_per_s: float, servers: int, mean_service_s: float) -> QueueMetrics:
    """Exact: M/M/k, P(W > t) = C exp(-k*(1 - rho)*t/mean).

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers, as many as you like.
    mean_service_s : float
        Mean service time [s].

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
    Erlang (1917); Kleinrock, Queueing Systems I (1975), eq. 3.40.

    Examples
    --------
    >>> queue = mmk(1.8, 2, 1.0)
    >>> round(queue.mean_wait_s, 6), round(queue.wait_quantile_s(0.95), 4)
    (4.263158, 14.1815)
    """
    mean = check_positive("mean service time", mean_service_s)
    rho = check_load(arrival_rate_per_s, check_servers(servers), mean)
    delayed = erlang_c(servers, rho * servers)
    rate = servers * (1 - rho) / mean
    return QueueMetrics(
        arrival_rate_per_s=arrival_rate_per_s,
        servers=servers,
        mean_service_s=mean,
        mean_wait_s=delayed / rate,
        wait_probability=delayed,
        wait_law=ExponentialSum(coefficients=np.array([delayed + 0j]), rates=np.array([rate + 0j])),
        method=f"exact M/M/{servers} (Erlang C)",
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FiniteQueue:
    """Stationary law of a queue with room for finitely many.

    Parameters
    ----------
    number_law : ndarray, shape (room + 1,)
        P(n in system).
    loss_probability : float
        Share of arrivals that find it full.
    mean_wait_s : float
        Mean wait of those admitted [s].
    wait_probability : float
        P(W > 0) of those admitted.
    servers : int
        Number of servers.
    mean_service_s : float
        Mean service time [s].
    """

    number_law: FloatArray
    loss_probability: float
    mean_wait_s: float
    wait_probability: float
    servers: int
    mean_service_s: float

    def __repr__(self) -> str:
        return brief(self, "servers", "room", "utilisation", "loss_probability", "mean_wait_s", "wait_probability")

    @property
    def room(self) -> int:
        """Most customers in service and waiting."""
        return self.number_law.size - 1

    @property
    def mean_number(self) -> float:
        """Mean number of customers in the system."""
        return float(self.number_law @ np.arange(self.number_law.size))

    @property
    def utilisation(self) -> float:
        """Share of the servers that is busy."""
        return float(self.number_law @ np.minimum(np.arange(self.number_law.size), self.servers)) / self.servers

    def _met(self) -> FloatArray:
        """Return P(an arrival that is admitted meets n), n = servers, ..., room - 1."""
        # In deep overload they are too few for a difference from 1, or for any number: then they meet room - 1.
        admitted = self.number_law[:-1]
        total = float(admitted.sum())
        law = admitted / total if total > 0 else (np.arange(admitted.size) == admitted.size - 1).astype(np.float64)
        return np.asarray(law[self.servers :], dtype=np.float64)

    def wait_tail(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(W > t) of those admitted, t in seconds: who waits behind n others starts after n + 1 services."""
        from scipy.special import pdtr

        at = checked_times(t)
        met = self._met()
        ended = np.maximum(at, 0.0)[..., None] * (self.servers / self.mean_service_s)
        return np.asarray(np.where(at < 0, 1.0, pdtr(np.arange(met.size), ended) @ met))

    def wait_cdf(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(W <= t) of those admitted, t in seconds."""
        return np.asarray(1.0 - self.wait_tail(t))

    def wait_quantile_s(self, q: float) -> float:
        """Return the q quantile of the wait of those admitted [s], 0 <= q < 1."""
        if not 0.0 <= check_number("quantile level", q) < 1.0:
            raise InputError("quantile level", q, "at least 0 and below 1")
        law = FunctionTail(function=self.wait_tail)
        return law.quantile(q, self.mean_wait_s) if q > 1 - self.wait_probability else 0.0


def mmkn(arrival_rate_per_s: float, servers: int, room: int, mean_service_s: float) -> FiniteQueue:
    """Exact: M/M/k/N, N the most customers in the system; any load.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers.
    room : int
        Most customers in service and waiting, at least `servers`.
    mean_service_s : float
        Mean service time [s].

    Returns
    -------
    FiniteQueue
        Law of the number in system, loss and wait.

    Raises
    ------
    InputError
        When the room is smaller than the number of servers.

    Notes
    -----
    Kleinrock, Queueing Systems I (1975), sec. 3.6 and 3.8; P(W > t) by the Poisson law of the services that end in t.

    Examples
    --------
    >>> queue = mmkn(2.0, 1, 3, 1.0)
    >>> round(queue.loss_probability, 6), round(float(queue.wait_tail(1.0)), 6)
    (0.533333, 0.525542)
    """
    k, mean = check_servers(servers), check_positive("mean service time", mean_service_s)
    lam = check_positive("arrival rate", arrival_rate_per_s)
    room = check_whole("room", room, k)
    if room > MOST_ROOM:
        raise InputError("room", room, f"at most {MOST_ROOM:,}", "a room that large is as good as none: use mmk")
    n = np.arange(1, room + 1)
    # Logarithms one by one: the product of rate and service may be too small or too large for a number.
    log_mass = np.concatenate([[0.0], np.cumsum(math.log(lam) + math.log(mean) - np.log(np.minimum(n, k)))])
    mass = np.exp(log_mass - log_mass.max())
    law = mass / mass.sum()
    # As those admitted see it, normalised by itself: in deep overload they are too few for a difference from 1.
    seen = np.exp(log_mass[:-1] - log_mass[:-1].max())
    seen /= seen.sum()
    return FiniteQueue(
        number_law=law,
        loss_probability=float(law[-1]),
        mean_wait_s=float(seen[k:] @ np.arange(1.0, room - k + 1)) * mean / k,
        wait_probability=min(float(seen[k:].sum()), 1.0),
        servers=k,
        mean_service_s=mean,
    )

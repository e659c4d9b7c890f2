"""Exact M/D/k: Crommelin's queue at epochs one service apart, Franx's formula for the wait."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_waits import franx_tails, inner_roots, multiply_by_roots
from qmodel.errors import ConvergenceError
from qmodel.queueing.checks import check_load, check_positive
from qmodel.queueing.metrics import QueueMetrics, search_quantile

__all__ = ["FranxLaw", "solve_mdk"]

FloatArray = npt.NDArray[np.float64]

#: Mass that may wrap around the discrete Fourier transform.
WRAP_TOLERANCE = 1e-18
#: Rounding of the transform, below which its values are replaced by their exponential decay.
NOISE = 1e-15
#: Relative step at which a root is known to rounding.
ROUNDING = 1e-14
#: Points of the transform beyond which the load is too close to 1 for this method.
MAX_POINTS = 1 << 22
#: Distance of the load from 1 below which its decay is rounding.
CLOSEST = 1e-6
#: Largest exponent on the wider circle that the transform is taken on; load from which that circle is half as wide, so
#: that it takes no more points than the unit circle does.
LARGEST_EXPONENT, HEAVY = 300.0, 0.95
#: Services out from which the law near saturation is its decay alone, and its height there beside the first value.
SETTLED, CLEAR = 2, 1e-6
#: Growth beyond which the exponential overflows; waits of such a queue are below the smallest number.
LARGEST_GROWTH = 512.0


def solve_mdk(arrival_rate_per_s: float, servers: int, service_s: float) -> QueueMetrics:
    """Exact: FCFS M/D/k.

    The number in system one service time apart has generating function
    P(z) = A(z) (k - a) (z - 1) prod_j (z - z_j)/(1 - z_j) / (z^k - A(z)), A(z) = exp(a(z - 1)), a = rate * service,
    z_j the k - 1 roots of z^k = A(z) inside the unit circle. Then, for t = m*D - v with 0 <= v < D,
    P(W <= t) = sum_j Q_(mk-1-j) exp(-lam*v) (lam*v)^j/j!, Q_i = P(at most i waiting).

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers.
    service_s : float
        The service time [s].

    Returns
    -------
    QueueMetrics
        Exact metrics.

    Raises
    ------
    UnstableError
        When the load is 1 or more.
    ConvergenceError
        When the load is so close to 1 that the queue does not fit the transform.

    Notes
    -----
    Franx, A simple solution for the M/D/c waiting time distribution, Oper. Res. Lett. 29 (2001), eq. 8.
    """
    lam, k = arrival_rate_per_s, servers
    rho = check_load(lam, k, check_positive("service time", service_s))
    beyond = np.concatenate([np.cumsum(_epoch_law(rho, k)[::-1])[::-1][1:], [0.0]])
    law = FranxLaw(beyond=beyond, rate=lam, servers=k, service_s=service_s)
    queue = float(beyond.sum())
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=k,
        mean_service_s=service_s,
        mean_wait_s=queue / lam,
        wait_probability=float(law.tail(np.zeros(1))[0]),
        wait_law=law,
        method=f"exact M/D/{k} (Franx)",
    )


def _epoch_law(rho: float, k: int) -> FloatArray:
    """Return P(n in system) of M/D/k, n = k, k + 1, ..., up to relative rounding."""
    if 1 - rho < CLOSEST:
        raise ConvergenceError("load of M/D/k", f"{rho:.9g}", f"at most {1 - CLOSEST:g}", "lower the load a little")
    a = rho * k
    # Decay of the queue: tau > 1 with tau^k = exp(a (tau - 1)).
    growth = _decay(rho)
    # Many customers are rare: on a circle of radius R < tau the transform sees P(n)*R^n.
    log_radius = math.log(min(1 / rho, 1 + LARGEST_EXPONENT / a)) * (0.5 if rho > HEAVY else 1.0)
    need = k - math.log(WRAP_TOLERANCE) / (growth - log_radius)
    points = 1 << max(math.ceil(math.log2(max(need, 8 * k, k + 16))), 6)
    if points > MAX_POINTS:
        raise ConvergenceError("load of M/D/k", rho, "below 0.99999", "lower the load a little")
    roots = np.empty(k - 1, dtype=np.complex128)
    inner_roots(rho, k, roots)
    # Points half a step off the real axis: at 1 numerator and denominator both vanish.
    turn = 1j * np.pi / points
    odd = 2 * np.arange(points) + 1
    z = np.exp(turn * odd + log_radius)
    arrivals = np.exp(a * (z - 1))
    generating = (k - a) * arrivals * (1 - 1 / z)
    generating /= 1 - arrivals * np.exp(-turn * (odd * k % (2 * points)) - k * log_radius)
    multiply_by_roots(1 / z, roots, generating)
    scaled = (np.fft.fft(generating) / points * np.exp(-turn * np.arange(points))).real[k:]
    law = np.maximum(scaled, 0.0) * np.exp(-log_radius * np.arange(k, points))
    # Below the transform's rounding the law goes on as it decays.
    small = np.nonzero(scaled < NOISE * max(scaled[0], 1.0))[0]
    if rho > HEAVY:
        # Some services out nothing but the decay is left, long before rounding shows.
        pure = np.nonzero(scaled < CLEAR * scaled[0])[0]
        small = pure if pure.size and pure[0] >= SETTLED * k else small
    if small.size:
        first = max(int(small[0]), 1)
        law[first:] = law[first - 1] * np.exp(-growth * np.arange(1, law.size - first + 1))
    return np.asarray(law)


def _decay(rho: float) -> float:
    """Return ln tau, tau > 1 the root of ln tau = rho*(tau - 1), by Newton's method from above: the gap is convex."""
    high = 1.0
    while high < LARGEST_GROWTH and math.expm1(high) * rho < high:
        high *= 2
    if high >= LARGEST_GROWTH:
        return high
    for _ in range(100):
        step = (rho * math.expm1(high) - high) / (rho * math.exp(high) - 1)
        high -= step
        if not step > ROUNDING * high:
            break
    return high


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FranxLaw:
    """P(W > t) from the law of the number waiting: `beyond[i]` = P(more than i wait)."""

    beyond: FloatArray
    rate: float
    servers: int
    service_s: float

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(W > t)."""
        flat = np.ascontiguousarray(np.atleast_1d(t), dtype=np.float64).ravel()
        out = np.empty_like(flat)
        franx_tails(flat, self.rate, self.servers, self.service_s, self.beyond, out)
        return np.asarray(np.clip(out, 0.0, 1.0).reshape(np.shape(t)))

    def quantile(self, q: float, scale: float) -> float:
        """Return the q quantile [s]."""
        return search_quantile(self, q, scale)

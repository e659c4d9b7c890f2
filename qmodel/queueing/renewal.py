"""The renewal equation of the delayed wait: Tijms and van Hoorn's approximation of M/G/k, exact for one server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qmodel.distributions.service import ServiceTime
from qmodel.queueing.metrics import TabulatedTail

__all__ = ["delayed_mean", "least_residual", "renewal_tail", "renewal_tails"]

FloatArray = npt.NDArray[np.float64]

#: Exponential tilt over the grid that keeps mass from wrapping around the Fourier transform (6e-6 of it does).
TILT = 12.0
#: Tail below which the table is noise.
FLOOR = 1e-12
#: Mean services up to which residual services are integrated, on a grid that is fine near 0.
LONGEST = 200.0
_CUBES = np.linspace(0.0, 1.0, 257) ** 3


@lru_cache(maxsize=8)
def _steps(points: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the edges around the points in steps, the tilt and what undoes it."""
    edges = np.concatenate([[0.0], np.arange(points) + 0.5])
    slope = TILT / points * np.arange(points)
    return edges, np.exp(-slope), np.exp(slope)


def _power(base: FloatArray, exponent: int) -> FloatArray:
    """Return base**exponent by squaring: several times as fast as the general power."""
    result, factor = None, base
    while True:
        if exponent & 1:
            result = factor if result is None else result * factor
        exponent >>= 1
        if not exponent:
            return factor if result is None else result
        factor = factor * factor


def renewal_tail(
    arrival_rate_per_s: float, servers: int, service: ServiceTime, reach_s: float, points: int
) -> TabulatedTail:
    """Approximation (exact for one server): P(W > t | W > 0) in M/G/k.

    While all k servers are busy the queue is taken for M/G/1 with services S/k; the customer that makes them busy waits
    for the least of k residual services. The density f of the virtual delay then solves

        f(t) = lam*p*(1 - B_e(t))^(k-1) (1 - B(t)) + lam * integral_0^t f(t - u) (1 - B(k*u)) du

    Solved on a grid by the Fourier transform with exponential tilting, each kernel entered by its mass around the
    points, so that masses and means are kept.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time.
    reach_s : float
        Length of the grid [s].
    points : int
        Number of points of the grid.

    Returns
    -------
    TabulatedTail
        The conditional tail.

    Notes
    -----
    Tijms, van Hoorn & Federgruen, Adv. Appl. Prob. 13 (1981), eqs 2.9-2.11; Abate & Whitt, QUESTA 10 (1992).
    """
    edges, (tail,) = renewal_tails(arrival_rate_per_s, servers, [service], reach_s, points)
    below = tail < FLOOR
    first = int(below.argmax())
    keep = max(first, 2) if below[first] else points + 1
    log_tail = np.log(np.maximum(np.minimum.accumulate(tail[:keep]), FLOOR))
    # Decay over the last part of the table, for what lies beyond it.
    back = max(keep // 8, 1)
    decay = (log_tail[-1 - back] - log_tail[-1]) / (edges[keep - 1] - edges[keep - 1 - back])
    whole = (log_tail[0] - log_tail[-1]) / (edges[keep - 1] - edges[0])
    return TabulatedTail(grid=edges[:keep], log_tail=log_tail, decay=max(float(decay), float(whole), 1e-300))


def renewal_tails(
    arrival_rate_per_s: float, servers: int, services: Sequence[ServiceTime], reach_s: float, points: int
) -> tuple[FloatArray, FloatArray]:
    """Return times [s] and, a row for each of some laws of one mean, P(W > t | W > 0) as `renewal_tail` defines it."""
    mean, k = services[0].mean_s, servers
    rho = arrival_rate_per_s * mean / k
    unit_edges, tilt, untilt = _steps(points)
    edges = unit_edges * (reach_s / points)
    times = np.concatenate([edges, k * edges])
    both = np.stack([service.tail_integral(times) for service in services])
    whole, shrunk = _power(both[:, : points + 1] / mean, k), both[:, points + 1 :] * (arrival_rate_per_s / k)
    start, jump = np.fft.rfft(np.stack([whole[:, :-1] - whole[:, 1:], shrunk[:, :-1] - shrunk[:, 1:]]) * tilt)
    tails = np.ones((len(services), points + 1))
    density = np.fft.irfft((1 - rho) * start / (1 - jump), points) * untilt
    np.subtract(1.0, np.cumsum(density, axis=1), out=tails[:, 1:])
    return edges, tails


def delayed_mean(arrival_rate_per_s: float, servers: int, service: ServiceTime) -> float:
    """Approximation (exact for one server): E[W | W > 0] [s] of the same model.

    E[W | W > 0] = integral of (1 - B_e)^k + rho/(1 - rho) * E[S^2]/(2 k E[S]).
    """
    rho = arrival_rate_per_s * service.mean_s / servers
    first = least_residual(service, servers)
    return first + rho / (1 - rho) * service.moment(2) / (2 * servers * service.mean_s)


def least_residual(service: ServiceTime, servers: int) -> float:
    """Return the mean of the least of `servers` independent residual services [s]."""
    mean = service.mean_s
    if servers == 1:
        return service.moment(2) / (2 * mean)
    grid = min(service.upper_s, LONGEST * mean) * _CUBES
    power = _power(service.tail_integral(grid) / mean, servers)
    return float((power[1:] + power[:-1]) @ (grid[1:] - grid[:-1]) / 2)

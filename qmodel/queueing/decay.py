"""The exponential rate at which waits die out: Lundberg's root."""

from __future__ import annotations

import math
from collections.abc import Callable

from qmodel.distributions.service import ServiceTime
from qmodel.errors import OutOfRangeError
from qmodel.queueing.checks import check_load, check_service

__all__ = ["lundberg_rate"]

#: Steps after which the bracket is as narrow as double precision.
STEPS = 100
#: Value of the equation, and relative width of the bracket, that are rounding.
ROUNDING, SAME = 1e-16, 1e-13
#: Root in units of third over second moment below which four moments tell it.
SMALL = 3e-4
#: Exponent beyond which exponential moments overflow, and share of the limit of the exponents that is tried.
OVERFLOW, NEAR_LIMIT = 600.0, 1 - 1e-9


def lundberg_rate(arrival_rate_per_s: float, servers: int, service: ServiceTime) -> float:
    """Exact: the rate eta with P(W > t) ~ C exp(-eta*t) in M/G/k, the root of lam*(E[exp(eta*S/k)] - 1) = eta.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers.
    service : ServiceTime
        Law with exponential moments.

    Returns
    -------
    float
        Decay rate of the wait [1/s].

    Raises
    ------
    OutOfRangeError
        When the service law has no exponential moment: waits die out more slowly than any exponential.

    Notes
    -----
    Asmussen, Applied Probability and Queues (2003), ch. XII and XIII.5.

    Examples
    --------
    >>> round(lundberg_rate(1.8, 2, ServiceTime.exponential(1.0)), 6)
    0.2
    """
    load = check_load(arrival_rate_per_s, servers, check_service(service).mean_s)
    limit = service.mgf_limit_per_s * servers
    if not limit > 0:
        raise OutOfRangeError(
            f"decay rate of waits under the {service.name} law", 0.0, "> 0", "bound the service times first"
        )

    small = _near_saturation(load, service)
    if small * service.moment(3) < SMALL * service.moment(2):
        return servers * small

    def excess(eta: float) -> float:
        """Return log(lam*(E[exp(eta*S/k)] - 1)/eta), which rises from log(rho) through 0."""
        exponent = eta / servers
        if math.isfinite(service.upper_s) and exponent * service.upper_s > OVERFLOW:
            return math.inf
        return math.log(arrival_rate_per_s * (float(service.laplace(-exponent).real) - 1.0) / eta)

    # Two moments give a start above or near the root.
    high = 2 * servers * (1 - load) * service.mean_s / service.moment(2)
    high = min(high, limit * NEAR_LIMIT)
    while (above := excess(high)) < 0 and high < limit * NEAR_LIMIT:
        high = min(2 * high, 0.5 * (high + limit)) if math.isfinite(limit) else 2 * high
    return _root(excess, math.log(load), high, above)


def _near_saturation(load: float, service: ServiceTime) -> float:
    """Return the root x of load*(E[exp(x*S)] - 1) = x*E[S] by four moments, by Newton's method from above.

    Close to saturation it is small, and the difference of the exponential moment from 1 would be rounding.
    """
    mean, spare = service.mean_s, (1 - load) / load
    one, two, three = service.moment(2) / (2 * mean), service.moment(3) / (6 * mean), service.moment(4) / (24 * mean)
    x = spare / one
    for _ in range(STEPS):
        step = (x * (one + x * (two + x * three)) - spare) / (one + x * (2 * two + 3 * x * three))
        x -= step
        if not step > ROUNDING * x:
            break
    return x


def _root(excess: Callable[[float], float], below: float, high: float, above: float) -> float:
    """Return where an increasing function passes 0 between 0 (value `below`) and `high`, by the Illinois method."""
    low, side = 0.0, 0
    for _ in range(STEPS):
        middle = (low * above - high * below) / (above - below) if math.isfinite(above) else 0.5 * (low + high)
        if not low < middle < high:
            return min(max(middle, low), high)
        value = excess(middle)
        if value < 0:
            low, below, above, side = middle, value, above / 2 if side < 0 else above, -1
        else:
            high, above, below, side = middle, value, below / 2 if side > 0 else below, 1
        if abs(value) < ROUNDING or high - low < SAME * high:
            return middle
    return high

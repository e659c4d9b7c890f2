"""The exponential rate at which waits die out: Lundberg's root."""

from __future__ import annotations

import math

from qmodel.distributions.service import ServiceTime
from qmodel.errors import OutOfRangeError
from qmodel.queueing.checks import check_load, check_service

__all__ = ["lundberg_rate"]

#: Halvings of the bracket: double precision is exhausted.
STEPS = 100


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

    def gap(eta: float) -> float:
        exponent = -eta / servers
        if -exponent * min(service.upper_s, 1e300) > 600 and math.isfinite(service.upper_s):
            return math.inf
        return arrival_rate_per_s * (float(service.laplace(exponent).real) - 1.0) - eta

    # Two moments give a start above or near the root.
    high = 2 * servers * (1 - load) * service.mean_s / service.moment(2)
    high = min(high, limit * (1 - 1e-9))
    while gap(high) < 0 and high < limit * (1 - 1e-9):
        high = min(2 * high, 0.5 * (high + limit)) if math.isfinite(limit) else 2 * high
    low = 0.0
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        if gap(middle) < 0:
            low = middle
        else:
            high = middle
        if high - low < 1e-13 * high:
            break
    return high

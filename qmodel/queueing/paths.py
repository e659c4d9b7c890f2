"""Waits along given arrivals: the Kiefer-Wolfowitz recursion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_paths import fcfs_waits
from qmodel.errors import InputError
from qmodel.queueing.checks import check_array, check_servers

__all__ = ["kiefer_wolfowitz"]

FloatArray = npt.NDArray[np.float64]


def kiefer_wolfowitz(
    arrival_s: npt.ArrayLike,
    work_s: npt.ArrayLike,
    servers: int,
    *,
    balk_above_s: npt.ArrayLike = np.inf,
    free_at_s: npt.ArrayLike | None = None,
) -> FloatArray:
    """Exact: FCFS waits of given arrivals at k servers (equally: least-work routing of work).

    W_n = (min_j F_j - A_n)^+, then the minimum F_j becomes A_n + W_n + S_n.

    Parameters
    ----------
    arrival_s : array_like, shape (n,)
        Arrival times [s], not decreasing.
    work_s : array_like, shape (n,)
        Service times [s].
    servers : int
        Number of servers.
    balk_above_s : float or array_like, shape (n,)
        A customer whose wait would exceed this leaves at once [s].
    free_at_s : array_like, shape (servers,), optional
        Times at which the servers first fall free [s]; all free from the start when absent.

    Returns
    -------
    ndarray, shape (n,)
        Waits [s]; -1 for a customer that left.

    Raises
    ------
    InputError
        When times decrease, work is negative or something is not finite.

    Notes
    -----
    Kiefer & Wolfowitz, On the theory of queues with many servers, Trans. AMS 78 (1955).

    Examples
    --------
    >>> kiefer_wolfowitz([0.0, 0.0, 1.0, 1.5], [3.0, 2.0, 1.0, 1.0], 2).tolist()
    [0.0, 0.0, 1.0, 1.5]
    """
    k = check_servers(servers)
    arrival = np.ascontiguousarray(check_array("arrival times", arrival_s))
    work = np.ascontiguousarray(check_array("work", work_s))
    if arrival.ndim != 1 or arrival.shape != work.shape:
        raise InputError("work", f"of shape {work.shape}", f"of the shape of the arrivals, {arrival.shape}")
    if arrival.size == 0:
        return np.empty(0)
    if not (np.all(np.isfinite(arrival)) and np.all(np.isfinite(work)) and work.min() >= 0):
        raise InputError("arrivals and work", "negative or not finite", "finite, work >= 0")
    if np.any(np.diff(arrival) < 0):
        raise InputError("arrival times", "decreasing", "sorted", "sort the arrivals and their work together")
    limit = np.atleast_1d(check_array("balk_above_s", balk_above_s))
    if limit.shape not in ((1,), arrival.shape) or np.any(np.isnan(limit)):
        raise InputError("balk_above_s", f"of shape {limit.shape}", "one number or one per arrival")
    free = np.full(k, arrival[0]) if free_at_s is None else np.sort(check_array("free_at_s", free_at_s).ravel())
    if free.shape != (k,) or not np.all(np.isfinite(free)):
        raise InputError("free_at_s", f"of shape {free.shape}", f"finite and of shape ({k},)")
    waits = np.empty(arrival.size)
    fcfs_waits(arrival, work, np.ascontiguousarray(limit), free.copy(), waits)
    return waits

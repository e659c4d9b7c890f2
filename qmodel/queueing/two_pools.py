"""Two coupled pools: work is kept by prefill or deflected to decode, by thresholds on the prefill backlog."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.queueing.checks import check_number, check_together
from qmodel.queueing.pool_answer import TwoPools, counted, described, extrapolated
from qmodel.queueing.pool_grid import (
    PoolInputs,
    chain_within,
    checked_inputs,
    resolves_thresholds,
    solve_refined,
    step_within,
)
from qmodel.queueing.pool_path import PoolPath, count_pools

__all__ = ["PoolsMethod", "Thresholds", "TwoPools", "priced_thresholds", "two_pools"]

FloatArray = npt.NDArray[np.float64]
#: (waits of deflected work [s], shape (n,)) -> longest prefill waits [s] with which a class is kept, (classes, n).
Thresholds = Callable[[FloatArray], npt.ArrayLike]

PoolsMethod = Literal["auto", "chain", "path"]

#: Step of the chain's finest lattice, in mean times to the end of prefill, up to which one server a pool is solved so;
#: and classes up to which it is as quick as a path; least threshold in such steps, 0 included;
#: step in mean work of either pool, at most.
FINE_ENOUGH, FEW_CLASSES, LEAST_THRESHOLD, FINE_WORK = 0.12, 40, 2.0, 0.5


def priced_thresholds(
    work_s: npt.ArrayLike,
    host_s: npt.ArrayLike,
    transfer_s: npt.ArrayLike,
    prefill_price_per_s: float,
    decode_price_per_s: float,
    harm_s: npt.ArrayLike = 0.0,
) -> Thresholds:
    """Exact for the prices: the prefill wait beyond which deflection costs less, by the wait v at decode.

    theta = (v + h + g_D (2 v h + h^2) + harm - s - x - g_P s^2)/(1 + 2 g_P s).

    Parameters
    ----------
    work_s, host_s, transfer_s : array_like, shape (classes,)
        Prefill work s, host time h and transfer x [s].
    prefill_price_per_s, decode_price_per_s : float
        Curvatures g of the value of backlog, rate/(2(1 - load)) per server in M/G/1 [1/s].
    harm_s : array_like
        What deflection costs those resident at decode [s].

    Returns
    -------
    callable
        v [s], shape (n,), to theta [s], shape (classes, n).

    Notes
    -----
    One step of policy improvement: Hyytia, Penttinen & Aalto, EJOR 217 (2012).

    Examples
    --------
    >>> theta = priced_thresholds([0.1], [0.2], [0.0], 1.0, 1.0)
    >>> theta(np.array([0.0, 1.0])).round(4).tolist()
    [[0.1083, 1.275]]
    """
    s, h, x, harm = (
        column[:, None] for column in check_together(work=work_s, host_time=host_s, transfer=transfer_s, harm=harm_s)
    )
    g_p, g_d = check_number("prefill price", prefill_price_per_s), check_number("decode price", decode_price_per_s)

    def theta(v: FloatArray) -> FloatArray:
        gain = v + h + g_d * (2 * v * h + h * h) + harm - s - x - g_p * s * s
        return np.asarray(gain / (1 + 2 * g_p * s))

    return theta


def two_pools(
    rates_per_s: npt.ArrayLike,
    work_s: npt.ArrayLike,
    host_s: npt.ArrayLike,
    thetas_s: npt.ArrayLike | Thresholds,
    *,
    transfer_s: npt.ArrayLike = 0.0,
    prefill_servers: int = 1,
    decode_servers: int = 1,
    cells: int | None = None,
    reach_s: tuple[float, float] | None = None,
    method: PoolsMethod = "auto",
) -> TwoPools:
    """Exact up to the grid (a chain) or to sampling noise that is stated (a path): Poisson classes, kept or deflected.

    With w and v the waits that an arrival would meet at prefill and at decode, class b is kept iff w <= theta_b(v) and
    deflected otherwise; both waits fall at unit speed.

    The path: the same arrivals each time, kept or deflected as the thresholds say, the waits that they meet counted
    until standard errors are small or 4 million arrivals are through. Two regressions take off most of the noise: on
    the work offered, and on one queue as quick as both pools together, whose mean is known.

    The chain, for one server in each pool and work that its lattice resolves: in a step both waits fall by exactly one
    cell, and jumps are split between two cells so that their mean is kept, so nothing diffuses and errors are of second
    order in the step. With several servers (``method="chain"`` only, and rough) the wait rises by the least of the new
    work and the residual work of the other servers, independent and of the residual law of the admitted work.

    Parameters
    ----------
    rates_per_s : array_like, shape (classes,)
        Poisson rate of each class [1/s].
    work_s, host_s : array_like, shape (classes,)
        Prefill work and host time on decode of each class [s].
    thetas_s : array_like, shape (classes,) or number, or callable
        Longest prefill wait with which a class is kept [s]: infinity keeps it always, a negative number never; or a
        function of the decode waits [s], shape (n,), that returns an array of shape (classes, n).
    transfer_s : array_like, optional
        Time after prefill for those kept [s].
    prefill_servers, decode_servers : int, optional
        Servers of the pools, least-work routing within each.
    cells : int, optional
        Cells of the longer backlog on the finest lattice; by default so many that it has 5,000 to 9,000 states.
    reach_s : tuple of float, optional
        Longest prefill and decode wait on the lattice [s]; found by itself when absent.
    method : {"auto", "chain", "path"}
        ``auto`` is the chain for one server in each pool when thresholds are fixed, classes few (40) and its
        lattice is fine beside the mean time and the least threshold, or when `cells` or `reach_s` are given; else
        the path.

    Returns
    -------
    TwoPools
        Laws of the waits, deflected shares, means and quantiles.

    Raises
    ------
    UnstableError
        When backlogs grow without bound under these thresholds.
    InputError
        When rates, times or thresholds are not what they should be.
    ConvergenceError
        When the stationary law is not found.

    Notes
    -----
    See docs/queueing/two-pools.md for the lattice and its measured errors.

    Examples
    --------
    >>> pools = two_pools([2.0, 0.4], [0.2, 1.0], [0.3, 2.5], [0.5, 2.0], prefill_servers=1, decode_servers=1)
    >>> pools.deflected_share.round(2).tolist()
    [0.31, 0.02]
    """
    if not isinstance(method, str) or method not in get_args(PoolsMethod):
        raise InputError("method", repr(method), f"one of {', '.join(get_args(PoolsMethod))}")
    inputs = checked_inputs(
        rates_per_s, work_s, host_s, thetas_s, transfer_s, prefill_servers, decode_servers, cells, reach_s
    )
    several = max(inputs.prefill_servers, inputs.decode_servers) > 1
    given = cells is not None or reach_s is not None
    choose = method == "auto" and not given
    if method == "auto":
        fine = given or (not callable(thetas_s) and _resolved(inputs))
        method = "chain" if fine and not several else "path"
    if method == "chain":
        finest, coarse = (described(inputs, solved) for solved in solve_refined(inputs, cells, reach_s))
        step = finest.chain.step_s
        # The lattice may have had to reach further than a short path saw.
        if not choose or _fine_beside_work(inputs, step):
            return extrapolated(finest, coarse, resolved=resolves_thresholds(inputs, step))
    found = count_pools(inputs)
    reach = reach_s or (float(found.prefill_edges_s[-1]), float(found.decode_edges_s[-1]))
    return counted(inputs, found, chain_within(inputs, cells, reach, found.kept.sum(axis=1)))


def _resolved(inputs: PoolInputs) -> bool:
    """Return whether a lattice is quick, and fine beside the mean time as far as a short path sees both."""
    if inputs.work_s.size > FEW_CLASSES:
        return False
    path = PoolPath(inputs)
    path.extend()
    step = step_within(inputs, path.reach_s())
    fine = step <= FINE_ENOUGH * path.mean_time_s() and _fine_beside_work(inputs, step)
    return fine and resolves_thresholds(inputs, LEAST_THRESHOLD * step)


def _fine_beside_work(inputs: PoolInputs, step: float) -> bool:
    """Return whether a step is well below the mean work that comes to either pool."""
    rates = inputs.rates_per_s
    mean = [float(rates @ times) / float(rates.sum()) for times in (inputs.work_s, inputs.host_s)]
    return step <= FINE_WORK * min(time for time in mean if time > 0)

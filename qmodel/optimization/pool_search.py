"""The search over shares of several pools: programs at target waits, starts in whole bins, an elastic program."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.errors import SolverError
from qmodel.optimization.pools import PoolProblem
from qmodel.optimization.problem import FLIP_ROUNDS, NO_TARGET_S, flipped
from qmodel.optimization.program import NO_SOLUTION, SOLVED

__all__ = ["PoolSolution", "bound_at", "relaxed", "solve_at", "solve_pools"]

FloatArray = npt.NDArray[np.float64]
# Rounds of the search over target waits; a round without gain halves the steps' logarithm.
_ROUNDS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolSolution:
    """Shares, waits and duals at the optimum of a `PoolProblem`.

    Parameters
    ----------
    shares : ndarray, shape (n_pools, n_bins)
        Share of each bin that each pool takes.
    waits_s : ndarray
        Target mean waits [s].
    cost : float
        Weighted mean number of requests in or before their prefill.
    duals : ndarray
        Of the rows of `PoolProblem.row_names`.
    solves : int
        Linear programs solved.
    """

    shares: FloatArray
    waits_s: FloatArray
    cost: float
    duals: FloatArray
    solves: int


def solve_at(problem: PoolProblem, waits_s: FloatArray) -> tuple[float, FloatArray, FloatArray] | None:
    """Return value, shares and duals of the linear program at target waits; None when it is infeasible.

    minimise sum of cost*x subject to rows @ x <= limits, the shares of each bin add up to 1, x >= 0

    Parameters
    ----------
    problem : PoolProblem
        Data.
    waits_s : ndarray
        Target mean wait of each pool [s].

    Returns
    -------
    tuple or None
        Value, shares of shape (n_pools, n_bins), duals of the rows.

    Raises
    ------
    SolverError
        When HiGHS ends otherwise than optimal or infeasible.
    """
    from scipy.optimize import linprog

    rows, limits = problem.rows(waits_s)
    cost = problem.cost_of(waits_s)
    scale, size = np.maximum(np.abs(rows).max(axis=1), np.abs(limits)), float(np.abs(cost).max())
    scale = np.where(scale > 0, scale, 1.0)
    top = np.concatenate([np.where(pool.usable, 1.0, 0.0) for pool in problem.pools])
    box = np.column_stack([np.zeros_like(top), top])
    whole = np.tile(np.eye(len(problem.rate_per_s)), len(problem.pools))
    answer = linprog(
        cost / size, A_ub=rows / scale[:, None], b_ub=limits / scale, A_eq=whole, b_eq=np.ones(len(whole)), bounds=box,
        method="highs",
    )  # fmt: skip
    if answer.status == NO_SOLUTION:
        return None
    if answer.status != SOLVED:
        raise SolverError("linear program over pools", answer.message, "optimal or infeasible", "rescale the inputs")
    duals = np.maximum(-np.asarray(answer.ineqlin.marginals), 0.0) * size / scale
    shares = np.clip(np.asarray(answer.x), 0.0, 1.0).reshape(len(problem.pools), -1)
    return float(answer.fun) * size, shares, duals


def bound_at(problem: PoolProblem, waits_s: FloatArray, duals: FloatArray) -> float:
    """Return the best lower *bound* of the program's value at target waits that some duals prove: weak duality.

    Parameters
    ----------
    problem : PoolProblem
        Data.
    waits_s : ndarray
        Target mean wait of each pool [s].
    duals : ndarray, shape (p, n_rows)
        Any prices >= 0 of the rows, such as those at other waits.

    Returns
    -------
    float
        Least Lagrangian over shares that add up to 1 in each bin; -inf without prices.
    """
    rows, limits = problem.rows(waits_s)
    usable = np.array([pool.usable for pool in problem.pools])
    reduced = (problem.cost_of(waits_s) + duals @ rows).reshape(-1, *usable.shape)
    least = np.where(usable, reduced, np.inf).min(axis=1).sum(axis=1)
    return float(np.max(least - duals @ limits, initial=-np.inf))


def _start(problem: PoolProblem) -> FloatArray:
    """Return kept shares in whole bins: nested families by length and cost of hosting, then flips of one or two."""
    free = problem.free
    kept = np.ones(len(problem.rate_per_s))
    if not len(free):
        return kept
    served = [pool.service_s for pool in problem.pools if not pool.decode]
    hosted = [np.where(pool.usable, pool.service_s, np.inf) for pool in problem.pools if pool.decode]
    ratio = np.min(hosted, axis=0)[free] / np.mean(served, axis=0)[free]
    by_length = free[np.argsort(problem.tokens[free], kind="stable")]

    def cost(shares: FloatArray) -> FloatArray:
        return problem.cost(problem.spread(shares))

    found = []
    for order in (free[np.argsort(ratio, kind="stable")], by_length, by_length[::-1]):
        family = np.ones((len(free) + 1, len(kept)))
        for m, b in enumerate(order):
            family[m + 1 :, b] = 0.0
        costs = cost(family)
        found.append(flipped(cost, family[int(np.argmin(costs))], free))
    return min(found, key=lambda z: float(cost(z)))


def _reassigned(problem: PoolProblem, shares: FloatArray) -> FloatArray:
    """Return whole bins near some shares, improved by moving one or two to other pools while that lowers the cost."""
    pools, n = shares.shape
    usable = np.array([pool.usable for pool in problem.pools])
    place = np.argmax(np.where(usable, shares, -1.0), axis=0)
    one = [(b, g) for b in range(n) for g in range(pools) if usable[g, b]]
    moves = [((b, g), (b, g)) for b, g in one] + [
        (first, second) for i, first in enumerate(one) for second in one[i + 1 :] if first[0] != second[0]
    ]
    picked = np.array(moves)
    tried, row = np.empty((len(moves), n), dtype=np.intp), np.arange(len(moves))
    best = float(problem.cost(_whole(place[None, :], pools))[0])
    for _ in range(FLIP_ROUNDS):
        tried[:] = place
        tried[row, picked[:, 0, 0]], tried[row, picked[:, 1, 0]] = picked[:, 0, 1], picked[:, 1, 1]
        costs = problem.cost(_whole(tried, pools))
        at = int(np.argmin(costs))
        if not costs[at] < best * (1 - 1e-9):
            break
        place, best = tried[at].copy(), float(costs[at])
    return np.asarray(_whole(place[None, :], pools)[0])


def _whole(place: npt.NDArray[np.intp], pools: int) -> FloatArray:
    """Return shares (m, n_pools, n_bins) of bins that each go to one pool."""
    return np.asarray(place[:, None, :] == np.arange(pools)[None, :, None], dtype=float)


def solve_pools(problem: PoolProblem) -> PoolSolution | None:
    """Return the optimal shares, or None when no shares keep every pool below full load.

    For target waits the Pollaczek-Khinchine conditions are linear in the shares. The search tightens the waits to those
    of the shares found, which never raises the cost, and then compares neighbours of each wait.

    Parameters
    ----------
    problem : PoolProblem
        Data.

    Returns
    -------
    PoolSolution or None
        At the best waits found.
    """
    solves, prices = 0, np.empty((0, len(problem.row_names)))
    best: tuple[float, FloatArray, FloatArray, FloatArray] | None = None

    def attempt(waits: FloatArray) -> bool:
        nonlocal best, solves, prices
        improved = False
        while True:
            if best is not None and bound_at(problem, waits, prices) >= best[0] * (1 - 1e-6):
                return improved  # the duals at other waits prove that these are no better
            found = solve_at(problem, waits)
            solves += 1
            if found is None or (best is not None and found[0] >= best[0] * (1 - 1e-6)):
                return improved
            prices = np.vstack([prices, found[2]])
            gained = best is None or found[0] < best[0] * (1 - 1e-4)
            best, improved = (found[0], waits, found[1], found[2]), True
            tight = problem.waits_s(found[1])
            if not gained or np.all(tight > waits * 0.999):
                return True
            waits = np.minimum(waits, np.maximum(tight, 1e-6))

    if not attempt(np.full(len(problem.pools), NO_TARGET_S)):
        return None
    assert best is not None
    # Tightening alone stops at local optima: start from whole bins, pools of a kind alike and then each by itself.
    alike = problem.spread(_start(problem))
    for start in (alike, _reassigned(problem, alike), _reassigned(problem, best[2])):
        attempt(problem.waits_s(start) * 1.001)
    factor = 2.0
    for _ in range(_ROUNDS):
        gains = []
        for g in range(len(problem.pools)):
            own, largest = best[1][g], float(best[1].max())
            # A pool that was tightened to nothing is offered again at a wait that others have.
            for target in (own * factor, own / factor, largest, largest / 10):
                waits = best[1].copy()
                waits[g] = min(max(target, 1e-6), NO_TARGET_S)
                gains.append(attempt(waits))
        if not any(gains):
            factor = math.sqrt(factor)
    return PoolSolution(shares=best[2], waits_s=best[1], cost=best[0], duals=best[3], solves=solves)


def relaxed(problem: PoolProblem) -> tuple[str, float]:
    """Return the constraint that the smallest relaxation eases most, and by how much relative to its limit.

    minimise the sum of relative relaxations t >= 0 subject to rows @ x <= limits*(1 + t): an elastic program, which
    always has a solution.

    Parameters
    ----------
    problem : PoolProblem
        An infeasible one.

    Returns
    -------
    tuple
        Name of the row, and its relative excess.
    """
    from scipy.optimize import linprog

    rows, limits = problem.rows(np.full(len(problem.pools), NO_TARGET_S))
    scale = np.where(np.abs(limits) > 0, np.abs(limits), np.abs(rows).max(axis=1))
    scale = np.where(scale > 0, scale, 1.0)
    m, n = rows.shape
    top = np.concatenate([np.where(pool.usable, 1.0, 0.0) for pool in problem.pools])
    box = [(0.0, t) for t in top] + [(0.0, None)] * m
    whole = np.hstack(
        [np.tile(np.eye(len(problem.rate_per_s)), len(problem.pools)), np.zeros((len(problem.rate_per_s), m))]
    )
    answer = linprog(
        np.concatenate([np.zeros(n), np.ones(m)]), A_ub=np.hstack([rows / scale[:, None], -np.eye(m)]),
        b_ub=limits / scale, A_eq=whole, b_eq=np.ones(len(whole)), bounds=box, method="highs",
    )  # fmt: skip
    if answer.status != SOLVED:
        raise SolverError("elastic program over pools", answer.message, "optimal", "report this input")
    excess = np.asarray(answer.x[n:])
    worst = int(np.argmax(excess))
    return problem.row_names[worst], float(excess[worst])

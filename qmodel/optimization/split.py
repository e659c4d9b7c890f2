"""Stage 1, the static split: which share of each prompt bin stays at prefill, with shadow prices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from qmodel.errors import InfeasibleError, InputError
from qmodel.optimization.bins import WorkloadLike, prompt_bins
from qmodel.optimization.chunks import CHUNKS
from qmodel.optimization.feasibility import check_slo, no_capacity
from qmodel.optimization.pooled import PooledSplit, class_loads, is_plain, pooled_split
from qmodel.optimization.problem import (
    NO_TARGET_S,
    STATE_ROUNDS,
    STATE_TOLERANCE,
    SplitProblem,
    flipped,
    split_problem,
)
from qmodel.optimization.program import DIRECT, LinearSolution, Status, solve_box_lp
from qmodel.scenario import SLO, Cluster
from qmodel.scenario.slo import slo_classes

__all__ = ["StaticSplit", "outer_search", "static_split"]

FloatArray = npt.NDArray[np.float64]

# Rounds of the compass search over target waits; a round without gain halves the steps' logarithm.
_DESCENT_ROUNDS = 6
SMALLEST_LATE_SHARE = 1e-3  # the tail row leaves up to 1e-4 of the longest prompts at prefill


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StaticSplit:
    """The static split: shares kept at prefill, the loads and waits they give, and what each constraint costs.

    Parameters
    ----------
    problem : SplitProblem
        Data of the linear program at the last decode state.
    kept : ndarray, shape (n_bins,)
        z_b, share of each bin that prefills on the prefill pool.
    wait_prefill_s, wait_decode_s : float
        Target mean waits at the optimum [s].
    cost : float
        Mean number of requests in or before their prefill.
    load_prefill, load_decode : float
        Loads of the two pools: prefill work, and deflected host time on decode.
    rate_prefill_per_s, rate_decode_per_s : float
        Kept and deflected requests per second of one instance of each pool [1/s].
    duals : Mapping
        Duals of the constraints, by `SplitProblem.row_names`: fall of the cost per unit of the limit.
    binding : tuple of str
        Constraints that hold with equality, other than the two target waits.
    solves : int
        Linear programs solved.
    notes : tuple of str
        What the user should know, e.g. that deflection is never safe here.
    pools : PooledSplit, optional
        The split by kind of instance and SLO class, where there are several; the other fields are its aggregate.
    """

    problem: SplitProblem
    kept: FloatArray
    wait_prefill_s: float
    wait_decode_s: float
    cost: float
    load_prefill: float
    load_decode: float
    rate_prefill_per_s: float
    rate_decode_per_s: float
    duals: Mapping[str, float]
    binding: tuple[str, ...]
    solves: int
    notes: tuple[str, ...] = field(default=())
    pools: PooledSplit | None = None

    @property
    def offered_load(self) -> float:
        """Load of the prefill pool if nothing were deflected: rate * mean W / k."""
        return float(self.problem.bins.rate_per_s @ self.problem.bins.work_s / self.problem.prefill)

    @property
    def deflected_share(self) -> float:
        """Share of requests that the static split deflects."""
        lam = self.problem.bins.rate_per_s
        return float(np.sum(lam * (1 - self.kept)) / np.sum(lam))


def static_split(
    cluster: Cluster,
    workload: WorkloadLike,
    slo: SLO | Sequence[SLO],
    *,
    chunks: tuple[int, ...] = CHUNKS,
    bins: int = 20,
    solver: str = DIRECT,
    late_share: float | None = None,
) -> StaticSplit:
    """Return the optimal static split of prompts between prefill pool and decode pool; *exact* for M/G/1 pools.

    For target waits (w_P, w_D) the Pollaczek-Khinchine condition "mean wait <= w" is linear in the kept shares z:

        minimise    sum_b lam_b*( z_b*(s_b + x_b + w_P) + y_b*(h_b + w_D) ),   y = 1 - z
        subject to  sum_b (lam_b/k)*z_b*(s_b^2 + 2*w_P*s_b) <= 2*w_P
                    sum_b (lam_b/d)*y_b*(h_b^2 + 2*w_D*h_b) <= 2*w_D
                    loads <= 0.98; mean decode step <= TBT SLO; KV tokens <= capacity of either pool

    Its value is at least the cost of the z it finds, with equality when w are the waits of that z; so the least
    value over (w_P, w_D) is the optimum of the original problem, and tightening w to the waits of z never raises
    it. Host times h_b are at the mean decode state, found by fixed point. Pessimistic for k >= 2 with least-work
    routing. With `late_share` eps the wait of kept prompts also has a tail: P(wait > t) <= eps at the TTFT SLO t, by

                    sum_b lam_b*z_b*(exp(r*s_b) - 1) <= k*r,   r = ln(1/eps)/(k*t)

    the condition that the decay rate of the wait is at least k*r: a *bound* for one prefill instance and bins of one
    length (Lundberg), an approximation otherwise.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    workload : Workload
        Rate and lengths.
    slo : SLO or sequence of SLO
        Limits, one per SLO class of the workload's requests; chunk sizes come from the strictest `tbt_s`.
    chunks : tuple of int
        Candidate chunks [tokens], largest first.
    bins : int
        Prompt bins.
    solver : str
        `program.DIRECT` or the cvxpy solver tried first.
    late_share : float, optional
        Largest share eps of kept prompts that may wait longer than the TTFT SLO; for equal instances and one SLO class.

    Returns
    -------
    StaticSplit
        Shares, waits, loads and duals.

    Raises
    ------
    InfeasibleError
        When an SLO is below what the empty cluster does, or no split keeps both pools below full load; the message
        names the constraint and the nearest feasible value.
    """
    classes = slo_classes(slo)
    if len(classes) > 1 or not is_plain(cluster):
        return _as_pooled(cluster, workload, classes, chunks, bins)
    slo = classes[0]
    check_slo(cluster, workload, slo)
    tail = _tail_rate_per_s(late_share, slo.ttft_s, cluster.prefill_count)
    law = prompt_bins(cluster, workload, bins)
    problem = split_problem(cluster, law, workload, slo, chunks)
    if not problem.feasible(solver):
        raise no_capacity(cluster, law, workload, slo, chunks)
    problem = replace(problem, tail_rate_per_s=tail)
    if not problem.feasible(solver):
        raise _too_few_late(problem, late_share or 1.0, slo.ttft_s, solver)
    waits, solution, solves = outer_search(problem, solver, None)
    for _ in range(STATE_ROUNDS):
        slowdown = problem.slowdown_at(solution.z)
        loaded = replace(split_problem(cluster, law, workload, slo, chunks, slowdown), tail_rate_per_s=tail)
        close = abs(loaded.state.batch - problem.state.batch) < STATE_TOLERANCE * max(problem.state.batch, 1.0)
        if close or not loaded.feasible(solver):
            break
        problem = loaded
        waits, solution, used = outer_search(problem, solver, solution.z)
        solves += used
    return _as_split(problem, solution, waits, solves)


def _tail_rate_per_s(late_share: float | None, ttft_s: float, instances: int) -> float:
    """Return r = ln(1/eps)/(k*t) [1/s]; 0 without a tail constraint."""
    if late_share is None:
        return 0.0
    if not SMALLEST_LATE_SHARE <= late_share < 1:
        raise InputError("late_share", late_share, f"in [{SMALLEST_LATE_SHARE:g}, 1)", "give e.g. 0.05")
    return math.log(1 / late_share) / (instances * ttft_s)


def _too_few_late(problem: SplitProblem, late_share: float, ttft_s: float, solver: str) -> InfeasibleError:
    """Return the error of a tail that no split has, with the smallest share that one has, rounded up."""
    low, high = late_share, 1.0
    for _ in range(20):
        middle = math.sqrt(low * high)
        tail = _tail_rate_per_s(min(middle, 1 - 1e-12), ttft_s, round(problem.prefill))
        low, high = (low, middle) if replace(problem, tail_rate_per_s=tail).feasible(solver) else (middle, high)
    near = math.ceil(high * 1e4) / 1e4
    return InfeasibleError("late_share", late_share, "reached by some split", f"nearest feasible: {near:g}")


def _as_pooled(
    cluster: Cluster, workload: WorkloadLike, slos: tuple[SLO, ...], chunks: tuple[int, ...], bins: int
) -> StaticSplit:
    """Return the split over several kinds of instances or SLO classes, with its aggregate over each side."""
    pooled, problem = pooled_split(cluster, class_loads(workload, slos), workload, chunks, bins)
    data, solution = pooled.problem, pooled.solution
    side = np.array([pool.decode for pool in data.pools])
    counts, loads = np.array([pool.count for pool in data.pools]), data.loads(solution.shares)
    kept = np.clip(solution.shares[~side].sum(axis=0), 0.0, 1.0)
    load, wait = (
        [float(counts[own] @ values[own] / counts[own].sum()) for own in (~side, side)]
        for values in (loads, solution.waits_s)
    )
    notes: tuple[str, ...] = ()
    if not len(data.free):
        notes = ("no chunk keeps the TBT SLO at the mean decode state: the static split deflects nothing",)
    return StaticSplit(
        problem=problem,
        kept=kept,
        wait_prefill_s=wait[0],
        wait_decode_s=wait[1],
        cost=solution.cost,
        load_prefill=load[0],
        load_decode=load[1],
        rate_prefill_per_s=float(kept @ data.rate_per_s / problem.prefill),
        rate_decode_per_s=float((1 - kept) @ data.rate_per_s / problem.decode),
        duals=pooled.duals(),
        binding=pooled.binding(),
        solves=solution.solves,
        notes=notes,
        pools=pooled,
    )


def _start(problem: SplitProblem) -> FloatArray:
    """Return a good split in whole bins: nested families in order of s_b/h_b and of length, then local search."""
    free = np.flatnonzero(problem.safe)
    if not len(free):
        return np.ones(len(problem.bins))
    ratio = problem.host_s[free] / problem.bins.work_s[free]
    orders = (free[np.argsort(ratio, kind="stable")], free, free[::-1])
    found = []
    for order in orders:
        rank = np.full(len(problem.bins), len(free))
        rank[order] = np.arange(len(free))
        family = (rank[None, :] >= np.arange(len(free) + 1)[:, None]).astype(float)
        costs = problem.cost(family)
        if np.isfinite(costs).any():
            found.append(flipped(problem.cost, family[int(np.argmin(costs))], free))
    if not found:
        return np.ones(len(problem.bins))
    return min(found, key=lambda z: float(problem.cost(z)))


def outer_search(
    problem: SplitProblem, solver: str, warm: FloatArray | None
) -> tuple[tuple[float, float], LinearSolution, int]:
    """Return the best target waits and the solution there: tightening from a good start, then a compass search.

    Parameters
    ----------
    problem : SplitProblem
        A feasible problem.
    solver : str
        cvxpy solver tried first.
    warm : ndarray, optional
        Shares to start from, where they are better than the search's own start.

    Returns
    -------
    tuple
        (w_P, w_D), the solution, and the number of programs solved.
    """
    start = _start(problem)
    if warm is not None and problem.cost(warm) < problem.cost(start):
        start = warm
    wP, wD = (_finite_wait(w) for w in problem.waits_s(start))
    best: tuple[float, tuple[float, float], LinearSolution] | None = None
    solves, prices = 0, np.empty((0, len(problem.row_names)))

    def attempt(wP: float, wD: float) -> bool:
        nonlocal best, solves, prices
        while True:
            program, constant = problem.program(wP, wD)
            if best and constant + program.bound(prices) >= best[0] * (1 - 1e-6):
                return False  # the duals of programs nearby prove that this one is no better
            solution = solve_box_lp(program, solver)
            solves += 1
            value = constant + solution.value
            if solution.status is Status.INFEASIBLE or (best and value >= best[0] * (1 - 1e-6)):
                return False
            prices = np.vstack([prices, solution.duals])
            gained = best is None or value < best[0] * (1 - 1e-4)
            best = (value, (wP, wD), solution)
            tight = [_finite_wait(w) for w in problem.waits_s(solution.z)]
            if not gained or (tight[0] > wP * 0.999 and tight[1] > wD * 0.999):
                return True
            wP, wD = min(wP, tight[0]), min(wD, tight[1])

    if not attempt(wP * 1.001, wD * 1.001) and best is None:
        attempt(NO_TARGET_S, NO_TARGET_S)
    factor = 1.25
    for _ in range(_DESCENT_ROUNDS):
        assert best is not None
        wP, wD = best[1]
        moves = [(wP * factor, wD), (wP / factor, wD), (wP, wD * factor), (wP, wD / factor)]
        gains = [attempt(*move) for move in moves]
        if not any(gains):
            factor = math.sqrt(factor)
            if factor < 1.05:
                break
    assert best is not None
    return best[1], best[2], solves


def _finite_wait(wait_s: FloatArray | float) -> float:
    return float(min(max(float(wait_s), 1e-6), NO_TARGET_S))


def _as_split(problem: SplitProblem, solution: LinearSolution, waits: tuple[float, float], solves: int) -> StaticSplit:
    z, lam = solution.z, problem.bins.rate_per_s
    program, constant = problem.program(*waits)
    slack = program.limits - program.rows @ z
    size = np.maximum(np.abs(program.rows).max(axis=1), np.abs(program.limits))
    tight = [name for name, gap, s in zip(problem.row_names, slack, size, strict=True) if gap < 1e-6 * max(s, 1e-12)]
    notes: tuple[str, ...] = ()
    if not problem.safe.any():
        notes = ("no chunk keeps the TBT SLO at the mean decode state: the static split deflects nothing",)
    return StaticSplit(
        problem=problem,
        kept=z,
        wait_prefill_s=waits[0],
        wait_decode_s=waits[1],
        cost=constant + solution.value,
        load_prefill=float(z @ (lam * problem.bins.work_s) / problem.prefill),
        load_decode=float((1 - z) @ (lam * np.where(problem.safe, problem.host_s, 0.0)) / problem.decode),
        rate_prefill_per_s=float(z @ lam / problem.prefill),
        rate_decode_per_s=float((1 - z) @ lam / problem.decode),
        duals=_duals(problem, solution),
        binding=tuple(name for name in tight if not name.endswith("_wait")),
        solves=solves,
        notes=notes,
    )


def _duals(problem: SplitProblem, solution: LinearSolution) -> dict[str, float]:
    """Return the duals, those of the target waits from stationarity in w: mu_P = sum(lam*z)/(2*(1 - rho_P)).

    At the optimum the rows of the waits are often degenerate (every bin whole), where the solver's dual is any point of
    an interval; the stationary one is in it, and it is the price of backlog of stage 2 times the instances.
    """
    z, lam = solution.z, problem.bins.rate_per_s
    worth = lam * problem.weights
    h = np.where(problem.safe, problem.host_s, 0.0)
    load = float(z @ (lam * problem.bins.work_s)) / problem.prefill, float((1 - z) @ (lam * h)) / problem.decode
    duals = dict(zip(problem.row_names, map(float, solution.duals), strict=True))
    duals["prefill_wait"] = float(z @ worth) / (2 * (1 - load[0]))
    duals["decode_wait"] = float((1 - z) @ worth) / (2 * (1 - load[1]))
    return duals

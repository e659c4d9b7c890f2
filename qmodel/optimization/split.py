"""Stage 1, the static split: which share of each prompt bin stays at prefill, with shadow prices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from qmodel.errors import InfeasibleError
from qmodel.optimization.bins import PromptBins, WorkloadLike, prompt_bins, weighted_quantile
from qmodel.optimization.chunks import CHUNKS, NO_SCHEDULE_S, chunk_schedule
from qmodel.optimization.decode_state import DecodeState, decode_state
from qmodel.optimization.program import BoxProgram, LinearSolution, Status, solve_box_lp, solve_elastic
from qmodel.scenario import SLO, Cluster

__all__ = ["ROW_NAMES", "SplitProblem", "StaticSplit", "static_split"]

FloatArray = npt.NDArray[np.float64]

# Load that a pool may not exceed in a stationary plan; above it, waits are longer than any trace.
MAX_LOAD = 0.98
ROW_NAMES = (
    "prefill_wait",
    "decode_wait",
    "prefill_load",
    "decode_load",
    "mean_step",
    "decode_kv",
    "prefill_kv",
)
_NO_TARGET_S = 1e4
_STATE_ROUNDS = 3
_STATE_TOLERANCE = 0.02
_DESCENT_ROUNDS = 6
_FLIP_ROUNDS = 60
# Share of decode time that hosted chunks may add before the fixed point of the decode state stops following them.
_MOST_HOSTED = 0.8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitProblem:
    """Data of the linear program; instances may be fractional, so that shadow prices are derivatives.

    Parameters
    ----------
    bins : PromptBins
        Prompt bins.
    host_s, host_steps : ndarray, shape (n_bins,)
        h_b, host time of a bin's chunk schedule [s], and its steps.
    prefill, decode : float
        k and d, instances.
    state : DecodeState
        Decode instance met by a deflected prompt.
    slowdown : float
        Mean decode step over the step without hosted chunks, as the state assumes.
    tbt_s : float
        TBT SLO [s].
    prefill_kv_tokens, decode_kv_tokens : float
        KV capacity of one instance of each pool [tokens].
    weights : ndarray, shape (n_bins,)
        What a second of a bin's TTFT is worth; 1 unless classes differ.
    """

    bins: PromptBins
    host_s: FloatArray
    host_steps: FloatArray
    prefill: float
    decode: float
    state: DecodeState
    slowdown: float
    tbt_s: float
    prefill_kv_tokens: float
    decode_kv_tokens: float
    weights: FloatArray

    @property
    def safe(self) -> npt.NDArray[np.bool_]:
        """Whether each bin has a TBT-safe chunk schedule; a bin without one is never deflected."""
        return self.host_s < NO_SCHEDULE_S

    def program(self, wait_prefill_s: float, wait_decode_s: float) -> tuple[BoxProgram, float]:
        """Return the linear program at target waits, and the constant of its objective.

        Parameters
        ----------
        wait_prefill_s, wait_decode_s : float
            w_P and w_D, target mean waits [s].

        Returns
        -------
        tuple
            Program in z, rows in the order of `ROW_NAMES`, and the objective's constant.
        """
        lam, s, s2, x = self.bins.rate_per_s, self.bins.work_s, self.bins.work2_s2, self.bins.transfer_s
        h, m = np.where(self.safe, self.host_s, 0.0), np.where(self.safe, self.host_steps, 0.0)
        kv, wP, wD = self.bins.kv_tokens, wait_prefill_s, wait_decode_s
        k, d, T = self.prefill, self.decode, self.state.step_s
        worth = lam * self.weights
        kept, moved = worth * (s + x + wP), worth * (h + wD)
        on_prefill = [(lam / k * (s2 + 2 * wP * s), 2 * wP), (lam / k * s, MAX_LOAD)]
        on_decode = [(lam / d * (h**2 + 2 * wD * h), 2 * wD), (lam / d * h, MAX_LOAD)]
        # steps per second (1 - rho_D)/T + sum lam y m/d must stay above 1/tbt
        step = (lam / d * (h / T - m), 1 / T - 1 / self.tbt_s)
        hosted = (lam / d * h * kv, self.decode_kv_tokens - self.state.context_tokens)
        held = (lam / k * (s + x) * kv, self.prefill_kv_tokens)  # waiting prompts hold no cache
        rows = [on_prefill[0], _deflected(*on_decode[0]), on_prefill[1], _deflected(*on_decode[1])]
        rows += [_deflected(*step), _deflected(*hosted), held]
        program = BoxProgram(
            cost=kept - moved,
            rows=np.array([r for r, _ in rows]),
            limits=np.array([b for _, b in rows], dtype=float),
            lower=np.where(self.safe, 0.0, 1.0),
        )
        return program, float(np.sum(moved))

    def waits_s(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the Pollaczek-Khinchine waits of both pools for kept shares `z` of shape (..., n_bins) [s]."""
        lam, s, s2 = self.bins.rate_per_s, self.bins.work_s, self.bins.work2_s2
        h = np.where(self.safe, self.host_s, 0.0)
        rho_P, rho_D = z @ (lam * s) / self.prefill, (1 - z) @ (lam * h) / self.decode
        with np.errstate(divide="ignore"):
            wP = z @ (lam * s2) / self.prefill / np.maximum(2 * (1 - rho_P), 0.0)
            wD = (1 - z) @ (lam * h**2) / self.decode / np.maximum(2 * (1 - rho_D), 0.0)
        return np.where(rho_P <= MAX_LOAD, wP, np.inf), np.where(rho_D <= MAX_LOAD, wD, np.inf)

    def cost(self, z: FloatArray) -> FloatArray:
        """Return the mean number of requests in or before prefill for kept shares `z` of shape (..., n_bins)."""
        lam, s, x = self.bins.rate_per_s, self.bins.work_s, self.bins.transfer_s
        h = np.where(self.safe, self.host_s, 0.0)
        worth = lam * self.weights
        wP, wD = self.waits_s(z)
        y = 1 - z
        waiting = np.where(z @ worth > 0, z @ worth * wP, 0.0) + np.where(y @ worth > 1e-12, y @ worth * wD, 0.0)
        return np.asarray(z @ (worth * (s + x)) + y @ (worth * h) + waiting)

    def feasible(self, solver: str = "CLARABEL") -> bool:
        """Return whether some split keeps every constraint when target waits are no concern."""
        return solve_box_lp(self.program(_NO_TARGET_S, _NO_TARGET_S)[0], solver).status is Status.OPTIMAL

    def slowdown_at(self, z: FloatArray) -> float:
        """Return the mean decode step over the step without hosted chunks, from the time that chunks add."""
        h, m = np.where(self.safe, self.host_s, 0.0), np.where(self.safe, self.host_steps, 0.0)
        added = float((1 - z) @ (self.bins.rate_per_s * (h - m * self.state.step_s))) / self.decode
        return 1.0 / (1.0 - min(max(added, 0.0), _MOST_HOSTED))

    def lagrangian(self, z: FloatArray, duals: FloatArray, wait_prefill_s: float, wait_decode_s: float) -> float:
        """Return objective + duals @ (rows @ z - limits), whose change with the data is the shadow price."""
        program, constant = self.program(wait_prefill_s, wait_decode_s)
        return float(constant + program.cost @ z + duals @ (program.rows @ z - program.limits))


def _deflected(row: FloatArray, limit: float) -> tuple[FloatArray, float]:
    """Return a constraint on y = 1 - z as one on z."""
    return -row, limit - float(np.sum(row))


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
        Duals of the constraints of `ROW_NAMES`: fall of the cost per unit of the limit.
    binding : tuple of str
        Constraints that hold with equality, other than the two target waits.
    solves : int
        Linear programs solved.
    notes : tuple of str
        What the user should know, e.g. that deflection is never safe here.
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

    @property
    def deflected_share(self) -> float:
        """Share of requests that the static split deflects."""
        lam = self.problem.bins.rate_per_s
        return float(np.sum(lam * (1 - self.kept)) / np.sum(lam))


def static_split(
    cluster: Cluster,
    workload: WorkloadLike,
    slo: SLO,
    *,
    chunks: tuple[int, ...] = CHUNKS,
    bins: int = 20,
    solver: str = "CLARABEL",
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
    routing.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    workload : Workload
        Rate and lengths.
    slo : SLO
        Limits; chunk sizes come from `slo.tbt_s`.
    chunks : tuple of int
        Candidate chunks [tokens], largest first.
    bins : int
        Prompt bins.
    solver : str
        cvxpy solver tried first.

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
    check_slo(cluster, workload, slo)
    law = prompt_bins(cluster, workload, bins)
    problem = split_problem(cluster, law, workload, slo, chunks)
    if not problem.feasible(solver):
        raise no_capacity(cluster, law, workload, slo, chunks)
    waits, solution, solves = outer_search(problem, solver, None)
    for _ in range(_STATE_ROUNDS):
        slowdown = problem.slowdown_at(solution.z)
        loaded = split_problem(cluster, law, workload, slo, chunks, slowdown)
        close = abs(loaded.state.batch - problem.state.batch) < _STATE_TOLERANCE * max(problem.state.batch, 1.0)
        if close or not loaded.feasible(solver):
            break
        problem = loaded
        waits, solution, used = outer_search(problem, solver, solution.z)
        solves += used
    return _as_split(problem, solution, waits, solves)


def split_problem(
    cluster: Cluster,
    law: PromptBins,
    workload: WorkloadLike,
    slo: SLO,
    chunks: tuple[int, ...],
    slowdown: float = 1.0,
    decode: float | None = None,
) -> SplitProblem:
    """Return the data of the linear program at the decode state that a slowdown by hosted chunks gives.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    law : PromptBins
        Bins of the workload.
    workload : Workload
        Rate and lengths.
    slo : SLO
        Limits.
    chunks : tuple of int
        Candidate chunks [tokens].
    slowdown : float
        Mean decode step over the step without hosted chunks.
    decode : float, optional
        Decode instances, when not the cluster's own number; may be fractional.

    Returns
    -------
    SplitProblem
        Data of the linear program.
    """
    calibration = cluster.decode_calibrations[0]
    instances = float(cluster.decode_count) if decode is None else decode
    rate = workload.rate_per_s / instances
    state = decode_state(calibration, rate, workload.lengths(), cluster.max_num_seqs, slowdown)
    schedule = chunk_schedule(calibration, law.tokens, [state.batch], [state.context_tokens], slo.tbt_s, chunks)
    return SplitProblem(
        bins=law,
        host_s=schedule.host_s[:, 0],
        host_steps=schedule.steps[:, 0],
        prefill=cluster.prefill_count,
        decode=instances,
        state=state,
        slowdown=slowdown,
        tbt_s=slo.tbt_s,
        prefill_kv_tokens=min(c.kv_capacity_tokens for c in cluster.prefill_calibrations),
        decode_kv_tokens=min(c.kv_capacity_tokens for c in cluster.decode_calibrations),
        weights=np.ones(len(law)),
    )


def _local_search(problem: SplitProblem, z: FloatArray) -> FloatArray:
    """Improve whole shares by flipping one bin, or two at once, while that lowers the cost."""
    free = np.flatnonzero(problem.safe)
    one = np.eye(len(problem.bins))[free]
    left, right = np.triu_indices(len(free), 1)
    flips = np.concatenate([one, one[left] + one[right]]) > 0
    best = float(problem.cost(z))
    for _ in range(_FLIP_ROUNDS):
        tried = np.where(flips, 1 - z, z)
        costs = problem.cost(tried)
        at = int(np.argmin(costs))
        if not costs[at] < best * (1 - 1e-9):
            break
        z, best = tried[at], float(costs[at])
    return z


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
            found.append(_local_search(problem, family[int(np.argmin(costs))]))
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
    solves = 0

    def attempt(wP: float, wD: float) -> bool:
        nonlocal best, solves
        while True:
            program, constant = problem.program(wP, wD)
            solution = solve_box_lp(program, solver)
            solves += 1
            value = constant + solution.value
            if solution.status is Status.INFEASIBLE or (best and value >= best[0] * (1 - 1e-6)):
                return False
            gained = best is None or value < best[0] * (1 - 1e-4)
            best = (value, (wP, wD), solution)
            tight = [_finite_wait(w) for w in problem.waits_s(solution.z)]
            if not gained or (tight[0] > wP * 0.999 and tight[1] > wD * 0.999):
                return True
            wP, wD = min(wP, tight[0]), min(wD, tight[1])

    if not attempt(wP * 1.001, wD * 1.001) and best is None:
        attempt(_NO_TARGET_S, _NO_TARGET_S)
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
    return float(min(max(float(wait_s), 1e-6), _NO_TARGET_S))


def _as_split(problem: SplitProblem, solution: LinearSolution, waits: tuple[float, float], solves: int) -> StaticSplit:
    z, lam = solution.z, problem.bins.rate_per_s
    program, constant = problem.program(*waits)
    slack = program.limits - program.rows @ z
    size = np.maximum(np.abs(program.rows).max(axis=1), np.abs(program.limits))
    tight = [name for name, gap, s in zip(ROW_NAMES, slack, size, strict=True) if gap < 1e-6 * max(s, 1e-12)]
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
    duals = dict(zip(ROW_NAMES, map(float, solution.duals), strict=True))
    duals["prefill_wait"] = float(z @ worth) / (2 * (1 - load[0]))
    duals["decode_wait"] = float((1 - z) @ worth) / (2 * (1 - load[1]))
    return duals


def median_prompt(workload: WorkloadLike) -> tuple[float, float]:
    """Return the median prompt and the mean cached prefix of prompts of that length [tokens]."""
    prompt, _, cached, weights = (np.asarray(x, dtype=float) for x in workload.lengths())
    median = weighted_quantile(prompt, weights, 0.5)
    same = prompt == median
    return median, float(np.sum(weights[same] * cached[same]) / np.sum(weights[same]))


def check_slo(cluster: Cluster, workload: WorkloadLike, slo: SLO) -> None:
    """Raise when an SLO is below what the cluster does without any queue.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    workload : Workload
        Rate and lengths.
    slo : SLO
        Limits.

    Raises
    ------
    InfeasibleError
        When the TTFT SLO is below the zero-load TTFT of the median prompt, or the TBT SLO below the decode step of
        the mean resident batch; the message names both nearest feasible values.
    """
    tokens, cached = median_prompt(workload)
    least_ttft = float(cluster.zero_load_ttft_s(tokens, cached))
    rate = workload.rate_per_s / cluster.decode_count
    state = decode_state(cluster.decode_calibrations[0], rate, workload.lengths(), cluster.max_num_seqs)
    short = slo.ttft_s < least_ttft, slo.tbt_s < state.step_s
    if not any(short):
        return
    near = []
    if short[0]:
        near.append(f"ttft_slo >= {round_up_ms(least_ttft)}")
    if short[1]:
        near.append(f"tbt_slo >= {round_up_ms(state.step_s)}")
    what, value, limit = (
        ("TTFT SLO", slo.ttft_s, f"at least the zero-load TTFT of the median prompt ({tokens:.0f} tokens)")
        if short[0]
        else (
            "TBT SLO",
            slo.tbt_s,
            f"at least the decode step of the mean resident batch ({state.batch:.1f} requests)",
        )
    )
    raise InfeasibleError(what, f"{value * 1e3:.6g}ms", limit, f"nearest feasible: {' and '.join(near)}")


def round_up_ms(seconds: float) -> str:
    """Return a duration in ms, rounded up to 4 significant digits, so that giving it back is feasible."""
    ms = seconds * 1e3
    step = 10.0 ** (math.floor(math.log10(ms)) - 3)
    text = f"{math.ceil(ms / step) * step:.10g}"
    if float(text) * 1e-3 < seconds:
        text = f"{(math.ceil(ms / step) + 1) * step:.10g}"
    return f"{text}ms"


def no_capacity(
    cluster: Cluster, law: PromptBins, workload: WorkloadLike, slo: SLO, chunks: tuple[int, ...]
) -> InfeasibleError:
    """Return the error that explains why no split carries the load, with the nearest value that would.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    law : PromptBins
        Bins of the workload.
    workload : Workload
        Rate and lengths.
    slo : SLO
        Limits.
    chunks : tuple of int
        Candidate chunks [tokens].

    Returns
    -------
    InfeasibleError
        Names the constraint that needs the smallest relaxation, by how much, and the nearest feasible TBT SLO, or the
        highest rate when no SLO helps.
    """
    problem = split_problem(cluster, law, workload, slo, chunks)
    program, _ = problem.program(_NO_TARGET_S, _NO_TARGET_S)
    _, relaxed = solve_elastic(program, 1.0 / program.scale)
    worst = int(np.argmax(relaxed / program.scale))
    excess = f"{ROW_NAMES[worst]} exceeded by {100 * relaxed[worst] / program.scale[worst]:.3g}% under the best split"

    def carries(tbt_s: float, scale: float = 1.0) -> bool:
        slower = replace(law, rate_per_s=law.rate_per_s * scale)
        eased = _Scaled(workload, scale)
        return split_problem(cluster, slower, eased, replace(slo, tbt_s=tbt_s), chunks).feasible()

    limit = "carried by the two pools together"
    if carries(_LONGEST_TBT_S):
        tbt = _least(lambda t: carries(t), slo.tbt_s, _LONGEST_TBT_S)
        near = round_up_ms(tbt)
        while not carries(float(near[:-2]) * 1e-3):
            near = round_up_ms(float(near[:-2]) * 1e-3 * 1.002)
        remedy = f"{excess}; nearest feasible: tbt_slo >= {near}"
    else:
        share = 1.0 / _least(lambda f: carries(slo.tbt_s, 1.0 / f), 1.0, 1e4)
        remedy = (
            f"{excess}; no SLO helps: lower the rate to {workload.rate_per_s * share * 0.999:.4g}/s or add instances"
        )
    return InfeasibleError("load", float(law.rate_per_s @ law.work_s / cluster.prefill_count), limit, remedy)


_LONGEST_TBT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Scaled:
    workload: WorkloadLike
    scale: float

    @property
    def rate_per_s(self) -> float:
        return self.workload.rate_per_s * self.scale

    def lengths(self) -> tuple[npt.NDArray[np.generic], ...]:
        return self.workload.lengths()


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return a value within 0.1 % of the least in (low, high] that holds, by bisection in the logarithm."""
    while high > low * 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high

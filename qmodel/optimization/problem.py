"""Data of the static split's linear program, at a given decode state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.optimization.bins import PromptBins, WorkloadLike
from qmodel.optimization.chunks import NO_SCHEDULE_S, chunk_schedule
from qmodel.optimization.decode_state import DecodeState, decode_state
from qmodel.optimization.program import DIRECT, BoxProgram, Status, solve_box_lp
from qmodel.scenario import SLO, Cluster

__all__ = [
    "FLIP_ROUNDS",
    "MAX_LOAD",
    "MOST_HOSTED",
    "NO_TARGET_S",
    "ROW_NAMES",
    "STATE_ROUNDS",
    "STATE_TOLERANCE",
    "SplitProblem",
    "flipped",
    "split_problem",
]

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
# Target wait that binds nothing [s]: longer than any trace.
NO_TARGET_S = 1e4
# Tail row: largest coefficient over its limit, so that solvers still see the limit; such bins keep a share <= 1e-4.
_LARGEST_TAIL, _LARGEST_EXPONENT = 1e4, 60.0
# Share of decode time that hosted chunks may add before the fixed point of the decode state stops following them.
MOST_HOSTED = 0.8
# The fixed point ends after so many rounds, or when the mean batch moves by less than this share.
STATE_ROUNDS, STATE_TOLERANCE = 3, 0.02
# Most rounds of flips from one start: a round moves one or two bins, of some twenty.
FLIP_ROUNDS = 60


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
    tail_rate_per_s : float
        r of the tail row, the rate at which P(prefill wait > t) must fall [1/s]; 0 for no such row.
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
    tail_rate_per_s: float = 0.0

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the program's rows."""
        return ROW_NAMES if self.tail_rate_per_s == 0 else (*ROW_NAMES, "prefill_tail")

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
            Program in z, rows in the order of `row_names`, and the objective's constant.
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
        if self.tail_rate_per_s > 0:  # sum lam*z*(exp(r*s) - 1) <= k*r, both sides over k*r
            r = self.tail_rate_per_s
            tail = lam / (k * r) * np.expm1(np.minimum(r * s, _LARGEST_EXPONENT))
            rows.append((np.minimum(tail, _LARGEST_TAIL), 1.0))
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

    def feasible(self, solver: str = DIRECT) -> bool:
        """Return whether some split keeps every constraint when target waits are no concern."""
        return solve_box_lp(self.program(NO_TARGET_S, NO_TARGET_S)[0], solver).status is Status.OPTIMAL

    def slowdown_at(self, z: FloatArray) -> float:
        """Return the mean decode step over the step without hosted chunks, from the time that chunks add."""
        h, m = np.where(self.safe, self.host_s, 0.0), np.where(self.safe, self.host_steps, 0.0)
        added = float((1 - z) @ (self.bins.rate_per_s * (h - m * self.state.step_s))) / self.decode
        return 1.0 / (1.0 - min(max(added, 0.0), MOST_HOSTED))

    def lagrangian(self, z: FloatArray, duals: FloatArray, wait_prefill_s: float, wait_decode_s: float) -> float:
        """Return objective + duals @ (rows @ z - limits), whose change with the data is the shadow price."""
        program, constant = self.program(wait_prefill_s, wait_decode_s)
        return float(constant + program.cost @ z + duals @ (program.rows @ z - program.limits))


def _deflected(row: FloatArray, limit: float) -> tuple[FloatArray, float]:
    """Return a constraint on y = 1 - z as one on z."""
    return -row, limit - float(np.sum(row))


def flipped(cost: Callable[[FloatArray], FloatArray], z: FloatArray, free: npt.NDArray[np.intp]) -> FloatArray:
    """Return whole shares improved by flipping one bin, or two at once, while that lowers the cost.

    Parameters
    ----------
    cost : callable
        Cost of kept shares of shape (..., n_bins).
    z : ndarray, shape (n_bins,)
        Whole shares to start from.
    free : ndarray of int
        Bins that may be flipped.

    Returns
    -------
    ndarray
        Whole shares that no flip improves.
    """
    one = np.eye(len(z))[free]
    left, right = np.triu_indices(len(free), 1)
    flips = np.concatenate([one, one[left] + one[right]]) > 0
    best = float(cost(z))
    for _ in range(FLIP_ROUNDS):
        tried = np.where(flips, 1 - z, z)
        costs = cost(tried)
        at = int(np.argmin(costs))
        if not costs[at] < best * (1 - 1e-9):
            break
        z, best = tried[at], float(costs[at])
    return z


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

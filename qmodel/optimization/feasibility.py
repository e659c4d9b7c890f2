"""Why nothing is feasible, and the nearest value that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qmodel.errors import InfeasibleError
from qmodel.optimization.bins import PromptBins, WorkloadLike, weighted_quantile
from qmodel.optimization.decode_state import DecodeState, decode_state
from qmodel.optimization.problem import NO_TARGET_S, ROW_NAMES, split_problem
from qmodel.optimization.program import solve_elastic
from qmodel.scenario import SLO, Cluster

__all__ = ["LONGEST_TBT_S", "Scaled", "check_slo", "least", "median_prompt", "no_capacity", "round_up_ms"]


def median_prompt(workload: WorkloadLike) -> tuple[float, float]:
    """Return the median prompt and the mean cached prefix of prompts of that length [tokens]."""
    prompt, _, cached, weights = (np.asarray(x, dtype=float) for x in workload.lengths())
    median = weighted_quantile(prompt, weights, 0.5)
    same = prompt == median
    return median, float(np.sum(weights[same] * cached[same]) / np.sum(weights[same]))


def check_slo(cluster: Cluster, workload: WorkloadLike, slo: SLO, mixed: WorkloadLike | None = None) -> None:
    """Raise when an SLO is below what the cluster does without any queue.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    workload : Workload
        Rate and lengths.
    slo : SLO
        Limits.
    mixed : WorkloadLike, optional
        All requests, where `workload` is one class of them.

    Raises
    ------
    InfeasibleError
        When the TTFT SLO is below the zero-load TTFT of the median prompt, or the TBT SLO below the decode step of
        the mean resident batch; the message names both nearest feasible values.
    """
    tokens, cached = median_prompt(workload)
    least_ttft = float(cluster.zero_load_ttft_s(tokens, cached))
    state = _slowest_state(cluster, mixed or workload)
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


def _slowest_state(cluster: Cluster, workload: WorkloadLike) -> DecodeState:
    """Return the mean state of the decode instance whose step is longest; routing keeps their batches alike."""
    from qmodel.optimization.pools import decode_rates

    kinds = {c.fingerprint: c for c in cluster.decode_calibrations}
    if len(kinds) == 1:
        rates = [workload.rate_per_s / cluster.decode_count]
    else:
        each = decode_rates(cluster.decode_calibrations, workload.rate_per_s, workload)
        by_kind = dict(zip((c.fingerprint for c in cluster.decode_calibrations), each, strict=True))
        rates = [float(by_kind[key]) for key in kinds]
    states = [
        decode_state(calibration, rate, workload.lengths(), cluster.max_num_seqs)
        for calibration, rate in zip(kinds.values(), rates, strict=True)
    ]
    return max(states, key=lambda state: state.step_s)


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
    program, _ = problem.program(NO_TARGET_S, NO_TARGET_S)
    _, relaxed = solve_elastic(program, 1.0 / program.scale)
    worst = int(np.argmax(relaxed / program.scale))
    excess = f"{ROW_NAMES[worst]} exceeded by {100 * relaxed[worst] / program.scale[worst]:.3g}% under the best split"

    def carries(tbt_s: float, scale: float = 1.0) -> bool:
        slower = replace(law, rate_per_s=law.rate_per_s * scale)
        eased = Scaled(workload, scale)
        return split_problem(cluster, slower, eased, replace(slo, tbt_s=tbt_s), chunks).feasible()

    limit = "carried by the two pools together"
    if carries(LONGEST_TBT_S):
        tbt = least(lambda t: carries(t), slo.tbt_s, LONGEST_TBT_S)
        near = round_up_ms(tbt)
        while not carries(float(near[:-2]) * 1e-3):
            near = round_up_ms(float(near[:-2]) * 1e-3 * 1.002)
        remedy = f"{excess}; nearest feasible: tbt_slo >= {near}"
    else:
        share = 1.0 / least(lambda f: carries(slo.tbt_s, 1.0 / f), 1.0, 1e4)
        remedy = (
            f"{excess}; no SLO helps: lower the rate to {workload.rate_per_s * share * 0.999:.4g}/s or add instances"
        )
    return InfeasibleError("load", float(law.rate_per_s @ law.work_s / cluster.prefill_count), limit, remedy)


LONGEST_TBT_S = 10.0


@dataclass(frozen=True, slots=True)
class Scaled:
    """A workload at another rate.

    Parameters
    ----------
    workload : WorkloadLike
        Rate and lengths.
    scale : float
        Factor on the rate.
    """

    workload: WorkloadLike
    scale: float

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate [1/s]."""
        return self.workload.rate_per_s * self.scale

    def lengths(self) -> tuple[npt.NDArray[np.generic], ...]:
        """Prompt, output and cached tokens with weights that sum to 1."""
        return self.workload.lengths()


def least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return a value within 0.1 % of the least in (low, high] that holds, by bisection in the logarithm."""
    while high > low * 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high

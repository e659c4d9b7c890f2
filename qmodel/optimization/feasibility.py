"""Why nothing is feasible, and the nearest value that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qmodel.errors import InfeasibleError
from qmodel.optimization.bins import PromptBins, WorkloadLike, weighted_quantile
from qmodel.optimization.decode_state import DecodeState, decode_kinds, decode_state
from qmodel.optimization.problem import NO_TARGET_S, ROW_NAMES, split_problem
from qmodel.optimization.program import solve_elastic
from qmodel.scenario import SLO, Cluster

__all__ = ["Scaled", "check_slo", "median_prompt", "nearest", "no_capacity", "round_up_ms", "slowest_state"]

# A load that is not carried at this TBT SLO is carried at none: steps are shorter than that.
LONGEST_TBT_S = 10.0


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
    state = slowest_state(cluster, mixed or workload)
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


def slowest_state(cluster: Cluster, workload: WorkloadLike) -> DecodeState:
    """Return the mean state of the decode instance whose step is longest; routing keeps their batches alike.

    Parameters
    ----------
    cluster : Cluster
        Its decode pool.
    workload : WorkloadLike
        Rate and lengths.

    Returns
    -------
    DecodeState
        Beside no hosted chunk.
    """
    from qmodel.optimization.pools import decode_rates

    kinds = decode_kinds(cluster)
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

    remedy = f"{excess}; {nearest(carries, slo.tbt_s, workload.rate_per_s)}"
    load = float(law.rate_per_s @ law.work_s / cluster.prefill_count)
    return InfeasibleError("load", load, "carried by the two pools together", remedy)


class Carries(Protocol):
    """Whether some split carries the load."""

    def __call__(self, tbt_s: float, scale: float = 1.0) -> bool:
        """Return whether one does at a TBT SLO [s] and a factor on the rate."""
        ...


def nearest(carries: Carries, tbt_s: float, rate_per_s: float) -> str:
    """Return the nearest TBT SLO at which the load is carried, in words; the highest rate where no SLO helps.

    Parameters
    ----------
    carries : callable
        Whether some split carries the load.
    tbt_s : float
        TBT SLO at which none does [s].
    rate_per_s : float
        Rate that none carries then [1/s].

    Returns
    -------
    str
        What to give instead: feasible when it is given.
    """
    if not carries(LONGEST_TBT_S):
        share = 1.0 / least(lambda factor: carries(tbt_s, 1.0 / factor), 1.0, 1e4)
        return f"no SLO helps: lower the rate to {rate_per_s * share * 0.999:.4g}/s or add instances"
    near = round_up_ms(least(carries, tbt_s, LONGEST_TBT_S))
    while not carries(float(near[:-2]) * 1e-3):
        near = round_up_ms(float(near[:-2]) * 1e-3 * 1.002)
    return f"nearest feasible: tbt_slo >= {near}"


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

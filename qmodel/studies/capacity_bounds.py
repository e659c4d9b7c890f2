"""Necessary conditions on the size of a cluster: what no larger search needs to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qmodel.errors import InfeasibleError
from qmodel.optimization.bins import prompt_bins, weighted_quantile
from qmodel.optimization.chunks import CHUNKS
from qmodel.optimization.feasibility import round_up_ms
from qmodel.optimization.problem import split_problem

if TYPE_CHECKING:
    from qmodel.scenario import SLO, Cluster, Workload

__all__ = ["PoolLimits", "check_reachable", "deflection_carries", "pool_limits"]

# A finite run may end with some backlog: a pool counts as too small only when it is overloaded by more than this.
SLACK = 1.03


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Requests per second that one instance of each pool can carry at most.

    Parameters
    ----------
    prefill_per_s : float
        Of a prefill instance, by its work and by its link [1/s].
    decode_per_s : float
        Of a decode instance, by its batch and KV limits and by steps within the TBT SLO [1/s].
    """

    prefill_per_s: float
    decode_per_s: float

    def rate_per_s(self, prefill: int, decode: int) -> float:
        """Return the rate that k prefill and d decode instances can carry at most, without deflection [1/s]."""
        return SLACK * min(prefill * self.prefill_per_s, decode * self.decode_per_s)


def pool_limits(cluster: Cluster, workload: Workload, slo: SLO) -> PoolLimits:
    """Return what one instance of each pool carries at most; *bound* within `SLACK`.

    Prefill: 1/max(E[W(L)], E[X(L)]), the load row of the static split with every prompt kept. Decode: the largest
    n/(E[O]*T(n)) over batches n that fit, with T(n) <= TBT SLO at the mean context E[O*(L + O/2)]/E[O].

    Parameters
    ----------
    cluster : Cluster
        Laws and limits; its numbers of instances do not matter.
    workload : Workload
        Lengths; its rate does not matter.
    slo : SLO
        Limit on the decode step.

    Returns
    -------
    PoolLimits
        Rates of one instance of each pool [1/s].

    Raises
    ------
    InfeasibleError
        When one request alone decodes slower than the TBT SLO allows.
    """
    prompt, output, cached, weights = (np.asarray(x, dtype=float) for x in workload.lengths())
    busy = workload.mean_work_s(cluster)
    if cluster.link_sharing != "none":
        moved = np.maximum(prompt - cached, 0.0)
        busy = max(busy, float(weights @ np.asarray(cluster.transfer_law().link_time_s(moved))))
    steps = float(weights @ np.maximum(output - 1.0, 0.0))
    if steps == 0:
        return PoolLimits(prefill_per_s=1 / busy, decode_per_s=float("inf"))
    context = float(weights @ (output * (prompt + output / 2)) / (weights @ output))
    calibration = cluster.decode_calibrations[0]
    limit = max(1, min(cluster.max_num_seqs, int(calibration.kv_capacity_tokens / context)))
    n = np.arange(1.0, limit + 1)
    step = np.asarray(calibration.decode_step_s(n, n * context))
    if step[0] > slo.tbt_s:
        near = f"nearest feasible: tbt_slo >= {round_up_ms(float(step[0]))}"
        raise InfeasibleError("TBT SLO", f"{slo.tbt_s * 1e3:.6g}ms", "at least the step of a request alone", near)
    fits = step <= slo.tbt_s
    return PoolLimits(prefill_per_s=1 / busy, decode_per_s=float(np.max(n[fits] / step[fits])) / steps)


def check_reachable(cluster: Cluster, workload: Workload, slo: SLO, attainment: float) -> None:
    """Raise when too many prompts miss the TTFT SLO on an empty cluster, whatever its size.

    Parameters
    ----------
    cluster : Cluster
        Laws and network.
    workload : Workload
        Lengths.
    slo : SLO
        Limit on TTFT.
    attainment : float
        Share of requests that must meet it.

    Raises
    ------
    InfeasibleError
        Naming the nearest feasible TTFT SLO.
    """
    prompt, _, cached, weights = (np.asarray(x, dtype=float) for x in workload.lengths())
    alone = np.asarray(cluster.zero_load_ttft_s(prompt, cached))
    needed = weighted_quantile(alone, weights, attainment)
    if needed > slo.ttft_s:
        what = f"at least the zero-load TTFT that {100 * attainment:g} % of the prompts keep"
        near = f"no number of GPUs helps; nearest feasible: ttft_slo >= {round_up_ms(needed)}"
        raise InfeasibleError("TTFT SLO", f"{slo.ttft_s * 1e3:.6g}ms", what, near)


def deflection_carries(cluster: Cluster, workload: Workload, slo: SLO) -> bool:
    """Return whether the linear program of the static split has any solution at the rate, within `SLACK`.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    workload : Workload
        Rate and lengths.
    slo : SLO
        Limit on the mean decode step.
    """
    eased = workload.at_rate(workload.rate_per_s / SLACK)
    return split_problem(cluster, prompt_bins(cluster, eased), eased, slo, CHUNKS).feasible()

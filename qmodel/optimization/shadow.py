"""Shadow prices: what one more instance, gigabyte per second or millisecond is worth, from the duals of stage 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qmodel.optimization.bins import WorkloadLike, prompt_bins
from qmodel.optimization.problem import SplitProblem, split_problem
from qmodel.optimization.program import DIRECT
from qmodel.optimization.split import StaticSplit, outer_search
from qmodel.scenario import SLO, Cluster
from qmodel.scenario.plan import ShadowPrice

__all__ = ["shadow_prices"]

# Relative step of the one-sided derivatives; the data are smooth in instances and bandwidth.
_STEP = 1e-3


def shadow_prices(
    cluster: Cluster, workload: WorkloadLike, slo: SLO, split: StaticSplit, chunks: tuple[int, ...]
) -> tuple[ShadowPrice, ...]:
    """Return what more of each resource is worth in mean TTFT; *exact* derivatives by the envelope theorem.

    At the optimum the cost changes with the data as the Lagrangian does at fixed shares, waits and duals:
    dJ = d( objective + duals @ (rows @ z - limits) ).

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    workload : Workload
        Rate and lengths.
    slo : SLO
        Limits.
    split : StaticSplit
        Stage 1.
    chunks : tuple of int
        Candidate chunks [tokens].

    Returns
    -------
    tuple of ShadowPrice
        Per prefill instance, decode instance, GB/s of bandwidth, and 10 ms of TBT SLO (a finite step: chunk sizes
        are discrete).
    """
    if split.pools is not None:
        return split.pools.prices
    base = split.problem
    count = float(np.sum(base.bins.rate_per_s))

    def problem(changed: Cluster, limits: SLO = slo, decode: float | None = None) -> SplitProblem:
        law = prompt_bins(changed, workload, base.bins.wanted)
        found = split_problem(changed, law, workload, limits, chunks, base.slowdown, decode)
        return replace(found, tail_rate_per_s=base.tail_rate_per_s)

    now = problem(cluster)
    bandwidth, d = cluster.bandwidth_gb_s, base.decode
    faster = problem(cluster.with_(bandwidth_gb_s=bandwidth * (1 + _STEP)))
    wider = problem(cluster, decode=d * (1 + _STEP))
    looser = replace(slo, tbt_s=slo.tbt_s + 0.010)
    more = replace(now, prefill=base.prefill * (1 + _STEP))
    worth = {
        ("prefill instance", "instance", "One more prefill instance"): _saved(split, now, more)
        / (_STEP * base.prefill),
        ("decode instance", "instance", "One more decode instance"): _saved(split, now, wider) / (_STEP * d),
        ("bandwidth", "GB/s", "One more GB/s of bandwidth per GPU"): _saved(split, now, faster) / (_STEP * bandwidth),
        ("TBT SLO", "10 ms", "A TBT SLO 10 ms longer"): _looser(split, problem(cluster, looser)),
    }
    return tuple(ShadowPrice.of(name, unit, value / count, said) for (name, unit, said), value in worth.items())


def _saved(split: StaticSplit, now: SplitProblem, changed: SplitProblem) -> float:
    """Return the fall of the Lagrangian between two sets of data at the split's shares, waits and duals."""
    duals = np.array([split.duals[name] for name in now.row_names])
    at = split.kept, duals, split.wait_prefill_s, split.wait_decode_s
    return now.lagrangian(*at) - changed.lagrangian(*at)


def _looser(split: StaticSplit, changed: SplitProblem) -> float:
    """Return the fall of the cost when solved again: chunk sizes are discrete, so there is no derivative."""
    (wP, wD), solution, _ = outer_search(changed, DIRECT, split.kept)
    program, constant = changed.program(wP, wD)
    return max(split.cost - constant - float(program.cost @ solution.z), 0.0)

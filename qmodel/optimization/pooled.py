"""The static split of clusters with several kinds of instances, or of workloads with several SLO classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InfeasibleError, InputError
from qmodel.optimization.bins import PromptBins, WorkloadLike
from qmodel.optimization.feasibility import Scaled, check_slo, nearest
from qmodel.optimization.pool_search import PoolSolution, relaxed, solve_at, solve_pools
from qmodel.optimization.pools import ClassLoad, PoolProblem, pool_problem
from qmodel.optimization.problem import NO_TARGET_S, STATE_ROUNDS, STATE_TOLERANCE, SplitProblem
from qmodel.scenario import SLO, Cluster
from qmodel.scenario.plan import ShadowPrice

__all__ = ["PooledSplit", "class_loads", "is_plain", "pooled_split"]

FloatArray = npt.NDArray[np.float64]
_STEP = 0.02  # relative step in instances of the shadow prices


def is_plain(cluster: Cluster) -> bool:
    """Return whether each pool of a cluster has instances of one kind only.

    Parameters
    ----------
    cluster : Cluster
        Pools.
    """
    pools = cluster.prefill_calibrations, cluster.decode_calibrations
    return all(len({c.fingerprint for c in pool}) == 1 for pool in pools)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """Part of a workload: its rate and lengths."""

    rate_per_s: float
    columns: tuple[npt.NDArray[np.generic], ...]

    def lengths(self) -> tuple[npt.NDArray[np.generic], ...]:
        return self.columns


def class_loads(workload: WorkloadLike, slos: Sequence[SLO]) -> list[ClassLoad]:
    """Return the requests of each SLO class with its objectives; classes without requests are left out.

    Parameters
    ----------
    workload : WorkloadLike
        With one class, anything; with several, a workload whose requests carry their class.
    slos : sequence of SLO
        Objectives by class.

    Raises
    ------
    InputError
        When a request is of a class without objectives.
    """
    if len(slos) == 1:
        return [ClassLoad(workload=workload, slo=slos[0])]
    requests = workload.requests(seed=0)  # type: ignore[attr-defined]  # only whole workloads have classes
    of_class = requests.slo_class
    if int(of_class.max()) >= len(slos):
        raise InputError("SLO classes", int(of_class.max()) + 1, f"<= {len(slos)}, the number of SLOs given")
    found = []
    for number, slo in enumerate(slos):
        mine = of_class == number
        if mine.any():
            tokens = requests.prompt_tokens[mine], requests.output_tokens[mine], requests.cached_tokens[mine]
            share = float(mine.mean())
            part = _Part(
                rate_per_s=workload.rate_per_s * share, columns=(*tokens, np.full(int(mine.sum()), 1.0 / mine.sum()))
            )
            found.append(ClassLoad(workload=part, slo=slo))
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PooledSplit:
    """What several pools add to a static split.

    Parameters
    ----------
    problem : PoolProblem
        Data of the linear program.
    solution : PoolSolution
        Shares of each pool.
    prices : tuple of ShadowPrice
        What one more instance of each kind, and 10 ms of TBT SLO, are worth.
    """

    problem: PoolProblem
    solution: PoolSolution
    prices: tuple[ShadowPrice, ...]

    def summary(self) -> list[dict[str, Any]]:
        """Return one row per pool: name, instances, load, target wait [s], rate of one instance [1/s], shares."""
        loads, x = self.problem.loads(self.solution.shares), self.solution.shares
        return [
            {
                "name": pool.name,
                "instances": float(pool.count),
                "load": float(loads[g]),
                "wait_s": float(self.solution.waits_s[g]),
                "rate_per_s": float(x[g] @ self.problem.rate_per_s) / float(pool.count),
                "share_of_bins": [float(share) for share in x[g]],
            }
            for g, pool in enumerate(self.problem.pools)
        ]

    def binding(self) -> tuple[str, ...]:
        """Return the constraints that hold with equality, other than the target waits."""
        rows, limits = self.problem.rows(self.solution.waits_s)
        slack = limits - rows @ self.solution.shares.ravel()
        size = np.maximum(np.abs(rows).max(axis=1), np.abs(limits))
        names = zip(self.problem.row_names, slack, size, strict=True)
        return tuple(name for name, gap, s in names if gap < 1e-6 * max(s, 1e-12) and not name.startswith("wait"))

    def duals(self) -> dict[str, float]:
        """Return the duals by name of the constraint."""
        return dict(zip(self.problem.row_names, map(float, self.solution.duals), strict=True))


def pooled_split(
    cluster: Cluster, classes: Sequence[ClassLoad], mixed: WorkloadLike, chunks: tuple[int, ...], bins: int
) -> tuple[PooledSplit, SplitProblem]:
    """Return the optimal shares of every pool, and the same split seen as one prefill and one decode pool.

    Parameters
    ----------
    cluster : Cluster
        Groups of instances.
    classes : sequence of ClassLoad
        Requests by SLO class.
    mixed : WorkloadLike
        All of them together.
    chunks : tuple of int
        Candidate chunks [tokens], largest first.
    bins : int
        Prompt bins of each class.

    Returns
    -------
    tuple
        The split by pool, and its aggregate for the rules that know one price a pool.

    Raises
    ------
    InfeasibleError
        When a class' SLO is below what the empty cluster does, or no shares keep every pool below full load.
    """
    for one in classes:
        check_slo(cluster, one.workload, one.slo, mixed)

    def data(**changes: Any) -> PoolProblem:
        return pool_problem(cluster, classes, mixed, chunks, bins, **changes)

    problem = data()
    solution = solve_pools(problem)
    if solution is None:
        raise _no_capacity(cluster, classes, mixed, problem, chunks, bins)
    slowdowns: Mapping[str, float] = {}
    for _ in range(STATE_ROUNDS):
        wanted = problem.slowdowns(solution.shares)
        loaded = data(slowdowns=wanted)
        next_ = solve_pools(loaded)
        if next_ is None:
            break
        close = _alike(problem, loaded)
        problem, solution, slowdowns = loaded, next_, wanted
        if close:
            break
    prices = _prices(cluster, classes, mixed, chunks, bins, problem, solution, slowdowns)
    return PooledSplit(problem=problem, solution=solution, prices=prices), _aggregate(problem, slowdowns)


def _alike(one: PoolProblem, other: PoolProblem) -> bool:
    batches = [
        (a.state.batch, b.state.batch) for a, b in zip(one.pools, other.pools, strict=True) if a.state and b.state
    ]
    return all(abs(b - a) < STATE_TOLERANCE * max(a, 1.0) for a, b in batches)


def _aggregate(problem: PoolProblem, slowdowns: Mapping[str, float]) -> SplitProblem:
    """Return one prefill and one decode pool of the same size: instance-weighted means of times, worst of limits."""
    kept = [pool for pool in problem.pools if not pool.decode]
    hosts = [pool for pool in problem.pools if pool.decode]

    def mean(pools: list[Any], name: str) -> FloatArray:
        counts = np.array([pool.count for pool in pools])
        return np.asarray(counts @ np.array([getattr(pool, name) for pool in pools]) / counts.sum())

    law = PromptBins(
        rate_per_s=problem.rate_per_s,
        tokens=problem.tokens,
        upper_tokens=problem.upper_tokens,
        work_s=mean(kept, "service_s"),
        work2_s2=mean(kept, "service2_s2"),
        transfer_s=mean(kept, "after_s"),
        kv_tokens=kept[0].kv_tokens,
        wanted=len(problem.tokens),
    )
    states = [pool.state for pool in hosts if pool.state is not None]
    full_tokens = min(pool.room_tokens + state.context_tokens for pool, state in zip(hosts, states, strict=True))
    return SplitProblem(
        bins=law,
        host_s=mean(hosts, "service_s"),
        host_steps=mean(hosts, "steps"),
        prefill=sum(pool.count for pool in kept),
        decode=sum(pool.count for pool in hosts),
        state=max(states, key=lambda state: state.step_s),
        slowdown=max(slowdowns.values(), default=1.0),
        tbt_s=problem.tbt_s,
        prefill_kv_tokens=min(pool.room_tokens for pool in kept),
        decode_kv_tokens=full_tokens,
        weights=problem.weights,
    )


def _prices(
    cluster: Cluster,
    classes: Sequence[ClassLoad],
    mixed: WorkloadLike,
    chunks: tuple[int, ...],
    bins: int,
    problem: PoolProblem,
    solution: PoolSolution,
    slowdowns: Mapping[str, float],
) -> tuple[ShadowPrice, ...]:
    """Return what more of each resource saves, by re-solving at the same target waits with 2 % more of it."""
    total, found = float(problem.rate_per_s.sum()), []

    def saved(limits: Sequence[ClassLoad], counts: Mapping[str, float] | None) -> float:
        changed = pool_problem(cluster, limits, mixed, chunks, bins, counts, slowdowns)
        answer = solve_at(changed, solution.waits_s)
        return 0.0 if answer is None else (solution.cost - answer[0]) / total

    for pool in problem.pools:
        more = float(pool.count) * (1 + _STEP)
        seconds = saved(classes, {pool.name: more}) / (_STEP * float(pool.count))
        kind, _, gpu = pool.name.partition(" ")
        what = f"{gpu} {kind} instance"
        found.append(ShadowPrice.of(what, "instance", seconds, f"One more {what}"))
    looser = [replace(one, slo=replace(one.slo, tbt_s=one.slo.tbt_s + 0.010)) for one in classes]
    found.append(ShadowPrice.of("TBT SLO", "10 ms", max(saved(looser, None), 0.0), "A TBT SLO 10 ms longer"))
    return tuple(found)


def _no_capacity(
    cluster: Cluster,
    classes: Sequence[ClassLoad],
    mixed: WorkloadLike,
    problem: PoolProblem,
    chunks: tuple[int, ...],
    bins: int,
) -> InfeasibleError:
    """Return the error that names the constraint to ease, and the nearest TBT SLO or the highest rate."""
    name, excess = relaxed(problem)

    def carries(tbt_s: float, scale: float = 1.0) -> bool:
        eased = [
            replace(one, workload=Scaled(one.workload, scale), slo=replace(one.slo, tbt_s=max(tbt_s, one.slo.tbt_s)))
            for one in classes
        ]
        data = pool_problem(cluster, eased, Scaled(mixed, scale), chunks, bins)
        return solve_at(data, np.full(len(data.pools), NO_TARGET_S)) is not None

    said = f"{name} exceeded by {100 * excess:.3g}% under the best split"
    works = [pool.service_s @ problem.rate_per_s for pool in problem.pools if not pool.decode]
    load = float(np.mean(works)) / cluster.prefill_count
    strictest = min(one.slo.tbt_s for one in classes)
    rate = sum(one.workload.rate_per_s for one in classes)
    remedy = f"{said}; {nearest(carries, strictest, rate)}"
    return InfeasibleError("load", load, "carried by the pools together", remedy)

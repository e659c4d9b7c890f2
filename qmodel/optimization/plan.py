"""Derive a plan: static split, thresholds, prices and tables, without simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.laws import Calibration
from qmodel.optimization.bins import WorkloadLike
from qmodel.optimization.choice import (
    JUDGED_REQUESTS,
    ORDERS,
    ROBUST_REQUESTS,
    Effort,
    Scenario,
    best_rule,
    bounded_rules,
    busiest,
    deadline_rules,
    hosts_outlast,
    late_rules,
    price_rules,
)
from qmodel.optimization.chunks import capped, safe_chunks
from qmodel.optimization.decode_state import decode_kinds
from qmodel.optimization.horizon import horizon_prices
from qmodel.optimization.robust import robust_prices, scenario_set
from qmodel.optimization.shadow import shadow_prices
from qmodel.optimization.split import StaticSplit, static_split
from qmodel.optimization.tables import of_kind, with_chunks
from qmodel.optimization.thresholds import DEADLINE_SHARE, harm_weight, threshold_rule, thresholds_s
from qmodel.policies.rule import Binding, Order, ThresholdRule
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.scenario.plan import Plan
from qmodel.scenario.slo import strictest

__all__ = ["Objective", "Plan", "derive_plan"]

Objective = Literal["p95", "slo", "mean", "goodput"]

#: Caps on hosted chunks that a thorough search tries [tokens].
CAPS = (512, 1024)
_TABLE_TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_TABLE_BACKLOG_S = (0.0, 0.1, 0.25, 0.5, 1.0)
_CHUNK_DONE = (0, 2048, 8192, 32768, 131072)


def derive_plan(
    cluster: Cluster,
    workload: WorkloadLike,
    slo: SLO | Sequence[SLO],
    objective: Objective = "p95",
    binding: Binding | Literal["auto"] = "auto",
    order: Order | Literal["auto"] = "auto",
    effort: Effort = "normal",
    robust: bool | Sequence[Workload] = False,
    chunk_cap: int | None = None,
) -> Plan:
    """Return the plan for a cluster, a workload and an SLO, without simulation.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    workload : Workload
        Rate and lengths.
    slo : SLO or sequence of SLO
        Objectives, one per SLO class of the workload's requests; rules know no classes and keep the strictest.
    objective : {"p95", "slo", "mean", "goodput"}
        What to optimise.
    binding : {"auto", "dispatch", "late"}
        When requests are bound to an instance.
    order : {"auto", "fcfs", "spf", "aged", "due"}
        Order of the prefill queue.
    effort : {"none", "normal", "high"}
        How many candidates stage 3 judges where form and order are left to it; "none": bound late, shortest first.
    robust : bool or sequence of Workload
        Judge candidates by the worst of a scenario set: rate +-30 %, laws +-20 %, and these workloads if given.
    chunk_cap : int, optional
        Largest chunk that a decode instance hosts in a step [tokens]; by default 2,048, and with effort "high" caps of
        512 and 1,024 are judged too.

    Returns
    -------
    Plan
        Every plan has a rule for dispatch; one that binds late has the pull rule too.

    Raises
    ------
    InfeasibleError
        When stage 1 has no solution, or an SLO is below what the empty cluster does.
    InputError
        When an option is unknown.
    """
    _check_choice("objective", objective, ("p95", "slo", "mean", "goodput"))
    _check_choice("binding", binding, ("auto", "dispatch", "late"))
    _check_choice("order", order, ("auto", "fcfs", "spf", "aged", "due"))
    _check_choice("effort", effort, ("none", "normal", "high"))
    chunks = capped(chunk_cap)
    split = static_split(cluster, workload, slo, chunks=chunks)
    limits = strictest(slo)
    valued = True if objective in ("slo", "goodput") else None
    dispatch_order: Order = "fcfs" if order == "auto" else order
    at_dispatch = threshold_rule(
        cluster, workload, limits, split, "dispatch", dispatch_order, chunks=chunks, value_deadlines=valued
    )
    if effort == "none" or not isinstance(workload, Workload):  # nothing to judge candidates on
        late = (
            None
            if binding == "dispatch"
            else _late(at_dispatch, "spf" if order == "auto" else order, cluster, workload, limits)
        )
        return _assemble(cluster, workload, limits, objective, split, at_dispatch, late, {})
    scenarios = [Scenario("as planned", cluster, busiest(workload, JUDGED_REQUESTS))]
    if robust:
        others = () if isinstance(robust, bool) else robust
        scenarios = scenario_set(cluster, workload, ROBUST_REQUESTS, others)
    caps = CAPS if effort == "high" and chunk_cap is None else ()
    return _chosen(cluster, workload, limits, objective, binding, order, effort, caps, split, at_dispatch, scenarios)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(name, repr(value), f"one of {', '.join(choices)}", f"e.g. {name}={choices[0]!r}")


def _late(rule: ThresholdRule, order: Order, cluster: Cluster, workload: WorkloadLike, slo: SLO) -> ThresholdRule:
    weight = harm_weight("late", cluster, workload, slo)
    return replace(rule, binding="late", order=order, harm_weight=weight, deadline_s=0.0)


def _chosen(
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    objective: Objective,
    binding: Binding | Literal["auto"],
    order: Order | Literal["auto"],
    effort: Effort,
    caps: tuple[int, ...],
    split: StaticSplit,
    at_dispatch: ThresholdRule,
    scenarios: list[Scenario],
) -> Plan:
    """Return the plan with the rules that stage 3 chooses within what the caller has fixed."""
    judged: dict[str, Any] = {}
    deadline_s = DEADLINE_SHARE * slo.ttft_s
    if at_dispatch.order != "due":  # the model has that order for the shared queue only
        rules = price_rules(at_dispatch, deadline_s) if effort == "high" else deadline_rules(at_dispatch, deadline_s)
        if hosts_outlast(split, slo.ttft_s):
            rules |= bounded_rules({"dispatch": at_dispatch}, slo.ttft_s)
        if len(scenarios) > 1:
            prices = robust_prices(cluster, workload, slo, split, at_dispatch)
            rules |= {f"robust {name}": rule for name, rule in deadline_rules(prices, deadline_s).items()}
        if split.pools is None and (effort == "high" or objective in ("slo", "goodput")):
            rules |= _horizon_rules(cluster, scenarios[0].requests, split, at_dispatch, deadline_s)
        if binding == "dispatch":
            rules |= _capped_rules(rules, caps, cluster, slo)
        choice = best_rule(rules, scenarios, slo, objective)
        at_dispatch = choice.rule
        judged |= choice.outcomes
    late = None
    if binding != "dispatch":
        orders = ORDERS if order == "auto" else (order,)
        candidates = late_rules(_late(at_dispatch, "spf", cluster, workload, slo), orders, effort)
        if hosts_outlast(split, slo.ttft_s):
            first = f"late {orders[0]}"
            candidates |= bounded_rules({first: candidates[first]}, slo.ttft_s)
        candidates |= _capped_rules({f"late {one}": candidates[f"late {one}"] for one in orders}, caps, cluster, slo)
        choice = best_rule(candidates, scenarios, slo, objective, judged.get("kairos"))
        late = choice.rule
        judged |= choice.outcomes
        if late.chunks != at_dispatch.chunks:  # both rules share one set of tables
            at_dispatch = with_chunks(at_dispatch, cluster, slo, late.chunks)
    return _assemble(cluster, workload, slo, objective, split, at_dispatch, late, judged)


def _horizon_rules(
    cluster: Cluster, requests: Requests, split: StaticSplit, rule: ThresholdRule, deadline_s: float
) -> dict[str, ThresholdRule]:
    """Return the dispatch candidates with prices of backlog over the horizon that is judged, on one pool or both."""
    g_P, g_D = horizon_prices(cluster, requests, split)
    prefill = replace(rule, price_prefill_per_s=g_P)
    both = replace(prefill, price_decode_per_s=g_D)
    found = deadline_rules(prefill, deadline_s).items(), deadline_rules(both, deadline_s).items()
    return {f"{name}, horizon g_P": one for name, one in found[0]} | {
        f"{name}, horizon g_P and g_D": one for name, one in found[1]
    }


def _capped_rules(
    rules: Mapping[str, ThresholdRule], caps: tuple[int, ...], cluster: Cluster, slo: SLO
) -> dict[str, ThresholdRule]:
    """Return the rules with hosted chunks capped."""
    return {
        f"{name}, chunks <= {cap}": with_chunks(rule, cluster, slo, capped(cap))
        for cap in caps
        for name, rule in rules.items()
    }


def _assemble(
    cluster: Cluster,
    workload: WorkloadLike,
    slo: SLO,
    objective: Objective,
    split: StaticSplit,
    at_dispatch: ThresholdRule,
    late: ThresholdRule | None,
    judged: dict[str, Any],
) -> Plan:
    from qmodel import __version__

    kinds = decode_kinds(cluster)
    names = [calibration.name for calibration in kinds.values()]
    return Plan(
        qmodel_version=__version__,
        objective=objective,
        slo=slo,
        cluster=_cluster_summary(cluster),
        workload=_workload_summary(cluster, workload),
        split=_split_summary(split),
        shadow_prices=shadow_prices(cluster, workload, slo, split, at_dispatch.chunks),
        constants=_constants(split, at_dispatch),
        dispatch_rule=at_dispatch,
        late_rule=late,
        thresholds=_threshold_table(at_dispatch, split, names),
        chunk_table=_chunk_table(list(kinds.values()), at_dispatch),
        predicted=_static_prediction(split) | {"candidates": _judged(judged)},
        warnings=split.notes,
    )


def _cluster_summary(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "prefill": cluster.prefill_count,
        "decode": cluster.decode_count,
        "model": cluster.calibration.model,
        "gpu": cluster.calibration.gpu,
        "tp": int(cluster.calibration.tp),
        **cluster.options,
        "calibrations": [
            {"pool": pool, "name": calibration.name, "sha256": calibration.fingerprint}
            for pool, calibrations in (
                ("prefill", cluster.prefill_calibrations),
                ("decode", cluster.decode_calibrations),
            )
            for calibration in dict.fromkeys(calibrations)
        ],
    }


def _workload_summary(cluster: Cluster, workload: WorkloadLike) -> dict[str, Any]:
    prompt, output, cached, weights = (np.asarray(x, dtype=float) for x in workload.lengths())
    work = float(np.sum(weights * np.asarray(cluster.work_s(prompt, cached))) / np.sum(weights))
    return {
        "name": getattr(workload, "name", "unnamed"),
        "fingerprint": getattr(workload, "fingerprint", ""),
        "rate_per_s": float(workload.rate_per_s),
        "load": workload.rate_per_s * work / cluster.prefill_count,
        "mean_prompt_tokens": float(np.sum(weights * prompt) / np.sum(weights)),
        "mean_output_tokens": float(np.sum(weights * output) / np.sum(weights)),
        "model": workload.model() if hasattr(workload, "model") else {},
    }


def _split_summary(split: StaticSplit) -> dict[str, Any]:
    law = split.problem.bins
    columns = {
        "prompt_tokens": law.upper_tokens,
        "share_of_requests": law.rate_per_s / np.sum(law.rate_per_s),
        "kept": split.kept,
        "prefill_s": law.work_s,
        "transfer_s": law.transfer_s,
        "host_s": split.problem.host_s,
    }
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        "bins": rows,
        "deflected_share": split.deflected_share,
        "load_prefill": split.load_prefill,
        "load_decode": split.load_decode,
        "wait_prefill_s": split.wait_prefill_s,
        "wait_decode_s": split.wait_decode_s,
        "cost_requests": split.cost,
        "duals": dict(split.duals),
        "binding": list(split.binding),
        "decode_batch": split.problem.state.batch,
        "decode_context_tokens": split.problem.state.context_tokens,
        "decode_step_s": split.problem.state.step_s,
    } | _pools_summary(split)


def _pools_summary(split: StaticSplit) -> dict[str, Any]:
    """Return the shares of each kind of instance and the SLO class of each bin, where there are several."""
    if split.pools is None:
        return {}
    return {"pools": split.pools.summary(), "slo_class": split.pools.problem.of_class.tolist()}


def _constants(split: StaticSplit, rule: ThresholdRule) -> dict[str, float]:
    return {
        "price_prefill_per_s": rule.price_prefill_per_s,
        "price_decode_per_s": rule.price_decode_per_s,
        "rate_prefill_per_s": split.rate_prefill_per_s,
        "rate_decode_per_s": split.rate_decode_per_s,
        "load_prefill": split.load_prefill,
        "load_decode": split.load_decode,
    }


def _threshold_table(rule: ThresholdRule, split: StaticSplit, names: Sequence[str]) -> dict[str, Any]:
    """Return theta over prompt and decode backlog at the mean decode state; also by kind where there are several."""
    state = split.problem.state
    tokens = [t for t in _TABLE_TOKENS if t <= rule.lengths[-1]]
    places = np.array(tokens)[:, None], np.array(_TABLE_BACKLOG_S)[None, :], state.batch, state.context_tokens
    table = {
        "prompt_tokens": tokens,
        "decode_backlog_s": list(_TABLE_BACKLOG_S),
        "batch": state.batch,
        "context_tokens": state.context_tokens,
        "threshold_s": thresholds_s(rule, *places).tolist(),
    }
    if rule.kinds:
        each = zip(names, rule.kinds, strict=True)
        table["kinds"] = [
            {"name": name, "threshold_s": thresholds_s(of_kind(rule, kind), *places).tolist()} for name, kind in each
        ]
    return table


def _chunk_table(kinds: Sequence[Calibration], rule: ThresholdRule) -> dict[str, Any]:
    """Return TBT-safe chunks over batch, context and tokens done, of the first kind; of each where there are more."""
    done = np.array([d for d in _CHUNK_DONE if d <= rule.lengths[-1]], dtype=float)

    def chunks(calibration: Calibration, contexts: npt.NDArray[np.float64]) -> list[Any]:
        state = rule.batches[:, None, None], contexts[None, :, None], done[None, None, :]
        table: list[Any] = safe_chunks(calibration, *state, rule.tbt_limit_s, rule.chunks).tolist()
        return table

    table = {
        "batches": rule.batches.tolist(),
        "contexts": rule.contexts.tolist(),
        "done": done.tolist(),
        "chunk_tokens": chunks(kinds[0], rule.contexts),
    }
    if rule.kinds:
        table["kinds"] = [
            {"name": kind.name, "contexts": own.contexts.tolist(), "chunk_tokens": chunks(kind, own.contexts)}
            for kind, own in zip(kinds, rule.kinds, strict=True)
        ]
    return table


def _judged(outcomes: dict[str, Any]) -> dict[str, Any]:
    """Return the predicted metrics of each candidate of stage 3, those of its worst scenario."""
    table = {}
    for name, found in outcomes.items():
        worst = max(found, key=lambda one: one.p95_ttft_s)
        table[name] = worst._asdict()
    return table


def _static_prediction(split: StaticSplit) -> dict[str, Any]:
    """Return what stage 1 says of the static split: an upper estimate, since thresholds see the backlog."""
    rate = float(np.sum(split.problem.bins.rate_per_s))
    return {
        "method": "static split, M/G/1 pools",
        "metrics": {"mean_time_to_prefill_end_s": split.cost / rate, "deflected_share": split.deflected_share},
        "error_estimate": {},
    }

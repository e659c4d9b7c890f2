"""Fit a serving system's own family of rules to a plan's workload, by simulation, and say what it loses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.io.calibrations import load_calibration
from qmodel.io.emit import TARGETS, Settings, Target
from qmodel.policies import StaticLength
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.scenario.cluster import CLUSTER_OPTIONS
from qmodel.scenario.plan import Plan
from qmodel.simulation import SimulationResult, simulate

__all__ = ["fit_settings", "policy_of", "scenario_of"]

# What is tried of each setting: prompt tokens, token budgets of prefill backlog, used share of the decode cache.
LENGTHS = (1, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
PREFILL_BUSY = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
DECODE_BUSY = (1.0, 0.9, 0.75, 0.5, 0.3)
# TBT attainment given up before a setting counts as worse, whatever its TTFT.
TBT_TOLERANCE = 0.002
REQUESTS = 5000  # of one simulated run, as in a plan's check


def scenario_of(plan: Plan) -> tuple[Cluster, Workload, SLO]:
    """Return the cluster, workload and SLO of a plan, from what its file says.

    Parameters
    ----------
    plan : Plan
        A plan; clusters with several GPU types cannot be rebuilt.

    Returns
    -------
    tuple
        Cluster, workload (its compact model at the plan's rate) and SLO.

    Raises
    ------
    InputError
        When the cluster mixes calibrations or has one of its own, or the plan has no workload model.
    """
    return _cluster_of(plan), _workload_of(plan), plan.slo


def _cluster_of(plan: Plan) -> Cluster:
    about = plan.cluster
    names = {entry["name"] for entry in about["calibrations"]}
    if len(names) != 1:
        raise InputError(
            "cluster of the plan", ", ".join(sorted(names)), "of one calibration", "give the cluster itself"
        )
    calibration = load_calibration(about["model"], about["gpu"], tp=int(about["tp"]))
    if calibration.fingerprint != about["calibrations"][0]["sha256"]:
        what = f"calibration of the plan, {calibration.name},"
        raise InputError(what, "another than the shipped one", "the same", "give the cluster itself, or plan again")
    return Cluster(
        prefill=int(about["prefill"]),
        decode=int(about["decode"]),
        calibration=calibration,
        **{name: about[name] for name in CLUSTER_OPTIONS if name in about},
    )


def _workload_of(plan: Plan) -> Workload:
    if not plan.workload.get("model"):
        raise InputError("workload model of the plan", "missing", remedy="give --workload")
    return Workload.from_model(plan.workload["model"]).at_rate(float(plan.workload["rate_per_s"]))


def fit_settings(
    plan: Plan,
    target: Target,
    workload: Workload | None = None,
    requests: int = REQUESTS,
    cluster: Cluster | None = None,
) -> Settings:
    """Return the best settings of a system's family for a plan's workload, with their loss against the plan.

    Parameters
    ----------
    plan : Plan
        Full plan.
    target : {"dynamo", "llm-d", "trtllm", "vllm", "prometheus"}
        System.
    workload : Workload, optional
        Traffic to fit to; the plan's own model by default.
    requests : int
        Requests of one simulated run.
    cluster : Cluster, optional
        The plan's own by default.

    Returns
    -------
    Settings
        Values, notes and simulated loss.

    Raises
    ------
    InputError
        When the target is unknown, or the plan's scenario cannot be rebuilt.
    """
    if target not in TARGETS:
        raise InputError("target", repr(target), f"one of {', '.join(TARGETS)}", "e.g. dynamo")
    cluster = _cluster_of(plan) if cluster is None else cluster
    workload = _workload_of(plan) if workload is None else workload
    family = _Family(plan, cluster, workload, requests)
    fits = {"dynamo": _dynamo, "llm-d": _llm_d, "trtllm": _trtllm, "vllm": _vllm, "prometheus": _prometheus}
    return fits[target](family)


def policy_of(settings: Settings) -> StaticLength:
    """Return the policy that a system applies with some settings.

    Parameters
    ----------
    settings : Settings
        Of Dynamo, llm-d or TensorRT-LLM.

    Returns
    -------
    StaticLength
        The vendor's predicate.

    Raises
    ------
    InputError
        When the target routes nothing.
    """
    values = settings.values
    if settings.target == "dynamo":
        names = ("eff_isl_threshold", "eff_isl_ratio_threshold", "prefill_busy_threshold", "decode_busy_threshold")
        return StaticLength.dynamo(values["policy"], *(values[name] for name in names))
    if settings.target == "llm-d":
        return StaticLength.llm_d(values["nonCachedTokens"], values["promptTokens"])
    if settings.target == "trtllm":
        return StaticLength.trtllm(values["max_local_prefill_length"])
    raise InputError("target", repr(settings.target), "dynamo, llm-d or trtllm", "the others do not route")


class _Family:
    """Simulates candidates of one family on the same requests and picks the best by the plan's objective."""

    def __init__(self, plan: Plan, cluster: Cluster, workload: Workload, requests: int) -> None:
        self.plan, self.cluster = plan, cluster
        count = min(requests, len(workload.requests())) if workload.kind == "trace" else requests
        self.requests = workload.requests(seed=0, count=count)
        self.full = self.run(plan)

    def run(self, policy: Any) -> SimulationResult:
        return simulate(self.cluster, self.requests, self.plan.slo, policy)

    def best(self, candidates: Mapping[Any, StaticLength]) -> tuple[Any, SimulationResult]:
        """Return key and result of the best candidate; losing TBT attainment is worse than any TTFT."""
        results = {key: self.run(policy) for key, policy in candidates.items()}
        kept = max(result.tbt_attainment for result in results.values()) - TBT_TOLERANCE
        return min(results.items(), key=lambda item: (item[1].tbt_attainment < kept, self.score(item[1])))

    def score(self, result: SimulationResult) -> float:
        if self.plan.objective in ("slo", "goodput"):
            return -result.slo_attainment
        if self.plan.objective == "mean":
            return float(np.mean(result.requests["ttft_s"]))
        return result.ttft_s(0.95)

    def loss(self, result: SimulationResult) -> dict[str, float]:
        return {
            "p95_ttft_ratio": result.ttft_s(0.95) / self.full.ttft_s(0.95),
            "slo_attainment_lost": self.full.slo_attainment - result.slo_attainment,
        }


def _searched(count: int, what: str) -> str:
    return f"{what}: the best of {count} simulated candidates for the plan's objective."


def _dynamo(family: _Family) -> Settings:
    def policy(busy: float, veto: float, tokens: int = 0, ratio: float = 1.0) -> StaticLength:
        return StaticLength.dynamo("isl_or_load", tokens, ratio, busy, veto)

    (busy, _), _ = family.best({(busy, 1.0): policy(busy, 1.0) for busy in PREFILL_BUSY})
    (busy, veto), result = family.best({(busy, veto): policy(busy, veto) for veto in DECODE_BUSY})
    values: dict[str, Any] = {"policy": "prefill_load", "eff_isl_threshold": 0, "eff_isl_ratio_threshold": 1.0}
    tried = len(PREFILL_BUSY) + len(DECODE_BUSY)
    if np.any(family.requests.cached_tokens > 0):
        tokens, by_length = family.best({n: policy(busy, veto, n) for n in LENGTHS})
        tried += len(LENGTHS)
        if family.score(by_length) < family.score(result):
            result = by_length
            values |= {"policy": "isl_or_load", "eff_isl_threshold": int(tokens)}
    values |= {"prefill_busy_threshold": float(busy), "decode_busy_threshold": float(veto)}
    return Settings(
        target="dynamo",
        values=values,
        notes=(_searched(tried, "prefill_busy_threshold and decode_busy_threshold"),),
        loss=family.loss(result),
    )


def _llm_d(family: _Family) -> Settings:
    tokens, result = family.best({n: StaticLength.llm_d(n) for n in LENGTHS})
    note = _searched(len(LENGTHS), "nonCachedTokens") + " 1 sends every prompt to prefill; 0 would send none."
    return Settings(
        target="llm-d",
        values={"nonCachedTokens": int(tokens), "promptTokens": 0},
        notes=(note,),
        loss=family.loss(result),
    )


def _trtllm(family: _Family) -> Settings:
    lengths = (0, *LENGTHS[1:])
    tokens, result = family.best({n: StaticLength.trtllm(n) for n in lengths})
    notes = (
        _searched(len(lengths), "max_local_prefill_length"),
        "The loss is that of the length for every prompt; TensorRT-LLM itself keeps prompts without any cached prefix "
        "disaggregated, whatever their length.",
    )
    return Settings(
        target="trtllm", values={"max_local_prefill_length": int(tokens)}, notes=notes, loss=family.loss(result)
    )


def _vllm(family: _Family) -> Settings:
    """Return the chunk of the decode instances: the length rule is llm-d's best, the token budget is searched."""
    tokens = int(_llm_d(family).values["nonCachedTokens"])
    residents = int(np.ceil(family.plan.split["decode_batch"]))
    chunks = sorted({c for c in family.plan.dispatch_rule.chunks if c % 256 == 0 or c == 128})
    candidates = {
        c: StaticLength(max_local_prefill_tokens=max(tokens, 2), chunks=None, token_budget=c + residents)
        for c in chunks
    }
    chunk, result = family.best(candidates)
    notes = (
        _searched(len(chunks), "The chunk"),
        f"Hosted prompts: below {max(tokens, 2)} uncached tokens; {residents} residents in the mean state.",
    )
    return Settings(
        target="vllm",
        values={"max-num-batched-tokens": int(chunk) + residents, "long-prefill-token-threshold": int(chunk)},
        notes=notes,
        loss=family.loss(result),
    )


def _prometheus(family: _Family) -> Settings:
    return Settings(
        target="prometheus",
        values={"predicted_p95_ttft_s": round(family.full.ttft_s(0.95), 6)},
        notes=("The predicted P95 TTFT is the plan's, simulated on its workload.",),
    )

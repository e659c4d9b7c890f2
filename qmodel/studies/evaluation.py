"""The evaluation: every policy in every cell, SLO and condition, planned on one half of a cell and run on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qmodel.io.emit import Target
from qmodel.io.traces import shared_data
from qmodel.studies.evaluation_cases import (
    CONDITIONS,
    EXTRA_PANELS,
    MODELS,
    Condition,
    Source,
    case_of,
    condition_named,
    foreign_workload,
)
from qmodel.studies.panels import CELLS, SWEEP
from qmodel.studies.sweep import run_grid

if TYPE_CHECKING:
    from pandas import DataFrame

    from qmodel.scenario.plan import Plan
    from qmodel.studies.comparison import Progress

__all__ = ["FULL_SEEDS", "POLICIES", "VENDORS", "evaluate", "evaluation_grid", "run_row", "source_of"]

POLICIES = (
    "disaggregated",
    "disaggregated, plan's order",
    "kairos",
    "kairos, plan's order",
    "earliest completion",
    "earliest completion, plan's order",
    "thresholds at dispatch",
    "thresholds",
)
# Under other conditions the order of the queue is no question.
CONDITION_POLICIES = tuple(name for name in POLICIES if not name.endswith("plan's order"))
# What each system ships, with its best settings for the planning half.
VENDORS = ("dynamo", "llm-d", "trtllm")
TTFT_SLOS = ("1 s", "5 x zero load")
TBT_SLOS_S = (0.060, 0.100)
FULL_SEEDS = 5
QUICK_SEEDS = 2
QUICK_CONDITIONS = (
    "decode instance down 60 s",
    "signals 1 s old",
    "prefill law +20 %, decode law -20 %",
    "plan of bursty",
)
# SLOs of the rows with faults, wrong signals, laws, rates and plans.
BASE_SLOS = ("1 s", 0.060)


def source_of() -> Source:
    """Return where requests come from: the shared traces where they are found, built-in models otherwise."""
    return "built-in models" if shared_data() is None else "shared traces"


def evaluation_grid(
    *,
    full: bool = False,
    vendors: bool = False,
    source: Source | None = None,
    models: Iterable[str] = MODELS,
    seeds: int | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of the evaluation, each one simulated run; the seed varies fastest, then the policy.

    Parameters
    ----------
    full : bool
        Every cell, SLO, model and condition; otherwise the five panels at one load, one model and a few conditions.
    vendors : bool
        Whether to add each vendor's static rule, with its best settings for the planning half.
    source : {"shared traces", "built-in models"}, optional
        Where requests come from; found by itself when absent.
    models : iterable of str
        Some of `evaluation_cases.MODELS`; used in full.
    seeds : int, optional
        Replications, paired between policies; 5 in full, 2 otherwise.

    Returns
    -------
    list of dict
        JSON values; cells of `run_grid`.
    """
    from qmodel.studies.scenes import source_digest

    origin = source_of() if source is None else source
    count = seeds or (FULL_SEEDS if full else QUICK_SEEDS)
    policies: tuple[str, ...] = (*POLICIES, *VENDORS) if vendors else POLICIES
    rows = []
    for where in _full_settings(tuple(models)) if full else _quick_settings():
        shown: tuple[str, ...] = policies if (where["ttft_slo"], where["tbt_slo_s"]) == BASE_SLOS else POLICIES
        shown = shown if where["condition"] == CONDITIONS[0].name else CONDITION_POLICIES
        rows += [
            {"source": origin, "code": source_digest()[:12], **where, "policy": policy, "seed": seed}
            for policy in shown
            for seed in range(count)
        ]
    return rows


def _quick_settings() -> Iterable[dict[str, Any]]:
    base = {"model": MODELS[0], "ttft_slo": BASE_SLOS[0], "tbt_slo_s": BASE_SLOS[1]}
    for cell in CELLS:
        if cell.sweep == 0.9:
            yield {**base, "panel": cell.panel, "sweep": cell.sweep, "condition": CONDITIONS[0].name}
    for name in QUICK_CONDITIONS:
        yield {**base, "panel": "HH", "sweep": 0.9, "condition": name}


def _full_settings(models: Iterable[str]) -> Iterable[dict[str, Any]]:
    places = [(cell.panel, cell.sweep) for cell in CELLS] + [(name, t) for name in EXTRA_PANELS for t in SWEEP]
    for model in models:
        for panel, sweep in places:
            where = {"model": model, "panel": panel, "sweep": sweep}
            for ttft in TTFT_SLOS:
                for tbt in TBT_SLOS_S:
                    yield {**where, "ttft_slo": ttft, "tbt_slo_s": tbt, "condition": CONDITIONS[0].name}
            if model != MODELS[0] or panel in EXTRA_PANELS:
                continue
            for condition in CONDITIONS[1:]:
                yield {**where, "ttft_slo": BASE_SLOS[0], "tbt_slo_s": BASE_SLOS[1], "condition": condition.name}


def evaluate(
    rows: list[dict[str, Any]],
    output: str | Path | None = None,
    workers: int | None = 1,
    progress: Progress | None = None,
) -> DataFrame:
    """Run the evaluation and return its tidy table; with an output, a stopped run goes on where it stopped.

    Parameters
    ----------
    rows : list of dict
        From `evaluation_grid`.
    output : str or Path, optional
        Table to write, .csv or .parquet; a journal lies beside it until it is complete.
    workers : int, optional
        Processes; rows of one plan are best run by one.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    DataFrame
        One row per run: source, code, model, panel, sweep, SLOs, condition, policy, seed, hashes of what was planned
        on and what was run, requests, metrics (times in seconds), ``error``.
    """
    import pandas as pd

    return pd.DataFrame(run_grid(run_row, rows, output=output, workers=workers, progress=progress))


def run_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of one row of the evaluation.

    Parameters
    ----------
    row : mapping
        From `evaluation_grid`.

    Returns
    -------
    dict
        Hashes, SLOs in seconds, number of requests and metrics.
    """
    from qmodel.simulation import simulate
    from qmodel.studies.metrics import measure

    source = cast(Source, row["source"])
    case = case_of(source, str(row["model"]), str(row["panel"]), float(row["sweep"]))
    condition = condition_named(str(row["condition"]))
    slo = case.slo(str(row["ttft_slo"]), float(row["tbt_slo_s"]))
    policy, planned = _policy(row, condition)
    run = case.run if condition.rate == 1.0 else case.run.at_rate(case.run.rate_per_s * condition.rate)
    result = simulate(
        condition.real(case.cluster),
        run,
        slo,
        policy,
        seed=int(row["seed"]),
        signals=condition.signals(case.cluster),
        faults=condition.faults(run.span_s),
    )
    return {
        "ttft_slo_s": slo.ttft_s,
        "planned_on": planned,
        "run_on": run.fingerprint[:16],
        "requests": result.count,
        **measure(result),
        "goodput_per_s": result.goodput_per_s,
    }


def _policy(row: Mapping[str, Any], condition: Condition) -> tuple[Any, str]:
    """Return the policy of a row, and the hash of what it was planned on."""
    from qmodel import policies

    plain: Mapping[str, Callable[..., Any]] = {
        "disaggregated": policies.Disaggregated,
        "kairos": policies.Kairos,
        "earliest completion": policies.EarliestCompletion,
    }
    name, _, ordered = str(row["policy"]).partition(", ")
    if name in plain and not ordered:
        return plain[name](), ""
    settings = row["source"], row["model"], row["panel"], row["sweep"], row["ttft_slo"], row["tbt_slo_s"]
    planning = condition.planned_on or "", condition.prefill_laws, condition.decode_laws
    plan: Plan = _plan(*settings, *planning)
    planned = str(plan.workload["fingerprint"])[:16]
    if name in plain:
        return plain[name](order=plan.rule.order, ageing_per_s=plan.rule.ageing_per_s), planned
    if name in VENDORS:
        return _vendor(settings, cast(Target, name)), planned
    return (policies.Thresholds(plan.dispatch_rule) if name == "thresholds at dispatch" else plan.policy()), planned


@lru_cache(maxsize=4)
def _plan(
    source: Source,
    model: str,
    panel: str,
    sweep: float,
    ttft: str,
    tbt_s: float,
    trace: str,
    prefill_laws: float,
    decode_laws: float,
) -> Plan:
    """Return the plan made for a cell's first half, or for another trace, with laws that may be wrong."""
    from qmodel.studies.thresholds import derive_thresholds

    case = case_of(source, model, panel, sweep)
    condition = Condition(name="", family="laws", prefill_laws=prefill_laws, decode_laws=decode_laws)
    cluster = condition.believed(case.cluster)
    workload = case.planned if not trace else foreign_workload(source, trace, case.load_prefill, case.cluster)
    return derive_thresholds(cluster, workload, case.slo(ttft, tbt_s))


@lru_cache(maxsize=8)
def _vendor(settings: tuple[Any, ...], target: Target) -> Any:
    """Return a system's own rule with its best settings for the planning half."""
    from qmodel.studies.emission import fit_settings, policy_of

    plan, case = _plan(*settings, "", 1.0, 1.0), case_of(*settings[:4])
    return policy_of(fit_settings(plan, target, workload=case.planned, cluster=case.cluster))

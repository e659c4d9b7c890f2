"""Derive a deflection plan and check it by simulation against the alternatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qmodel.errors import InputError
from qmodel.policies.rule import Binding, Order
from qmodel.studies.comparison import Comparison, Progress, compare
from qmodel.studies.metrics import measure

if TYPE_CHECKING:
    from qmodel.optimization.plan import Plan
    from qmodel.scenario import SLO, Cluster, Workload

__all__ = ["CheckedPlan", "Objective", "check_plan", "derive_thresholds"]

Objective = Literal["p95", "slo", "mean", "goodput"]
Effort = Literal["none", "normal", "high"]
BASELINES = ("disaggregated", "kairos", "earliest completion")
PLAN = "thresholds"
DISPATCH = "thresholds at dispatch"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckedPlan:
    """A plan with the comparison that checked it.

    Parameters
    ----------
    plan : Plan
        The plan, its simulated metrics and warnings filled in.
    comparison : Comparison
        Every policy on the same arrivals.
    predicted : dict
        Policy to predicted metrics, where the model covers the policy.
    """

    plan: Plan
    comparison: Comparison
    predicted: dict[str, dict[str, float]]


def derive_thresholds(
    cluster: Cluster,
    workload: Workload,
    slo: SLO | Sequence[SLO],
    objective: Objective = "p95",
    binding: Binding | Literal["auto"] = "auto",
    order: Order | Literal["auto"] = "auto",
    confirm: bool = False,
    seeds: Iterable[int] = range(5),
    requests: int | None = None,
    draws: int = 0,
    effort: Effort = "normal",
    robust: bool | Sequence[Workload] = False,
    chunk_cap: int | None = None,
) -> Plan:
    """Return the deflection plan for a cluster, a workload and an SLO.

    Parameters
    ----------
    cluster : Cluster
        Instances and network.
    workload : Workload
        Where requests come from.
    slo : SLO or sequence of SLO
        Objectives; with several, one per SLO class of the workload's requests.
    objective : {"p95", "slo", "mean", "goodput"}
        What to optimise; "p95" is the lowest P95 TTFT among plans whose attainment is not below Kairos'.
    binding : {"auto", "dispatch", "late"}
        When requests are bound to an instance.
    order : {"auto", "fcfs", "spf", "aged", "due"}
        Order of the prefill queue.
    confirm : bool
        Whether to add the simulated check against the alternatives.
    seeds, requests : optional
        Runs of the check, as in `compare`.
    draws : int
        Calibrations to draw from the uncertainty of their fit, for the plan's `calibration_interval`; 0 for none.
    effort : {"none", "normal", "high"}
        How many candidates stage 3 judges with the numerical model; with "none" queues go shortest first.
    robust : bool or sequence of Workload
        Judge candidates by the worst of a scenario set: rate +-30 %, laws +-20 %, and these workloads if given.
    chunk_cap : int, optional
        Largest chunk that a decode instance hosts in a step [tokens]; by default 2,048, and with effort "high" caps of
        512 and 1,024 are judged too.

    Returns
    -------
    Plan
        Thresholds, prices and, when confirmed, simulated metrics with intervals.

    Raises
    ------
    InfeasibleError
        When no plan meets the constraints; the message names the binding one and the nearest feasible value.
    InputError
        When a request is longer than an instance's KV capacity, or an option is unknown.
    """
    from qmodel.optimization.plan import derive_plan
    from qmodel.scenario.limits import check_kv_capacity

    check_kv_capacity(cluster, workload)
    plan = derive_plan(
        cluster, workload, slo, objective=objective, binding=binding, order=order, effort=effort, robust=robust,
        chunk_cap=chunk_cap,
    )  # fmt: skip
    if draws:
        from qmodel.studies.uncertainty import with_calibration_interval

        plan = with_calibration_interval(plan, cluster, workload, plan.slo, draws)
    return check_plan(plan, cluster, workload, slo, seeds, requests).plan if confirm else plan


def check_plan(
    plan: Plan,
    cluster: Cluster,
    workload: Workload,
    slo: SLO | Sequence[SLO],
    seeds: Iterable[int] = range(5),
    requests: int | None = None,
    progress: Progress | None = None,
) -> CheckedPlan:
    """Simulate a plan beside never deflecting, Kairos and earliest completion, and say whether it wins.

    Rivals serve their queues first come first served, as they are published; a plan with another order is also
    compared with Kairos under that order, which shows what the order alone is worth.

    Parameters
    ----------
    plan : Plan
        Plan to check.
    cluster, workload, slo
        What it was derived for, or something else to try it on.
    seeds : iterable of int, optional
        Replications.
    requests : int, optional
        Requests per run; the workload's own number by default.
    progress : callable, optional
        As in `compare`.

    Returns
    -------
    CheckedPlan
        The plan with simulated metrics, and a warning for each rival that it does not beat.
    """
    from qmodel.policies import Disaggregated, EarliestCompletion, Kairos, Thresholds

    policies: dict[str, Any] = {
        "disaggregated": Disaggregated(),
        "kairos": Kairos(),
        "earliest completion": EarliestCompletion(),
    }
    order = plan.rule.order
    if order != "fcfs":  # like with like: how much of the gain is the order of the queue alone
        policies[f"kairos, {order} order"] = Kairos(order=order)
    if plan.rule.binding == "late":
        policies[DISPATCH] = Thresholds(plan.dispatch_rule)
    policies[PLAN] = plan.policy()
    comparison = compare(cluster, workload, slo, policies, seeds, requests, progress)
    predicted = _predictions(cluster, workload, slo, policies, comparison)
    simulated = comparison.to_dict() | {"requests_option": requests}
    return CheckedPlan(
        plan=plan.with_simulated(simulated, _lost_to(comparison)),
        comparison=comparison,
        predicted=predicted,
    )


def _predictions(
    cluster: Cluster,
    workload: Workload,
    slo: SLO | Sequence[SLO],
    policies: dict[str, Any],
    comparison: Comparison,
) -> dict[str, dict[str, float]]:
    """Return predicted metrics of each policy that the model covers, over the same arrivals as the simulation."""
    from qmodel.scenario import SLO
    from qmodel.studies.replay import replayed
    from qmodel.system import predict

    if not isinstance(slo, SLO):  # the queueing model knows one class
        return {}
    seeds = comparison.seeds[:1] if workload.kind == "poisson" else comparison.seeds
    arrivals = [replayed(workload, seed, comparison.requests) for seed in seeds]
    predicted = {}
    for name, policy in policies.items():
        try:
            runs = [measure(predict(cluster, same, slo, policy)) for same in arrivals]
        except InputError:  # a policy that the queueing model does not cover
            continue
        predicted[name] = {metric: float(np.mean([run[metric] for run in runs])) for metric in runs[0]}
    return predicted


def _lost_to(comparison: Comparison) -> list[str]:
    """Return a sentence for each rival that the plan does not beat in P95 TTFT, or loses attainment to."""
    lines = []
    for rival in BASELINES:
        try:
            ratio, half = comparison.ratio(PLAN, rival, "p95_ttft_s")
        except InputError:  # pragma: no cover - a P95 TTFT of 0 needs empty laws
            continue
        if ratio + half >= 1:
            lines.append(f"P95 TTFT is {ratio:.2f} ±{half:.2f} times that of {rival}: no gain is shown")
        for name, text in (("slo_attainment", "SLO attainment"), ("tbt_attainment", "TBT attainment")):
            lost = comparison.mean(rival, name) - comparison.mean(PLAN, name)
            if lost > ATTAINMENT_TOLERANCE:
                lines.append(f"{text} is {100 * lost:.1f} points below {rival}")
    return lines


ATTAINMENT_TOLERANCE = 0.002  # 0.2 points, the margin of the evaluation protocol

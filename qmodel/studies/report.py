"""Reports of plans and comparisons: one page with an answer, why it is so, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qmodel.errors import QModelError
from qmodel.io.page import Block, Cards, Figure, List, Section, Table, Text, render_page
from qmodel.policies.rule import ORDER_WORDS
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.studies.capacity_search import ATTAINMENT, PLAN_POLICY
from qmodel.studies.comparison import Comparison, Progress
from qmodel.studies.listings import split_listing, threshold_listing
from qmodel.studies.report_parts import (
    Origin,
    calibration_warnings,
    comparison_blocks,
    footer,
    predicted_laws,
    provenance_section,
    sensitivity_section,
    warnings_section,
    workload_section,
)
from qmodel.studies.thresholds import DISPATCH, PLAN, CheckedPlan
from qmodel.units import format_duration, format_share

if TYPE_CHECKING:
    from qmodel.scenario.plan import Plan

__all__ = ["Origin", "comparison_report", "plan_report"]

PLAN_SPLITS, PLAN_RATES = 5, 6  # under the plan every cell derives one of its own, in some .13 s
_BINDINGS = {"dispatch": "when they arrive", "late": "late, when an instance falls idle"}


def plan_report(
    plan: Plan,
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    checked: CheckedPlan | None = None,
    origin: Origin | None = None,
    progress: Progress | None = None,
) -> str:
    """Return the page of a deflection plan.

    Parameters
    ----------
    plan : Plan
        From `derive_thresholds`.
    cluster, workload, slo
        What it was derived for.
    checked : CheckedPlan, optional
        Its simulated check.
    origin : Origin, optional
        Command, options and notices.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    str
        HTML.
    """
    comparison = checked.comparison if checked else None
    sections = [_plan_answer(plan, comparison), _thresholds_section(plan)]
    if checked is not None:
        laws = predicted_laws(cluster, workload, slo, _policies(checked.plan), checked.comparison)
        blocks = comparison_blocks(checked.comparison, checked.predicted, laws, slo, PLAN)
        sections.append(Section(title="Alternatives", blocks=blocks))
    sections += [
        workload_section([(workload, 1.0)], cluster),
        _plan_maps(cluster, workload, slo, progress),
        sensitivity_section(cluster, workload, slo, plan.policy()),
        warnings_section((*plan.warnings, *calibration_warnings(cluster))),
        provenance_section(
            origin or Origin(options=plan.options),
            cluster,
            [workload],
            comparison.seeds if comparison else (),
            comparison.requests if comparison else None,
        ),
    ]
    where = f"{plan.cluster['model']} on {plan.cluster['name']} {str(plan.cluster['gpu']).upper()}"
    limits = f"TTFT within {format_duration(slo.ttft_s)}, time between tokens within {format_duration(slo.tbt_s)}"
    subtitle = f"{where} · {workload.name} at load {workload.load(cluster):.2f} · {limits}"
    return render_page("When to deflect prefill", subtitle, sections, footer())


def _policies(plan: Plan) -> dict[str, Any]:
    """Return the policies that `check_plan` compared, by name."""
    from qmodel.policies import Disaggregated, EarliestCompletion, Kairos, Thresholds

    order = plan.rule.order
    return {
        "disaggregated": Disaggregated(),
        "kairos": Kairos(),
        "earliest completion": EarliestCompletion(),
        f"kairos, {order} order": Kairos(order=order),
        DISPATCH: Thresholds(plan.dispatch_rule),
        PLAN: plan.policy(),
    }


def _plan_answer(plan: Plan, comparison: Comparison | None) -> Section:
    rule = plan.rule
    how = f"Bind requests {_BINDINGS[rule.binding]}; serve the prefill queue {ORDER_WORDS[rule.order]}."
    blocks: list[Block] = []
    if comparison is not None:
        ours = {name: comparison.mean(PLAN, name) for name in comparison.values[PLAN]}

        def rivals(metric: str, show: Any) -> str:
            named = [name for name in comparison.policies if name in ("disaggregated", "kairos")]
            return ", ".join(f"{name} {show(comparison.mean(name, metric))}" for name in named)

        items = [
            ("P95 time to first token", format_duration(ours["p95_ttft_s"]), rivals("p95_ttft_s", format_duration)),
            ("SLO met", format_share(ours["slo_attainment"]), rivals("slo_attainment", format_share)),
            ("P99 time to first token", format_duration(ours["p99_ttft_s"]), rivals("p99_ttft_s", format_duration)),
            ("Requests deflected", format_share(ours["deflected_share"]), rivals("deflected_share", format_share)),
        ]
        blocks.append(Cards(items=items))
        verdict = "Simulation confirms the plan" if plan.better else "Simulation does not confirm a gain: see Warnings"
        blocks.append(Text(text=f"{how} {verdict}."))
    else:
        blocks.append(Text(text=f"{how} The plan was not checked by simulation."))
    blocks.append(List(lines=plan.shadow_price_sentences()))
    return Section(title="Answer", blocks=blocks)


def _thresholds_section(plan: Plan) -> Section:
    from qmodel.plotting.report import svg_of, thresholds_figure

    table, split = threshold_listing(plan.threshold_table()), split_listing(plan.split_table())
    intro = (
        "A prompt is deflected when the backlog of the prefill instance it would join exceeds its threshold. "
        "The threshold grows with the deflected work v that already waits at the decode instance."
    )
    return Section(
        title="Thresholds",
        blocks=[
            Text(text=intro),
            Figure(svg=svg_of(thresholds_figure(plan)), alt="Threshold by prompt length and backlog at decode"),
            Table(columns=table.columns, rows=table.rows, caption="Deflect when the prefill backlog exceeds"),
            Table(columns=split.columns, rows=split.rows, caption="The static split behind the prices", folded=True),
        ],
    )


def _plan_maps(cluster: Cluster, workload: Workload, slo: SLO, progress: Progress | None) -> Section:
    """Return the feasibility maps of the cluster's GPUs: without deflection, and under the plan of each cell."""
    from qmodel.plotting.capacity import capacity_figure
    from qmodel.plotting.report import svg_of
    from qmodel.studies.capacity_map import MOST_SPLITS, RATES, capacity_map

    blocks: list[Block] = [
        Text(text=f"What each split of the {cluster.gpus} GPUs serves at which rate; the star is this cluster now.")
    ]
    maps = (
        (None, MOST_SPLITS, RATES, "without deflection"),
        (PLAN_POLICY, PLAN_SPLITS, PLAN_RATES, "with the plan of each split and rate"),
    )
    for policy, splits, rates, caption in maps:
        try:
            rows = capacity_map(
                cluster, workload, slo, cluster.gpus, workload.rate_per_s,
                policy=policy, most_splits=splits, most_rates=rates, progress=progress,
            )  # fmt: skip
        except QModelError as error:
            blocks.append(Text(text=f"No map {caption}: {error}."))
            continue
        picture = capacity_figure(rows, cluster.name, workload.rate_per_s, ATTAINMENT, caption)
        blocks.append(Figure(svg=svg_of(picture), alt=f"Feasibility map {caption}"))
    return Section(title="Feasibility map", blocks=blocks)


def comparison_report(
    comparison: Comparison,
    policies: Mapping[str, Any],
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    origin: Origin | None = None,
) -> str:
    """Return the page of a comparison of policies.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics.
    policies : mapping
        Name to policy.
    cluster, workload, slo
        What was simulated.
    origin : Origin, optional
        Command, options and notices.

    Returns
    -------
    str
        HTML.
    """
    laws = predicted_laws(cluster, workload, slo, policies, comparison)
    best = min(comparison.policies, key=lambda name: comparison.mean(name, "p95_ttft_s"))
    sections = [
        Section(title="Policies", blocks=comparison_blocks(comparison, {}, laws, slo, best)),
        workload_section([(workload, 1.0)], cluster),
        sensitivity_section(cluster, workload, slo, policies[best]),
        warnings_section(calibration_warnings(cluster)),
        provenance_section(origin or Origin(), cluster, [workload], comparison.seeds, comparison.requests),
    ]
    where = f"{cluster.calibration.model} on {cluster.name} · {workload.name} at load {workload.load(cluster):.2f}"
    return render_page("Policies compared", where, sections, footer())

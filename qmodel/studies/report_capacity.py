"""Report of a capacity answer: map, cost, predicted beside simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qmodel.io.page import Cards, Figure, Section, Table, Text, render_page
from qmodel.scenario import SLO, Workload
from qmodel.studies.capacity_search import PLAN_POLICY
from qmodel.studies.comparison import Progress, compare
from qmodel.studies.listings import capacity_listing, frontier_listing
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
from qmodel.units import format_duration, format_share

if TYPE_CHECKING:
    from qmodel.studies.capacity_answer import CapacityPlan

__all__ = ["capacity_report"]

LISTED = 60


def capacity_report(
    answer: CapacityPlan,
    parts: Sequence[tuple[Workload, float]],
    slo: SLO,
    rows: Sequence[Mapping[str, Any]],
    sizes: Sequence[Mapping[str, Any]],
    origin: Origin | None = None,
    progress: Progress | None = None,
) -> str:
    """Return the page of a capacity answer.

    Parameters
    ----------
    answer : CapacityPlan
        From `plan_capacity`.
    parts : sequence of (Workload, float)
        Its workloads and their shares of time.
    slo : SLO
        Limits.
    rows : sequence of mapping
        From `capacity_map`.
    sizes : sequence of mapping
        From `capacity_frontier`.
    origin : Origin, optional
        Command, options and notices.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    str
        HTML.
    """
    scale = answer.rate_per_s / (sum(w.rate_per_s * s for w, s in parts) / sum(s for _, s in parts))
    total = sum(s for _, s in parts)
    at_rate = [(w.at_rate(w.rate_per_s * scale), s / total) for w, s in parts]
    busiest = max((w for w, _ in at_rate), key=lambda w: w.rate_per_s)
    policy = {} if answer.policy == PLAN_POLICY else {answer.policy_name: answer.policy}
    sections = [_capacity_answer(answer), _map_section(answer, rows), _cost_section(answer, sizes)]
    if policy:
        comparison = compare(answer.cluster, busiest, slo, policy, answer.seeds, answer.requests, progress)
        laws = predicted_laws(answer.cluster, busiest, slo, policy, comparison)
        predicted = {answer.policy_name: answer.predicted} if answer.predicted and len(parts) == 1 else {}
        blocks = comparison_blocks(comparison, predicted, laws, slo)
        if len(parts) > 1:
            blocks.insert(0, Text(text=f"For {busiest.name}, the part with the highest rate."))
        sections.append(Section(title="Predicted and simulated", blocks=blocks))
    sections += [
        workload_section(at_rate, answer.cluster),
        sensitivity_section(answer.cluster, busiest, slo, None if answer.policy == PLAN_POLICY else answer.policy),
        warnings_section((*answer.notes, *calibration_warnings(answer.cluster))),
        provenance_section(origin or Origin(), answer.cluster, [w for w, _ in parts], answer.seeds, answer.requests),
    ]
    calibration = answer.cluster.calibration
    names = " and ".join(w.name for w, _ in parts)
    limits = f"TTFT within {format_duration(slo.ttft_s)}, time between tokens within {format_duration(slo.tbt_s)}"
    return render_page("How many GPUs", f"{calibration.model} · {names} · {limits}", sections, footer())


def _capacity_answer(answer: CapacityPlan) -> Section:
    met, half = answer.simulated["slo_attainment"], answer.half_widths["slo_attainment"]
    items = [
        ("Cluster", answer.name, f"{answer.gpus} GPUs, cost {answer.cost:g}"),
        ("Rate", f"{answer.rate_per_s:.4g}/s", f"{answer.rate_per_s / answer.gpus:.3g}/s per GPU"),
        ("SLO met", format_share(met, half), f"{100 * answer.attainment:g} % wanted"),
        ("P95 time to first token", format_duration(answer.simulated["p95_ttft_s"]), _predicted_note(answer)),
    ]
    nearest = sorted(answer.rows, key=lambda r: (abs(r["rate_per_s"] - answer.rate_per_s), r["cost"]))[:LISTED]
    found = capacity_listing(f"Clusters looked at ({len(nearest)} of {len(answer.rows)}, nearest rate first)", nearest)
    listed = Table(columns=found.columns, rows=found.rows, caption=found.title, folded=True)
    return Section(title="Answer", blocks=[Cards(items=items), Text(text=answer.sentence()), listed])


def _predicted_note(answer: CapacityPlan) -> str:
    if "p95_ttft_s" not in answer.predicted:
        return "not predicted"
    return f"predicted {format_duration(answer.predicted['p95_ttft_s'])}"


def _map_section(answer: CapacityPlan, rows: Sequence[Mapping[str, Any]]) -> Section:
    from qmodel.plotting.capacity import capacity_figure
    from qmodel.plotting.report import svg_of

    caption = "without deflection" if answer.policy is None else f"policy {answer.policy_name}"
    picture = capacity_figure(rows, answer.name, answer.rate_per_s, answer.attainment, caption)
    splits = {(row["prefill"], row["decode"]) for row in rows}
    most = max(row["prefill"] + row["decode"] for row in rows)
    text = (
        f"Splits of up to {most} instances ({len(splits)}), each predicted on one replay of the traffic; the star is "
        f"the answer, the mean of {len(answer.seeds)} simulated runs, so near the line the two may differ."
    )
    return Section(
        title="Feasibility map",
        blocks=[Text(text=text), Figure(svg=svg_of(picture), alt="Attainment by split and rate, goodput against rate")],
    )


def _cost_section(answer: CapacityPlan, sizes: Sequence[Mapping[str, Any]]) -> Section:
    from qmodel.plotting.capacity import frontier_figure
    from qmodel.plotting.report import svg_of

    found = frontier_listing(sizes, answer.rate_per_s)
    return Section(
        title="Cost",
        blocks=[
            Text(text="What each cost buys at best, predicted on one replay; the star is the simulated answer."),
            Figure(
                svg=svg_of(frontier_figure(sizes, answer.rate_per_s, answer.star())),
                alt="Cost against P95 TTFT and goodput",
            ),
            Table(columns=found.columns, rows=found.rows, caption="Pareto frontier"),
        ],
    )

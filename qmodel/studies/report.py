"""Reports: one self-contained page with an answer, why it is so, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qmodel.errors import QModelError
from qmodel.io.page import Block, Cards, Figure, List, Section, Table, Text, render_page
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.studies.capacity_search import PLAN_POLICY
from qmodel.studies.comparison import Comparison, Progress, compare
from qmodel.studies.report_parts import (
    Origin,
    comparison_blocks,
    duration,
    footer,
    predicted_laws,
    provenance_section,
    sensitivity_section,
    share,
    warnings_section,
    workload_section,
)
from qmodel.studies.thresholds import DISPATCH, PLAN, CheckedPlan

if TYPE_CHECKING:
    from qmodel.scenario.plan import Plan
    from qmodel.studies.capacity_answer import CapacityPlan

__all__ = ["Origin", "capacity_report", "comparison_report", "plan_report"]

NEVER_S = 86_400.0
PLAN_SPLITS, PLAN_RATES = 5, 6  # under the plan every cell derives one of its own, in some .6 s
LISTED = 60
_ORDERS = {"fcfs": "first come, first served", "spf": "shortest prefill first", "aged": "shortest first, with ageing"}
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
        warnings_section((*plan.warnings, *_calibration_warnings(cluster))),
        provenance_section(
            origin or Origin(options=plan.options),
            cluster,
            [workload],
            comparison.seeds if comparison else (),
            comparison.requests if comparison else None,
        ),
    ]
    where = f"{plan.cluster['model']} on {plan.cluster['name']} {str(plan.cluster['gpu']).upper()}"
    limits = f"TTFT within {duration(slo.ttft_s)}, time between tokens within {duration(slo.tbt_s)}"
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
    how = f"Bind requests {_BINDINGS[rule.binding]}; serve the prefill queue {_ORDERS[rule.order]}."
    blocks: list[Block] = []
    if comparison is not None:
        ours = {name: comparison.mean(PLAN, name) for name in comparison.values[PLAN]}

        def rivals(metric: str, show: Any) -> str:
            named = [name for name in comparison.policies if name in ("disaggregated", "kairos")]
            return ", ".join(f"{name} {show(comparison.mean(name, metric))}" for name in named)

        items = [
            ("P95 time to first token", duration(ours["p95_ttft_s"]), rivals("p95_ttft_s", duration)),
            ("SLO met", share(ours["slo_attainment"]), rivals("slo_attainment", share)),
            ("P99 time to first token", duration(ours["p99_ttft_s"]), rivals("p99_ttft_s", duration)),
            ("Requests deflected", share(ours["deflected_share"]), rivals("deflected_share", share)),
        ]
        blocks.append(Cards(items=items))
        verdict = "Simulation confirms the plan" if plan.better else "Simulation does not confirm a gain: see Warnings"
        blocks.append(Text(text=f"{how} {verdict}."))
    else:
        blocks.append(Text(text=f"{how} The plan was not checked by simulation."))
    blocks.append(List(lines=plan.shadow_price_sentences()))
    return Section(title="Answer", blocks=blocks)


def _threshold(seconds: float) -> str:
    if seconds <= 0:
        return "always"
    return "never" if seconds >= NEVER_S else duration(seconds)


def _thresholds_section(plan: Plan) -> Section:
    from qmodel.plotting.report import svg_of, thresholds_figure

    table = plan.threshold_table()
    rows = [
        [f"{tokens:,.0f}", *(_threshold(t) for t in row)]
        for tokens, row in zip(table["prompt_tokens"], table["threshold_s"], strict=True)
    ]
    columns = ["prompt tokens", *(f"v = {duration(v)}" for v in table["decode_backlog_s"])]
    intro = (
        "A prompt is deflected when the backlog of the prefill instance it would join exceeds its threshold. "
        "The threshold grows with the deflected work v that already waits at the decode instance."
    )
    split = plan.split_table()
    bins = [
        [
            f"{row['prompt_tokens']:,.0f}",
            share(row["share_of_requests"]),
            share(row["kept"]),
            *(duration(row[name]) for name in ("prefill_s", "transfer_s", "host_s")),
        ]
        for row in split["bins"]
    ]
    heads = ["prompt tokens", "of requests", "kept at prefill", "prefill work", "transfer", "host time"]
    return Section(
        title="Thresholds",
        blocks=[
            Text(text=intro),
            Figure(svg=svg_of(thresholds_figure(plan)), alt="Threshold by prompt length and backlog at decode"),
            Table(columns=columns, rows=rows, caption="Deflect when the prefill backlog exceeds"),
            Table(columns=heads, rows=bins, caption="The static split behind the prices", folded=True),
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
        picture = capacity_figure(rows, cluster.name, workload.rate_per_s, 0.95, caption)
        blocks.append(Figure(svg=svg_of(picture), alt=f"Feasibility map {caption}"))
    return Section(title="Feasibility map", blocks=blocks)


def _calibration_warnings(cluster: Cluster) -> list[str]:
    """Return what the calibrations say of themselves, and that kernels alone are optimistic."""
    lines = []
    for c in dict.fromkeys((*cluster.prefill_calibrations, *cluster.decode_calibrations)):
        if c.engine is None:
            lines.append(
                f"The laws of {c.name} are composed from measured kernels, without the host's overhead: correct them "
                "with measurements of your own engine (qmodel calibrate --measured) before trusting a few per cent."
            )
        lines += [
            f"{c.name}: {text}" for key, text in c.provenance.items() if "note" in key.lower() or "warn" in key.lower()
        ]
    return lines


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
        warnings_section((*answer.notes, *_calibration_warnings(answer.cluster))),
        provenance_section(origin or Origin(), answer.cluster, [w for w, _ in parts], answer.seeds, answer.requests),
    ]
    calibration = answer.cluster.calibration
    names = " and ".join(w.name for w, _ in parts)
    limits = f"TTFT within {duration(slo.ttft_s)}, time between tokens within {duration(slo.tbt_s)}"
    return render_page("How many GPUs", f"{calibration.model} · {names} · {limits}", sections, footer())


def _capacity_answer(answer: CapacityPlan) -> Section:
    verb = "serves" if answer.meets_slo else "does not serve"
    met, half = answer.simulated["slo_attainment"], answer.half_widths["slo_attainment"]
    items = [
        ("Cluster", answer.name, f"{answer.gpus} GPUs, cost {answer.cost:g}"),
        ("Rate", f"{answer.rate_per_s:.4g}/s", f"{answer.rate_per_s / answer.gpus:.3g}/s per GPU"),
        ("SLO met", share(met, half), f"{100 * answer.attainment:g} % wanted"),
        ("P95 time to first token", duration(answer.simulated["p95_ttft_s"]), _predicted_note(answer)),
    ]
    text = (
        f"{answer.name} {verb} {answer.rate_per_s:.4g} requests/s with the SLO kept for at least "
        f"{100 * answer.attainment:g} % of requests, policy {answer.policy_name}; mean of {len(answer.seeds)} "
        "simulated runs."
    )
    columns = ["cluster", "GPUs", "cost", "rate", "P95 TTFT", "SLO met, predicted", "SLO met, simulated"]
    rows = [
        [
            str(row["cluster"]),
            str(row["gpus"]),
            f"{row['cost']:g}",
            f"{row['rate_per_s']:.4g}/s",
            "-" if row["p95_ttft_s"] is None else duration(row["p95_ttft_s"]),
            *(
                "-" if row[name] is None else share(row[name])
                for name in ("predicted_attainment", "simulated_attainment")
            ),
        ]
        for row in sorted(answer.rows, key=lambda r: (abs(r["rate_per_s"] - answer.rate_per_s), r["cost"]))[:LISTED]
    ]
    caption = f"Clusters looked at ({min(LISTED, len(answer.rows))} of {len(answer.rows)}, nearest rate first)"
    return Section(
        title="Answer",
        blocks=[Cards(items=items), Text(text=text), Table(columns=columns, rows=rows, caption=caption, folded=True)],
    )


def _predicted_note(answer: CapacityPlan) -> str:
    if "p95_ttft_s" not in answer.predicted:
        return "not predicted"
    return f"predicted {duration(answer.predicted['p95_ttft_s'])}"


def _map_section(answer: CapacityPlan, rows: Sequence[Mapping[str, Any]]) -> Section:
    from qmodel.plotting.capacity import capacity_figure
    from qmodel.plotting.report import svg_of

    caption = "without deflection" if answer.policy is None else f"policy {answer.policy_name}"
    picture = capacity_figure(rows, answer.name, answer.rate_per_s, answer.attainment, caption)
    splits = {(row["prefill"], row["decode"]) for row in rows}
    most = max(row["prefill"] + row["decode"] for row in rows)
    text = (
        f"{len(splits)} splits of up to {most} instances, each predicted on one replay of the traffic; the star is the "
        f"answer, the mean of {len(answer.seeds)} simulated runs, so near the line the two may differ."
    )
    return Section(
        title="Feasibility map",
        blocks=[Text(text=text), Figure(svg=svg_of(picture), alt="Attainment by split and rate, goodput against rate")],
    )


def _cost_section(answer: CapacityPlan, sizes: Sequence[Mapping[str, Any]]) -> Section:
    from qmodel.plotting.capacity import frontier_figure
    from qmodel.plotting.report import svg_of

    rows = [
        [
            f"{row['cost']:g}",
            str(row["gpus"]),
            str(row["cluster"]),
            f"{row['goodput_per_s']:.4g}/s",
            "-" if row["fastest"] is None else str(row["fastest"]),
            "-" if row["p95_ttft_s"] is None else duration(row["p95_ttft_s"]),
        ]
        for row in sizes
        if row["best_goodput"] or row["best_latency"]
    ]
    columns = [
        "cost",
        "GPUs",
        "best for rate",
        "highest rate",
        "best for latency",
        f"P95 TTFT at {answer.rate_per_s:.4g}/s",
    ]
    return Section(
        title="Cost",
        blocks=[
            Text(text="What each cost buys at best, predicted on one replay; the star is the simulated answer."),
            Figure(
                svg=svg_of(frontier_figure(sizes, answer.rate_per_s, answer.star())),
                alt="Cost against P95 TTFT and goodput",
            ),
            Table(columns=columns, rows=rows, caption="Pareto frontier"),
        ],
    )


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
        warnings_section(_calibration_warnings(cluster)),
        provenance_section(origin or Origin(), cluster, [workload], comparison.seeds, comparison.requests),
    ]
    where = f"{cluster.calibration.model} on {cluster.name} · {workload.name} at load {workload.load(cluster):.2f}"
    return render_page("Policies compared", where, sections, footer())

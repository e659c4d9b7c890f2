"""`qmodel thresholds`: the main job, from a workload to a checked deflection plan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmodel.cli import show
from qmodel.cli.options import (
    DrawsOption,
    JsonOption,
    ReportOption,
    RequestsOption,
    SeedsOption,
    check_plot,
    check_report,
    command_words,
    with_scenario,
)

if TYPE_CHECKING:
    from qmodel.cli.scenario import Scenario
    from qmodel.studies.comparison import Progress
    from qmodel.studies.thresholds import CheckedPlan

__all__ = ["thresholds"]


_PLOTTED_WINDOWS = 90  # resolution of the load in the picture


class Objective(StrEnum):
    """What a plan optimises."""

    p95 = "p95"
    slo = "slo"
    mean = "mean"
    goodput = "goodput"


class Binding(StrEnum):
    """When a request is bound to an instance."""

    auto = "auto"
    dispatch = "dispatch"
    late = "late"


class Effort(StrEnum):
    """How many candidates are judged with the numerical model."""

    none = "none"
    normal = "normal"
    high = "high"


class Order(StrEnum):
    """Order of the prefill queue."""

    auto = "auto"
    fcfs = "fcfs"
    spf = "spf"
    aged = "aged"
    due = "due"


@with_scenario
def thresholds(
    scenario: dict[str, Any],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the plan (JSON).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the plan (.png, .pdf, .svg).")] = None,
    objective: Annotated[Objective, typer.Option(help="What to optimise.")] = Objective.p95,
    binding: Annotated[Binding, typer.Option(help="Decide at dispatch or late.")] = Binding.auto,
    order: Annotated[Order, typer.Option(help="Order of the prefill queue.")] = Order.auto,
    effort: Annotated[Effort, typer.Option(help="How many rules to judge with the numerical model.")] = Effort.normal,
    robust: Annotated[bool, typer.Option(help="Judge by the worst of rate ±30 % and laws ±20 %.")] = False,
    chunk_cap: Annotated[int | None, typer.Option(help="Largest chunk hosted in a decode step [tokens].")] = None,
    frontier: Annotated[
        Path | None, typer.Option(help="Draw P95 TTFT against attainment and P99 (.png, .pdf, .svg).")
    ] = None,
    seeds: SeedsOption = 5,
    requests: RequestsOption = None,
    report: ReportOption = None,
    confirm: Annotated[bool, typer.Option(help="Check the plan by simulation.")] = True,
    draws: DrawsOption = 0,
    json: JsonOption = False,
) -> None:
    """Derive deflection thresholds, checked by simulation.

    The plan is simulated beside never deflecting, Kairos' rule and earliest completion, on the same arrivals. Exit
    code 1 when nothing is feasible (nothing is written) or the plan is not better (it is written).

    Example: qmodel thresholds --model deepseek-v2-lite --workload azure-conv --load 0.9 -o plan.json
    """
    from qmodel.cli.scenario import resolve

    if output is not None:
        from qmodel.io.atomic import check_target

        check_target(output)
    check_plot(plot)
    check_plot(frontier, "--frontier")
    check_report(report)
    inputs = resolve(scenario)
    show.notices(inputs.notices)
    show.first_run_notice()
    from qmodel.studies import derive_thresholds
    from qmodel.studies.thresholds import check_plan

    screen = show.console()
    if not json:
        screen.print(inputs.workload.describe(inputs.cluster))
    with show.progress() as told:
        plan = derive_thresholds(
            inputs.cluster, inputs.workload, inputs.slo, objective.value, binding.value, order.value, draws=draws,
            effort=effort.value, robust=robust, chunk_cap=chunk_cap,
        )  # fmt: skip
        plan = plan.with_options(inputs.options)
        checked = (
            check_plan(plan, inputs.cluster, inputs.workload, inputs.slo, range(seeds), requests, told)
            if confirm
            else None
        )
        page = _page(inputs, plan if checked is None else checked.plan, checked, told) if report else ""
    if frontier is not None:
        _draw_frontier(inputs, plan, frontier)
    _finish(inputs, plan if checked is None else checked.plan, checked, (output, plot, report), page, json)


def _draw_frontier(inputs: Scenario, plan: Any, path: Path) -> None:
    from qmodel.plotting.frontier import draw_frontier
    from qmodel.studies.frontier import frontier

    table = frontier(plan, inputs.cluster, inputs.workload, inputs.slo)
    draw_frontier(table.to_dict("records"), path, plan.title)
    show.notices([f"wrote {path}"])


def _page(inputs: Scenario, plan: Any, checked: CheckedPlan | None, told: Progress) -> str:
    from qmodel.studies.report import Origin, plan_report

    origin = Origin(options=inputs.options, command=command_words(), notices=inputs.notices)
    return plan_report(plan, inputs.cluster, inputs.workload, inputs.slo, checked, origin, told)


def _finish(
    inputs: Scenario,
    plan: Any,
    checked: CheckedPlan | None,
    files: tuple[Path | None, Path | None, Path | None],
    page: str,
    json: bool,
) -> None:
    """Write and print what was asked for; exit 1 when the check says that the plan is not better."""
    (output, plot, report), written = files, []
    if output is not None:
        from qmodel.io.plan_file import save_plan

        save_plan(plan, output)
        written.append(str(output))
    if plot is not None:
        from qmodel.plotting.plan import draw_plan

        width_s = max(1.0, inputs.workload.span_s / _PLOTTED_WINDOWS)
        draw_plan(plan, inputs.workload.windows(inputs.cluster, width_s), inputs.slo, plot, checked)
        written.append(str(plot))
    if report is not None:
        from qmodel.io.page import save_page

        save_page(report, page)
        written.append(str(report))
    if json:
        show.print_json(plan.to_dict())
    else:
        _print(plan, checked)
    show.warnings(plan.warnings)
    show.notices([f"wrote {name}" for name in written])
    if checked is not None and not plan.better:
        raise typer.Exit(1)


def _print(plan: Any, checked: CheckedPlan | None) -> None:
    from qmodel.studies import listings

    screen, table = show.console(), plan.threshold_table()
    screen.print(show.table(listings.split_listing(plan.split_table())))
    for line in plan.shadow_price_sentences():
        screen.print(f"  {line}")
    screen.print()
    found = [listings.threshold_listing(table)]
    if plan.calibration_interval is not None:
        found.append(listings.interval_listing(plan.calibration_interval, table["prompt_tokens"]))
    if checked is not None:
        found.append(listings.comparison_listing(checked.comparison, checked.predicted))
        found.append(listings.breakdown_listing(checked.comparison))
    screen.print(*map(show.table, found), sep="\n")

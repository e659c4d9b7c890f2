"""`qmodel predict`, `qmodel simulate` and `qmodel compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmodel.cli import show
from qmodel.cli.options import (
    POLICIES,
    DrawsOption,
    Fidelity,
    FidelityOption,
    JsonOption,
    MethodOption,
    PolicyOption,
    PredictionMethod,
    ReportOption,
    RequestsOption,
    SeedsOption,
    check_plot,
    check_report,
    command_words,
    with_scenario,
)
from qmodel.errors import InputError

if TYPE_CHECKING:
    from qmodel.cli.scenario import Scenario
    from qmodel.simulation import SimulationResult

__all__ = ["compare", "predict", "simulate"]

_WINDOW = "0s-60s"


def _open(scenario: dict[str, Any], policy: str) -> tuple[Scenario, Any]:
    """Return the scenario and the policy; a plan supplies the options that are not given."""
    from qmodel.cli.scenario import mismatches, parse_policy, resolve

    chosen = parse_policy(policy)
    inputs = resolve(scenario, getattr(chosen, "scenario_options", None))
    show.notices(inputs.notices)
    show.warnings(mismatches(chosen, inputs))
    show.first_run_notice()
    return inputs, chosen


@with_scenario
def predict(
    scenario: dict[str, Any],
    policy: PolicyOption = "none",
    method: MethodOption = PredictionMethod.auto,
    fidelity: FidelityOption = Fidelity.balanced,
    draws: DrawsOption = 0,
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="What to change first: a table by input.")] = False,
    plot: Annotated[Path | None, typer.Option(help="With --sensitivity: draw a tornado (.png, .pdf, .svg).")] = None,
    json: JsonOption = False,
) -> None:
    """Predict TTFT, TBT and SLO attainment from the queueing model.

    Example: qmodel predict --model deepseek-v2-lite --workload azure-conv --load 0.7 --sensitivity --plot tornado.png
    """
    if plot is not None and not sensitivity:
        raise InputError("--plot", f"'{plot}'", "given together with --sensitivity", "add --sensitivity")
    check_plot(plot)
    inputs, chosen = _open(scenario, policy)
    from qmodel.studies import listings
    from qmodel.studies.metrics import measure
    from qmodel.system import predict as run

    options: dict[str, Any] = {"method": method.value, "fidelity": fidelity.value}
    prediction = run(inputs.cluster, inputs.workload, inputs.slo, chosen, **options, draws=draws)
    numbers = measure(prediction)
    effects = _effects(inputs, chosen, plot) if sensitivity else None
    if json:
        result: dict[str, Any] = {
            "method": prediction.method,
            "predicted": numbers,
            "error_estimate": dict(prediction.error_estimate),
            "utilisation": dict(prediction.utilisation),
            "warnings": list(prediction.warnings),
        }
        interval = prediction.calibration_interval
        result |= {} if interval is None else {"calibration_interval": interval.to_dict()}
        if effects is not None:
            result |= {"sensitivity": effects[0], "change_first": effects[1]}
        show.print_json(inputs.head(policy) | result)
        return
    show.warnings(prediction.warnings)
    title = f"Predicted, policy {policy}, method: {prediction.method}"
    found = [listings.measures_listing(title, numbers, prediction.error_estimate)]
    if prediction.calibration_interval is not None:
        found.append(listings.interval_listing(prediction.calibration_interval.to_dict()))
    if effects is not None:
        found.append(listings.sensitivity_listing(effects[0]))
    show.console().print(*map(show.table, found), sep="\n")
    if effects is not None:
        show.console().print(effects[1])


def _effects(inputs: Scenario, policy: Any, plot: Path | None) -> tuple[list[dict[str, Any]], str]:
    """Return rows of sensitivity and what to change first; draw the tornado when asked."""
    from qmodel.studies.sensitivity import first_change, responses, tidy

    found = responses(inputs.cluster, inputs.workload, inputs.slo, policy)
    rows = tidy(found)
    if plot is not None:
        from qmodel.plotting.sensitivity import draw_tornado

        base = found[0]
        title = f"P95 TTFT {base.base_p95_ttft_s:.3g} s, SLO met {100 * base.base_slo_attainment:.1f} %"
        draw_tornado(rows, title, plot)
        show.notices([f"wrote {plot}"])
    return rows, first_change(found)


@with_scenario
def simulate(
    scenario: dict[str, Any],
    policy: PolicyOption = "none",
    seed: Annotated[int, typer.Option(min=0, help="0 replays a trace, n its n-th circular shift.")] = 0,
    requests: RequestsOption = None,
    per_request: Annotated[Path | None, typer.Option(help="Write one row per request (.csv, .parquet).")] = None,
    timeline: Annotated[Path | None, typer.Option(help="Write a Chrome trace for Perfetto (.json).")] = None,
    timeline_window: Annotated[str, typer.Option(help="Part of the run it shows.")] = _WINDOW,
    plot: Annotated[Path | None, typer.Option(help="Draw how busy each instance was (.png, .pdf, .svg).")] = None,
    json: JsonOption = False,
) -> None:
    """Simulate one run of a policy, request by request.

    Example: qmodel simulate --model deepseek-v2-lite --workload azure-conv --load 0.9 --policy kairos
    """
    if per_request is not None:
        from qmodel.io.tables import check_table_target

        check_table_target(per_request)
    check_plot(plot)
    if timeline is not None:
        from qmodel.io.atomic import check_target

        if timeline.suffix.lower() != ".json":
            raise InputError("--timeline", f"'{timeline}'", "a .json file", "e.g. --timeline run.json")
        check_target(timeline)
    elif timeline_window != _WINDOW:
        raise InputError("--timeline-window", repr(timeline_window), "given together with --timeline", "add --timeline")
    shown_s = _window(timeline_window)
    inputs, chosen = _open(scenario, policy)
    from qmodel.simulation import simulate as run
    from qmodel.studies.metrics import measure

    count = requests if requests is not None else _planned_requests(chosen)
    result = run(inputs.cluster, inputs.workload, inputs.slo, chosen, seed=seed, requests=count)
    numbers = measure(result)
    _write_run(result, per_request, timeline, shown_s, plot)
    if json:
        tail = {"seed": seed, "requests": result.count, "simulated": numbers}
        show.print_json(inputs.head(policy) | tail | {"utilisation": dict(result.utilisation)})
        return
    from qmodel.studies.listings import measures_listing

    title = f"Simulated, policy {policy}, seed {seed}, {result.count:,} requests"
    show.console().print(show.table(measures_listing(title, numbers)))


def _write_run(
    result: SimulationResult,
    per_request: Path | None,
    timeline: Path | None,
    shown_s: tuple[float, float],
    plot: Path | None,
) -> None:
    if per_request is not None:
        from qmodel.io.tables import save_table

        save_table(result.requests, per_request)
        show.notices([f"wrote {result.count:,} requests to {per_request}"])
    if timeline is not None:
        from qmodel.io.atomic import write_text
        from qmodel.simulation.timeline import trace_json

        write_text(timeline, trace_json(result, *shown_s))
        show.notices([f"wrote {timeline}: open it at ui.perfetto.dev or chrome://tracing"])
    if plot is not None:
        from qmodel.plotting.utilisation import draw_utilisation

        draw_utilisation(result, plot)
        show.notices([f"wrote {plot}"])


def _window(text: str) -> tuple[float, float]:
    """Return the two times [s] of a window such as 0s-60s."""
    from qmodel.units import parse_duration_s

    begin, _, end = text.partition("-")
    if not end:
        raise InputError("--timeline-window", repr(text), "two durations, e.g. 0s-60s")
    name = "--timeline-window"
    start_s = 0.0 if begin.strip() in ("0", "0s") else parse_duration_s(begin, name)
    end_s = parse_duration_s(end, name)
    if not start_s < end_s:
        raise InputError("--timeline-window", repr(text), "a start before its end", "e.g. 0s-60s")
    return start_s, end_s


def _planned_requests(policy: Any) -> int | None:
    """Return the run length a plan was checked with, so that this command gives the plan's own numbers."""
    simulated = getattr(policy, "simulated", None) or {}
    count = simulated.get("requests_option")
    return None if count is None else int(count)


@with_scenario
def compare(
    scenario: dict[str, Any],
    policies: Annotated[str, typer.Option(help=f"Comma-separated: {POLICIES}, PLAN.json.")] = "none,kairos,earliest",
    seeds: SeedsOption = 5,
    requests: RequestsOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison (.png, .pdf, .svg).")] = None,
    report: ReportOption = None,
    json: JsonOption = False,
) -> None:
    """Compare policies on the same arrivals, with 95 % intervals.

    Example: qmodel compare --model deepseek-v2-lite --workload azure-conv --load 0.9 --policies none,kairos
    """
    from qmodel.cli.scenario import mismatches, parse_policy, resolve

    check_plot(plot)
    check_report(report)
    names = [name.strip() for name in policies.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise InputError("--policies", repr(policies), "different policies, comma-separated", "e.g. none,kairos")
    chosen = {name: parse_policy(name, "--policies") for name in names}
    plans = [p for p in chosen.values() if hasattr(p, "scenario_options")]
    inputs = resolve(scenario, plans[0].scenario_options if plans else None)
    show.notices(inputs.notices)
    show.warnings([f"{name}: {line}" for name, policy in chosen.items() for line in mismatches(policy, inputs)])
    show.first_run_notice()
    from qmodel.studies.comparison import compare as run

    with show.progress() as told:
        comparison = run(inputs.cluster, inputs.workload, inputs.slo, chosen, range(seeds), requests, progress=told)
    if plot is not None:
        from qmodel.plotting.comparison import draw_comparison

        draw_comparison(comparison, inputs.slo, plot)
        show.notices([f"wrote {plot}"])
    if report is not None:
        from qmodel.io.page import save_page
        from qmodel.studies.report import Origin, comparison_report

        origin = Origin(options=inputs.options, command=command_words(), notices=inputs.notices)
        page = comparison_report(comparison, chosen, inputs.cluster, inputs.workload, inputs.slo, origin)
        save_page(report, page)
        show.notices([f"wrote {report}"])
    if json:
        show.print_json(inputs.head(policies) | comparison.to_dict())
        return
    from qmodel.studies.listings import breakdown_listing, comparison_listing

    found = comparison_listing(comparison, {}), breakdown_listing(comparison)
    show.console().print(*map(show.table, found), sep="\n")

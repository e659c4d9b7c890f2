"""`qmodel capacity`: how many GPUs a rate needs, or what rate some GPUs can serve."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmodel.cli import show
from qmodel.cli.options import (
    POLICIES,
    AddressOption,
    Engine,
    EngineOption,
    JsonOption,
    ReportOption,
    RequestsOption,
    WorkersOption,
    check_plot,
    check_report,
    command_words,
    with_scenario,
)
from qmodel.errors import InputError

if TYPE_CHECKING:
    from qmodel.cli.scenario import Scenario
    from qmodel.studies.capacity import CapacityPlan
    from qmodel.studies.comparison import Progress

__all__ = ["capacity"]

_POLICIES = f"{POLICIES} or thresholds"
CapacityPolicy = Annotated[str, typer.Option(help=f"{_POLICIES}.")]
Prices = Annotated[list[str] | None, typer.Option(help="Price of a GPU of one type, e.g. h100=2.5; 1 each otherwise.")]
Shares = Annotated[
    list[str] | None, typer.Option(help="Another workload and its share of the time, e.g. night.csv=0.5.")
]
HELPS = {
    "gpu": "GPU types to choose from, e.g. a100,h100. [default: a100]",
    "cluster": "The highest rate of this kPdD, instead of --gpus.",
    "load": "",
    "rate": "Rate to serve, e.g. 30/s. [default: max, the highest one]",
}


@with_scenario(helps=HELPS)
def capacity(
    scenario: dict[str, Any],
    gpus: Annotated[int | None, typer.Option(help="Most GPUs to use; or give --cluster.")] = None,
    policy: CapacityPolicy = "none",
    price: Prices = None,
    mix: Shares = None,
    attainment: Annotated[float, typer.Option(help="Share of requests that must meet the SLO.")] = 0.95,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Simulated runs per finalist.")] = 5,
    requests: RequestsOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the answer's plan (JSON).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw map, goodput and cost (.png, .pdf, .svg).")] = None,
    report: ReportOption = None,
    engine: EngineOption = Engine.local,
    workers: WorkersOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Find the cheapest cluster for a rate, or the highest rate.

    Without --rate the highest rate that --gpus serve, or with --cluster that cluster. Exit code 1 when no kPdD within
    --gpus keeps the SLO.

    Example: qmodel capacity --model llama-3.1-8b --gpus 16 --workload azure-conv --rate 40/s
    """
    if output is not None:
        from qmodel.io.atomic import check_target

        check_target(output)
    check_plot(plot)
    check_report(report)
    if plot is None and report is None and (engine is not Engine.local or workers or address):
        raise InputError("--engine, --workers and --address are of maps", remedy="add --plot or --report")
    inputs, gpu_names = _resolve(scenario)
    prices = dict(_number_of(text, "--price", "h100=2.5") for text in price or ())
    show.notices(inputs.notices)
    show.first_run_notice()
    from qmodel.studies.capacity import plan_capacity

    rate = inputs.workload.rate_per_s if inputs.options.get("rate") is not None else None
    calibrations = _calibrations(inputs, gpu_names)
    parts = _parts(inputs, mix or ())
    pool = {"engine": engine.value, "workers": workers, "address": address}
    with show.progress() as told:
        answer = plan_capacity(
            calibrations,
            parts,
            inputs.slo,
            gpus=gpus,
            rate_per_s=rate,
            cluster=_split(scenario, gpus),
            policy=_policy(policy),
            prices=prices,
            attainment=attainment,
            seeds=range(seeds),
            requests=requests,
            cluster_options=_cluster_options(inputs),
            progress=told,
        )
        written = _write_plan(answer, inputs, output)
        sizes: list[dict[str, Any]] = []
        if plot is not None or report is not None:
            rows, sizes = _survey(answer, calibrations, parts, inputs, prices, pool, told)
            written += _draw(answer, rows, sizes, plot) + _report(answer, parts, inputs, rows, sizes, report, told)
    _print(answer, inputs, policy, json, sizes)
    show.notices([*answer.notes, *written])
    if not answer.meets_slo:
        raise typer.Exit(1)


def _resolve(scenario: dict[str, Any]) -> tuple[Scenario, list[str]]:
    """Return the scenario and the GPU types; the options that capacity planning finds by itself are refused."""
    from qmodel.cli.scenario import resolve

    if scenario.get("load") is not None:
        raise InputError("--load", scenario["load"], "left out", "capacity finds it; give --rate or nothing")
    if (scenario.get("rate") or "").strip() == "max":
        scenario = scenario | {"rate": None}
    names = [name.strip() for name in (scenario.get("gpu") or "").split(",") if name.strip()]
    if len(set(names)) != len(names) or (scenario.get("gpu") is not None and not names):
        raise InputError("--gpu", scenario["gpu"], "different GPU types, comma-separated", "e.g. a100,h100")
    inputs = resolve(scenario | {"gpu": names[0] if names else None, "cluster": "1P1D"})
    options = {name: value for name, value in inputs.options.items() if name != "cluster"}  # it is the answer
    if inputs.options.get("load") is not None:
        raise InputError("load in the configuration file", inputs.options["load"], "left out", "give rate, or nothing")
    return replace(inputs, options=options), names or [str(inputs.options["gpu"])]


def _split(scenario: dict[str, Any], gpus: int | None) -> tuple[int, int] | None:
    """Return the instances of `--cluster`; one of it and `--gpus` says what to look at."""
    text = scenario.get("cluster")
    if (text is None) == (gpus is None):
        what = "neither --gpus nor --cluster is given" if text is None else "--gpus and --cluster are both given"
        raise InputError(what, remedy="give --gpus 16, or --cluster 3P2D for its highest rate")
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,4})[Pp](\d{1,4})[Dd]", text.strip())
    if found is None:
        raise InputError("--cluster", repr(text), "kPdD", "e.g. 3P2D")
    return int(found[1]), int(found[2])


def _calibrations(inputs: Scenario, gpus: Sequence[str]) -> list[Any]:
    from qmodel.io.calibrations import load_calibration

    first = inputs.cluster.calibration
    return [first, *(load_calibration(first.model, gpu, first.tp) for gpu in gpus[1:])]


def _cluster_options(inputs: Scenario) -> dict[str, Any]:
    return {
        name: getattr(inputs.cluster, name) for name in ("max_num_batched_tokens", "max_num_seqs", "bandwidth_gb_s")
    }


def _number_of(text: str, option: str, example: str) -> tuple[str, float]:
    """Return name and number of a text such as ``h100=2.5``."""
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (equals and name and math.isfinite(value) and value > 0):
        raise InputError(option, repr(text), "NAME=NUMBER with a number > 0", f"e.g. {option} {example}")
    return name, value


def _parts(inputs: Scenario, texts: Sequence[str]) -> list[tuple[Any, float]]:
    """Return the workloads with their shares of time; the scenario's own has what the others leave."""
    from qmodel.cli.scenario import open_workload

    shares = [_number_of(text, "--mix", "azure-code=0.5") for text in texts]
    left = 1.0 - sum(share for _, share in shares)
    if left <= 0:
        raise InputError("shares of time in --mix", 1.0 - left, "below 1 together", "the rest is --workload's")
    return [(inputs.workload, left), *((open_workload(name), share) for name, share in shares)]


def _policy(text: str) -> Any:
    from qmodel.cli.scenario import parse_policy

    if text == "thresholds":
        return text
    if text.endswith(".json"):
        raise InputError("--policy", repr(text), _POLICIES, "a plan is of one cluster")
    chosen = parse_policy(text, known=_POLICIES)
    return None if type(chosen).__name__ == "Disaggregated" else chosen


def _write_plan(answer: CapacityPlan, inputs: Scenario, output: Path | None) -> list[str]:
    if output is None or not answer.meets_slo:
        return []
    from qmodel.io.plan_file import save_plan
    from qmodel.studies import derive_thresholds

    plan = derive_thresholds(answer.cluster, inputs.workload.at_rate(answer.rate_per_s), inputs.slo)
    options = inputs.options | {"cluster": answer.name, "rate": f"{answer.rate_per_s!r}/s"}
    save_plan(plan.with_options(options), output)
    return [f"wrote {output}"]


def _survey(
    answer: CapacityPlan,
    calibrations: Sequence[Any],
    parts: Sequence[tuple[Any, float]],
    inputs: Scenario,
    prices: dict[str, float],
    pool: dict[str, Any],
    told: Progress,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the feasibility map and what other sizes buy."""
    from qmodel.studies.capacity import instance_kinds
    from qmodel.studies.capacity_map import Question, capacity_frontier, capacity_map

    policy = "thresholds" if answer.policy_name == "thresholds" else answer.policy
    kinds = tuple(instance_kinds(calibrations, prices, _cluster_options(inputs)))
    question = Question(
        kinds=kinds, parts=tuple(parts), slo=inputs.slo, policy=policy, attainment=answer.attainment,
        requests=answer.requests,
    )  # fmt: skip
    rate, most = answer.rate_per_s, answer.gpus_allowed
    rows = capacity_map(
        answer.cluster, parts, inputs.slo, answer.gpus, rate,
        policy=policy, most_splits=7 if policy == "thresholds" else 16, **pool, progress=told,
    )  # fmt: skip
    return rows, capacity_frontier(question, most, rate, **pool, progress=told)


def _draw(
    answer: CapacityPlan, rows: list[dict[str, Any]], sizes: list[dict[str, Any]], plot: Path | None
) -> list[str]:
    if plot is None:
        return []
    from qmodel.plotting.capacity import draw_capacity

    draw_capacity(rows, answer.name, answer.rate_per_s, answer.attainment, plot, sizes, answer.star())
    return [f"wrote {plot}"]


def _report(
    answer: CapacityPlan,
    parts: Sequence[tuple[Any, float]],
    inputs: Scenario,
    rows: list[dict[str, Any]],
    sizes: list[dict[str, Any]],
    report: Path | None,
    told: Progress,
) -> list[str]:
    if report is None:
        return []
    from qmodel.io.page import save_page
    from qmodel.studies.report_capacity import capacity_report
    from qmodel.studies.report_parts import Origin

    origin = Origin(options=inputs.options, command=command_words(), notices=inputs.notices)
    save_page(report, capacity_report(answer, parts, inputs.slo, rows, sizes, origin, told))
    return [f"wrote {report}"]


def _print(answer: CapacityPlan, inputs: Scenario, policy: str, json: bool, sizes: list[dict[str, Any]]) -> None:
    if json:
        show.print_json(inputs.head(policy) | answer.to_dict() | ({"sizes": sizes} if sizes else {}))
        return
    from qmodel.studies import listings

    screen = show.console()
    screen.print(answer.sentence())
    sides = {"simulated": answer.simulated} | ({"predicted": answer.predicted} if answer.predicted else {})
    found = [listings.sides_listing(f"At {answer.rate_per_s:.4g}/s", sides)]
    found.append(listings.capacity_listing("What more or less money buys at this rate", answer.pareto()))
    if sizes:
        found.append(listings.frontier_listing(sizes, answer.rate_per_s))
    screen.print(*map(show.table, found), sep="\n")

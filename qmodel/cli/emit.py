"""`qmodel emit`: a plan as the configuration of a serving system."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmodel.cli import show
from qmodel.cli.options import JsonOption

if TYPE_CHECKING:
    from qmodel.scenario import Cluster
    from qmodel.scenario.plan import Plan

__all__ = ["emit"]


class Target(StrEnum):
    """Systems that take a deflection threshold today."""

    dynamo = "dynamo"
    llm_d = "llm-d"
    trtllm = "trtllm"
    vllm = "vllm"
    prometheus = "prometheus"


def emit(
    plan: Annotated[Path, typer.Argument(help="Plan file.")],
    target: Annotated[Target, typer.Option(help="System to write for.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. [default: standard output]")
    ] = None,
    workload: Annotated[str | None, typer.Option(help="Workload to fit to. [default: the plan's]")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests per simulated run.")] = 5000,
    json: JsonOption = False,
) -> None:
    """Write a plan as the settings of a serving system.

    They are the nearest policy that the system can express, fitted within its own family of rules.

    Example: qmodel emit plan.json --target dynamo -o disagg.json
    """
    from qmodel.io.emit import emit as render
    from qmodel.io.emit import save_emitted
    from qmodel.io.plan_file import load_plan

    if output is not None:
        from qmodel.io.atomic import check_target

        check_target(output)
    loaded = load_plan(plan)
    from qmodel.studies.emission import fit_settings

    traffic = None
    if workload is not None:
        from qmodel.cli.scenario import open_workload

        traffic = open_workload(workload)
        show.notices(traffic.notices)
    settings = fit_settings(loaded, target.value, traffic, requests, _own_cluster(loaded))
    text = render(loaded, settings)
    if output is not None:
        save_emitted(text, output)
    if json:
        content = {"target": target.value, "settings": dict(settings.values), "loss": dict(settings.loss)}
        show.print_json(content | {"notes": list(settings.notes), "text": text})
        return
    show.notices(settings.sentences())
    if output is None:
        print(text, end="")
    else:
        show.notices([f"wrote {output}"])


def _own_cluster(plan: Plan) -> Cluster | None:
    """Return the cluster of a plan that was made with a calibration file, None for one of shipped calibrations."""
    from qmodel.cli.scenario import cluster_of

    own = str(plan.scenario_options.get("model")).endswith(".json")
    return cluster_of(plan.scenario_options) if own else None

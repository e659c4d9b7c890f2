"""`qmodel sweep`: predictions or simulations over a grid of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmodel.cli import show
from qmodel.cli.options import (
    AddressOption,
    Engine,
    EngineOption,
    Fidelity,
    FidelityOption,
    JsonOption,
    MethodOption,
    PolicyOption,
    PredictionMethod,
    WorkersOption,
    with_scenario,
)
from qmodel.errors import InputError

if TYPE_CHECKING:
    from qmodel.cli.scenario import Scenario
    from qmodel.scenario import Workload

__all__ = ["run_cell", "sweep"]

_NUMBERS = {"load": float, "tp": int, "max_num_batched_tokens": int, "max_num_seqs": int, "seed": int, "requests": int}
_TEXTS = ("model", "gpu", "cluster", "bandwidth", "workload", "rate", "ttft_slo", "tbt_slo", "policy")
_OWN = ("policy", "by", "seed", "requests", "method", "fidelity")


class Method(StrEnum):
    """How a cell is answered."""

    predict = "predict"
    simulate = "simulate"


@with_scenario
def sweep(
    scenario: dict[str, Any],
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write (.csv, .parquet).")],
    over: Annotated[list[str], typer.Option(help="An axis, e.g. rate=10/s,20/s or cluster=2P2D,3P1D.")],
    by: Annotated[Method, typer.Option(help="How each cell is answered.")] = Method.predict,
    policy: PolicyOption = "none",
    method: MethodOption = PredictionMethod.auto,
    fidelity: FidelityOption = Fidelity.balanced,
    engine: EngineOption = Engine.local,
    workers: WorkersOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Predict or simulate every combination of some options.

    A cell that fails is a row with its reason; when all do, nothing is written. A stopped sweep goes on where it
    stopped.

    Example: qmodel sweep --model llama-3.1-8b --workload azure-conv --over rate=10/s,20/s -o table.csv
    """
    axes = dict(_axis(text) for text in over)
    if len(axes) != len(over):
        raise InputError("--over", repr(over), "different axes", "give each option once")
    if by is Method.simulate and (method is not PredictionMethod.auto or fidelity is not Fidelity.balanced):
        raise InputError("--method and --fidelity are of predictions", remedy="leave them out with --by simulate")
    if by is Method.predict and axes.keys() & {"seed", "requests"}:
        raise InputError("--over seed and --over requests are of simulations", remedy="add --by simulate")
    answered = {"method": method.value, "fidelity": fidelity.value} if by is Method.predict else {}
    fixed = _fixed(scenario) | {"policy": policy, "by": by.value} | answered
    for name in axes:
        if scenario.get(name) is not None:
            raise InputError(f"--{name.replace('_', '-')}", "also an axis", "fixed or an axis, not both")
        fixed.pop(name, None)
    from qmodel.studies.sweep import grid, run_grid

    show.first_run_notice()
    cells = [fixed | cell for cell in grid(axes)]
    for kept in (_inputs, _opened):
        kept.cache_clear()  # files may have changed since an earlier sweep of this process
    with show.progress() as report:
        rows = run_grid(
            run_cell, cells, output=output, engine=engine.value, workers=workers, address=address, progress=report
        )
    failed = [row for row in rows if row["error"]]
    if len(failed) == len(rows):
        raise InputError(f"none of {len(rows)} cells worked", remedy=f"the first: {failed[0]['error']}")
    if json:
        show.print_json({"output": str(output), "failed": len(failed), "rows": rows})
    notes = [f"{len(failed)} of {len(rows)} cells failed, the first: {failed[0]['error']}"] if failed else []
    show.notices([*notes, f"wrote {len(rows):,} rows to {output}"])


def _fixed(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that every cell shares; a configuration file is read once, here."""
    given = {name: value for name, value in scenario.items() if name != "config" and value is not None}
    if scenario.get("config") is None:
        return given
    from qmodel.io.config import load_config

    return load_config(scenario["config"]) | given


def _axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    key = name.strip().replace("-", "_")
    known = (*_TEXTS, *_NUMBERS)
    if not equals or key not in known:
        raise InputError("--over", repr(text), f"OPTION=VALUE,VALUE with one of {', '.join(known)}")
    parts: Sequence[str] = [value.strip() for value in values.split(",") if value.strip()]
    if not parts or len(set(parts)) != len(parts):
        raise InputError("--over", repr(text), "at least one value, each once", "e.g. rate=10/s,20/s")
    if key not in _NUMBERS:
        return key, list(parts)
    try:
        return key, [_NUMBERS[key](value) for value in parts]
    except ValueError:
        raise InputError("--over", repr(text), "numbers", f"e.g. {name}=1,2") from None


def run_cell(cell: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of one cell.

    Parameters
    ----------
    cell : mapping
        Options of the scenario, ``policy``, ``by`` and, for simulations, ``seed`` and ``requests``.
    """
    from qmodel.cli.scenario import parse_policy, scaled
    from qmodel.studies.metrics import measure

    options = {name: value for name, value in cell.items() if name not in (*_OWN, "load", "rate")}
    policy = parse_policy(str(cell["policy"]))
    fallback = getattr(policy, "scenario_options", None) or {}
    inputs = _inputs(tuple(sorted(options.items())), tuple(sorted(_plain(fallback).items())))
    inputs = scaled(inputs, *_load_and_rate(cell, fallback))
    if cell["by"] == "predict":
        from qmodel.system import predict

        how = {"method": cell.get("method", "auto"), "fidelity": cell.get("fidelity", "balanced")}
        return measure(predict(inputs.cluster, inputs.workload, inputs.slo, policy, **how))
    from qmodel.simulation import simulate

    seed, requests = cell.get("seed", 0), cell.get("requests")
    return measure(simulate(inputs.cluster, inputs.workload, inputs.slo, policy, seed=seed, requests=requests))


@lru_cache(maxsize=64)
def _inputs(options: tuple[tuple[str, Any], ...], fallback: tuple[tuple[str, Any], ...]) -> Scenario:
    """Return the scenario before scaling; cells that differ in rate or policy share it."""
    from qmodel.cli.scenario import resolve

    return resolve(dict(options), dict(fallback), _opened)


@lru_cache(maxsize=8)
def _opened(text: str, *how: str | None) -> Workload:
    """Return a workload; cells on other clusters share it, and what was drawn from it."""
    from qmodel.cli.scenario import open_workload

    return open_workload(text, *how)


def _plain(fallback: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fallback.items() if name not in ("load", "rate") and value is not None}


def _load_and_rate(cell: Mapping[str, Any], fallback: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Return load and rate of a cell; those that a plan brings count where the cell has neither, nor a workload."""
    given = cell.get("load"), cell.get("rate")
    if given[0] is not None and given[1] is not None:
        raise InputError("load and rate are both given", remedy="give one of the two")
    if given != (None, None) or "workload" in cell:
        return given
    return fallback.get("load"), fallback.get("rate")

"""Options that several commands take, in one place, and checks of the files that they name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from qmodel.cli.settings import ConfigOption, keep_inputs
from qmodel.errors import InputError

__all__ = [
    "POLICIES",
    "WORDS",
    "AddressOption",
    "DrawsOption",
    "Engine",
    "EngineOption",
    "Fidelity",
    "FidelityOption",
    "JsonOption",
    "MethodOption",
    "PolicyOption",
    "PredictionMethod",
    "ReportOption",
    "RequestsOption",
    "SeedsOption",
    "WorkersOption",
    "check_plot",
    "check_report",
    "command_words",
    "with_scenario",
]

Decorated = Callable[..., Any]

WORDS: ContextVar[tuple[str, ...]] = ContextVar("words", default=())  # of the running command, set by `main`


class Engine(StrEnum):
    """Where the cells of a grid run."""

    local = "local"
    dask = "dask"
    ray = "ray"


class PredictionMethod(StrEnum):
    """Queueing model to use."""

    auto = "auto"
    stationary = "stationary"
    bursty = "bursty"
    trace = "trace"
    windows = "windows"


class Fidelity(StrEnum):
    """How long the paths are that predicted numbers rest on."""

    fast = "fast"
    balanced = "balanced"
    exact = "exact"


MethodOption = Annotated[PredictionMethod, typer.Option(help="Queueing model; auto fits the workload.")]
FidelityOption = Annotated[Fidelity, typer.Option(help="How exact steady-state predictions are.")]
POLICIES = "none, kairos, earliest, static:TOKENS"  # by name
PolicyOption = Annotated[str, typer.Option(help=f"{POLICIES} or a PLAN.json.")]
SeedsOption = Annotated[int, typer.Option(min=1, max=1000, help="Simulated runs per policy.")]
RequestsOption = Annotated[int | None, typer.Option(min=1, help="Requests per run. [default: the workload's own]")]
ReportOption = Annotated[Path | None, typer.Option(help="Write a self-contained page (.html).")]
EngineOption = Annotated[Engine, typer.Option(help="Where the cells of grids run.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, max=4096, help="Processes. [default: as many as pay off]")]
AddressOption = Annotated[str | None, typer.Option(help="Dask scheduler or Ray cluster. [default: one started here]")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DrawsOption = Annotated[
    int, typer.Option(min=0, max=10_000, help="Draws of the calibration for intervals, e.g. 20; 0 for none.")
]

_SCENARIO: dict[str, Any] = {
    "model": Annotated[str | None, typer.Option(help="Model, e.g. deepseek-v2-lite, or a calibration file (.json).")],
    "gpu": Annotated[str | None, typer.Option(help="GPU type. [default: a100, or the calibration file's]")],
    "tp": Annotated[int | None, typer.Option(help="GPUs per instance. [default: 1, or the fewest calibrated]")],
    "cluster": Annotated[str | None, typer.Option(help="Instances, kPdD. [default: 2P2D]")],
    "bandwidth": Annotated[str | None, typer.Option(help="Network per GPU, e.g. 200Gb/s. [default: 25GB/s]")],
    "max_num_batched_tokens": Annotated[int | None, typer.Option(help="Tokens per step. [default: 2048]")],
    "max_num_seqs": Annotated[int | None, typer.Option(help="Largest decode batch. [default: 256]")],
    "max_prefill_seqs": Annotated[int | None, typer.Option(help="Most prompts in a prefill step. [default: no limit]")],
    "transfer_block_tokens": Annotated[int | None, typer.Option(help="KV caches move in blocks of. [default: 1]")],
    "clock_tick": Annotated[str | None, typer.Option(help="Simulate on a clock of ticks, e.g. 1us. [default: none]")],
    "workload": Annotated[str | None, typer.Option(help="Built-in name or trace file of any known format.")],
    "trace_format": Annotated[str | None, typer.Option(help="Format of the trace. [default: recognised]")],
    "time_unit": Annotated[str | None, typer.Option(help="Unit of its times: s, ms, us, ns. [default: recognised]")],
    "cached": Annotated[str | None, typer.Option(help="Its column of tokens found in a prefix cache.")],
    "load": Annotated[float | None, typer.Option(help="Scale arrivals to this load of the prefill pool.")],
    "rate": Annotated[str | None, typer.Option(help="Scale arrivals to this rate, e.g. 30/s.")],
    "ttft_slo": Annotated[str | None, typer.Option(help="Limit on time to first token. [default: 1s]")],
    "tbt_slo": Annotated[str | None, typer.Option(help="Limit on time between tokens. [default: 60ms]")],
    "config": ConfigOption,
}


def with_scenario(command: Decorated | None = None, *, helps: Mapping[str, str] | None = None) -> Decorated:
    """Give a command the scenario options; it receives them as one dict named `scenario`.

    Parameters
    ----------
    command : callable
        Function with a parameter `scenario` and its own typer parameters.
    helps : mapping, optional
        Option to its help text, where it means something else in this command; "" hides the option.

    Returns
    -------
    callable
        The same command with a signature that typer reads.
    """
    if command is None:
        return functools.partial(with_scenario, helps=helps)
    options = _SCENARIO | {
        name: Annotated[get_args(_SCENARIO[name])[0], typer.Option(help=text, hidden=not text)]
        for name, text in (helps or {}).items()
    }
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "scenario"]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        scenario = {name: values.pop(name) for name in _SCENARIO}
        keep_inputs(scenario | values)
        return command(scenario=scenario, **values)

    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in options.items()
    ]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature(shared + own)  # type: ignore[attr-defined] # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in shared + own}
    del run.__wrapped__  # else the original signature would win
    return run


def check_plot(path: Path | None, option: str = "--plot") -> None:
    """Refuse a picture file that cannot be written or has no known suffix.

    Parameters
    ----------
    path : Path or None
        File the user named, if any.
    option : str
        The option that names it.

    Raises
    ------
    InputError
        When it cannot be written.
    """
    from qmodel.io.atomic import check_target

    if path is None:
        return
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(option, f"'{path}'", "a .png, .pdf or .svg file", f"e.g. {option} picture.png")
    check_target(path)


def check_report(path: Path | None) -> None:
    """Refuse a report file that is not named .html or cannot be written.

    Parameters
    ----------
    path : Path or None
        File the user named, if any.

    Raises
    ------
    InputError
        When it cannot be written.
    """
    if path is not None:
        from qmodel.io.page import check_report as check

        check(path)


def command_words() -> list[str]:
    """Return the words after ``qmodel`` that the running command was given, for provenance."""
    return list(WORDS.get())

"""A command's own options in a configuration file: their model, made from the command's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from qmodel.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["ConfigOption", "keep_inputs", "section_models", "with_config"]

Command = Callable[..., Any]
_OUTPUTS = ("output", "plot", "report", "frontier", "per_request", "timeline")  # options that name what is written
_SCENARIO_SIGN = "ttft_slo"  # commands with it resolve the shared options themselves


def section_models() -> dict[str, type[BaseModel]]:
    """Return, per command, the model of the options that are its own."""
    from qmodel.cli.app import app
    from qmodel.io.config import SECTIONS

    commands = {c.name or c.callback.__name__: c.callback for c in app.registered_commands if c.callback}
    return {name: _model(name, commands[name]) for name in SECTIONS}


def _model(name: str, command: Command) -> type[BaseModel]:
    from pydantic import ConfigDict, Field, create_model

    from qmodel.io.config import ScenarioConfig

    fields: dict[str, Any] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name in ScenarioConfig.model_fields or parameter.name in ("config", "json"):
            continue
        kind, info = get_args(parameter.annotation)[:2]
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        default = default.value if isinstance(default, Enum) else default
        low, high = getattr(info, "min", None), getattr(info, "max", None)
        field: Any = Field(default=default, description=info.help, ge=low, le=high)
        fields[parameter.name] = (_plain_kind(kind) | None, field)
    config = ConfigDict(extra="forbid", strict=True, title=f"options of qmodel {name}")
    return create_model(name, __config__=config, **fields)


def _plain_kind(kind: Any) -> Any:
    """Return the type that YAML has for an option's type."""
    inner = [k for k in get_args(kind) if k is not type(None)] if type(None) in get_args(kind) else [kind]
    one = inner[0]
    if isinstance(one, type) and issubclass(one, Enum):
        return Literal[tuple(member.value for member in one)]
    return str if one is Path else one


def _load(context: typer.Context, path: Path | None) -> Path | None:
    """Take the command's own options from the file as defaults; flags win."""
    if path is not None:
        from qmodel.io.config import load_config

        found = load_config(path, section_models())
        names = {parameter.name for parameter in context.command.params}
        shared = {} if _SCENARIO_SIGN in names else {n: v for n, v in found.items() if n in names}
        context.default_map = shared | found.get(context.info_name or "", {})
    return path


ConfigOption = Annotated[
    Path | None, typer.Option(is_eager=True, callback=_load, help="YAML file with any of these options; flags win.")
]


def with_config(command: Command) -> Command:
    """Give a command that has no scenario the option ``--config``.

    Parameters
    ----------
    command : callable
        Function with typer parameters.

    Returns
    -------
    callable
        The same command with one option more.
    """

    def run(config: Path | None = None, **values: Any) -> Any:
        keep_inputs(values | {"config": config})
        return command(**values)

    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(command, eval_str=True).parameters.values()]
    option = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption)
    run.__signature__ = inspect.Signature([*own, option])  # type: ignore[attr-defined] # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in (*own, option)}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def keep_inputs(values: Mapping[str, Any]) -> None:
    """Refuse an output that would replace a file which the command reads, or another of its outputs.

    Parameters
    ----------
    values : mapping
        Every option and argument of a command by name.

    Raises
    ------
    InputError
        When two of them name the same file and one is written.
    """
    read = [text for name, value in values.items() if name not in _OUTPUTS for text in _names(value)]
    taken = {Path(text).absolute(): f"'{text}', which is read" for text in read if _is_file(text)}
    for name in _OUTPUTS:
        path = values.get(name)
        if path is None:
            continue
        option = "--" + name.replace("_", "-")
        if path.absolute() in taken:
            raise InputError(option, taken[path.absolute()], "a file of its own", "choose another name")
        taken[path.absolute()] = f"'{path}', which {option} writes too"


def _names(value: Any) -> list[str]:
    """Return the file names that an option's value may hold: itself, parts between commas, NAME of NAME=NUMBER."""
    texts = [str(item) for item in (value if isinstance(value, list) else [value]) if isinstance(item, (str, Path))]
    return [name for text in texts for name in (text, *text.split(","), text.rpartition("=")[0]) if name]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # too long for a name
        return False

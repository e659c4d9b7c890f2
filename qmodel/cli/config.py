"""`qmodel config schema` and `qmodel init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmodel.cli import show
from qmodel.errors import InputError

__all__ = ["config", "init"]

config = typer.Typer(help="Configuration files: their schema.", no_args_is_help=True)


@config.callback()
def _group() -> None:
    """Keep `schema` a command of its own, though it is the only one."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of a configuration file.

    Example: qmodel config schema > qmodel.schema.json
    """
    from qmodel.cli.settings import section_models
    from qmodel.io.config import config_schema

    show.print_json(config_schema(section_models()))


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("qmodel.yaml"),
    model: Annotated[str | None, typer.Option(help="Model to write into it.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Cluster to write into it, kPdD.")] = None,
    workload: Annotated[str | None, typer.Option(help="Workload to write into it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented configuration file to start from.

    Example: qmodel init && qmodel thresholds --config qmodel.yaml -o plan.json
    """
    from qmodel.cli.settings import section_models
    from qmodel.io.atomic import check_target, write_text
    from qmodel.io.config import starter_config

    check_target(path)
    if path.exists() and not force:
        raise InputError("configuration file", f"'{path}', which exists", "a new file", "choose another, or --force")
    values = {"model": model, "cluster": cluster, "workload": workload}
    models = section_models()
    write_text(path, starter_config(values, {name: models[name] for name in ("thresholds", "capacity", "sweep")}))
    show.notices([f"wrote {path}"])

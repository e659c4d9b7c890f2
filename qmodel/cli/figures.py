"""`qmodel figures`: the paper's figures, each as a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmodel.cli import show
from qmodel.cli.options import JsonOption

__all__ = ["figures"]


def figures(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to; made when absent.")],
    only: Annotated[list[str] | None, typer.Option(help="A figure, e.g. fig04; may be repeated.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Fine grids and 20 runs a policy instead of 5.")] = False,
    json: JsonOption = False,
) -> None:
    """Make the paper's figures, each with the table behind it.

    For each a CSV with the numbers, a PDF and a PNG. What is there already and was made by the same code is not
    computed again.

    Example: qmodel figures --only fig04 -o out
    """
    from qmodel.io.traces import shared_data
    from qmodel.studies.figures import make_figures

    if shared_data() is None:
        show.notices(["the shared traces are absent (set QMODEL_DATA): figures use the built-in workloads instead"])
    with show.progress() as report:
        written = make_figures(output, only, full, report)
    if json:
        show.print_json({"written": [str(path) for path in written]})
    show.notices([f"wrote {path}" for path in written])

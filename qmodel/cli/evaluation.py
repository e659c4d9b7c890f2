"""`qmodel evaluate`: every policy in every cell of the evaluation, as a table, pictures and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmodel.cli import show
from qmodel.cli.options import JsonOption

__all__ = ["evaluate"]


def evaluate(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to; made when absent.")],
    full: Annotated[bool, typer.Option("--full", help="Every cell, SLO, model and condition: ten minutes.")] = False,
    vendors: Annotated[bool, typer.Option("--vendors", help="Also each serving system's own rule.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="Runs a policy. [default: 2; in full 5]")] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write the table as Parquet instead of CSV.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=4096, help="Processes.")] = 1,
    json: JsonOption = False,
) -> None:
    """Evaluate plans against their rivals, in every cell of traffic.

    Each is planned on one half of its cell and run on the other. Writes one tidy table, pictures and the page
    evaluation.md with the cells where the plan loses first. A stopped run goes on where it stopped.

    Example: qmodel evaluate -o evaluation
    """
    from qmodel.io.traces import shared_data
    from qmodel.studies.evaluation import evaluation_grid
    from qmodel.studies.evaluation_page import evaluation_files

    notes = [] if shared_data() else ["the shared traces are absent (set QMODEL_DATA): built-in models stand in"]
    show.notices(notes)
    show.first_run_notice()
    rows = evaluation_grid(full=full, vendors=vendors, seeds=seeds)
    with show.progress() as report:
        summary, written = evaluation_files(rows, output, parquet=parquet, workers=workers, progress=report)
    if json:
        show.print_json(summary)
    show.notices([f"wrote {path}" for path in written])

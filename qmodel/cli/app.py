"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

from qmodel.cli import calibrate, capacity, config, data, emit, evaluate, evaluation, figures, sweep, thresholds
from qmodel.cli.settings import with_config

__all__ = ["app"]

app = typer.Typer(
    name="qmodel",
    help="Queueing model and optimizer for prefill deflection in disaggregated LLM serving.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from qmodel import __version__

        print(f"qmodel {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command()(thresholds.thresholds)
app.command()(evaluate.predict)
app.command()(evaluate.simulate)
app.command()(evaluate.compare)
app.command()(capacity.capacity)
app.command()(with_config(calibrate.calibrate))
app.command()(with_config(calibrate.validate))
app.command()(with_config(emit.emit))
app.add_typer(data.data, name="data")
app.add_typer(config.config, name="config")
app.command()(config.init)
app.command()(sweep.sweep)
app.command()(with_config(figures.figures))
app.command()(with_config(evaluation.evaluate))

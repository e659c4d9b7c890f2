"""`qmodel data`: published traces, listed and fetched."""

from __future__ import annotations

from typing import Annotated

import typer

from qmodel.cli import show
from qmodel.cli.options import JsonOption

__all__ = ["data"]

data = typer.Typer(help="Published traces: list them, fetch one.", no_args_is_help=True)


@data.command("list")
def list_(json: JsonOption = False) -> None:
    """List the published traces and which of them are here.

    Example: qmodel data list
    """
    from qmodel.io.data_sets import list_data

    rows = list_data()
    if json:
        show.print_json({"data": rows})
        return
    for row in rows:
        print(f"{row['name']:22}  {row['about']:40}  {row['licence']:10}  {row['path'] or '(not fetched)'}")


@data.command()
def fetch(name: Annotated[str, typer.Argument(help="Name from `qmodel data list`.")], json: JsonOption = False) -> None:
    """Fetch a published trace once, check it, and print where it is.

    Example: qmodel data fetch azure-2023-conv
    """
    from qmodel.io.data_sets import fetch_data

    path = fetch_data(name)
    if json:
        show.print_json({"name": name, "path": str(path)})
    else:
        print(path)

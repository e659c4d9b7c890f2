"""What people see in the terminal: tables, JSON, notes and progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qmodel.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console, Group

    from qmodel.studies.listings import Listing

__all__ = ["console", "first_run_notice", "notices", "print_json", "progress", "table", "warnings"]

_SAY_AGAIN_S = 15.0  # between two lines about the same work where there is no bar
_PLAIN_WIDTH = 132  # columns where the output is not a terminal: the widest table fits


def console(stderr: bool = False) -> Console:
    """Return a terminal to print to, of a fixed width where the stream is none."""
    from rich.console import Console

    real = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if real else _PLAIN_WIDTH)


def print_json(data: Mapping[str, Any]) -> None:
    """Print data as JSON, refusing NaN, which is not JSON."""
    print(json.dumps(data, indent=2, allow_nan=False))


def notices(lines: Sequence[str]) -> None:
    """Print what was decided for the user, to stderr."""
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def warnings(lines: Sequence[str]) -> None:
    """Print what the user should know before trusting the result, to stderr."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def first_run_notice() -> None:
    """Say on stderr that kernels will be compiled, when this has not happened on this machine."""
    from qmodel._kernels import are_cached

    if not are_cached():
        notices(["first run: compiling kernels, about a minute, once"])


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback (what, done, total): a bar with the time left on a terminal, else a line per new `what`."""
    if not sys.stderr.isatty():
        yield _line_per_step()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("working", total=None)

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what or "done", completed=done, total=total or None)

        yield update


def _line_per_step() -> Callable[[str, int, int], None]:
    last, begun, said = "", time.monotonic(), time.monotonic()
    first = 0

    def update(what: str, done: int, total: int) -> None:
        nonlocal last, begun, said, first
        now = time.monotonic()
        if what and what != last:
            print(f"{what} ({100 * done // total} % done)" if total else what, file=sys.stderr)
            last, begun, said, first = what, now, now, done
        elif what and first < done < total and now - said > _SAY_AGAIN_S:
            left = (now - begun) / (done - first) * (total - done)
            print(f"{what} ({done:,} of {total:,} done, about {format_duration(left)} left)", file=sys.stderr)
            said = now

    return update


def table(listing: Listing) -> Group:
    """Return a listing for the terminal: its title above a table that is as wide as its cells need.

    Parameters
    ----------
    listing : Listing
        From `qmodel.studies.listings`.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table

    cells = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(listing.columns):
        cells.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for number, (first, *others) in enumerate(listing.rows):
        cells.add_row(f"  {first}" if number in listing.faint else first, *others)
    return Group(listing.title, cells)  # a title inside the table would be broken to its width

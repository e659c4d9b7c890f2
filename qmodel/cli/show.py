"""What people see: tables and progress in the terminal; numbers come as plain dicts."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qmodel.units import format_duration, format_threshold

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qmodel.studies.comparison import Comparison

__all__ = [
    "breakdown_table",
    "capacity_table",
    "comparison_table",
    "console",
    "first_run_notice",
    "frontier_table",
    "interval_table",
    "measures_table",
    "notices",
    "print_json",
    "progress",
    "split_table",
    "threshold_table",
]

_SAY_AGAIN_S = 15.0  # between two lines about the same work where there is no bar
PART_NAMES = {
    "queue": "queue",
    "prefill": "execution",
    "transfer": "transfer",
    "admission": "decode admission",
    "first_step": "first step",
}


def console(stderr: bool = False) -> Console:
    """Return a terminal to print to; at least 100 columns wide where it is not a real one."""
    from rich.console import Console

    real = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if real else 132)


def print_json(data: Mapping[str, Any]) -> None:
    """Print data as JSON, refusing NaN, which is not JSON."""
    print(json.dumps(data, indent=2, allow_nan=False))


def notices(lines: Sequence[str]) -> None:
    """Print what was decided for the user, to stderr."""
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


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


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _time(mean: float, half: float = 0.0) -> str:
    if not half:
        return format_duration(mean)
    scale, unit = (1.0, "s") if mean >= 1 else (1e3, "ms")
    decimals = max(0, 2 - math.floor(math.log10(max(mean * scale, 1e-3))))
    return f"{mean * scale:.{decimals}f} ±{half * scale:.{decimals}f} {unit}"


def _share(mean: float, half: float = 0.0) -> str:
    return f"{100 * mean:.1f} %" if half < 5e-4 else f"{100 * mean:.1f} ±{100 * half:.1f} %"


def sensitivity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of what each input does to P95 TTFT and attainment.

    Parameters
    ----------
    rows : sequence of mapping
        As `qmodel.studies.sensitivity.tidy` returns them.
    """
    cells = []
    for row in rows:
        unstable = row["p95_ttft_s"] is None
        cells.append(
            (
                row["what"],
                row["change"],
                "no steady state" if unstable else _time(row["p95_ttft_s"]),
                "" if unstable else f"{100 * row['p95_change']:+.1f} %",
                "" if unstable else f"{100 * row['attainment_change']:+.2f}",
                f"{row['elasticity']:+.2f}",
            )
        )
    columns = ("input", "change", "P95 TTFT", "", "SLO met, points", "elasticity of P95")
    return _table("Sensitivity, largest effect first", columns, cells)


def comparison_table(comparison: Comparison, predicted: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the table of policies: simulated means with 95 % intervals, predictions beneath where there are any.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics.
    predicted : mapping
        Policy to metric to predicted value.

    Returns
    -------
    Table
        For `rich` to print.
    """
    columns = (
        "policy",
        "P50 TTFT",
        "P95 TTFT",
        "P99 TTFT",
        "P99 TBT",
        "SLO met",
        "TBT met",
        "deflected",
    )
    names = ("p50_ttft_s", "p95_ttft_s", "p99_ttft_s", "p99_tbt_s", "slo_attainment", "tbt_attainment")
    rows = []
    for policy in comparison.policies:
        cells = [
            (_time if name.endswith("_s") else _share)(*comparison.interval(policy, name))
            for name in (*names, "deflected_share")
        ]
        rows.append((policy, *cells))
        if policy in predicted:
            values = predicted[policy]
            cells = [
                (_time if n.endswith("_s") else _share)(values[n]) if n in values else "-"
                for n in (*names, "deflected_share")
            ]
            rows.append(("  predicted", *cells))
    runs = f"{len(comparison.seeds)} runs of {comparison.requests:,} requests"
    return _table(f"Simulated, {runs} each, means with 95 % intervals", columns, rows)


def breakdown_table(comparison: Comparison) -> Table:
    """Return where P95 TTFT goes, per policy: mean of each part among the requests near that quantile.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics.

    Returns
    -------
    Table
        For `rich` to print.
    """
    rows = []
    for policy in comparison.policies:
        parts = {part: comparison.mean(policy, f"p95_{part}_s") for part in PART_NAMES}
        total = sum(parts.values()) or 1.0
        rows.append((policy, *(f"{_time(v)} ({100 * v / total:.0f} %)" for v in parts.values())))
    return _table("Where P95 TTFT goes", ("policy", *PART_NAMES.values()), rows)


def measures_table(title: str, measures: Mapping[str, float], errors: Mapping[str, float] | None = None) -> Table:
    """Return one column of metrics, with relative error estimates where there are any.

    Parameters
    ----------
    title : str
        Heading.
    measures : mapping
        Metric to value; names that end in ``_s`` are seconds, others shares.
    errors : mapping, optional
        Metric to relative half-width, as in `Prediction.error_estimate`: ``ttft_p95`` speaks of ``p95_ttft_s``.

    Returns
    -------
    Table
        For `rich` to print.
    """
    known = {
        (name if name in measures else "{1}_{0}_s".format(*name.split("_"))): error
        for name, error in (errors or {}).items()
    }
    rows = []
    for name, value in measures.items():
        shown = _time(value) if name.endswith("_s") else _share(value)
        error = known.get(name)
        rows.append((name, shown, "" if error is None else f"±{100 * error:.1f} %"))
    return _table(title, ("metric", "value", "error estimate"), rows)


def interval_table(interval: Mapping[str, Any], prompt_tokens: Sequence[float] = ()) -> Table:
    """Return where metrics lie over draws of the calibration.

    Parameters
    ----------
    interval : mapping
        ``draws``, ``coverage`` and ``intervals``: metric to its lower and upper limit; a plan's also has
        ``threshold_low_s`` and ``threshold_high_s``, of which the column without decode backlog is shown.
    prompt_tokens : sequence of float
        Rows of those tables.

    Returns
    -------
    Table
        For `rich` to print.
    """
    rows = [
        (name, *((_time if name.endswith("_s") else _share)(limit) for limit in limits))
        for name, limits in interval["intervals"].items()
    ]
    rows += [
        (f"threshold of {tokens:,.0f} tokens", format_threshold(low[0]), format_threshold(high[0]))
        for tokens, low, high in zip(
            prompt_tokens, interval.get("threshold_low_s", ()), interval.get("threshold_high_s", ()), strict=True
        )
    ]
    title = f"Over {interval['draws']} draws of the calibration: where {100 * interval['coverage']:g} % of them lie"
    return _table(title, ("metric", "from", "to"), rows)


def split_table(split: Mapping[str, Any]) -> Table:
    """Return the static split by prompt length: share kept at prefill, and what each path costs.

    Parameters
    ----------
    split : mapping
        ``bins``: list of rows with prompt_tokens, share_of_requests, kept, prefill_s, transfer_s, host_s.

    Returns
    -------
    Table
        For `rich` to print.
    """
    rows = [
        (
            f"{row['prompt_tokens']:,.0f}",
            _share(row["share_of_requests"]),
            _share(row["kept"]),
            _time(row["prefill_s"]),
            _time(row["transfer_s"]),
            _time(row["host_s"]),
        )
        for row in split["bins"]
    ]
    columns = ("prompt tokens", "of requests", "kept at prefill", "prefill work", "transfer", "host time")
    return _table("Static split by prompt length", columns, rows)


def threshold_table(table: Mapping[str, Any]) -> Table:
    """Return the threshold table: prefill backlog above which a prompt is deflected.

    Parameters
    ----------
    table : mapping
        ``prompt_tokens`` (rows), ``decode_backlog_s`` (columns) and ``threshold_s`` (matrix).

    Returns
    -------
    Table
        For `rich` to print.
    """
    columns = ("prompt tokens", *(f"v = {format_duration(v)}" for v in table["decode_backlog_s"]))
    rows = [
        (f"{tokens:,.0f}", *(format_threshold(t) for t in row))
        for tokens, row in zip(table["prompt_tokens"], table["threshold_s"], strict=True)
    ]
    title = "Deflect when the prefill backlog exceeds (v: deflected work waiting at the decode instance)"
    return _table(title, columns, rows)


def capacity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return clusters by cost, each with the best P95 TTFT for its money.

    Parameters
    ----------
    rows : sequence of mapping
        ``cluster``, ``gpus``, ``cost``, ``p95_ttft_s``, ``predicted_attainment`` and ``simulated_attainment``.

    Returns
    -------
    Table
        For `rich` to print.
    """
    cells = [
        (
            str(row["cluster"]),
            str(row["gpus"]),
            f"{row['cost']:g}",
            _time(row["p95_ttft_s"]),
            *(
                "-" if row[name] is None else _share(row[name])
                for name in ("predicted_attainment", "simulated_attainment")
            ),
        )
        for row in rows
    ]
    columns = ("cluster", "GPUs", "cost", "P95 TTFT", "SLO met, predicted", "simulated")
    return _table("What more or less money buys at this rate", columns, cells)


def frontier_table(rows: Sequence[Mapping[str, Any]], rate_per_s: float) -> Table:
    """Return what each cost buys at best: the highest rate, and the lowest P95 TTFT at a rate.

    Parameters
    ----------
    rows : sequence of mapping
        From `capacity_frontier`; those that a cheaper one beats in both are left out.
    rate_per_s : float
        Rate of the P95 TTFT [1/s].

    Returns
    -------
    Table
        For `rich` to print.
    """
    cells = [
        (
            f"{row['cost']:g}",
            str(row["gpus"]),
            str(row["cluster"]),
            f"{row['goodput_per_s']:.4g}/s",
            "-" if row["fastest"] is None else str(row["fastest"]),
            "-" if row["p95_ttft_s"] is None else _time(row["p95_ttft_s"]),
        )
        for row in rows
        if row["best_goodput"] or row["best_latency"]
    ]
    columns = ("cost", "GPUs", "best for rate", "highest rate", "best for latency", f"P95 TTFT at {rate_per_s:.4g}/s")
    return _table("Pareto frontier, predicted: what each cost buys at best", columns, cells)

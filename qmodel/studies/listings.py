"""Results as columns and rows of text: the same in the terminal and on report pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qmodel.scenario.ttft import PART_LABELS
from qmodel.studies.metrics import label
from qmodel.units import format_duration, format_share, format_threshold

if TYPE_CHECKING:
    from qmodel.studies.comparison import Comparison

__all__ = [
    "Listing",
    "breakdown_listing",
    "capacity_listing",
    "comparison_listing",
    "frontier_listing",
    "interval_listing",
    "measures_listing",
    "sensitivity_listing",
    "shown",
    "sides_listing",
    "split_listing",
    "threshold_listing",
]

# Metrics by which policies are compared; TTFT attainment shows in that of the SLO.
_COMPARED = (
    "p50_ttft_s", "p95_ttft_s", "p99_ttft_s", "p99_tbt_s", "slo_attainment", "tbt_attainment", "deflected_share",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A table of texts whose first column names its rows.

    Parameters
    ----------
    title : str
        What it shows.
    columns : tuple of str
        Headings.
    rows : tuple of tuple of str
        Cells.
    faint : frozenset of int
        Rows that say more about the one above them.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    faint: frozenset[int] = frozenset()


def shown(name: str, mean: float, half: float = 0.0) -> str:
    """Return the value of a metric for people: a time where its name ends in ``_s``, else a share.

    Parameters
    ----------
    name : str
        Metric.
    mean, half : float
        Value and half-width of its interval [s, or share of 1].
    """
    return (format_duration if name.endswith("_s") else format_share)(mean, half)


def comparison_listing(comparison: Comparison, predicted: Mapping[str, Mapping[str, float]]) -> Listing:
    """Return policies by metric: simulated means with 95 % intervals, predictions beneath where there are any.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics.
    predicted : mapping
        Policy to metric to predicted value.
    """
    rows: list[tuple[str, ...]] = []
    faint = set()
    for policy in comparison.policies:
        rows.append((policy, *(shown(name, *comparison.interval(policy, name)) for name in _COMPARED)))
        if policy in predicted:
            faint.add(len(rows))
            known = predicted[policy]
            rows.append(("predicted", *(shown(name, known[name]) if name in known else "-" for name in _COMPARED)))
    count, size = len(comparison.seeds), f"{comparison.requests:,} requests"
    runs = f"one run of {size}" if count == 1 else f"{count} runs of {size} each, means with 95 % intervals"
    return Listing(
        title=f"Simulated, {runs}",
        columns=("policy", *map(label, _COMPARED)),
        rows=tuple(rows),
        faint=frozenset(faint),
    )


def breakdown_listing(comparison: Comparison) -> Listing:
    """Return where P95 TTFT goes, per policy: mean of each part among the requests near that quantile.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics.
    """
    rows = []
    for policy in comparison.policies:
        parts = [comparison.mean(policy, f"p95_{part}_s") for part in PART_LABELS]
        total = sum(parts) or 1.0
        rows.append((policy, *(f"{format_duration(v)} ({100 * v / total:.0f} %)" for v in parts)))
    return Listing(title="Where P95 TTFT goes", columns=("policy", *PART_LABELS.values()), rows=tuple(rows))


def measures_listing(title: str, measures: Mapping[str, float], errors: Mapping[str, float] | None = None) -> Listing:
    """Return one column of metrics, and one of their relative error estimates where there are any.

    Parameters
    ----------
    title : str
        Heading.
    measures : mapping
        Metric to value; names that end in ``_s`` are seconds, others shares.
    errors : mapping, optional
        Metric to half-width, as in `Prediction.error_estimate`: relative for times, absolute for shares.
    """
    rows = [(label(name), shown(name, value)) for name, value in measures.items()]
    if not errors:
        return Listing(title=title, columns=("metric", "value"), rows=tuple(rows))
    widths = [_error(name, errors.get(name)) for name in measures]
    cells = tuple((*row, width) for row, width in zip(rows, widths, strict=True))
    return Listing(title=title, columns=("metric", "value", "error estimate"), rows=cells)


def _error(name: str, half: float | None) -> str:
    return "" if half is None else f"±{100 * half:.1f} {'%' if name.endswith('_s') else 'points'}"


def sides_listing(title: str, sides: Mapping[str, Mapping[str, float]]) -> Listing:
    """Return the same metrics from several sides, a column each.

    Parameters
    ----------
    title : str
        Heading.
    sides : mapping
        Where values come from, to metric to value; the first says which metrics.
    """
    first = next(iter(sides.values()))
    rows = tuple((label(n), *(shown(n, side[n]) if n in side else "-" for side in sides.values())) for n in first)
    return Listing(title=title, columns=("metric", *sides), rows=rows)


def interval_listing(interval: Mapping[str, Any], prompt_tokens: Sequence[float] = ()) -> Listing:
    """Return where metrics lie over draws of the calibration.

    Parameters
    ----------
    interval : mapping
        ``draws``, ``coverage`` and ``intervals``: metric to its lower and upper limit; a plan's also has
        ``threshold_low_s`` and ``threshold_high_s``, of which the column without decode backlog is shown.
    prompt_tokens : sequence of float
        Rows of those tables.
    """
    rows = [(label(name), *(shown(name, limit) for limit in limits)) for name, limits in interval["intervals"].items()]
    rows += [
        (f"threshold of {tokens:,.0f} tokens", format_threshold(low[0]), format_threshold(high[0]))
        for tokens, low, high in zip(
            prompt_tokens, interval.get("threshold_low_s", ()), interval.get("threshold_high_s", ()), strict=True
        )
    ]
    title = f"Over {interval['draws']} draws of the calibration: where {100 * interval['coverage']:g} % of them lie"
    return Listing(title=title, columns=("metric", "from", "to"), rows=tuple(rows))


def sensitivity_listing(rows: Sequence[Mapping[str, Any]]) -> Listing:
    """Return what each input does to P95 TTFT and attainment.

    Parameters
    ----------
    rows : sequence of mapping
        As `qmodel.studies.sensitivity.tidy` returns them.
    """
    cells = []
    for row in rows:
        effect = ("no steady state", "", "")
        if row["p95_ttft_s"] is not None:
            changes = f"{100 * row['p95_change']:+.1f} %", f"{100 * row['attainment_change']:+.2f}"
            effect = format_duration(row["p95_ttft_s"]), *changes
        cells.append((row["what"], row["change"], *effect, f"{row['elasticity']:+.2f}"))
    columns = ("input", "change", "P95 TTFT", "", "SLO met, points", "elasticity of P95")
    return Listing(title="Sensitivity, largest effect first", columns=columns, rows=tuple(cells))


def split_listing(split: Mapping[str, Any]) -> Listing:
    """Return the static split by prompt length: share kept at prefill, and what each path costs.

    Parameters
    ----------
    split : mapping
        ``bins``: list of rows with prompt_tokens, share_of_requests, kept, prefill_s, transfer_s, host_s.
    """
    rows = tuple(
        (
            f"{row['prompt_tokens']:,.0f}",
            *(format_share(row[name]) for name in ("share_of_requests", "kept")),
            *(format_duration(row[name]) for name in ("prefill_s", "transfer_s", "host_s")),
        )
        for row in split["bins"]
    )
    columns = ("prompt tokens", "of requests", "kept at prefill", "prefill work", "transfer", "host time")
    return Listing(title="Static split by prompt length", columns=columns, rows=rows)


def threshold_listing(table: Mapping[str, Any]) -> Listing:
    """Return the threshold table: prefill backlog above which a prompt is deflected.

    Parameters
    ----------
    table : mapping
        ``prompt_tokens`` (rows), ``decode_backlog_s`` (columns) and ``threshold_s`` (matrix).
    """
    rows = tuple(
        (f"{tokens:,.0f}", *map(format_threshold, row))
        for tokens, row in zip(table["prompt_tokens"], table["threshold_s"], strict=True)
    )
    title = "Deflect when the prefill backlog exceeds (v: deflected work waiting at the decode instance)"
    columns = ("prompt tokens", *(f"v = {format_duration(v)}" for v in table["decode_backlog_s"]))
    return Listing(title=title, columns=columns, rows=rows)


def capacity_listing(title: str, rows: Sequence[Mapping[str, Any]]) -> Listing:
    """Return clusters with their cost and how well each keeps the SLO at a rate.

    Parameters
    ----------
    title : str
        Heading.
    rows : sequence of mapping
        ``cluster``, ``gpus``, ``cost``, ``rate_per_s``, ``p95_ttft_s``, ``predicted_attainment`` and
        ``simulated_attainment``.
    """
    cells = tuple(
        (
            str(row["cluster"]), str(row["gpus"]), f"{row['cost']:g}", f"{row['rate_per_s']:.4g}/s",
            _or_dash(row["p95_ttft_s"], format_duration),
            *(_or_dash(row[name], format_share) for name in ("predicted_attainment", "simulated_attainment")),
        )
        for row in rows
    )  # fmt: skip
    columns = ("cluster", "GPUs", "cost", "rate", "P95 TTFT", "SLO met, predicted", "SLO met, simulated")
    return Listing(title=title, columns=columns, rows=cells)


def frontier_listing(rows: Sequence[Mapping[str, Any]], rate_per_s: float) -> Listing:
    """Return what each cost buys at best: the highest rate, and the lowest P95 TTFT at a rate.

    Parameters
    ----------
    rows : sequence of mapping
        From `capacity_frontier`; those that a cheaper one beats in both are left out.
    rate_per_s : float
        Rate of the P95 TTFT [1/s].
    """
    cells = tuple(
        (
            f"{row['cost']:g}", str(row["gpus"]), str(row["cluster"]), f"{row['goodput_per_s']:.4g}/s",
            _or_dash(row["fastest"], str), _or_dash(row["p95_ttft_s"], format_duration),
        )
        for row in rows
        if row["best_goodput"] or row["best_latency"]
    )  # fmt: skip
    columns = ("cost", "GPUs", "best for rate", "highest rate", "best for latency", f"P95 TTFT at {rate_per_s:.4g}/s")
    return Listing(title="Pareto frontier, predicted: what each cost buys at best", columns=columns, rows=cells)


def _or_dash(value: Any, show: Any) -> str:
    return "-" if value is None else str(show(value))

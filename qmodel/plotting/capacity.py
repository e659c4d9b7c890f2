"""Pictures of capacity: which split serves which rate, and goodput against rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import COLORS, LINES, new_figure, plain_log, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["capacity_figure", "draw_capacity", "frontier_figure"]

Rows = Sequence[Mapping[str, Any]]
_COSTS_NAMED, _WORTH_NAMING = 7, 1.2


def capacity_figure(rows: Rows, chosen: str, rate_per_s: float, attainment: float, title: str = "") -> Figure:
    """Return the feasibility map P:D x rate beside goodput against rate.

    Parameters
    ----------
    rows : sequence of mapping
        ``cluster``, ``rate_per_s`` and ``slo_attainment`` of every cell of the map.
    chosen : str
        Cluster of the answer.
    rate_per_s : float
        Its rate [1/s].
    attainment : float
        Share of requests that must meet the SLO.
    title : str, optional
        Line above the picture.
    """
    clusters = len({str(row["cluster"]) for row in rows})
    with style():
        figure = new_figure(10.0, max(2.8, min(4.2, 1.9 + 0.18 * clusters)))
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        _draw_rates(figure.subplots(1, 2), rows, chosen, rate_per_s, attainment)
    return figure


def frontier_figure(sizes: Rows, rate_per_s: float, answer: Mapping[str, Any]) -> Figure:
    """Return cost against P95 TTFT at a rate, beside cost against goodput.

    Parameters
    ----------
    sizes : sequence of mapping
        Rows of `capacity_frontier`.
    rate_per_s : float
        Rate of the P95 TTFT [1/s].
    answer : mapping
        ``cost``, ``p95_ttft_s`` and ``rate_per_s`` of the answer.
    """
    with style():
        figure = new_figure(10.0, 3.6)
        _draw_costs(figure.subplots(1, 2), sizes, rate_per_s, answer)
    return figure


def draw_capacity(
    rows: Rows,
    chosen: str,
    rate_per_s: float,
    attainment: float,
    path: str | Path,
    sizes: Rows = (),
    answer: Mapping[str, Any] | None = None,
) -> None:
    """Draw the feasibility map P:D x rate beside goodput against rate, and cost against both below; write the picture.

    Parameters
    ----------
    rows, chosen, rate_per_s, attainment
        As in `capacity_figure`.
    path : str or Path
        A .png, .pdf or .svg file.
    sizes, answer : optional
        As in `frontier_figure`; without them there is no second row.
    """
    with style():
        figure = new_figure(10.0, 7.8 if sizes else 4.2)
        panels: Any = figure.subplots(2 if sizes else 1, 2, squeeze=False)
        _draw_rates(panels[0], rows, chosen, rate_per_s, attainment)
        if sizes and answer is not None:
            _draw_costs(panels[1], sizes, rate_per_s, answer)
        save_figure(figure, path)


def _draw_rates(panels: Any, rows: Rows, chosen: str, rate_per_s: float, attainment: float) -> None:
    clusters = list(dict.fromkeys(str(row["cluster"]) for row in rows))
    rates = sorted({float(row["rate_per_s"]) for row in rows})
    share = np.full((len(clusters), len(rates)), np.nan)
    for row in rows:
        share[clusters.index(str(row["cluster"])), rates.index(float(row["rate_per_s"]))] = row["slo_attainment"]
    _draw_map(panels[0], clusters, np.array(rates), share, (chosen, rate_per_s, attainment))
    _draw_goodput(panels[1], clusters, np.array(rates), share, chosen, attainment)


def _draw_costs(panels: Any, sizes: Rows, rate_per_s: float, answer: Mapping[str, Any]) -> None:
    """Draw every size as a dot, the frontier as a line with names, the answer as a star."""
    heads = (
        ("p95_ttft_s", "fastest", "best_latency", 4, f"P95 TTFT at {rate_per_s:.4g}/s [s]", "Latency that money buys"),
        (
            "goodput_per_s",
            "cluster",
            "best_goodput",
            -9,
            "highest rate within the SLO [1/s]",
            "Rate that money buys",
        ),
    )
    stars = {"p95_ttft_s": answer["p95_ttft_s"], "goodput_per_s": answer["rate_per_s"]}
    for axes, (metric, name, chosen, offset, label, title) in zip(panels, heads, strict=True):
        seen = [row for row in sizes if row.get(metric) is not None]
        best = [row for row in seen if row[chosen]]
        axes.plot([r["cost"] for r in seen], [r[metric] for r in seen], "o", color=COLORS[0], alpha=0.35)
        axes.plot([r["cost"] for r in best], [r[metric] for r in best], "o-", color=COLORS[4])
        for row in _named(best, metric):
            axes.annotate(
                str(row[name]), (row["cost"], row[metric]), xytext=(4, offset), textcoords="offset points", fontsize=7
            )
        axes.plot([answer["cost"]], [stars[metric]], marker="*", ms=13, color=COLORS[6], mec="white", ls="none")
        if metric == "p95_ttft_s":
            axes.set_yscale("log")
            plain_log(axes.yaxis, (1.0, 2.0, 5.0))
        axes.set(xlabel="cost", ylabel=label)
        axes.margins(x=0.12)
        axes.set_title(title)


def _draw_map(axes: Axes, clusters: Sequence[str], rates: Any, share: Any, answer: tuple[str, float, float]) -> None:
    chosen, rate, attainment = answer
    places = np.arange(len(clusters))
    middle = (rates[1:] + rates[:-1]) / 2
    sides = np.concatenate([[2 * rates[0] - middle[0]], middle, [2 * rates[-1] - middle[-1]]])
    edges = np.arange(len(clusters) + 1) - 0.5
    shades = axes.pcolormesh(sides, edges, share, cmap="cividis", vmin=0.0, vmax=1.0, shading="flat")
    axes.figure.colorbar(shades, ax=axes, label="share of requests that meet the SLO")
    for place, row in enumerate(share):
        limit = _highest_rate(rates, row, attainment)
        if limit is not None:
            axes.plot([limit, limit], [place - 0.5, place + 0.5], color="white", lw=2.2)
    if chosen in clusters and rates[0] <= rate <= rates[-1]:
        axes.plot([rate], [clusters.index(chosen)], marker="*", ms=13, color=COLORS[6], mec="white")
    axes.set_yticks(places, clusters)
    axes.set(xlabel="rate [requests/s]")
    axes.grid(visible=False)
    axes.set_title(f"Predicted attainment; line: {100 * attainment:g} %, star: the answer")


def _named(best: Rows, metric: str) -> list[Mapping[str, Any]]:
    """Return the rows to name: the ends of the frontier's useful part, and steps that are worth it, not too many."""
    named = [best[0]] if best else []
    for row in best[1:]:
        ratio = row[metric] / named[-1][metric]
        if max(ratio, 1 / ratio) > _WORTH_NAMING and len(named) < _COSTS_NAMED:
            named.append(row)
    return named


def _highest_rate(rates: Any, share: Any, attainment: float) -> float | None:
    """Return where attainment falls through the target for good, between two rates of the map; None beyond it."""
    held = np.flatnonzero(share >= attainment)
    if not len(held) or held[-1] == len(rates) - 1:
        return None
    last = int(held[-1])
    step = (share[last] - attainment) / (share[last] - share[last + 1])
    return float(rates[last] + step * (rates[last + 1] - rates[last]))


def _draw_goodput(axes: Axes, clusters: Sequence[str], rates: Any, share: Any, chosen: str, attainment: float) -> None:
    order = np.argsort(-np.nanmax(np.where(share >= attainment, rates, 0.0), axis=1), kind="stable")[:4]
    shown = list(dict.fromkeys([*([clusters.index(chosen)] if chosen in clusters else []), *order]))
    for number, place in enumerate(shown):
        color, line = COLORS[(number + 4) % len(COLORS)], LINES[(number + 4) % len(LINES)]
        axes.plot(rates, rates * share[place], color=color, ls=line, label=clusters[place])
    axes.plot(rates, rates, color="black", lw=0.7)
    axes.annotate(
        "all met", (rates[-1], rates[-1]), xytext=(-24, 0), textcoords="offset points", ha="right", fontsize=7
    )
    axes.set(xlabel="rate [requests/s]", ylabel="requests/s that meet the SLO", ylim=(0, None))
    axes.set_title("Goodput")
    axes.legend(loc="best")

"""Pictures of capacity: which split serves which rate, and goodput against rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import COLORS, LINES, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_capacity"]

Rows = Sequence[Mapping[str, Any]]


def draw_capacity(rows: Rows, chosen: str, rate_per_s: float, attainment: float, path: str | Path) -> None:
    """Draw the feasibility map P:D x rate beside goodput against rate, and write the picture.

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
    path : str or Path
        A .png, .pdf or .svg file.
    """
    clusters = list(dict.fromkeys(str(row["cluster"]) for row in rows))
    rates = sorted({float(row["rate_per_s"]) for row in rows})
    share = np.full((len(clusters), len(rates)), np.nan)
    for row in rows:
        share[clusters.index(str(row["cluster"])), rates.index(float(row["rate_per_s"]))] = row["slo_attainment"]
    with style():
        figure = new_figure(10.0, 4.2)
        panels: Any = figure.subplots(1, 2)
        _draw_map(panels[0], clusters, np.array(rates), share, (chosen, rate_per_s, attainment))
        _draw_goodput(panels[1], clusters, np.array(rates), share, chosen, attainment)
        save_figure(figure, path)


def _draw_map(axes: Axes, clusters: Sequence[str], rates: Any, share: Any, answer: tuple[str, float, float]) -> None:
    chosen, rate, attainment = answer
    places = np.arange(len(clusters))
    shades = axes.pcolormesh(rates, places, share, cmap="cividis", vmin=0.0, vmax=1.0, shading="nearest")
    axes.figure.colorbar(shades, ax=axes, label="share of requests that meet the SLO")
    if np.nanmin(share) < attainment < np.nanmax(share) and min(share.shape) > 1:
        axes.contour(rates, places, share, levels=[attainment], colors="white", linewidths=1.4)
    if chosen in clusters and rates[0] <= rate <= rates[-1]:
        axes.plot([rate], [clusters.index(chosen)], marker="*", ms=13, color=COLORS[6], mec="white")
    axes.set_yticks(places, clusters)
    axes.set(xlabel="rate [requests/s]")
    axes.grid(visible=False)
    axes.set_title(f"Predicted attainment; line: {100 * attainment:g} %, star: the answer")


def _draw_goodput(axes: Axes, clusters: Sequence[str], rates: Any, share: Any, chosen: str, attainment: float) -> None:
    order = np.argsort(-np.nanmax(np.where(share >= attainment, rates, 0.0), axis=1), kind="stable")[:4]
    shown = list(dict.fromkeys([*([clusters.index(chosen)] if chosen in clusters else []), *order]))
    for number, place in enumerate(shown):
        color, line = COLORS[(number + 4) % len(COLORS)], LINES[(number + 4) % len(LINES)]
        axes.plot(rates, rates * share[place], color=color, ls=line, label=clusters[place])
    axes.plot(rates, rates, color="black", lw=0.7)
    axes.annotate(
        "all met", (rates[-1], rates[-1]), xytext=(-4, -10), textcoords="offset points", ha="right", fontsize=8
    )
    axes.set(xlabel="rate [requests/s]", ylabel="requests/s that meet the SLO", ylim=(0, None))
    axes.set_title("Goodput")
    axes.legend(loc="best")

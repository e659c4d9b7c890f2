"""Pictures of the figures about rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import (
    COLORS,
    HATCHES,
    LINES,
    MARKERS,
    PAGE_IN,
    new_figure,
    panel_title,
    plain_log,
    policy_style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_price_frontier", "draw_static_splits"]

_VIEWS = (("setting", "p95_ttft_s"), ("setting", "slo_attainment"), ("p95_ttft_s", "slo_attainment"))


def draw_price_frontier(table: DataFrame) -> Figure:
    """Draw what Kairos' alpha and both prices do: to P95 TTFT, to attainment, and one against the other.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_rules.price_frontier`.
    """
    figure = new_figure(PAGE_IN, 2.7)
    p95, met, both = figure.subplots(1, 3)
    wide = table.pivot_table(
        index=["policy", "parameter", "setting", "chosen"], columns="metric", values="mean", sort=False
    ).reset_index()
    wide["slo_attainment"] *= 100.0
    for number, (parameter, rows) in enumerate(wide.groupby("parameter", sort=False)):
        rows = rows.sort_values("setting")
        look: dict[str, Any] = {
            "color": COLORS[(1, 4, 5)[number]],
            "ls": LINES[(1, 4, 0)[number]],
            "marker": MARKERS[number],
        }
        label = f"Kairos, {parameter}" if rows["policy"].iloc[0] == "kairos" else f"ours at dispatch, {parameter} x"
        for axis, (x, y) in zip((p95, met, both), _VIEWS, strict=True):
            axis.plot(rows[x], rows[y], label=label, **look)
            here = rows[rows["chosen"]]
            axis.plot(here[x], here[y], "o", ms=8, mfc="none", mec="black", mew=0.8, zorder=5)
    first = table.iloc[0]
    for axis in (p95, met):
        axis.set(xscale="log", xlabel="alpha, or factor on the price")
        plain_log(axis.xaxis, (1.0, 2.0, 5.0))
    p95.set(ylabel="P95 TTFT [s]", ylim=(0, None))
    figure.suptitle(f"{panel_title(first['panel'])}, t = {first['sweep']:g}", fontsize=8.5, x=0.01, ha="left")
    met.set(ylabel="SLO met [%]", ylim=(0, 104))
    both.set(xlabel="P95 TTFT [s]", ylabel="SLO met [%]")
    handles, labels = p95.get_legend_handles_labels()
    circles = "circles: alpha as published, prices as derived"
    figure.legend(handles, labels, loc="outside lower center", ncols=3, title=circles)
    return figure


def draw_static_splits(table: DataFrame) -> Figure:
    """Draw P95 TTFT and attainment of each split of the cluster, with and without deflection, panel by panel.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_rules.static_splits`.
    """
    panels, splits = (list(dict.fromkeys(table[name])) for name in ("panel", "cluster"))
    policies = list(dict.fromkeys(table["policy"]))
    figure = new_figure(PAGE_IN, 3.6)
    grid: Any = figure.subplots(2, len(panels), sharex=True, sharey="row")
    place, width = np.arange(len(splits)), 0.8 / len(policies)
    for column, panel in enumerate(panels):
        for row, (metric, scale) in enumerate((("p95_ttft_s", 1.0), ("slo_attainment", 100.0))):
            axis = grid[row][column]
            here = table[(table["panel"] == panel) & (table["metric"] == metric)]
            for number, policy in enumerate(policies):
                rows = here[here["policy"] == policy].set_index("cluster").loc[splits]
                axis.bar(
                    place + (number - (len(policies) - 1) / 2) * width, scale * rows["mean"], width, label=policy,
                    color=policy_style(policy)["color"], hatch=HATCHES[number], edgecolor="white", linewidth=0.4,
                    yerr=scale * rows["half_width"], error_kw={"elinewidth": 0.7},
                )  # fmt: skip
            axis.grid(visible=False, axis="x")
            axis.set_xticks(place, splits, fontsize=7)
        grid[0][column].set_title(panel_title(panel, short=True))
    grid[0][0].set_yscale("log")
    plain_log(grid[0][0].yaxis, (1.0, 3.0))
    grid[0][0].set_ylabel("P95 TTFT [s]")
    grid[1][0].set(ylabel="SLO met [%]", ylim=(0, 104))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(policies))
    return figure

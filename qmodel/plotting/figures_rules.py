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


def draw_price_frontier(table: DataFrame) -> Figure:
    """Draw attainment against P95 TTFT along Kairos' alpha and along both prices.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_rules.price_frontier`.
    """
    figure = new_figure(PAGE_IN, 2.9)
    axes: Any = figure.subplots(1, 2)
    wide = table.pivot_table(
        index=["policy", "parameter", "setting", "chosen"], columns="metric", values="mean", sort=False
    ).reset_index()
    for number, (parameter, rows) in enumerate(wide.groupby("parameter", sort=False)):
        rows = rows.sort_values("setting")
        look: dict[str, Any] = {
            "color": COLORS[(1, 4, 5)[number]],
            "ls": LINES[(1, 4, 0)[number]],
            "marker": MARKERS[number],
        }
        label = f"Kairos, {parameter}" if rows["policy"].iloc[0] == "kairos" else f"ours at dispatch, {parameter} x"
        axes[0].plot(rows["p95_ttft_s"], 100 * rows["slo_attainment"], label=label, **look)
        axes[1].plot(rows["setting"], rows["p95_ttft_s"], label=label, **look)
        here = rows[rows["chosen"]]
        axes[0].plot(here["p95_ttft_s"], 100 * here["slo_attainment"], "o", ms=9, mfc="none", mec="black")
        axes[1].plot(here["setting"], here["p95_ttft_s"], "o", ms=9, mfc="none", mec="black")
    first = table.iloc[0]
    axes[0].set(xlabel="P95 TTFT [s]", ylabel="SLO met [%]")
    axes[0].set_title(f"{panel_title(first['panel'])}, t = {first['sweep']:g}")
    axes[1].set(xscale="log", xlabel="alpha, or factor on the derived price", ylabel="P95 TTFT [s]", ylim=(0, None))
    axes[1].set_title("circles: the paper's alpha, our derived prices")
    plain_log(axes[1].xaxis, (1.0, 2.0, 5.0))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
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

"""Pictures of the figures about queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import COLORS, MARKERS, PAGE_IN, new_figure, panel_title, policy_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_asymmetry", "draw_mgk_errors"]

_METHODS = {
    "auto": "qmodel's choice",
    "lee-longton": "Lee-Longton",
    "cosmetatos": "Cosmetatos",
    "kimura": "Kimura",
    "boxma-cohen-huffels": "Boxma-Cohen-Huffels",
    "tijms-van-hoorn": "Tijms-van Hoorn",
    "lundberg": "Lundberg",
}


def draw_asymmetry(table: DataFrame) -> Figure:
    """Draw offered prefill load, prefill backlog and decode step over a burst, one above the other.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_queue.asymmetry`.
    """
    figure = new_figure(PAGE_IN, 4.2)
    load, backlog, step = figure.subplots(3, 1, sharex=True, height_ratios=(0.8, 1.3, 1.0))
    offered = table[table["policy"] == table["policy"].iloc[0]]
    load.fill_between(offered["time_s"], offered["offered_load"], step="post", color="#bbbbbb", lw=0)
    over = np.maximum(offered["offered_load"], 1.0)
    load.fill_between(offered["time_s"], 1.0, over, step="post", color=COLORS[6], lw=0, alpha=0.8)
    load.axhline(1.0, color="black", lw=0.8)
    load.set(ylabel="offered prefill\nload", ylim=(0, None))
    load.set_title(f"{panel_title(offered['panel'].iloc[0])}, t = {offered['sweep'].iloc[0]:g}: a burst ...")
    for policy in dict.fromkeys(table["policy"]):
        rows = table[table["policy"] == policy]
        look = policy_style(policy) | {"marker": None}
        backlog.plot(rows["time_s"], rows["backlog_s"], label=policy, **look)
        step.plot(rows["time_s"], 1e3 * rows["decode_step_s"], **look)
    backlog.set(ylabel="prefill backlog\nper instance [s]", ylim=(0, None))
    backlog.set_title("... queues at prefill ...")
    backlog.legend(loc="upper left")
    slo = 1e3 * float(table["slo_s"].iloc[0])
    step.axhline(slo, color="black", lw=0.8)
    step.annotate("TBT SLO", (0, slo), xytext=(2, -8), textcoords="offset points", fontsize=7)
    step.set(ylabel="decode step\nwithout chunks [ms]", xlabel="time [s]", ylim=(0, 1.15 * slo))
    step.set_title("... while decode steps have room below their SLO: that room takes prefill chunks")
    step.set_xlim(0, float(table["time_s"].max()))
    figure.align_ylabels()
    return figure


def draw_mgk_errors(table: DataFrame) -> Figure:
    """Draw the error of each method for the mean, P95 and P99, a mark per law, servers and load.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_queue.mgk_errors`.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    methods = list(dict.fromkeys(table["method"]))[::-1]
    laws = list(dict.fromkeys(table["law"]))
    figure = new_figure(PAGE_IN, 3.2)
    grid: Any = figure.subplots(1, len(metrics), sharey=True)
    for axis, metric in zip(grid, metrics, strict=True):
        for number, law in enumerate(laws):
            rows = table[(table["metric"] == metric) & (table["law"] == law)]
            place = np.array([methods.index(m) for m in rows["method"]]) + 0.13 * (number - (len(laws) - 1) / 2)
            axis.plot(
                100 * rows["error"],
                place,
                MARKERS[number],
                color=COLORS[number + 1],
                ms=3.2,
                alpha=0.75,
                mew=0,
                label=law,
            )
        sampled = table[(table["metric"] == metric) & (table["truth_half_width_s"] > 0)]
        noise = 100 * float((sampled["truth_half_width_s"] / sampled["truth_s"]).max()) if len(sampled) else 0.0
        axis.axvspan(-noise, noise, color="#dddddd", lw=0)
        axis.axvline(0, color="black", lw=0.6)
        axis.set_xscale("symlog", linthresh=1.0, linscale=0.7)
        axis.set_xticks([-50, -10, -1, 0, 1, 10, 50], ["-50", "-10", "-1", "0", "1", "10", "50"])
        axis.set_xlim(-100, 100)
        axis.set(xlabel="error [%]", title=f"{metric} of the wait")
    grid[0].set_yticks(range(len(methods)), [_METHODS.get(m, m) for m in methods])
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(laws),
        title="grey: noise of the sample paths that stand for the truth where no exact law is known",
    )
    return figure

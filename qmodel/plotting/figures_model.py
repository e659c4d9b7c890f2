"""Picture of the figure that holds the analytical model against the simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import PAGE_IN, new_figure, plain_log, policy_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_predicted_against_simulated"]

_PLOTS = (("p95_ttft_s", "P95 TTFT [s]"), ("slo_attainment", "SLO met [%]"), ("deflected_share", "deflected [%]"))


def draw_predicted_against_simulated(table: DataFrame) -> Figure:
    """Draw predictions against simulations: P95 TTFT in bands of 5 and 15 %, shares in a band of 3 points.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_model.predicted_against_simulated`.
    """
    figure = new_figure(PAGE_IN, 2.6)
    grid: Any = figure.subplots(1, len(_PLOTS))
    for axis, (metric, label) in zip(grid, _PLOTS, strict=True):
        rows = table[table["metric"] == metric]
        scale = 1.0 if metric.endswith("_s") else 100.0
        true, said = scale * rows["simulated"].to_numpy(), scale * rows["predicted"].to_numpy()
        if metric.endswith("_s"):
            ends = np.array([0.7 * min(true.min(), said.min()), 1.4 * max(true.max(), said.max())])
            for band in (0.15, 0.05):
                axis.fill_between(ends, ends * (1 - band), ends * (1 + band), color="black", alpha=0.08, lw=0)
            axis.set(xscale="log", yscale="log")
            plain_log(axis.xaxis, (1.0,))
            plain_log(axis.yaxis, (1.0,))
            error = np.abs(said / true - 1)
            near, nearer = (100 * np.mean(error <= band) for band in (0.15, 0.05))
            axis.set_title(f"{near:.0f} % within 15 %, {nearer:.0f} % within 5 %", fontsize=8)
        else:
            ends = np.array([-2.0, 102.0])
            axis.fill_between(ends, ends - 3, ends + 3, color="black", alpha=0.08, lw=0)
            axis.set_title(f"{100 * np.mean(np.abs(said - true) <= 3):.0f} % within 3 points", fontsize=8)
        axis.plot(ends, ends, color="black", lw=0.6)
        for policy in dict.fromkeys(rows["policy"]):
            here = (rows["policy"] == policy).to_numpy()
            look = policy_style(policy)
            axis.plot(true[here], said[here], look["marker"], color=look["color"], ms=3.5, mew=0, label=policy)
        axis.set(xlim=ends, ylim=ends, xlabel=f"simulated {label}", ylabel=f"predicted {label}", aspect="equal")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure

"""Picture of the figure about robustness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import PAGE_IN, new_figure, panel_title, plain_log, policy_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_robustness"]


def draw_robustness(table: DataFrame) -> Figure:
    """Draw P95 TTFT and attainment of each policy under each condition, one row a condition.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_robust.robustness`.
    """
    conditions, policies = (list(dict.fromkeys(table[name])) for name in ("condition", "policy"))
    figure = new_figure(PAGE_IN, 1.1 + 0.24 * len(conditions))
    grid: Any = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(conditions))[::-1]
    for axis, (metric, scale, label) in zip(
        grid, (("p95_ttft_s", 1.0, "P95 TTFT [s]"), ("slo_attainment", 100.0, "SLO met [%]")), strict=True
    ):
        for number, policy in enumerate(policies):
            rows = (
                table[(table["policy"] == policy) & (table["metric"] == metric)].set_index("condition").loc[conditions]
            )
            look = policy_style(policy)
            axis.errorbar(
                scale * rows["mean"], place + 0.14 * (1.5 - number), xerr=scale * rows["half_width"], ms=4,
                fmt=look["marker"], color=look["color"], elinewidth=0.8, label=policy,
            )  # fmt: skip
        axis.axhspan(place[0] - 0.5, place[0] + 0.5, color="black", alpha=0.06, lw=0)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel(label)
    low = float(table[table["metric"] == "p95_ttft_s"]["mean"].min())
    grid[0].set(xscale="log", xlim=(0.5 * low, None))
    plain_log(grid[0].xaxis, (1.0, 3.0))
    grid[1].set_xlim(0, 102)
    grid[0].set_yticks(place, conditions)
    grid[0].set_ylim(-0.6, len(conditions) - 0.4)
    first = table.iloc[0]
    grid[0].set_title(f"{panel_title(first['panel'])}, t = {first['sweep']:g}")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(policies))
    return figure

"""Pictures of the evaluation: P95 TTFT against Kairos by cell, and under what was not planned for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import PAGE_IN, new_figure, plain_log, policy_style, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_evaluation", "draw_robustness"]


def draw_evaluation(table: DataFrame) -> Figure:
    """Draw P95 TTFT of each policy over Kairos' by cell, one small plot per model and SLO.

    Parameters
    ----------
    table : DataFrame
        From `studies.evaluation.evaluate`.
    """
    kept = table[(table["condition"] == "as planned") & (table["error"].fillna("") == "")]
    settings = list(kept.groupby(["model", "ttft_slo", "tbt_slo_s"], sort=False))
    with style():
        figure = new_figure(PAGE_IN, 1.9 * len(settings) + 0.5)
        grid: Any = figure.subplots(len(settings), 1, squeeze=False)
        for axis, ((model, ttft, tbt), part) in zip(grid[:, 0], settings, strict=True):
            _ratios(axis, part, ["panel", "sweep"])
            axis.set_title(f"{model}, TTFT SLO {ttft}, TBT SLO {1e3 * tbt:g} ms")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_robustness(table: DataFrame) -> Figure:
    """Draw P95 TTFT of each policy over Kairos' by condition, geometric means over the cells.

    Parameters
    ----------
    table : DataFrame
        From `studies.evaluation.evaluate`.
    """
    conditions = [name for name in dict.fromkeys(table["condition"]) if name != "as planned"]
    kept = table[table["condition"].isin(conditions) & (table["error"].fillna("") == "")]
    with style():
        figure = new_figure(PAGE_IN, 3.2)
        axis = figure.subplots()
        _ratios(axis, kept, ["condition"])
        axis.tick_params(axis="x", rotation=60)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _ratios(axis: Any, table: DataFrame, by: list[str]) -> None:
    """Draw the geometric mean of P95 over Kairos' by policy at each value of some columns."""
    runs = ["panel", "sweep", "condition", "seed"]
    log = np.log(table.set_index([*runs, "policy"])["p95_ttft_s"].unstack("policy"))
    ratio = np.exp(log.sub(log["kairos"], axis=0).groupby(level=by, sort=False).mean())
    labels = [str(key) if len(by) == 1 else f"{key[0]} {key[1]:g}" for key in ratio.index]
    place = np.arange(len(ratio))
    for number, policy in enumerate(ratio.columns):
        look = policy_style(policy, number) | {"ls": ""}
        axis.plot(place, ratio[policy], label=policy, **look)
    axis.axhline(1.0, color="black", lw=0.8)
    axis.set_yscale("log")
    plain_log(axis.yaxis, (1.0, 2.0, 5.0))
    axis.set_xticks(place, labels, fontsize=6.5)
    axis.set_ylabel("P95 TTFT / Kairos'")

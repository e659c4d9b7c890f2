"""The picture of a plan: the load it was made for, its thresholds, and what they gain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.comparison import draw_breakdown, draw_ttft_cdf
from qmodel.plotting.figure import COLORS, LINES, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qmodel.optimization.plan import Plan
    from qmodel.scenario import SLO
    from qmodel.studies.thresholds import CheckedPlan

__all__ = ["draw_plan"]

Windows = tuple[Any, Any, Any]


def draw_plan(plan: Plan, windows: Windows, slo: SLO, path: str | Path, checked: CheckedPlan | None = None) -> None:
    """Draw a plan and write the picture.

    Parameters
    ----------
    plan : Plan
        What to draw.
    windows : tuple of ndarray
        Start [s], arrivals [1/s] and prefill work [s/s] of the workload's windows.
    slo : SLO
        Objectives.
    path : str or Path
        A .png, .pdf or .svg file.
    checked : CheckedPlan, optional
        The simulated comparison; two more panels when given.
    """
    with style():
        figure = new_figure(10.0, 7.0 if checked else 3.6)
        panels: Any = figure.subplots(2 if checked else 1, 2, squeeze=False)
        _draw_load(panels[0][0], windows, plan.prefill_instances)
        _draw_thresholds(panels[0][1], plan.threshold_table())
        if checked is not None:
            draw_ttft_cdf(panels[1][0], checked.comparison, slo)
            draw_breakdown(panels[1][1], checked.comparison)
        figure.suptitle(plan.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        save_figure(figure, path)


def _draw_load(axes: Axes, windows: Windows, prefill_instances: int) -> None:
    start, _, work = windows
    load = np.asarray(work) / prefill_instances
    minutes = np.asarray(start) / 60
    axes.step(minutes, load, where="post", color=COLORS[4], lw=1.0)
    axes.fill_between(minutes, 1, load, where=load > 1, step="post", color=COLORS[6], alpha=0.45, lw=0)
    axes.axhline(1.0, color="black", lw=0.8)
    axes.annotate("capacity", (minutes[-1], 1.0), xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=8)
    axes.set(xlabel="time [min]", ylabel="load of the prefill pool", ylim=(0, 1.1 * max(1.0, float(load.max()))))
    axes.set_title(f"Offered prefill load, mean {float(load.mean()):.2f}; filled: more than the pool can do")


def _draw_thresholds(axes: Axes, table: dict[str, Any]) -> None:
    tokens = np.asarray(table["prompt_tokens"], dtype=float)
    values = np.asarray(table["threshold_s"], dtype=float)
    for number, backlog in enumerate(table["decode_backlog_s"]):
        shade = 0.25 + 0.75 * number / max(1, len(table["decode_backlog_s"]) - 1)
        axes.plot(
            tokens, np.maximum(values[:, number], 0.0), color=COLORS[4], alpha=shade, ls=LINES[number % len(LINES)],
            label=f"{backlog:g} s of deflected work waits",
        )  # fmt: skip
    axes.set(xscale="log", xlabel="prompt length [tokens]", ylabel="prefill backlog [s]", ylim=(0, None))
    axes.set_title("Deflect above the line")
    axes.legend(loc="best")

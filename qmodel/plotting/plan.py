"""The picture of a plan: the load it was made for, its thresholds, and what they gain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.comparison import draw_breakdown, draw_ttft_cdf
from qmodel.plotting.figure import COLORS, LINES, new_figure, plain_log, save_figure, style
from qmodel.policies.rule import ORDER_WORDS
from qmodel.units import NEVER_S, format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qmodel.scenario import SLO
    from qmodel.scenario.plan import Plan
    from qmodel.studies.thresholds import CheckedPlan

__all__ = ["draw_load", "draw_plan", "draw_thresholds", "plan_figure"]

Windows = tuple[Any, Any, Any]
_SHORTEST_TOKENS = 64.0
_WIDTH_IN = 9.2
_BINDINGS = {"dispatch": "bound at arrival", "late": "bound late"}


def plan_figure(plan: Plan, windows: Windows, slo: SLO, checked: CheckedPlan | None = None) -> Figure:
    """Return the picture of a plan.

    Parameters
    ----------
    plan : Plan
        What to draw.
    windows : tuple of ndarray
        Start [s], arrivals [1/s] and prefill work [s/s] of the workload's windows.
    slo : SLO
        Objectives.
    checked : CheckedPlan, optional
        The simulated comparison; two more panels when given.
    """
    with style():
        figure = new_figure(_WIDTH_IN, 6.4 if checked else 3.4)
        panels: Any = figure.subplots(2 if checked else 1, 2, squeeze=False)
        draw_load(panels[0][0], windows, plan.prefill_instances)
        draw_thresholds(panels[0][1], plan)
        if checked is not None:
            draw_ttft_cdf(panels[1][0], checked.comparison, slo)
            draw_breakdown(panels[1][1], checked.comparison)
        figure.suptitle("\n".join(_heading(plan, slo, checked)), x=0.01, ha="left", fontsize=10)
    return figure


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
    save_figure(plan_figure(plan, windows, slo, checked), path)


def _heading(plan: Plan, slo: SLO, checked: CheckedPlan | None) -> list[str]:
    what = f"{plan.cluster['model']}, {plan.cluster['name']} on {str(plan.cluster['gpu']).upper()}"
    load = f"{plan.workload['name']} at load {plan.workload['load']:.2f}"
    limits = f"TTFT within {format_duration(slo.ttft_s)}, TBT within {format_duration(slo.tbt_s)}"
    rule = f"Requests {_BINDINGS[plan.rule.binding]}, {ORDER_WORDS[plan.rule.order]}"
    if checked is None:
        return [f"{what}; {load}; {limits}", rule]
    comparison = checked.comparison
    ours = comparison.mean(comparison.policies[-1], "p95_ttft_s")
    rivals = ", ".join(
        f"{format_duration(comparison.mean(name, 'p95_ttft_s'))} ({name})" for name in comparison.policies[:2]
    )
    return [f"{what}; {load}; {limits}", f"{rule}: P95 TTFT {format_duration(ours)} instead of {rivals}"]


def draw_load(axes: Axes, windows: Windows, prefill_instances: int) -> None:
    """Draw the load that a workload offers to the prefill pool, window by window.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    windows : tuple of ndarray
        Start [s], arrivals [1/s] and prefill work [s/s].
    prefill_instances : int
        Instances of the pool.
    """
    start, _, work = (np.asarray(column, dtype=float) for column in windows)
    load = work / prefill_instances
    width = start[1] - start[0] if len(start) > 1 else 60.0
    edges = np.append(start, start[-1] + width) / 60
    drawn = np.append(load, load[-1])
    axes.step(edges, drawn, where="post", color=COLORS[4], lw=1.0)
    axes.fill_between(edges, 1, np.maximum(drawn, 1), step="post", color=COLORS[6], alpha=0.45, lw=0)
    axes.axhline(1.0, color="black", lw=0.8)
    axes.annotate(
        "capacity",
        (edges[-1], 1.0),
        xytext=(-2, -9),
        textcoords="offset points",
        ha="right",
        fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
    )
    axes.set(xlabel="time [min]", ylabel="load of the prefill pool", ylim=(0, 1.1 * max(1.0, float(load.max()))))
    axes.set_xlim(0, edges[-1])
    over = float(np.mean(load > 1))
    axes.set_title(f"Prefill load offered: above capacity {100 * over:.0f} % of the time")


def draw_thresholds(axes: Axes, plan: Plan) -> None:
    """Draw the prefill backlog above which a prompt is deflected, by its length and the backlog at decode.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    plan : Plan
        Its dispatch rule is drawn, at the mean decode state.
    """
    from qmodel.optimization.thresholds import thresholds_s

    table, rule = plan.threshold_table(), plan.dispatch_rule
    tokens = np.geomspace(_SHORTEST_TOKENS, float(rule.lengths[-1]), 200)
    highest, last = 0.0, 0.0
    for number, backlog in enumerate(table["decode_backlog_s"]):
        theta = thresholds_s(rule, tokens, backlog, float(table["batch"]), float(table["context_tokens"]))
        theta = np.where(theta < NEVER_S, np.maximum(theta, 0.0), np.nan)
        never = "" if np.any(np.isfinite(theta)) else ": never"
        label = f"{backlog:g} s{never}"
        axes.plot(tokens, theta, color=_shade(number), ls=LINES[(4, 0, 1, 2, 3)[number % 5]], label=label)
        seen = np.isfinite(theta)
        if seen.any():
            # The steep rise towards "never" would flatten the rest.
            highest = max(highest, float(np.quantile(theta[seen], 0.95)))
            last = max(last, float(tokens[seen][-1]))
    if 0 < last < tokens[-1]:
        axes.axvspan(last, tokens[-1], color="#eeeeee", lw=0)
        axes.text(np.sqrt(last * tokens[-1]), 0.5 * highest, "never", ha="center", va="center", rotation=90)
    axes.set(xscale="log", xlabel="prompt length [tokens]", ylabel="prefill backlog [s]", ylim=(0, 1.5 * highest or 1))
    axes.set_xlim(tokens[0], tokens[-1])
    plain_log(axes.xaxis, (1.0, 3.0))
    axes.set_title("Deflect above the line")
    axes.legend(loc="upper left", title="deflected work waiting there", title_fontsize=7.5, ncols=2, alignment="left")


def _shade(number: int) -> str:
    """Return a blue that darkens with each line."""
    return ("#5aa5cf", "#2f8cc0", "#0072B2", "#00456b", "#001f30")[number % 5]

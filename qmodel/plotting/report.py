"""Pictures of a report: the workload, predicted beside simulated laws of TTFT, and what moves them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.comparison import draw_breakdown, ttft_axes
from qmodel.plotting.figure import COLORS, new_figure, plain_log, policy_style, style
from qmodel.plotting.plan import draw_load, draw_thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qmodel.scenario import SLO, Cluster, Workload
    from qmodel.scenario.plan import Plan
    from qmodel.studies.comparison import Comparison
    from qmodel.studies.sensitivity import Effect

__all__ = ["SURVIVAL", "laws_figure", "sensitivity_figure", "svg_of", "thresholds_figure", "workload_figure"]

WIDTH_IN = 9.6
_WINDOWS = 90
# Shares of requests above t at which laws are drawn: even up to 99 %, finer in the tail.
SURVIVAL = 1 - np.concatenate([np.linspace(0.0025, 0.99, 200), np.linspace(0.99, 0.999, 40)[1:]])


def svg_of(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same numbers.

    Parameters
    ----------
    figure : Figure
        What to draw.
    """
    out = io.BytesIO()
    with style():
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def workload_figure(workload: Workload, cluster: Cluster) -> Figure:
    """Return the load offered over time beside the law of the lengths.

    Parameters
    ----------
    workload : Workload
        What to draw.
    cluster : Cluster
        Gives work and the size of the prefill pool.
    """
    with style():
        figure = new_figure(WIDTH_IN, 2.9)
        panels: Any = figure.subplots(1, 2)
        windows = workload.windows(cluster, max(1.0, workload.span_s / _WINDOWS))
        draw_load(panels[0], windows, cluster.prefill_count)
        _draw_lengths(panels[1], workload)
    return figure


def _draw_lengths(axes: Axes, workload: Workload) -> None:
    prompt, output, _, weights = workload.lengths()
    for tokens, name, color in ((prompt, "prompts", COLORS[4]), (output, "outputs", COLORS[1])):
        order = np.argsort(tokens)
        shares = np.cumsum(weights[order])
        line = "solid" if name == "prompts" else (0, (4, 1.5))
        axes.plot(tokens[order], 100 * shares, color=color, ls=line, label=f"{name}, mean {tokens @ weights:,.0f}")
    axes.set(xscale="log", xlabel="tokens", ylabel="requests up to this length [%]", ylim=(0, 101))
    plain_log(axes.xaxis)
    axes.set_title("Lengths")
    axes.legend(loc="upper left")


def thresholds_figure(plan: Plan) -> Figure:
    """Return the threshold curves of a plan.

    Parameters
    ----------
    plan : Plan
        What to draw.
    """
    with style():
        figure = new_figure(WIDTH_IN, 3.2)
        draw_thresholds(figure.subplots(), plan)
    return figure


def laws_figure(comparison: Comparison, predicted: Mapping[str, Any], slo: SLO) -> Figure:
    """Return the laws of TTFT, simulated and predicted, beside where P95 goes.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics and samples.
    predicted : mapping
        Policy to predicted TTFT [s] at the shares `SURVIVAL` above it.
    slo : SLO
        Its TTFT limit is marked.
    """
    with style():
        figure = new_figure(WIDTH_IN, 2.3 + 0.27 * min(6, len(comparison.policies)))
        panels: Any = figure.subplots(1, 2)
        _draw_laws(panels[0], comparison, predicted, slo)
        draw_breakdown(panels[1], comparison)
        if len(comparison.policies) == 1:
            panels[1].set_ylim(-1.2, 1.2)  # else the only bar would fill the panel
    return figure


def _draw_laws(axes: Axes, comparison: Comparison, predicted: Mapping[str, Any], slo: SLO) -> None:
    for number, policy in enumerate(comparison.policies):
        color = policy_style(policy, number)["color"]
        times = np.quantile(comparison.ttft_samples[policy], 1 - SURVIVAL)
        axes.plot(times, 100 * SURVIVAL, color=color, lw=1.5, label=policy)
        if policy in predicted:
            at = slice(number * 3, None, 18)  # spread along the lines, so that markers do not hide each other
            axes.plot(np.asarray(predicted[policy])[at], 100 * SURVIVAL[at], "o", mfc="white", mec=color, ms=3.6)
    ttft_axes(axes, slo)
    axes.set_title("Time to first token: simulated (lines), predicted (circles)")
    axes.legend(loc="lower left")


def sensitivity_figure(effects: Sequence[Effect]) -> Figure:
    """Return what single changes do to P95 TTFT and to attainment, as bars.

    Parameters
    ----------
    effects : sequence of Effect
        Changes, in the order to draw them.
    """
    with style():
        figure = new_figure(WIDTH_IN, 0.9 + 0.27 * len(effects))
        panels: Any = figure.subplots(1, 2, sharey=True)
        place = np.arange(len(effects))[::-1]
        columns = (
            ([100 * e.p95_change for e in effects], "change of P95 TTFT [%]", -1),
            ([100 * e.attainment_change for e in effects], "change of SLO attainment [points]", 1),
        )
        for axes, (values, label, good) in zip(panels, columns, strict=True):
            colors = [COLORS[4] if value * good >= 0 else COLORS[6] for value in values]
            axes.barh(place, values, height=0.62, color=colors)
            for y, value in zip(place, values, strict=True):
                axes.annotate(
                    f"{value:+.1f}", (value, y), xytext=(4 if value >= 0 else -4, 0), textcoords="offset points",
                    ha="left" if value >= 0 else "right", va="center", fontsize=7,
                )  # fmt: skip
            axes.axvline(0, color="black", lw=0.8)
            axes.margins(x=0.18)
            axes.set_xlabel(label)
            axes.grid(visible=False, axis="y")
        panels[0].set_yticks(place, [effect.change for effect in effects])
    return figure

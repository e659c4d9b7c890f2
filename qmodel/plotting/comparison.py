"""Pictures of a comparison of policies: TTFT laws, percentiles with intervals, and where P95 TTFT goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import (
    COLORS,
    HATCHES,
    new_figure,
    plain_log,
    policy_style,
    save_figure,
    style,
)
from qmodel.scenario.ttft import PART_LABELS
from qmodel.units import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qmodel.scenario import SLO
    from qmodel.studies.comparison import Comparison

__all__ = ["comparison_figure", "draw_breakdown", "draw_comparison", "draw_ttft_cdf", "ttft_axes"]

_ROOM_FOR_TEXT = 1.55  # the longest bar leaves this much width to its label


def draw_ttft_cdf(axes: Axes, comparison: Comparison, slo: SLO) -> None:
    """Draw the share of requests whose TTFT exceeds t, per policy, on logarithmic axes.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    comparison : Comparison
        Whose `ttft_samples` [s] are drawn.
    slo : SLO
        Its TTFT limit is marked.
    """
    shares = np.concatenate([np.linspace(0.0, 0.99, 397), np.linspace(0.99, 0.999, 60)[1:]])
    for number, policy in enumerate(comparison.policies):
        times = np.quantile(comparison.ttft_samples[policy], shares)
        axes.plot(times, 100 * (1 - shares), label=policy, **policy_style(policy, number) | {"marker": None})
    ttft_axes(axes, slo)
    axes.set_title("How many requests wait longer than t")
    axes.legend(loc="lower left")


def ttft_axes(axes: Axes, slo: SLO) -> None:
    """Make axes of TTFT [s] against requests above it [%], both logarithmic, with the SLO marked.

    Parameters
    ----------
    axes : Axes
        With the lines already drawn.
    slo : SLO
        Its TTFT limit is marked.
    """
    axes.set(xscale="log", yscale="log", xlabel="TTFT t [s]", ylabel="requests above t [%]", ylim=(0.1, 100.0))
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.axvline(slo.ttft_s, color="black", lw=0.8)
    axes.annotate("SLO", (slo.ttft_s, 0.1), xytext=(3, 3), textcoords="offset points", fontsize=7)


def draw_breakdown(axes: Axes, comparison: Comparison) -> None:
    """Draw P95 TTFT by part as stacked bars, with the 95 % interval of the whole.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    comparison : Comparison
        Simulated metrics.
    """
    place = np.arange(len(comparison.policies))[::-1]
    left = np.zeros(len(place))
    for number, (part, label) in enumerate(PART_LABELS.items()):
        width = np.array([comparison.mean(p, f"p95_{part}_s") for p in comparison.policies])
        axes.barh(
            place, width, left=left, height=0.62, label=label, color=COLORS[number], hatch=HATCHES[number],
            edgecolor="white", linewidth=0.4,
        )  # fmt: skip
        left += width
    reach = 0.0
    for y, policy in zip(place, comparison.policies, strict=True):
        mean, half = comparison.interval(policy, "p95_ttft_s")
        met = comparison.mean(policy, "slo_attainment")
        reach = max(reach, mean + half)
        axes.errorbar(mean, y, xerr=half, color="black", lw=1, capsize=2)
        axes.annotate(
            f"{format_duration(mean)}, SLO met {100 * met:.1f} %", (mean + half, y), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=7,
        )  # fmt: skip
    axes.set_yticks(place, [policy.replace(" ", "\n", 1) for policy in comparison.policies])
    axes.set(xlabel="P95 TTFT [s]", xlim=(0, _ROOM_FOR_TEXT * reach))
    axes.grid(visible=False, axis="y")
    axes.set_title("Where P95 TTFT goes")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=len(PART_LABELS), columnspacing=1.0, handlelength=1.4
    )


def comparison_figure(comparison: Comparison, slo: SLO) -> Figure:
    """Return the picture of a comparison: the laws of TTFT, and where its P95 goes.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics.
    slo : SLO
        Objectives, marked in the picture.
    """
    with style():
        figure = new_figure(9.2, 3.2)
        panels: Any = figure.subplots(1, 2)
        draw_ttft_cdf(panels[0], comparison, slo)
        draw_breakdown(panels[1], comparison)
    return figure


def draw_comparison(comparison: Comparison, slo: SLO, path: str | Path) -> None:
    """Draw the comparison as a picture of two panels and write it.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics.
    slo : SLO
        Objectives, marked in the picture.
    path : str or Path
        A .png, .pdf or .svg file.
    """
    save_figure(comparison_figure(comparison, slo), path)

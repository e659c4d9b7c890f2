"""Picture of the frontier: P95 TTFT against attainment, and against P99 TTFT, over every form, order and price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import COLORS, MARKERS, log_ticks, new_figure, policy_style, save_figure, style
from qmodel.policies.rule import ORDER_WORDS, Order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_frontier"]

Rows = Sequence[Mapping[str, Any]]
_FAR = 3.0  # times the longest P95 TTFT of a candidate; rivals beyond stand in the legend, with their value
_MARGIN = 1.1
_LEAST_MISSED = 0.1  # [%], the axis where nobody misses the SLO
_LOOKS: dict[Order, int] = {"due": 4, "spf": 5, "fcfs": 2, "aged": 1}  # number of colour and marker


def draw_frontier(rows: Rows, path: str | Path, title: str = "") -> None:
    """Draw P95 TTFT against the share of missed SLOs and against P99 TTFT; write the picture.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of `studies.frontier.frontier`.
    path : str or Path
        A .png, .pdf or .svg file.
    title : str, optional
        Line above the picture.
    """
    with style():
        figure = new_figure(9.0, 3.9)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        left, right = figure.subplots(1, 2)
        missed = [{**row, "missed": 100 * (1 - row["slo_attainment"])} for row in rows]
        _draw(left, missed, "missed", "best_attainment")
        left.set_ylabel("requests that miss the SLO [%]")
        left.set_title("P95 TTFT against attainment")
        _draw(right, missed, "p99_ttft_s", "best_p99")
        right.set_yscale("log")
        log_ticks(right.yaxis)
        right.set_ylabel("P99 TTFT [s]")
        right.set_title("P95 against P99 TTFT")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        save_figure(figure, path)


def _draw(axes: Axes, rows: Rows, metric: str, best: str) -> None:
    """Draw every row as a marker, the frontier as a line, rivals in their own look and the plan as a star."""
    edge = sorted((row for row in rows if row[best]), key=lambda row: row["p95_ttft_s"])
    far = _far(rows)
    axes.step([r["p95_ttft_s"] for r in edge], [r[metric] for r in edge], where="post", color="black", lw=0.9)
    for order, number in _LOOKS.items():
        late = [r for r in rows if r["family"] == "late" and r["order"] == order]
        _scatter(axes, late, metric, f"late, {ORDER_WORDS[order]}", COLORS[number], MARKERS[number])
    _scatter(axes, [r for r in rows if r["family"] == "dispatch"], metric, "at dispatch", COLORS[3], MARKERS[3])
    for row in rows:
        if row["family"] == "rival":
            look = policy_style(str(row["policy"])) | {"ls": "none", "ms": 7}
            label = f"{row['policy']} (P95 {row['p95_ttft_s']:.3g} s)" if row in far else str(row["policy"])
            axes.plot([row["p95_ttft_s"]], [row[metric]], **look, label=label)
    plan = next(row for row in rows if row["chosen"])
    star = {"marker": "*", "ms": 13, "color": COLORS[6], "mec": "white", "ls": "none"}
    axes.plot([plan["p95_ttft_s"]], [plan[metric]], **star, label="the plan")  # type: ignore[arg-type]
    axes.set(xscale="log", xlabel="P95 TTFT [s]")
    near = [row for row in rows if row not in far]
    times, others = (np.array([row[name] for row in near]) for name in ("p95_ttft_s", metric))
    axes.set_xlim(times.min() / _MARGIN, times.max() * _MARGIN)
    top = max(others.max(), _LEAST_MISSED) if metric == "missed" else others.max()
    axes.set_ylim(-0.02 * top if metric == "missed" else others.min() / _MARGIN, top * _MARGIN)
    log_ticks(axes.xaxis)


def _far(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the rivals so far beyond every candidate that the candidates would shrink to a dot beside them."""
    most = _FAR * max(row["p95_ttft_s"] for row in rows if row["family"] != "rival")
    return [row for row in rows if row["family"] == "rival" and row["p95_ttft_s"] > most]


def _scatter(axes: Axes, rows: Rows, metric: str, label: str, color: str, marker: str) -> None:
    if rows:
        places = [row["p95_ttft_s"] for row in rows], [row[metric] for row in rows]
        axes.plot(*places, marker, color=color, alpha=0.55, mec="none", label=label)

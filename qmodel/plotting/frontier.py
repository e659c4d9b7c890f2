"""Picture of the frontier: P95 TTFT against attainment, and against P99 TTFT, over every form, order and price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.plotting.figure import COLORS, MARKERS, new_figure, plain_log, policy_style, save_figure, style
from qmodel.policies.rule import ORDER_WORDS, Order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_frontier"]

Rows = Sequence[Mapping[str, Any]]
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
        plain_log(right.yaxis, (1.0, 2.0, 5.0))
        right.set_ylabel("P99 TTFT [s]")
        right.set_title("P95 against P99 TTFT")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        save_figure(figure, path)


def _draw(axes: Axes, rows: Rows, metric: str, best: str) -> None:
    """Draw every row as a marker, the frontier as a line, rivals in their own look and the plan as a star."""
    edge = sorted((row for row in rows if row[best]), key=lambda row: row["p95_ttft_s"])
    axes.step([r["p95_ttft_s"] for r in edge], [r[metric] for r in edge], where="post", color="black", lw=0.9)
    for order, number in _LOOKS.items():
        late = [r for r in rows if r["family"] == "late" and r["order"] == order]
        _scatter(axes, late, metric, f"late, {ORDER_WORDS[order]}", COLORS[number], MARKERS[number])
    _scatter(axes, [r for r in rows if r["family"] == "dispatch"], metric, "at dispatch", COLORS[3], MARKERS[3])
    for row in rows:
        if row["family"] == "rival":
            look = policy_style(str(row["policy"]))
            axes.plot([row["p95_ttft_s"]], [row[metric]], **(look | {"ls": "none", "ms": 7}), label=str(row["policy"]))
    plan = next(row for row in rows if row["chosen"])
    star = {"marker": "*", "ms": 13, "color": COLORS[6], "mec": "white", "ls": "none"}
    axes.plot([plan["p95_ttft_s"]], [plan[metric]], **star, label="the plan")  # type: ignore[arg-type]
    axes.set_xscale("log")
    plain_log(axes.xaxis, (1.0, 2.0, 5.0))
    axes.set_xlabel("P95 TTFT [s]")


def _scatter(axes: Axes, rows: Rows, metric: str, label: str, color: str, marker: str) -> None:
    if rows:
        places = [row["p95_ttft_s"] for row in rows], [row[metric] for row in rows]
        axes.plot(*places, marker, color=color, alpha=0.55, mec="none", label=label)

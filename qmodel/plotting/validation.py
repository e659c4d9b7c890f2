"""Predicted against simulated percentiles, with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qmodel.plotting.figure import COLORS, MARKERS, new_figure, panel_title, plain_log, save_figure, style

__all__ = ["draw_scatter"]

_BANDS = ((0.15, "#e3e3e3"), (0.05, "#c4c4c4"))
_METRICS = {"p50_ttft_s": "P50 TTFT", "p95_ttft_s": "P95 TTFT", "p99_ttft_s": "P99 TTFT"}


def draw_scatter(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw predicted against simulated times to first token, one panel a part of the grid, and write the picture.

    Parameters
    ----------
    rows : sequence of mapping
        ``panel``, ``metric``, ``simulated`` and ``predicted`` [s].
    path : str or Path
        A .png, .pdf or .svg file.
    """
    names = list(dict.fromkeys(str(row["panel"]) for row in rows))
    with style():
        figure = new_figure(8.4, 4.2 * ((len(names) + 1) // 2))
        panels: Any = figure.subplots((len(names) + 1) // 2, 2, squeeze=False)
        for axes, name in zip(panels.flat, names, strict=False):
            chosen = [row for row in rows if row["panel"] == name]
            _draw(axes, chosen)
            axes.set_title(panel_title(name))
        for axes in panels.flat[len(names) :]:
            axes.set_visible(False)
        panels.flat[0].legend(loc="upper left")
        save_figure(figure, path)


def _draw(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    values = np.array([[row["simulated"], row["predicted"]] for row in rows])
    low, high = 0.8 * float(values.min()), 1.25 * float(values.max())
    line = np.array([low, high])
    for band, color in _BANDS:
        axes.fill_between(line, line * (1 - band), line * (1 + band), color=color, lw=0, label=f"±{100 * band:g} %")
    axes.plot(line, line, color="black", lw=0.6)
    for number, (metric, label) in enumerate(_METRICS.items()):
        kept = np.array([row["metric"] == metric for row in rows])
        axes.plot(
            values[kept, 0], values[kept, 1], ls="none", marker=MARKERS[number], ms=3, mfc="none",
            color=COLORS[(4, 6, 5)[number]], label=label,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="simulated TTFT [s]", ylabel="predicted TTFT [s]")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)

"""A tornado: how far each input moves P95 TTFT and attainment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.plotting.figure import COLORS, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_tornado"]

Rows = Sequence[Mapping[str, Any]]
_LOWER, _HIGHER = COLORS[4], COLORS[6]
_CLIPPED = 1.0  # bars end at doubling: beyond it numbers say more than lengths


def draw_tornado(rows: Rows, title: str, path: str | Path) -> None:
    """Draw the changes of P95 TTFT beside those of SLO attainment, one bar an input and side, and write the picture.

    Parameters
    ----------
    rows : sequence of mapping
        As `qmodel.studies.sensitivity.tidy` returns them, largest effect first.
    title : str
        What was changed.
    path : str or Path
        A .png, .pdf or .svg file.
    """
    names = list(dict.fromkeys(str(row["what"]) for row in rows))
    with style():
        figure = new_figure(8.0, 0.9 + 0.34 * len(names))
        panels: Any = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1.0))
        _draw(panels[0], rows, names, "p95_change", "change of P95 TTFT [%]")
        _draw(panels[1], rows, names, "attainment_change", "change of SLO attainment [points]")
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        panels[0].set_title(title)
        panels[0].legend(loc="lower right")
        save_figure(figure, path)


def _draw(axes: Axes, rows: Rows, names: Sequence[str], column: str, label: str) -> None:
    shown: set[bool] = set()
    for row in rows:
        place, up = names.index(str(row["what"])), str(row["change"]).startswith("+")
        value, color = row[column], _HIGHER if up else _LOWER
        length = _CLIPPED if value is None else min(value, _CLIPPED)
        axes.barh(
            place, 100 * length, height=0.36, color=color, align="edge",
            label=None if up in shown else ("input raised" if up else "input lowered"),
        ).patches[0].set_y(place + (0.02 if up else -0.38))  # fmt: skip
        shown.add(up)
        beyond = value is None or value > _CLIPPED
        text = str(row["change"]) + (
            ", no steady state" if value is None else f": {100 * value:+.0f} %" if beyond else ""
        )
        axes.annotate(
            text, (100 * length, place + (0.2 if up else -0.2)), xytext=(3 if length >= 0 else -3, 0),
            textcoords="offset points", ha="left" if length >= 0 else "right", va="center", fontsize=6.5,
        )  # fmt: skip
    axes.axvline(0.0, color="black", lw=0.8)
    axes.margins(x=0.22)
    axes.set_xlabel(label)
    axes.grid(visible=False, axis="y")

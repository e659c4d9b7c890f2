"""Pictures for the queueing pages: a model's curve beside what simulation gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmodel.plotting.figure import COLORS, LINES, MARKERS, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_beside_simulation"]


def draw_beside_simulation(table: DataFrame, x_label: str, y_label: str, log: str = "") -> Figure:
    """Return lines (the model) and markers (simulation), one colour a series.

    Parameters
    ----------
    table : DataFrame
        Columns series, x, model and simulation.
    x_label, y_label : str
        Axis labels, with units.
    log : str, optional
        Which axes are logarithmic: "", "x", "y" or "xy".
    """
    with style():
        figure = new_figure(4.6, 2.9)
        axes = figure.subplots()
        for number, (series, rows) in enumerate(table.groupby("series", sort=False)):
            color, mark = COLORS[(number + 4) % len(COLORS)], MARKERS[number % len(MARKERS)]
            axes.plot(rows["x"], rows["model"], color=color, ls=LINES[4], label=str(series))
            axes.plot(rows["x"], rows["simulation"], color=color, ls="none", marker=mark, mfc="none")
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(title="line: model, marks: simulation", title_fontsize=7)
    return figure

"""Pictures for the queueing pages: a model's curve beside what simulation gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmodel.errors import InputError
from qmodel.plotting.figure import COLORS, LINES, MARKERS, new_figure, style

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from pandas import DataFrame

    from qmodel.queueing import QueueMetrics, TimeVaryingWaits

__all__ = ["draw_beside_simulation", "draw_waits", "waits_table"]

#: Points of a curve, and the level at which curves end by default.
POINTS, LAST = 200, 0.999


def waits_table(queues: Mapping[str, QueueMetrics | TimeVaryingWaits], reach_s: float | None = None) -> DataFrame:
    """Return P(W > t) of some queues as a tidy table: queue, t_s and tail.

    Parameters
    ----------
    queues : mapping of str to QueueMetrics or TimeVaryingWaits
        Queues by the names they are to have.
    reach_s : float, optional
        Longest wait [s]; by default the largest of their 99.9 % quantiles.
    """
    import numpy as np
    import pandas as pd

    if not queues:
        raise InputError("queues", "missing", "one at least")
    reach = max(queue.wait_quantile_s(LAST) for queue in queues.values()) if reach_s is None else reach_s
    t = np.linspace(0.0, reach, POINTS)
    tables = [pd.DataFrame({"queue": name, "t_s": t, "tail": queue.wait_tail(t)}) for name, queue in queues.items()]
    return pd.concat(tables, ignore_index=True)


def draw_waits(queues: Mapping[str, QueueMetrics | TimeVaryingWaits], reach_s: float | None = None) -> Figure:
    """Return P(W > t) of some queues, one curve each, on a logarithmic axis.

    Parameters
    ----------
    queues : mapping of str to QueueMetrics or TimeVaryingWaits
        Queues by the names they are to have.
    reach_s : float, optional
        Longest wait [s]; by default the largest of their 99.9 % quantiles.
    """
    table = waits_table(queues, reach_s)
    with style():
        figure = new_figure(4.6, 2.9)
        axes = figure.subplots()
        for number, (name, rows) in enumerate(table.groupby("queue", sort=False)):
            seen = rows[rows["tail"] > 0]
            color, line = COLORS[(number + 4) % len(COLORS)], LINES[(number + 4) % len(LINES)]
            axes.plot(seen["t_s"], seen["tail"], color=color, ls=line, label=str(name))
        axes.set_yscale("log")
        axes.set_xlabel("t [s]")
        axes.set_ylabel("P(W > t)")
        axes.legend()
    return figure


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

"""Picture of a simulated run: how busy each instance was, and who waited, over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.plotting.figure import COLORS, LINES, PAGE_IN, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qmodel.simulation import SimulationResult

__all__ = ["draw_utilisation", "utilisation_figure"]

_WINDOWS = 240
_ROWS = (("utilisation", "busy [%]", 100.0), ("waiting", "requests waiting", 1.0), ("running", "running", 1.0))
_MOST_LINES = 8  # beyond this many instances a pool is drawn as its mean


def utilisation_figure(result: SimulationResult, window_s: float | None = None) -> Figure:
    """Return a figure with the busy share, the waiting and the running requests of both pools over time.

    Parameters
    ----------
    result : SimulationResult
        The run.
    window_s : float, optional
        Width of the windows [s]; a 240th of the run by default.
    """
    from qmodel.simulation.occupancy import occupancy

    width = window_s or result.makespan_s / _WINDOWS
    table = occupancy(result, width)
    pools = [pool for pool in ("prefill", "decode") if (table.pool == pool).any()]
    with style():
        figure = new_figure(PAGE_IN, 5.0)
        grid = figure.subplots(len(_ROWS), len(pools), sharex=True, squeeze=False)
        for column, pool in zip(grid.T, pools, strict=True):
            _draw_pool(column, table[table.pool == pool], pool)
            column[0].set_title(f"{pool} pool, {100 * result.utilisation[pool]:.0f} % busy in all")
            column[-1].set_xlabel("time [s]")
        for axes, (_, label, _) in zip(grid[:, 0], _ROWS, strict=True):
            axes.set_ylabel(label)
        text = f"{result.policy}: {result.count:,} requests, means over windows of {width:.3g} s"
        figure.suptitle(text, x=0.01, ha="left")
        lines = [line for axes in grid[0] for line in axes.get_lines()]
        figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 6))
    return figure


def _draw_pool(column: Any, table: Any, pool: str) -> None:
    """Draw one pool's rows: a line per instance, or their mean where there are many."""
    count = table.instance.nunique()
    many = count > _MOST_LINES
    if many:
        table = table.groupby("time_s", as_index=False)[[name for name, _, _ in _ROWS]].mean().assign(instance=0)
    for axes, (name, _, scale) in zip(column, _ROWS, strict=True):
        for number, (instance, line) in enumerate(table.groupby("instance")):
            dashes = "solid" if number == 0 else LINES[number % len(LINES)]
            shown = f"mean of {count} {pool}" if many else f"{pool} {instance}"
            color = COLORS[(2 * number + 4) % len(COLORS)]
            axes.plot(line.time_s, scale * line[name], lw=0.9, color=color, ls=dashes, label=shown)
        axes.set_ylim(bottom=0.0, top=105.0 if name == "utilisation" else None)


def draw_utilisation(result: SimulationResult, path: Path | str, window_s: float | None = None) -> None:
    """Draw `utilisation_figure` into a file.

    Parameters
    ----------
    result : SimulationResult
        The run.
    path : Path or str
        File ending in .png, .pdf or .svg.
    window_s : float, optional
        Width of the windows [s].
    """
    save_figure(utilisation_figure(result, window_s), Path(path))

"""Pictures of the figures about latency laws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmodel.plotting.figure import COLORS, LINES, MARKERS, PAGE_IN, new_figure, panel_title, plain_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_chunk_cost", "draw_law_errors"]


def draw_chunk_cost(table: DataFrame) -> Figure:
    """Draw by how much a chunk lengthens a decode step, one small plot per panel.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_laws.chunk_cost`.
    """
    panels = list(dict.fromkeys(table["panel"]))
    figure = new_figure(PAGE_IN, 2.5)
    grid: Any = figure.subplots(1, len(panels), sharey=True)
    for axis, panel in zip(grid, panels, strict=True):
        here = table[table["panel"] == panel]
        for number, ((engine, done), rows) in enumerate(here.groupby(["engine", "done_tokens"], sort=False)):
            axis.plot(
                rows["chunk_tokens"], 1e3 * rows["increase_s"], color=COLORS[(4, 1)[number // 2]],
                ls=LINES[(4, 1)[number % 2]], label=f"{engine}, {_position(done)}",
            )  # fmt: skip
        known = here.dropna(subset=["published_s"]).drop_duplicates("chunk_tokens")
        axis.plot(known["chunk_tokens"], 1e3 * known["published_s"], "k_", ms=9, mew=1.4, label=_bounds(known))
        first = here.iloc[0]
        state = f"{first['batch']:.0f} requests,\n{first['context_tokens'] / 1e3:.0f}k tokens of context"
        axis.set_title(f"{panel_title(panel, short=True)}: {state}", fontsize=7.5)
        axis.set_xscale("log", base=2)
        ticks = [32, 128, 512, 2048]
        axis.set_xticks(ticks, ["32", "128", "512", "2k"], fontsize=7)
        axis.set_xlabel("chunk [tokens]")
    grid[0].set_ylabel("added to a decode step [ms]")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _bounds(known: DataFrame) -> str:
    """Return what the published marks say: at most so much for the smallest chunk, at least so much for the largest."""
    rows = known.sort_values("chunk_tokens")[["chunk_tokens", "published_s"]].to_numpy()
    if len(rows) < 2:
        return "published"
    (small, most), (large, least) = rows[0], rows[-1]
    return f"published: at most {1e3 * most:g} ms\nat {small:g}, over {1e3 * least:g} ms at {large:g}"


def _position(done_tokens: float) -> str:
    return "prompt's start" if done_tokens == 0 else f"after {done_tokens / 1024:.0f}k of it"


def draw_law_errors(table: DataFrame) -> Figure:
    """Draw the mean error of each shipped calibration's laws, one row a calibration.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_laws.law_errors`.
    """
    order = table[table["measure"] == "step"].sort_values(["gpu", "kind", "calibration"])
    gpus = list(dict.fromkeys(order["gpu"]))
    heights = [int((order["gpu"] == gpu).sum()) for gpu in gpus]
    figure = new_figure(PAGE_IN, 0.6 + 0.155 * (sum(heights) + 3 * len(gpus)))
    axes: Any = figure.subplots(len(gpus), 1, sharex=True, height_ratios=heights, squeeze=False)
    for axis, gpu in zip(axes[:, 0], gpus, strict=True):
        names = list(order[order["gpu"] == gpu]["calibration"])[::-1]
        for number, measure in enumerate(dict.fromkeys(table["measure"])):
            rows = table[(table["measure"] == measure) & (table["gpu"] == gpu)].set_index("calibration").loc[names]
            look: Any = {
                "color": COLORS[(4, 0, 5, 1)[number]],
                "marker": MARKERS[(0, 6, 2, 3)[number]],
                "ms": 3.6,
                "mew": 0,
            }
            axis.plot(100 * rows["error"], range(len(names)), ls="", label=measure, **look)
        axis.axvline(100 * float(table["published_error"].iloc[0]), color="black", lw=0.8)
        axis.set_yticks(range(len(names)), [f"{name.replace(f'_{gpu}_', ', ')}" for name in names], fontsize=6.5)
        axis.set(ylim=(-0.7, len(names) - 0.3), xscale="log")
        axis.set_title(gpu.upper())
    plain_log(axes[-1, 0].xaxis, (1.0, 2.0, 5.0))
    axes[-1, 0].set_xlabel("mean error off the grid [%]; line: the paper's step model, at most")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure

"""Pictures of the figures about plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import COLORS, LINES, MARKERS, PAGE_IN, new_figure, panel_title, plain_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_shadow_prices", "draw_threshold_map"]

_PRICED = {"instance": "one more {resource}", "GB/s": "1 GB/s more {resource}"}
_LEVELS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_VIEWS = {
    "backlog": ("decode_backlog_s", "deflected work waiting there [s]", "at the mean decode state"),
    "batch": ("batch", "decode batch", "nothing waits at the decode instance"),
}


def draw_threshold_map(table: DataFrame) -> Figure:
    """Draw the threshold over prompt length and decode backlog, and over prompt length and decode batch.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_plan.threshold_map`.
    """
    from matplotlib.colors import BoundaryNorm

    figure = new_figure(PAGE_IN, 2.8)
    grid: Any = figure.subplots(1, len(_VIEWS))
    norm = BoundaryNorm(_LEVELS_S, 256, extend="both")
    image: Any = None
    for axis, (view, (column, label, title)) in zip(grid, _VIEWS.items(), strict=True):
        square = table[table["view"] == view].pivot(index=column, columns="prompt_tokens", values="threshold_s")
        x, y = square.columns.to_numpy(dtype=float), square.index.to_numpy(dtype=float)
        z = square.to_numpy()
        axis.set_facecolor("#f2f2f2")
        image = axis.contourf(x, y, z, levels=_LEVELS_S, norm=norm, cmap="cividis_r", extend="both")
        axis.contour(x, y, z, levels=_LEVELS_S, colors="black", linewidths=0.5)
        never = np.isnan(z)
        shown = y <= 1.5 * max(y[~never.all(axis=1)].max(initial=0.0), y[1])  # nobody is deflected far above
        if never[shown].any():
            row, column_ = (int(np.median(index)) for index in np.nonzero(never[shown]))
            axis.text(x[column_], y[row], "never", ha="center", va="center")
        axis.set_ylim(y[0], y[shown][-1])
        axis.set(xscale="log", xlabel="prompt length [tokens]", ylabel=label)
        plain_log(axis.xaxis, (1.0, 3.0))
        axis.grid(visible=False)
        axis.set_title(title)
    bar = figure.colorbar(image, ax=grid, label="deflect above this prefill backlog [s]", ticks=_LEVELS_S)
    bar.ax.set_yticklabels([f"{level:g}" for level in _LEVELS_S])
    return figure


def draw_shadow_prices(table: DataFrame) -> Figure:
    """Draw what one more of each resource is worth over load, one small plot per resource.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_plan.shadow_prices`.
    """
    resources = list(dict.fromkeys(table["resource"]))
    panels = _alike(table)
    figure = new_figure(PAGE_IN, 2.4)
    grid: Any = figure.subplots(1, len(resources))
    for axis, resource in zip(grid, resources, strict=True):
        here = table[table["resource"] == resource]
        for number, panel in enumerate(panels.values()):
            rows = here[here["panel"] == panel]
            axis.plot(
                rows["load"], 1e3 * rows["mean_ttft_s"], color=COLORS[number], ls=LINES[number], marker=MARKERS[number],
                ms=3, label=list(panels)[number],
            )  # fmt: skip
        unit = here["unit"].iloc[0]
        axis.set(yscale="log", xlabel="load of the prefill pool")
        wide = here["mean_ttft_s"].max() > 20 * here["mean_ttft_s"].min()
        plain_log(axis.yaxis, (1.0,) if wide else (1.0, 2.0, 5.0))
        axis.set_title(_PRICED.get(unit, f"{resource}: {unit} more").format(resource=resource), fontsize=8)
    grid[0].set_ylabel("mean TTFT saved [ms]")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(panels))
    return figure


def _alike(table: DataFrame) -> dict[str, str]:
    """Return one panel of each group whose prices are the same, since their traffic has the same mix, by its label."""
    seen: dict[tuple[float, ...], list[str]] = {}
    for panel, rows in table.groupby("panel", sort=False):
        seen.setdefault(tuple(rows["mean_ttft_s"].round(6)), []).append(str(panel))
    return {", ".join(panel_title(panel, short=True) for panel in group): group[0] for group in seen.values()}

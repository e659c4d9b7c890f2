"""Pictures of the figures that compare policies panel by panel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.plotting.figure import COLORS, COLUMN_IN, HATCHES, PAGE_IN, new_figure, panel_title, plain_log, policy_style
from qmodel.scenario.ttft import PART_LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_attainment", "draw_p95_ttft", "draw_tbt_laws", "draw_ttft_laws", "draw_ttft_parts"]

EXECUTION = "prefill"  # the part whose share is published


def draw_ttft_parts(table: DataFrame) -> Figure:
    """Draw the parts of P95 TTFT without deflection as stacked bars per panel.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_panels.ttft_parts`.
    """
    figure = new_figure(COLUMN_IN, 2.5)
    axes: Axes = figure.subplots()
    panels = list(dict.fromkeys(table["panel"]))
    place = np.arange(len(panels))[::-1]
    left = np.zeros(len(panels))
    share = table.pivot(index="panel", columns="part", values="share").loc[panels] * 100
    beside_its_band = sorted(enumerate(PART_LABELS.items()), key=lambda item: item[1][0] != EXECUTION)
    for number, (part, label) in beside_its_band:
        width = share[part].to_numpy()
        axes.barh(
            place, width, left=left, height=0.66, label=label, color=COLORS[number], hatch=HATCHES[number],
            edgecolor="white", linewidth=0.4,
        )  # fmt: skip
        left += width
    totals = table.groupby("panel", sort=False)["mean_s"].sum()
    for y, panel in zip(place, panels, strict=True):
        text = f"{totals[panel]:.2g} s, {share.loc[panel, EXECUTION]:.0f} % execution"
        axes.annotate(text, (101, y), va="center", fontsize=7, annotation_clip=False)
    axes.set_yticks(place, [panel_title(panel, short=True) for panel in panels])
    axes.set(xlabel="share of P95 TTFT [%]", xlim=(0, 100))
    axes.grid(visible=False, axis="y")
    low, high = 100 * table["published_low"].iloc[0], 100 * table["published_high"].iloc[0]
    axes.axvspan(low, high, color="black", alpha=0.15, lw=0, zorder=3)
    axes.annotate(
        f"published: execution is {low:.0f}-{high:.0f} %", (low, place[0] + 0.45),
        xytext=(0, 6), textcoords="offset points", va="bottom", fontsize=6.5, annotation_clip=False,
    )  # fmt: skip
    axes.set_ylim(-0.6, len(panels) - 0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _grid(panels: list[str], height_in: float = 2.0) -> tuple[Figure, list[Axes]]:
    """Return a figure with one small plot per panel on shared axes; the last place holds the legend."""
    columns = 3
    rows = -(-(len(panels) + 1) // columns)
    figure = new_figure(PAGE_IN, height_in * rows)
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    axes = [axis for row in grid for axis in row]
    for axis, panel in zip(axes, panels, strict=False):
        axis.set_title(panel_title(panel), fontsize=7.5)
        axis.tick_params(labelbottom=True, labelleft=True)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure, axes


def _legend(corner: Axes, labels: dict[str, str], note: str, published: str = "", marked: bool = True) -> None:
    """Put the policies, with markers where the lines have some, and a note where a panel would be."""
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {} if marked else {"marker": None}
    handles = [Line2D([], [], label=label, **policy_style(policy) | plain) for policy, label in labels.items()]
    if published:
        handles.append(Line2D([], [], color="black", marker="_", ms=9, mew=1.4, ls="", label=published))
    corner.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 1.12), fontsize=8)
    corner.text(0.03, -0.06, note, transform=corner.transAxes, fontsize=7, va="bottom")


def _policies(table: DataFrame) -> dict[str, str]:
    return {policy: policy for policy in dict.fromkeys(table["policy"])}


def _over_load(table: DataFrame, scale: float, published: str) -> tuple[Figure, list[Axes]]:
    panels = list(dict.fromkeys(table["panel"]))
    figure, axes = _grid(panels)
    sweeps = sorted(set(table["sweep"]))
    for axis, panel in zip(axes, panels, strict=False):
        here = table[table["panel"] == panel]
        for policy in _policies(table):
            rows = here[here["policy"] == policy].sort_values("sweep")
            axis.errorbar(
                rows["sweep"], scale * rows["mean"], yerr=scale * rows["half_width"], capsize=2, elinewidth=0.8,
                **policy_style(policy),
            )  # fmt: skip
        marks = here.drop_duplicates("sweep")
        axis.plot(marks["sweep"], scale * marks["published"], "k_", ms=9, mew=1.4, zorder=1)
        axis.set_xticks(sweeps)
        axis.set_xlim(sweeps[0] - 0.06, sweeps[-1] + 0.06)
        axis.set_xlabel("sweep t (load)")
    runs = int(table["seeds"].max())
    note = f"{table['source'].iloc[0]}\nmeans over {runs} paired runs,\nbars: 95 % intervals"
    _legend(axes[len(panels)], _policies(table), note, published)
    return figure, axes[: len(panels)]


def _best(table: DataFrame) -> str:
    """Return what the published marks say, from the scene where nothing cuts them off."""
    plain = table[table["policy"] == "disaggregated"]
    row = plain.loc[plain["mean"].idxmin()]
    return f"{100 * (row['published'] / row['mean'] - 1):+.0f} %, the paper's best"


def draw_p95_ttft(table: DataFrame) -> Figure:
    """Draw P95 TTFT over the sweep, one small plot per panel, with 95 % intervals.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_panels.p95_ttft`.
    """
    figure, axes = _over_load(table, 1.0, _best(table))
    axes[0].set_yscale("log")
    low = float(table[["mean", "published"]].min().min())
    high = float((table["mean"] + table["half_width"]).max())
    axes[0].set_ylim(0.7 * low, 1.3 * high)
    for axis in axes:
        plain_log(axis.yaxis, (1.0, 3.0))
        axis.set_ylabel("P95 TTFT [s]")
    return figure


def draw_attainment(table: DataFrame) -> Figure:
    """Draw the share of requests that meet both SLOs over the sweep, one small plot per panel.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_panels.attainment`.
    """
    figure, axes = _over_load(table, 100.0, _best(table))
    axes[0].set_ylim(0, 104)
    for axis in axes:
        axis.set_ylabel("SLO met [%]")
    return figure


def draw_ttft_laws(table: DataFrame) -> Figure:
    """Draw the share of requests whose TTFT exceeds t, per panel and policy.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_panels.ttft_laws`.
    """
    panels = list(dict.fromkeys(table["panel"]))
    figure, axes = _grid(panels)
    slo = float(table["slo_s"].iloc[0])
    for axis, panel in zip(axes, panels, strict=False):
        here = table[table["panel"] == panel]
        for policy in _policies(table):
            rows = here[here["policy"] == policy]
            axis.plot(rows["ttft_s"], rows["share_above"], **policy_style(policy) | {"marker": None})
        axis.axvline(slo, color="black", lw=0.8)
        axis.annotate("SLO", (slo, 1e-3), xytext=(2, 3), textcoords="offset points", fontsize=7)
        axis.set(xscale="log", yscale="log", xlabel="TTFT t [s]", ylabel="share above t", ylim=(1e-3, 1.0))
        plain_log(axis.xaxis)
        plain_log(axis.yaxis)
    note = f"{table['source'].iloc[0]}, t = {table['sweep'].iloc[0]:g}"
    _legend(axes[len(panels)], _policies(table), note, marked=False)
    return figure


def draw_tbt_laws(table: DataFrame) -> Figure:
    """Draw quantiles of the time between tokens per panel and policy: is anybody hurt by deflection.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_panels.tbt_laws`.
    """
    panels = list(dict.fromkeys(table["panel"]))
    figure, axes = _grid(panels)
    levels = sorted(set(table["quantile"].dropna()))
    slo = 1e3 * float(table["slo_s"].iloc[0])
    for axis, panel in zip(axes, panels, strict=False):
        here = table[(table["panel"] == panel) & table["quantile"].notna()]
        for policy in _policies(table):
            rows = here[here["policy"] == policy].sort_values("quantile")
            axis.plot(range(len(rows)), 1e3 * rows["mean"], **policy_style(policy))
        axis.axhline(slo, color="black", lw=0.8)
        axis.annotate("SLO", (0, slo), xytext=(0, 2), textcoords="offset points", fontsize=7)
        axis.set_xticks(range(len(levels)), [f"{100 * q:g}" for q in levels], fontsize=6.5)
        axis.set(xlabel="percentile of tokens", ylabel="TBT [ms]", ylim=(0, 1.25 * slo))
    met = table[table["quantile"].isna()].groupby("policy")["mean"].min()
    labels = {policy: f"{policy}: {100 * met[policy]:.2f} %" for policy in _policies(table)}
    where = f"{table['source'].iloc[0]}, t = {table['sweep'].iloc[0]:g}"
    note = f"{where}\n%: requests with every TBT within the SLO,\nin the worst panel"
    _legend(axes[len(panels)], labels, note)
    return figure

"""Pictures of the figures about what qmodel costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmodel.plotting.figure import COLORS, LINES, MARKERS, PAGE_IN, new_figure, plain_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["draw_decision_cost", "draw_job_cost"]


def draw_decision_cost(table: DataFrame) -> Figure:
    """Draw what a decision takes over the size of the decode pool: operations on the left, time on the right.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_cost.decision_cost`.
    """
    figure = new_figure(PAGE_IN, 2.5)
    counts, times = figure.subplots(1, 2)
    for number, quantity in enumerate(dict.fromkeys(table["quantity"])):
        rows = table[table["quantity"] == quantity]
        timed = quantity.endswith("[s]")
        axis, scale = (times, 1e6) if timed else (counts, 1.0)
        look: dict[str, Any] = {"color": COLORS[(1, 4, 4)[number]], "marker": MARKERS[number]}
        axis.plot(
            rows["decode_instances"],
            scale * rows["median"],
            ls=LINES[4],
            label=f"{quantity.removesuffix(' [s]')}, median",
            **look,
        )
        axis.plot(
            rows["decode_instances"],
            scale * rows["p99"],
            ls=LINES[1],
            label=f"{quantity.removesuffix(' [s]')}, P99",
            **look,
        )
    bound = 1e6 * float(table["published_s"].iloc[0])
    times.axhline(bound, color="black", lw=0.8)
    first = float(table["decode_instances"].min())
    times.annotate("published: below 1 ms", (first, bound), xytext=(2, -9), textcoords="offset points", fontsize=7)
    for axis, label in ((counts, "operations per decision"), (times, "time per decision [us]")):
        axis.set(xscale="log", yscale="log", xlabel="decode instances", ylabel=label)
        sizes = sorted(set(table["decode_instances"]))
        axis.set_xticks(
            sizes[:: max(1, len(sizes) // 7)], [str(s) for s in sizes[:: max(1, len(sizes) // 7)]], minor=False
        )
        axis.set_xticks([], minor=True)
        plain_log(axis.yaxis)
    low, high = counts.get_ylim()
    counts.set_ylim(low, 60 * high)
    counts.legend(loc="upper left", handlelength=3)
    times.legend(loc="center left", handlelength=3)
    counts.set_title("Kairos searches; a threshold is looked up")
    times.set_title("Our router, standard library only")
    return figure


def draw_job_cost(table: DataFrame) -> Figure:
    """Draw what jobs cost over the size of the cluster: whole jobs on the left, per simulated request on the right.

    Parameters
    ----------
    table : DataFrame
        From `studies.figures_cost.job_cost`.
    """
    figure = new_figure(PAGE_IN, 2.7)
    axes: Any = dict(zip(("job", "request"), figure.subplots(1, 2), strict=True))
    peers = table["job"].str.endswith(", elsewhere")
    for number, job in enumerate(dict.fromkeys(table[~peers]["job"])):
        rows = table[table["job"] == job]
        per = rows["per"].iloc[0]
        axes[per].plot(
            rows["instances"], rows["seconds"] * (1e3 if per == "job" else 1e6), label=job, ls=LINES[4],
            color=COLORS[number + 1], marker=MARKERS[number],
        )  # fmt: skip
    for peer in table[peers].itertuples():
        place = (peer.instances, 1e6 * peer.seconds)
        axes["request"].plot(*place, "k_", ms=9, mew=1.4)
        axes["request"].annotate(peer.job, place, xytext=(7, 0), textcoords="offset points", va="center", fontsize=7)
    for per, unit in (("job", "ms"), ("request", "us")):
        axes[per].set(
            xscale="log", yscale="log", xlabel="instances, half of them prefill", ylabel=f"time per {per} [{unit}]"
        )
        plain_log(axes[per].yaxis, (1.0,))
        sizes = sorted(set(table[~peers]["instances"]))
        shown = sizes[:: max(1, len(sizes) // 7)]
        axes[per].set_xticks(shown, [str(size) for size in shown], minor=False)
        axes[per].set_xticks([], minor=True)
        low, high = axes[per].get_ylim()
        axes[per].set_ylim(low, high * (high / low) ** 0.45)
        axes[per].legend(loc="upper left")
    axes["job"].set_title("Deriving and predicting")
    axes["request"].set_title("Simulating")
    return figure

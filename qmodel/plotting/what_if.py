"""Sliders over `predict`: what a cluster would do under another load, split, network, SLO or burstiness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmodel.errors import QModelError
from qmodel.plotting.figure import COLORS, HATCHES, new_figure, style
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.system import predict
from qmodel.units import MS, format_duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer_figure", "changed", "what_if"]

PARTS = ("queue", "prefill", "transfer", "admission", "first_step")
LEVELS = (0.5, 0.9, 0.95, 0.99)


def changed(
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    *,
    load: float,
    prefill: int,
    decode: int,
    bandwidth_gb_s: float,
    ttft_slo_s: float,
    tbt_slo_ms: float,
) -> tuple[Cluster, Workload, SLO]:
    """Return the scenario with the values of the sliders.

    Parameters
    ----------
    cluster, workload, slo : Cluster, Workload, SLO
        Where the sliders start from.
    load : float
        Load of the prefill pool of the *original* cluster: the same requests whatever the split.
    prefill, decode : int
        Instances of each pool, like those of the original.
    bandwidth_gb_s : float
        Bandwidth per GPU [GB/s].
    ttft_slo_s, tbt_slo_ms : float
        Objectives [s], [ms].

    Returns
    -------
    tuple
        Cluster, workload and SLO.
    """
    moved = workload.at_load(load, cluster)
    there = cluster.with_(prefill=prefill, decode=decode, bandwidth_gb_s=bandwidth_gb_s)
    return there, moved, SLO(ttft_s=ttft_slo_s, tbt_s=tbt_slo_ms * MS, tbt_quantile=slo.tbt_quantile)


def answer_figure(cluster: Cluster, workload: Workload, slo: SLO, policy: Any = None) -> Figure:
    """Return the answer as a picture: parts of TTFT at some percentiles, and the attainment in the title.

    Parameters
    ----------
    cluster, workload, slo : Cluster, Workload, SLO
        Scenario.
    policy : Policy, Plan or None, optional
        Who prefills where.

    Returns
    -------
    Figure
        One stacked bar per percentile; a sentence instead where there is no steady state.
    """
    with style():
        figure = new_figure(6.4, 2.6)
        axes = figure.subplots()
        try:
            found = predict(cluster, workload, slo, policy)
        except QModelError as refused:
            axes.set_axis_off()
            axes.text(0.5, 0.5, str(refused), ha="center", va="center", wrap=True, transform=axes.transAxes)
            return figure
        left = [0.0] * len(LEVELS)
        shares = [found.breakdown(q) for q in LEVELS]
        names = [f"P{100 * q:g}: {format_duration(found.ttft_s(q))}" for q in LEVELS]
        for number, part in enumerate(PARTS):
            width = [share[part] for share in shares]
            axes.barh(
                names, width, left=left, label=part.replace("_", " "), color=COLORS[number], hatch=HATCHES[number],
                edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            left = [a + b for a, b in zip(left, width, strict=True)]
        axes.axvline(slo.ttft_s, color="black", lw=0.8)
        axes.invert_yaxis()
        axes.set(xlabel="TTFT [s]; line: SLO")
        busy = ", ".join(f"{pool} {share:.0%}" for pool, share in found.utilisation.items())
        axes.set_title(f"{cluster.name}: SLO met by {found.slo_attainment:.1%}, busy: {busy}; {found.method}")
        figure.legend(loc="outside lower center", ncols=len(PARTS))
    return figure


def what_if(cluster: Cluster, workload: Workload, slo: SLO, policy: Any = None) -> Any:
    """Return sliders with the prediction under them; without ipywidgets, the prediction's picture alone.

    Parameters
    ----------
    cluster, workload, slo : Cluster, Workload, SLO
        Where the sliders start from; both pools of one kind of instance.
    policy : Policy, Plan or None, optional
        Who prefills where; never deflects by default.

    Returns
    -------
    ipywidgets.VBox or Figure
        For the last line of a notebook cell.
    """
    start: dict[str, Any] = {
        "load": round(workload.load(cluster), 2), "prefill": cluster.prefill_count, "decode": cluster.decode_count,
        "bandwidth_gb_s": cluster.bandwidth_gb_s, "ttft_slo_s": slo.ttft_s, "tbt_slo_ms": slo.tbt_s / MS,
    }  # fmt: skip
    try:
        import ipywidgets
    except ImportError:
        return answer_figure(*changed(cluster, workload, slo, **start), policy)

    def show(**values: Any) -> None:
        from IPython.display import display

        display(answer_figure(*changed(cluster, workload, slo, **values), policy))

    wide = {"layout": ipywidgets.Layout(width="28em"), "style": {"description_width": "9em"}}
    sliders = {
        "load": ipywidgets.FloatSlider(value=start["load"], min=0.1, max=1.5, step=0.05, description="load", **wide),
        "prefill": ipywidgets.IntSlider(value=start["prefill"], min=1, max=16, description="prefill instances", **wide),
        "decode": ipywidgets.IntSlider(value=start["decode"], min=1, max=16, description="decode instances", **wide),
        "bandwidth_gb_s": ipywidgets.FloatLogSlider(
            value=start["bandwidth_gb_s"], min=0, max=2.5, step=0.05, description="bandwidth [GB/s]", **wide
        ),
        "ttft_slo_s": ipywidgets.FloatSlider(
            value=start["ttft_slo_s"], min=0.1, max=10, step=0.1, description="TTFT SLO [s]", **wide
        ),
        "tbt_slo_ms": ipywidgets.FloatSlider(
            value=start["tbt_slo_ms"], min=10, max=200, step=5, description="TBT SLO [ms]", **wide
        ),
    }
    return ipywidgets.VBox([*sliders.values(), ipywidgets.interactive_output(show, sliders)])

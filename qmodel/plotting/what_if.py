"""Sliders over `predict`: what a cluster would do under another load, split, network, SLO or burstiness."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InputError, QModelError
from qmodel.plotting.figure import COLORS, HATCHES, new_figure, style
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.scenario.ttft import PART_LABELS
from qmodel.system import predict
from qmodel.units import MS, format_duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer_figure", "changed", "smoothed", "what_if"]

REQUESTS = 12_000  # of a recorded workload, so that a prediction takes some 20 ms
SEED = 0
DPI = 110  # of the screen: a picture takes longer than its prediction
LEVELS = (0.5, 0.9, 0.95, 0.99)
# name -> kind of slider, its label and its range; the range of a logarithmic one in powers of ten
_SLIDERS: dict[str, tuple[str, str, dict[str, float]]] = {
    "load": ("FloatSlider", "load", {"min": 0.1, "max": 1.5, "step": 0.05}),
    "prefill": ("IntSlider", "prefill instances", {"min": 1, "max": 16}),
    "decode": ("IntSlider", "decode instances", {"min": 1, "max": 16}),
    "bandwidth_gb_s": ("FloatLogSlider", "bandwidth [GB/s]", {"min": 0, "max": 2.5, "step": 0.05}),
    "ttft_slo_s": ("FloatSlider", "TTFT SLO [s]", {"min": 0.1, "max": 10, "step": 0.1}),
    "tbt_slo_ms": ("FloatSlider", "TBT SLO [ms]", {"min": 10, "max": 200, "step": 5}),
    "burstiness": ("FloatSlider", "burstiness", {"min": 0.0, "max": 1.0, "step": 0.05}),
}


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


def smoothed(requests: Requests, burstiness: float) -> Requests:
    """Return the same requests with other arrival times: between a Poisson stream and the recorded bursts.

    t(b) = b*t + (1 - b)*u, u the times of a Poisson stream with as many arrivals over the same span. Prompts keep their
    order, so a drift of their lengths stays.

    Parameters
    ----------
    requests : Requests
        As recorded.
    burstiness : float
        b, in [0, 1]: 0 is a Poisson stream, 1 as recorded.

    Returns
    -------
    Requests
        At the same mean rate.

    Raises
    ------
    InputError
        When the burstiness is outside [0, 1].
    """
    if not 0 <= burstiness <= 1:
        raise InputError("burstiness", burstiness, "in [0, 1]", "0 is a Poisson stream, 1 as recorded")
    t = requests.arrival_s
    u = np.sort(np.random.default_rng(SEED).uniform(t[0], t[-1], len(t)))
    return replace(requests, arrival_s=burstiness * t + (1 - burstiness) * u)


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
        figure.set_dpi(DPI)
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
        for number, (part, label) in enumerate(PART_LABELS.items()):
            width = [share[part] for share in shares]
            axes.barh(
                names, width, left=left, label=label, color=COLORS[number], hatch=HATCHES[number],
                edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            left = [a + b for a, b in zip(left, width, strict=True)]
        axes.axvline(slo.ttft_s, color="black", lw=0.8)
        axes.invert_yaxis()
        axes.set(xlabel="TTFT [s]; line: SLO")
        busy = ", ".join(f"{pool} {share:.0%}" for pool, share in found.utilisation.items())
        axes.set_title(f"{cluster.name}: SLO met by {found.slo_attainment:.1%}, busy: {busy}; {found.method}")
        figure.legend(loc="outside lower center", ncols=len(PART_LABELS))
    return figure


def what_if(cluster: Cluster, workload: Workload, slo: SLO, policy: Any = None) -> Any:
    """Return sliders with the prediction under them; without ipywidgets, the prediction's picture alone.

    Parameters
    ----------
    cluster, workload, slo : Cluster, Workload, SLO
        Where the sliders start from; both pools of one kind of instance. A workload that is not Poisson gets a slider
        for burstiness too, over its first 12,000 requests.
    policy : Policy, Plan or None, optional
        Who prefills where; never deflects by default.

    Returns
    -------
    ipywidgets.VBox or Figure
        For the last line of a notebook cell.
    """
    recorded = None if workload.kind == "poisson" else workload.requests(count=min(REQUESTS, len(workload.requests())))
    start: dict[str, Any] = {
        "load": round(workload.load(cluster), 2), "prefill": cluster.prefill_count, "decode": cluster.decode_count,
        "bandwidth_gb_s": cluster.bandwidth_gb_s, "ttft_slo_s": slo.ttft_s, "tbt_slo_ms": slo.tbt_s / MS,
    }  # fmt: skip
    if recorded is not None:
        start["burstiness"] = 1.0

    def answer(burstiness: float = 1.0, **values: Any) -> Figure:
        moved = workload
        if recorded is not None:
            moved = Workload.from_requests(smoothed(recorded, burstiness), workload.name)
        return answer_figure(*changed(cluster, moved, slo, **values), policy)

    try:
        import ipywidgets
    except ImportError:
        return answer(**start)

    def show(**values: Any) -> None:
        from IPython.display import display

        display(answer(**values))

    sliders = _sliders(start)
    return ipywidgets.VBox([*sliders.values(), ipywidgets.interactive_output(show, sliders)])


def _sliders(start: dict[str, Any]) -> dict[str, Any]:
    """Return a slider for each value to start from; a range that does not hold the value is widened."""
    import ipywidgets

    wide = {"layout": ipywidgets.Layout(width="28em"), "style": {"description_width": "9em"}}
    sliders = {}
    for name, (kind, label, limits) in _SLIDERS.items():
        if name in start:
            value = math.log10(start[name]) if kind == "FloatLogSlider" else start[name]
            held = limits | {"min": min(limits["min"], value), "max": max(limits["max"], value)}
            sliders[name] = getattr(ipywidgets, kind)(value=start[name], description=label, **held, **wide)
    return sliders

"""What an operator should change first: how P95 TTFT and attainment answer to each input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qmodel.laws import PNormLaw
from qmodel.laws.step import StepLaw
from qmodel.scenario import SLO, Cluster, InstanceGroup, Workload
from qmodel.system import predict

__all__ = ["Effect", "sensitivity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Answer of the prediction to one change; all cases share the same random numbers.

    Parameters
    ----------
    change : str
        What was changed, e.g. ``rate +10 %``.
    p95_ttft_s : float
        P95 TTFT after it [s].
    p95_change : float
        Relative change of P95 TTFT.
    attainment_change : float
        Change of SLO attainment.
    """

    change: str
    p95_ttft_s: float
    p95_change: float
    attainment_change: float


def _scaled(law: StepLaw, factor: float) -> StepLaw:
    """Return a law whose steps all take `factor` times as long."""
    if isinstance(law, PNormLaw):
        return replace(
            law, gain=law.gain * factor, floor_s=law.floor_s * factor,
            floor_per_request_s=law.floor_per_request_s * factor,
        )  # fmt: skip
    return law


def _with_laws(cluster: Cluster, factor: float) -> Cluster:
    def pool(calibrations: tuple[Any, ...]) -> tuple[InstanceGroup, ...]:
        return tuple(
            InstanceGroup(
                count=1, calibration=replace(c, step=_scaled(c.step, factor), prefill=_scaled(c.prefill, factor))
            )
            for c in calibrations
        )

    return cluster.with_(prefill=pool(cluster.prefill_calibrations), decode=pool(cluster.decode_calibrations))


def sensitivity(cluster: Cluster, workload: Workload, slo: SLO, policy: Any = None, step: float = 0.1) -> list[Effect]:
    """Return the effects of single changes, largest effect on P95 TTFT first; the rows of a tornado plot.

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    workload : Workload
        Traffic.
    slo : SLO
        Limits.
    policy : policy, plan or None
        Kept as it is throughout.
    step : float
        Relative size of the changes of continuous inputs, in (0, 1).

    Returns
    -------
    list of Effect
        One row a change; those without a steady state are left out.

    Raises
    ------
    UnstableError
        When the unchanged case has no steady state.
    """
    base = predict(cluster, workload, slo, policy)
    p95, attainment = base.ttft_s(0.95), base.slo_attainment
    effects = []
    for name, make in _changes(cluster, workload, slo, step):
        changed = make()
        if changed is None:
            continue
        found = predict(*changed, policy)
        effects.append(
            Effect(
                change=name,
                p95_ttft_s=found.ttft_s(0.95),
                p95_change=found.ttft_s(0.95) / p95 - 1.0,
                attainment_change=found.slo_attainment - attainment,
            )
        )
    return sorted(effects, key=lambda effect: -abs(effect.p95_change))


_Inputs = tuple[Cluster, Workload, SLO]


def _changes(
    cluster: Cluster, workload: Workload, slo: SLO, step: float
) -> list[tuple[str, Callable[[], _Inputs | None]]]:
    rate, share = workload.rate_per_s, f"{100 * step:g} %"
    wide, k, d = cluster.bandwidth_gb_s, cluster.prefill, cluster.decode

    def counted(field: str, value: Any, more: int) -> _Inputs | None:
        if isinstance(value, tuple) or value + more < 1:
            return None
        return cluster.with_(**{field: value + more}), workload, slo

    def stable(factor: float) -> _Inputs | None:
        grown = workload.at_rate(rate * factor)
        return None if workload.kind == "poisson" and grown.load(cluster) >= 1 else (cluster, grown, slo)

    return [
        (f"rate +{share}", lambda: stable(1 + step)),
        (f"rate -{share}", lambda: stable(1 - step)),
        ("one more prefill instance", lambda: counted("prefill", k, 1)),
        ("one more decode instance", lambda: counted("decode", d, 1)),
        (f"bandwidth +{share}", lambda: (cluster.with_(bandwidth_gb_s=wide * (1 + step)), workload, slo)),
        (f"bandwidth -{share}", lambda: (cluster.with_(bandwidth_gb_s=wide * (1 - step)), workload, slo)),
        (f"laws {share} faster", lambda: (_with_laws(cluster, 1 - step), workload, slo)),
        (f"TTFT SLO +{share}", lambda: (cluster, workload, replace(slo, ttft_s=slo.ttft_s * (1 + step)))),
        (f"TBT SLO +{share}", lambda: (cluster, workload, replace(slo, tbt_s=slo.tbt_s * (1 + step)))),
    ]

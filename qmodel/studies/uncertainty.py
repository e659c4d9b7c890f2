"""How far a prediction may be off because of its calibration alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.laws import Calibration
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.scenario.cluster import InstanceGroup
from qmodel.system import predict

__all__ = ["CalibrationInterval", "calibration_interval"]

QUANTILES = (0.5, 0.95, 0.99)
COVERAGE = 0.90


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationInterval:
    """Intervals of predicted metrics over draws of the calibration.

    Parameters
    ----------
    intervals : Mapping
        Metric, e.g. ``ttft_p95_s``, to its 5 % and 95 % quantile over draws.
    draws : int
        Calibrations drawn.
    """

    intervals: Mapping[str, tuple[float, float]]
    draws: int

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {"draws": self.draws, "coverage": COVERAGE, "intervals": {k: list(v) for k, v in self.intervals.items()}}


def calibration_interval(
    cluster: Cluster, workload: Workload, slo: SLO, policy: Any = None, draws: int = 20, seed: int = 0
) -> CalibrationInterval:
    """Return how predicted TTFT, TBT and attainment vary with calibrations drawn from their fit's covariance.

    Parameters
    ----------
    cluster : Cluster
        Whose calibrations have standard errors.
    workload : Workload
        Where requests come from.
    slo : SLO
        Limits that attainment refers to.
    policy : policy, plan or None
        Who prefills where.
    draws : int
        Calibrations to draw, >= 2.
    seed : int
        Seed of the draws.

    Returns
    -------
    CalibrationInterval
        90 % intervals by metric.

    Raises
    ------
    InputError
        When `draws` < 2 or a calibration has no standard errors.
    """
    if draws < 2:
        raise InputError("draws", draws, ">= 2")
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float]] = []
    for drawn in _clusters(cluster, draws, rng):
        p = predict(drawn, workload, slo, policy)
        row = {f"ttft_p{100 * q:g}_s": float(p.ttft_s(q)) for q in QUANTILES}
        row |= {f"tbt_p{100 * q:g}_s": float(p.tbt_s(q)) for q in QUANTILES}
        row |= {n: float(getattr(p, n)) for n in ("ttft_attainment", "tbt_attainment", "slo_attainment")}
        rows.append(row)
    tail = (1 - COVERAGE) / 2
    intervals = {}
    for name in rows[0]:
        low, high = np.quantile([row[name] for row in rows], [tail, 1 - tail])
        intervals[name] = (float(low), float(high))
    return CalibrationInterval(intervals=intervals, draws=draws)


def _clusters(cluster: Cluster, draws: int, rng: np.random.Generator) -> list[Cluster]:
    """Return clusters whose calibrations are drawn; instances that share one share its draw."""
    distinct = list(dict.fromkeys((cluster.calibration, *cluster.prefill_calibrations, *cluster.decode_calibrations)))
    drawn = {id(c): c.draws(draws, rng) for c in distinct}

    def pool(value: int | tuple[InstanceGroup, ...], i: int) -> int | tuple[InstanceGroup, ...]:
        if not isinstance(value, tuple):
            return value
        return tuple(replace(g, calibration=_draw(drawn, g.calibration, i)) for g in value)

    return [
        cluster.with_(
            calibration=_draw(drawn, cluster.calibration, i),
            prefill=pool(cluster.prefill, i),
            decode=pool(cluster.decode, i),
        )
        for i in range(draws)
    ]


def _draw(drawn: Mapping[int, list[Calibration]], calibration: Calibration, i: int) -> Calibration:
    return drawn[id(calibration)][i]

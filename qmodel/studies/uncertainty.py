"""How far a prediction or a plan may be off because of its calibration alone."""

from __future__ import annotations

from typing import Any

from qmodel.scenario import SLO, Cluster, Workload
from qmodel.system import predict
from qmodel.system.draws import CalibrationInterval, drawn_clusters, headline, interval_of

__all__ = ["CalibrationInterval", "calibration_interval"]


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
        Who prefills where; a plan is held as it is.
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
    return interval_of(
        drawn_clusters(cluster, draws, seed), lambda drawn: headline(predict(drawn, workload, slo, policy))
    )

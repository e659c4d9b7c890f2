"""How far a plan may be off because of its calibration alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.system import predict
from qmodel.system.draws import COVERAGE, drawn_clusters, headline, interval_of

if TYPE_CHECKING:
    from qmodel.scenario import SLO, Cluster, Workload
    from qmodel.scenario.plan import Plan

__all__ = ["with_calibration_interval"]


def with_calibration_interval(
    plan: Plan, cluster: Cluster, workload: Workload, slo: SLO, draws: int = 20, seed: int = 0
) -> Plan:
    """Return a plan with what the uncertainty of its calibration leaves open.

    Two questions are answered over the same draws: how the plan as it stands fares when the cluster is what the draw
    says (``intervals`` of predicted metrics), and how the plan would have come out had it been derived from the draw
    (``threshold_low_s`` to ``threshold_high_s``, and ``mean_time_to_prefill_end_s`` of the static split).

    Parameters
    ----------
    plan : Plan
        As derived from the fitted calibration.
    cluster, workload, slo
        What it was derived for.
    draws : int
        Calibrations to draw, >= 2; each takes as long as a derivation and a prediction.
    seed : int
        Seed of the draws.

    Returns
    -------
    Plan
        A copy with `calibration_interval`, and a warning when some draws overload a pool or leave no plan.

    Raises
    ------
    InputError
        When `draws` is out of range or a calibration has no standard errors.
    UnstableError, InfeasibleError
        When every draw overloads a pool or leaves no plan.
    """
    from qmodel.optimization.plan import derive_plan

    policy, tables = plan.policy(), []
    objective: Any = plan.objective
    order: Any = plan.dispatch_rule.order

    def evaluate(drawn: Cluster) -> dict[str, float]:
        again = derive_plan(drawn, workload, slo, objective=objective, binding="dispatch", order=order)
        row = headline(predict(drawn, workload, slo, policy))
        tables.append(np.asarray(again.thresholds["threshold_s"]))
        return row | {name: value for name, value in again.predicted["metrics"].items() if name not in row}

    found = interval_of(drawn_clusters(cluster, draws, seed), evaluate)
    tail = (1 - COVERAGE) / 2
    # Whole tables are compared entry by entry; "nearest" keeps thresholds of inf, which cannot be averaged.
    low, high = np.quantile(tables, [tail, 1 - tail], axis=0, method="nearest")
    interval = found.to_dict() | {"threshold_low_s": low.tolist(), "threshold_high_s": high.tolist()}
    return replace(plan, calibration_interval=interval, warnings=(*plan.warnings, *found.warnings))

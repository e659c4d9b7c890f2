"""What can be had for what: P95 TTFT against attainment and P99 over every form, order and price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.policies import Disaggregated, EarliestCompletion, Kairos, LateThresholds, Thresholds
from qmodel.scenario.slo import strictest

if TYPE_CHECKING:
    import pandas as pd

    from qmodel.scenario import SLO, Cluster, Workload
    from qmodel.scenario.plan import Plan

__all__ = ["frontier", "undominated"]


def frontier(plan: Plan, cluster: Cluster, workload: Workload, slo: SLO | Sequence[SLO]) -> pd.DataFrame:
    """Return the predicted outcome of every candidate of a thorough search, of the plan and of its rivals.

    Parameters
    ----------
    plan : Plan
        Its tables and prices are varied.
    cluster, workload, slo
        What it was derived for.

    Returns
    -------
    DataFrame
        One row per policy: ``policy``, ``family`` ("late", "dispatch" or "rival"), ``order``, ``p95_ttft_s``,
        ``p99_ttft_s``, ``mean_ttft_s``, ``slo_attainment``, ``tbt_attainment``, ``chosen``, and whether no other row is
        at least as good in P95 TTFT and attainment (``best_attainment``), or in P95 and P99 TTFT (``best_p99``).
    """
    import pandas as pd

    from qmodel.optimization.choice import JUDGED_REQUESTS, Scenario, busiest, late_rules, outcome, price_rules
    from qmodel.optimization.thresholds import DEADLINE_SHARE

    limits = strictest(slo)
    scenario = Scenario("as planned", cluster, busiest(workload, JUDGED_REQUESTS))
    policies: dict[str, tuple[str, Any]] = {
        "disaggregated": ("rival", Disaggregated()),
        "kairos": ("rival", Kairos()),
        "earliest completion": ("rival", EarliestCompletion()),
        "plan": (plan.rule.binding, plan.policy()),
    }
    late = late_rules(plan.rule, effort="high")
    policies |= {name: ("late", LateThresholds(rule)) for name, rule in late.items()}
    at_dispatch = price_rules(plan.dispatch_rule, DEADLINE_SHARE * limits.ttft_s)
    policies |= {name: ("dispatch", Thresholds(rule)) for name, rule in at_dispatch.items()}
    rows = [
        {
            "policy": name,
            "family": family,
            "order": policy.kernel_spec().order,
            **outcome(scenario, limits, policy)._asdict(),
            "chosen": name == "plan",
        }
        for name, (family, policy) in policies.items()
    ]
    table = pd.DataFrame(rows)
    p95 = table["p95_ttft_s"].to_numpy()
    table["best_attainment"] = undominated(p95, 1 - table["slo_attainment"].to_numpy())
    table["best_p99"] = undominated(p95, table["p99_ttft_s"].to_numpy())
    return table


def undominated(first: Any, second: Any) -> Any:
    """Return which points no other one matches in both coordinates and beats in one; smaller is better.

    Parameters
    ----------
    first, second : array_like, shape (n,)
        Coordinates.

    Returns
    -------
    ndarray of bool, shape (n,)
        True on the frontier.

    Examples
    --------
    >>> undominated([1.0, 2.0, 2.0], [3.0, 1.0, 4.0]).tolist()
    [True, True, False]
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    no_worse = (a[None, :] <= a[:, None]) & (b[None, :] <= b[:, None])
    better = (a[None, :] < a[:, None]) | (b[None, :] < b[:, None])
    return ~np.any(no_worse & better, axis=1)

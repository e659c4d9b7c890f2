"""Studies of the figures about plans: thresholds as a map, shadow prices over load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qmodel.studies.scenes import Stage
from qmodel.units import NEVER_S

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["shadow_prices", "threshold_map"]

SHORTEST_PROMPT = 64.0
LOADS = tuple(round(0.3 + 0.1 * step, 1) for step in range(10))


def threshold_map(stage: Stage) -> DataFrame:
    """Return the deflection threshold over prompt length and decode backlog, and over prompt length and batch.

    Parameters
    ----------
    stage : Stage
        The map is that of its busiest scene at the centre.

    Returns
    -------
    DataFrame
        Columns panel, sweep, source, view ("backlog" or "batch"), prompt_tokens, decode_backlog_s, batch,
        context_tokens and threshold_s [s], empty where a prompt is never deflected.
    """
    import pandas as pd

    from qmodel.optimization.thresholds import thresholds_s
    from qmodel.studies.thresholds import derive_thresholds

    scene = stage.congested()
    plan = derive_thresholds(scene.cluster, scene.workload, scene.slo)
    rule = plan.dispatch_rule
    table = plan.threshold_table()
    B0, K0 = float(table["batch"]), float(table["context_tokens"])
    number = 97 if stage.full else 49
    longest = float(rule.lengths[-1])
    lengths = np.geomspace(SHORTEST_PROMPT, longest, number)
    backlogs = np.linspace(0.0, scene.slo.ttft_s, number // 2)
    batches = np.linspace(0.0, float(rule.batches[-1]), number // 2)
    per_request = K0 / B0 if B0 > 0 else 0.0
    views = [("backlog", v, B0, K0) for v in backlogs] + [("batch", 0.0, B, B * per_request) for B in batches]
    rows = []
    for view, v, B, K in views:
        theta = thresholds_s(rule, lengths, v, B, K)
        rows.append(
            pd.DataFrame(
                scene.labels
                | {
                    "view": view, "prompt_tokens": lengths, "decode_backlog_s": v, "batch": B, "context_tokens": K,
                    "threshold_s": np.where(theta < NEVER_S, theta, np.nan),
                }
            )
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def shadow_prices(stage: Stage) -> DataFrame:
    """Return what one more of each resource is worth over load, by the duals of the static split.

    Parameters
    ----------
    stage : Stage
        Its scenes at the centre, each with its time scaled to other loads of the prefill pool.

    Returns
    -------
    DataFrame
        Columns panel, source, load, resource, unit and mean_ttft_s: the mean TTFT that one more unit saves, at the
        margin [s]; loads at which no split is stable are left out.
    """
    import pandas as pd

    from qmodel.errors import InfeasibleError
    from qmodel.studies.thresholds import derive_thresholds

    loads = LOADS if not stage.full else tuple(round(0.3 + 0.025 * step, 3) for step in range(37))
    jobs = [(scene, load) for scene in stage.at_centre() for load in loads]
    rows = []
    for number, (scene, load) in enumerate(jobs):
        if stage.progress is not None:
            stage.progress(f"{scene.panel} at load {load:g}", number, len(jobs))
        try:
            plan = derive_thresholds(scene.cluster, scene.workload.at_load(load, scene.cluster), scene.slo)
        except InfeasibleError:
            continue
        rows += [
            {
                "panel": scene.panel, "source": scene.source, "load": load, "resource": price.resource,
                "unit": price.unit, "mean_ttft_s": price.mean_ttft_s,
            }
            for price in plan.shadow_prices
        ]  # fmt: skip
    return pd.DataFrame(rows)

"""Studies of the figures about rules: how results answer to their parameters, and to the split of the cluster."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from qmodel.studies.figures_panels import summarised
from qmodel.studies.scenes import Stage, policy_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from qmodel.studies.scenes import Job, Scene

__all__ = ["price_frontier", "static_splits"]

ALPHAS = (0.5, 0.8, 1.0, 1.3, 1.7, 2.5, 4.0)
FINE_ALPHAS = (0.3, 0.6, 0.9, 1.15, 1.5, 2.0, 3.0, 6.0)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
FINE_FACTORS = (0.125, 0.35, 0.7, 1.4, 2.8, 8.0)
SPLITS = ("1P3D", "2P2D", "3P1D")
METRICS = ("p95_ttft_s", "p99_ttft_s", "slo_attainment", "deflected_share")


def price_frontier(stage: Stage) -> DataFrame:
    """Return what Kairos' alpha and the prices of the threshold rule do: P95 TTFT against attainment.

    Parameters
    ----------
    stage : Stage
        Its busiest scene at the centre.

    Returns
    -------
    DataFrame
        As `summarised`, policy being the family, with the columns parameter ("alpha", or the factor on the derived
        prices, of the prefill or of the decode pool), setting and chosen (whether qmodel, or the paper, chose it).
    """
    import pandas as pd

    from qmodel.policies import Kairos, Thresholds
    from qmodel.studies.thresholds import derive_thresholds

    scene = stage.congested()
    rule = derive_thresholds(scene.cluster, scene.workload, scene.slo).dispatch_rule
    alphas = sorted({*ALPHAS, *(FINE_ALPHAS if stage.full else ())})
    factors = sorted({*FACTORS, *(FINE_FACTORS if stage.full else ())})
    jobs: list[Job] = []
    keys: dict[str, tuple[str, str, float, bool]] = {}
    for alpha in alphas:
        name = f"kairos, alpha {alpha:g}"
        keys[name] = ("kairos", "alpha", alpha, alpha == Kairos().alpha)
        jobs.append((scene, name, partial(Kairos, alpha=alpha)))
    for pool in ("prefill", "decode"):
        field = f"price_{pool}_per_s"
        for factor in factors:
            name = f"thresholds at dispatch, {pool} price x {factor:g}"
            keys[name] = ("thresholds at dispatch", f"{pool} price", factor, factor == 1.0)
            priced = replace(rule, **{field: factor * getattr(rule, field)})
            jobs.append((scene, name, partial(Thresholds, priced)))
    table = summarised(stage.runs_of(jobs), METRICS)
    named = pd.DataFrame([keys[name] for name in table["policy"]], columns=["policy", "parameter", "setting", "chosen"])
    return table.drop(columns="policy").join(named)


def static_splits(stage: Stage) -> DataFrame:
    """Return how the same four instances do as 1P3D, 2P2D and 3P1D, with and without deflection.

    Parameters
    ----------
    stage : Stage
        Its scenes at the centre; each keeps its requests on every split.

    Returns
    -------
    DataFrame
        As `summarised`, with the column cluster.
    """
    import pandas as pd

    tables = []
    for split in SPLITS:
        jobs = [job for scene in stage.at_centre() for job in _jobs(scene, split)]
        table = summarised(stage.runs_of(jobs), METRICS)
        tables.append(table.assign(cluster=split))
    return pd.concat(tables, ignore_index=True)


def _jobs(scene: Scene, split: str) -> list[Job]:
    from qmodel.scenario import Cluster

    cluster = Cluster.parse(split, scene.cluster.prefill_calibrations[0])
    there = replace(scene, cluster=cluster)
    return [(there, name, partial(policy_of, there, name)) for name in ("disaggregated", "kairos", "thresholds")]

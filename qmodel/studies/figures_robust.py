"""Study of the figure about robustness: faults, stale signals, wrong laws, other rates and another trace's plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmodel.studies.scenes import CENTRE, Stage

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["robustness"]

PANEL = "HH"
POLICIES = ("disaggregated", "kairos", "thresholds at dispatch", "thresholds")
METRICS = ("p95_ttft_s", "slo_attainment")


def robustness(stage: Stage) -> DataFrame:
    """Return what each condition of the evaluation does to each policy, planned on one half and run on the other.

    Parameters
    ----------
    stage : Stage
        Says how many runs, and whether the shared traces are there.

    Returns
    -------
    DataFrame
        Columns panel, sweep, source, family, condition, policy, metric, mean and half_width (95 %, over runs; times in
        seconds).
    """
    import pandas as pd

    from qmodel.simulation.statistics import mean_interval
    from qmodel.studies.evaluation import BASE_SLOS, evaluate, evaluation_grid
    from qmodel.studies.evaluation_cases import CONDITIONS, MODELS, Source

    source: Source = "built-in models" if stage.scenes[0].source == "built-in models" else "shared traces"
    families = {condition.name: condition.family for condition in CONDITIONS}
    rows = [
        row
        for row in evaluation_grid(full=True, source=source, models=MODELS[:1], seeds=max(2, len(stage.seeds)))
        if (row["panel"], row["sweep"]) == (PANEL, CENTRE)
        and (row["ttft_slo"], row["tbt_slo_s"]) == BASE_SLOS
        and row["condition"] in families
        and row["policy"] in POLICIES
    ]
    kept = stage.folder / f"robustness_{stage.digest()[:16]}.csv" if stage.folder else None
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
    table = evaluate(rows, output=kept, progress=stage.progress)
    out = []
    for (condition, policy), group in table.groupby(["condition", "policy"], sort=False):
        for metric in METRICS:
            mean, half = mean_interval(group[metric].to_numpy())
            out.append(
                {
                    "panel": PANEL, "sweep": CENTRE, "source": source, "family": families[str(condition)],
                    "condition": condition, "policy": policy, "metric": metric, "mean": mean, "half_width": half,
                }
            )  # fmt: skip
    return pd.DataFrame(out)

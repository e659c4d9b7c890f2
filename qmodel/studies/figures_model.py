"""Studies of the figure that holds the analytical model against the simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmodel.studies.figures_panels import summarised
from qmodel.studies.replay import replayed
from qmodel.studies.scenes import Stage, policy_of

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["predicted_against_simulated"]

POLICIES = ("disaggregated", "kairos", "thresholds at dispatch", "thresholds")
METRICS = ("p50_ttft_s", "p95_ttft_s", "p99_ttft_s", "slo_attainment", "deflected_share")


def predicted_against_simulated(stage: Stage) -> DataFrame:
    """Return predictions beside simulations of every scene, without deflection and with it.

    Both see the requests of seed 0.

    Parameters
    ----------
    stage : Stage
        Scenes and runs.

    Returns
    -------
    DataFrame
        Columns panel, sweep, source, policy, metric, simulated, predicted and half_width: the prediction's own estimate
        of its relative error, where it gives one.
    """
    import pandas as pd

    from qmodel.studies.metrics import measure
    from qmodel.system import predict

    first = stage.smaller(seeds=(0,))
    table = summarised(first.runs(POLICIES), METRICS).rename(columns={"mean": "simulated"})
    table = table.drop(columns=["half_width", "seeds"])
    predicted, widths = {}, {}
    for number, scene in enumerate(stage.scenes):
        for policy in POLICIES:
            if stage.progress is not None:
                stage.progress(f"predict {scene.panel} {scene.sweep:g}, {policy}", number, len(stage.scenes))
            found = predict(
                scene.cluster, replayed(scene.workload, 0, stage.requests), scene.slo, policy_of(scene, policy)
            )
            key = (scene.panel, scene.sweep, policy)
            numbers = measure(found)
            for metric in METRICS:
                predicted[(*key, metric)] = numbers[metric]
                widths[(*key, metric)] = found.error_estimate[metric]
    keys = list(zip(table["panel"], table["sweep"], table["policy"], table["metric"], strict=True))
    table["predicted"] = pd.Series([predicted[key] for key in keys], dtype=float)
    table["half_width"] = pd.Series([widths[key] for key in keys], dtype=float)
    return table

"""Studies of the figures that compare policies panel by panel: where TTFT goes, percentiles, attainment, laws, TBT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmodel.scenario.ttft import PARTS
from qmodel.studies.metrics import over_seeds
from qmodel.studies.published import PUBLISHED
from qmodel.studies.scenes import POLICIES, TBT_LEVELS, TTFT_LEVELS, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame

__all__ = ["attainment", "p95_ttft", "summarised", "tbt_laws", "ttft_laws", "ttft_parts"]


def summarised(runs: DataFrame, metrics: Sequence[str]) -> DataFrame:
    """Return mean and half-width of the 95 % interval over the seeds, per scene, policy and metric.

    Parameters
    ----------
    runs : DataFrame
        As `Stage.runs` returns it.
    metrics : sequence of str
        Metrics to keep, in this order.

    Returns
    -------
    DataFrame
        Columns panel, sweep, source, policy, metric, mean, half_width and seeds.
    """
    import pandas as pd

    kept = runs[runs["metric"].isin(metrics)]
    rows = []
    for key, group in kept.groupby(["panel", "sweep", "source", "policy", "metric"], sort=False):
        rows.append((*key, *over_seeds(group["value"].to_numpy()), len(group)))
    columns = ["panel", "sweep", "source", "policy", "metric", "mean", "half_width", "seeds"]
    table = pd.DataFrame(rows, columns=columns)
    order = {name: number for number, name in enumerate(metrics)}
    return table.sort_values("metric", key=lambda m: m.map(order), kind="stable", ignore_index=True)


def ttft_parts(stage: Stage) -> DataFrame:
    """Return where P95 TTFT goes without deflection, per panel, as seconds and as shares.

    Parameters
    ----------
    stage : Stage
        Scenes and runs.

    Returns
    -------
    DataFrame
        Columns panel, sweep, source, part, mean_s, share, published_low and published_high (share of execution, the
        part "prefill").
    """
    import pandas as pd

    runs = stage.runs(["disaggregated"], stage.at_centre())
    table = summarised(runs, [f"p95_{part}_s" for part in PARTS])
    table["part"] = table["metric"].str.removeprefix("p95_").str.removesuffix("_s")
    total = table.groupby("panel")["mean"].transform("sum")
    known = PUBLISHED["execution_share"]
    return pd.DataFrame(
        {
            "panel": table["panel"], "sweep": table["sweep"], "source": table["source"], "part": table["part"],
            "mean_s": table["mean"], "share": table["mean"] / total,
            "published_low": known.low, "published_high": known.high,
        }
    )  # fmt: skip


def p95_ttft(stage: Stage) -> DataFrame:
    """Return P95 TTFT by panel, sweep and policy, with intervals.

    Parameters
    ----------
    stage : Stage
        Scenes and runs.

    Returns
    -------
    DataFrame
        As `summarised` [s], with the column published: what the paper's best ratio would make of the scene's mean
        without deflection.
    """
    return _beside_published(summarised(stage.runs(), ["p95_ttft_s"]), "p95_ttft_ratio")


def attainment(stage: Stage) -> DataFrame:
    """Return the share of requests that meet both SLOs, by panel, sweep and policy, with intervals.

    Parameters
    ----------
    stage : Stage
        Scenes and runs.

    Returns
    -------
    DataFrame
        As `summarised`, with the column published as in `p95_ttft`, at most 1.
    """
    table = _beside_published(summarised(stage.runs(), ["slo_attainment"]), "attainment_ratio")
    return table.assign(published=table["published"].clip(upper=1.0))


def _beside_published(table: DataFrame, key: str) -> DataFrame:
    plain = table[table["policy"] == POLICIES[0]].set_index(["panel", "sweep"])["mean"]
    scenes = zip(table["panel"], table["sweep"], strict=True)
    return table.assign(published=[PUBLISHED[key].low * plain[scene] for scene in scenes])


def ttft_laws(stage: Stage) -> DataFrame:
    """Return the law of TTFT by panel and policy: the share of requests that take longer than t.

    Parameters
    ----------
    stage : Stage
        Scenes and runs.

    Returns
    -------
    DataFrame
        Columns panel, sweep, source, policy, share_above, ttft_s (mean of the quantile over the seeds), slo_s.
    """
    runs = stage.runs(POLICIES, stage.at_centre())
    table = summarised(runs, [f"ttft_q{q:g}" for q in TTFT_LEVELS])
    level = table["metric"].str.removeprefix("ttft_q").astype(float)
    out = table[["panel", "sweep", "source", "policy"]].copy()
    out["share_above"] = (1 - level).round(6)
    out["ttft_s"] = table["mean"]
    out["slo_s"] = stage.scenes[0].slo.ttft_s
    return out


def tbt_laws(stage: Stage) -> DataFrame:
    """Return quantiles of the time between tokens by panel and policy, and the share of requests that met its SLO.

    Parameters
    ----------
    stage : Stage
        Scenes and runs.

    Returns
    -------
    DataFrame
        As `summarised`, with the column quantile (empty for the attainment) and slo_s.
    """
    runs = stage.runs(POLICIES, stage.at_centre())
    table = summarised(runs, [*(f"tbt_q{q:g}" for q in TBT_LEVELS), "tbt_attainment"])
    table["quantile"] = table["metric"].where(table["metric"] != "tbt_attainment").str.removeprefix("tbt_q")
    table["quantile"] = table["quantile"].astype(float)
    table["slo_s"] = stage.scenes[0].slo.tbt_s
    return table

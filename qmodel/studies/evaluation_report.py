"""What the evaluation's table says: paired ratios, geometric means, cells where a policy loses, the headline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.studies.evaluation_cases import CONDITIONS, PANELS

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = [
    "CELL",
    "NEVER",
    "PLAN",
    "SETTING",
    "congested",
    "finished",
    "geometric_means",
    "headline",
    "losses",
    "pairs",
    "robustness",
]

CELL = ["model", "panel", "sweep", "ttft_slo", "tbt_slo_s"]
SETTING = [*CELL, "condition"]
PLAN = "thresholds"
KAIROS = "kairos"
NEVER = ("disaggregated", "disaggregated, plan's order")
# Attainment given up before a cell counts as lost: 0.2 points, the margin of the protocol.
POINTS = 0.2
# Kairos is congested where its P95 TTFT is above this multiple of its lowest.
CONGESTION = 2.0
# The best scheduler that never deflects counts as saturated where it meets the SLOs of fewer requests than this.
SATURATED_ATTAINMENT = 0.9
# Under faults and old signals a plan's P95 TTFT may be this much above never deflecting's (the protocol's 5 %).
WORSE = 0.05
# Losses are sorted by the higher ratio; so many points of attainment lost weigh as much as a ratio higher by 1.
POINTS_A_RATIO = 10.0
# Share of requests that the simulator's metrics count.
COUNTED = 0.9
_AS_PLANNED = CONDITIONS[0].name


def finished(table: DataFrame) -> DataFrame:
    """Return the runs that have a result.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.
    """
    return table[table["error"].fillna("") == ""]


def pairs(table: DataFrame, policy: str, rival: str) -> DataFrame:
    """Return one row per cell and condition: a policy against a rival, paired by seed.

    Ratios are geometric means over the seeds with the bounds of their 95 % Student interval; shares of SLO misses are
    held at half a request, so that a ratio exists where nothing was missed.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.
    policy, rival : str
        Names in the column ``policy``.

    Returns
    -------
    DataFrame
        `SETTING` and p95, p95_low, p95_high, p99, misses (ratios), slo_points, tbt_points (differences in points, with
        slo_half), p95_s and rival_p95_s, slo and rival_slo (means).
    """
    import pandas as pd

    mine, theirs = (_runs(table, name) for name in (policy, rival))
    both = mine.join(theirs.add_suffix("_rival"), how="inner")
    rows = [
        {**dict(zip(SETTING, key, strict=True)), **_paired(group)} for key, group in both.groupby(SETTING, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*SETTING, *_PAIRED])


_METRICS = ["p95_ttft_s", "p99_ttft_s", "slo_attainment", "tbt_attainment", "requests"]
_PAIRED = (
    "p95", "p95_low", "p95_high", "p99", "misses", "slo_points", "slo_half", "tbt_points", "p95_s", "rival_p95_s",
    "slo", "rival_slo",
)  # fmt: skip


def _runs(table: DataFrame, policy: str) -> DataFrame:
    kept = finished(table)
    kept = kept[kept["policy"] == policy]
    return kept.set_index([*SETTING, "seed"])[_METRICS]


def _paired(group: DataFrame) -> dict[str, float]:
    least = 0.5 / (COUNTED * group["requests"].to_numpy(dtype=float))
    missed, rival_missed = (
        np.maximum(1.0 - group[name].to_numpy(dtype=float), least)
        for name in ("slo_attainment", "slo_attainment_rival")
    )
    p95, low, high = _ratio(group["p95_ttft_s"], group["p95_ttft_s_rival"])
    slo, half = _interval(100 * (group["slo_attainment"] - group["slo_attainment_rival"]).to_numpy(dtype=float))
    values = (
        p95, low, high, _ratio(group["p99_ttft_s"], group["p99_ttft_s_rival"])[0], _ratio(missed, rival_missed)[0],
        slo, half, 100 * float((group["tbt_attainment"] - group["tbt_attainment_rival"]).mean()),
        float(group["p95_ttft_s"].mean()), float(group["p95_ttft_s_rival"].mean()),
        float(group["slo_attainment"].mean()), float(group["slo_attainment_rival"].mean()),
    )  # fmt: skip
    return dict(zip(_PAIRED, values, strict=True))


def _ratio(mine: Any, theirs: Any) -> tuple[float, float, float]:
    """Return the geometric mean of paired ratios and the bounds of its 95 % interval."""
    mean, half = _interval(np.log(np.asarray(mine, dtype=float) / np.asarray(theirs, dtype=float)))
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))


def _interval(values: Any) -> tuple[float, float]:
    from qmodel.simulation.statistics import mean_interval

    if len(values) < 2 or np.ptp(values) == 0:
        return float(values[0]) if len(values) == 1 else float(np.mean(values)), 0.0
    mean, half = mean_interval(np.asarray(values))
    return float(mean), float(half)


def congested(table: DataFrame) -> Series:
    """Return whether Kairos is congested, by `CELL`: its P95 TTFT is above twice its lowest at that model and TTFT SLO.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.
    """
    kept = table[(table["policy"] == KAIROS) & (table["condition"] == _AS_PLANNED) & table["panel"].isin(PANELS)]
    mean = kept.groupby(CELL)["p95_ttft_s"].mean()
    lowest = mean.groupby(level=["model", "ttft_slo"]).transform("min")
    return mean > CONGESTION * lowest


def geometric_means(table: DataFrame, policies: list[str], rival: str = KAIROS) -> DataFrame:
    """Return geometric means over the panels' cells of each policy against a rival, congested cells and all.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.
    policies : list of str
        Policies to compare.
    rival : str
        What they are compared with.

    Returns
    -------
    DataFrame
        One row per model, TTFT SLO, TBT SLO (0 for all together), policy and set of cells: number of cells, geometric
        means of P95, P99 and misses, and the worst differences of attainment in points.
    """
    import pandas as pd

    crowded = congested(table)
    rows = []
    for policy in policies:
        found = pairs(table, policy, rival)
        found = found[(found["condition"] == _AS_PLANNED) & found["panel"].isin(PANELS)]
        found = found.assign(
            crowded=[bool(crowded.get(key, False)) for key in found[CELL].itertuples(index=False, name=None)]
        )
        for (model, ttft), of_model in found.groupby(["model", "ttft_slo"], sort=False):
            for tbt in (0.0, *sorted(of_model["tbt_slo_s"].unique())):
                part = of_model if tbt == 0.0 else of_model[of_model["tbt_slo_s"] == tbt]
                for name, cells in (("congested", part[part["crowded"]]), ("all", part)):
                    if len(cells):
                        rows.append({
                            "model": model, "ttft_slo": ttft, "tbt_slo_s": tbt, "policy": policy, "cells": name,
                            "count": len(cells), **{m: _geometric(cells[m]) for m in ("p95", "p99", "misses")},
                            "worst_slo_points": float(cells["slo_points"].min()),
                            "worst_tbt_points": float(cells["tbt_points"].min()),
                        })  # fmt: skip
    return pd.DataFrame(rows)


def _geometric(ratios: Any) -> float:
    return float(np.exp(np.mean(np.log(np.asarray(ratios, dtype=float)))))


def losses(table: DataFrame, policy: str = PLAN, rival: str = KAIROS) -> DataFrame:
    """Return the cells as planned where a policy loses to a rival, worst first.

    A cell is lost where P95 or P99 TTFT is higher, or SLO or TBT attainment lower by more than 0.2 points.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.
    policy, rival : str
        Names in the column ``policy``.

    Returns
    -------
    DataFrame
        Rows of `pairs` with ``lost``, the metrics lost by name.
    """
    found = pairs(table, policy, rival)
    found = found[found["condition"] == _AS_PLANNED].copy()
    marks = {
        "P95": found["p95"] > 1.0,
        "P99": found["p99"] > 1.0,
        "attainment": found["slo_points"] < -POINTS,
        "TBT attainment": found["tbt_points"] < -POINTS,
    }
    found["lost"] = [", ".join(name for name in marks if marks[name].iloc[i]) for i in range(len(found))]
    found = found[found["lost"] != ""]
    worst = found[["p95", "p99"]].max(axis=1) - found["slo_points"].clip(upper=0) / POINTS_A_RATIO
    return found.assign(worst=worst).sort_values("worst", ascending=False, ignore_index=True).drop(columns="worst")


def headline(table: DataFrame, rivals: Sequence[str] = NEVER) -> DataFrame:
    """Return, per cell as planned, the plan against the best scheduler that never deflects.

    Best is the one with the lowest P95 TTFT, and for attainment the one with the highest; saturated is where that is
    below 90 %.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.
    rivals : sequence of str
        Schedulers that never deflect.

    Returns
    -------
    DataFrame
        `CELL`, p95_change and attainment_change (relative, e.g. -0.81 and +0.79), the values themselves, saturated.
    """
    kept = finished(table)
    kept = kept[kept["condition"] == _AS_PLANNED]
    mean = kept.groupby([*CELL, "policy"], sort=False)[["p95_ttft_s", "slo_attainment"]].mean().unstack("policy")
    names = [name for name in rivals if name in mean["p95_ttft_s"]]
    best_p95, best_slo = mean["p95_ttft_s"][names].min(axis=1), mean["slo_attainment"][names].max(axis=1)
    mine_p95, mine_slo = mean["p95_ttft_s"][PLAN], mean["slo_attainment"][PLAN]
    out = best_p95.rename("best_p95_s").to_frame()
    out["p95_s"], out["p95_change"] = mine_p95, mine_p95 / best_p95 - 1
    out["best_slo"], out["slo"], out["attainment_change"] = best_slo, mine_slo, mine_slo / best_slo - 1
    out["saturated"] = best_slo < SATURATED_ATTAINMENT
    return out.reset_index()


def robustness(table: DataFrame, policy: str = PLAN) -> DataFrame:
    """Return, per condition, a policy against Kairos and against never deflecting, over all cells.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.
    policy : str
        Name in the column ``policy``.

    Returns
    -------
    DataFrame
        condition, cells, geometric mean of P95 against Kairos, the worst cell's P95 against never deflecting with its
        name, cells more than 5 % worse than that, worst attainment against Kairos in points.
    """
    import pandas as pd

    against, never = pairs(table, policy, KAIROS), pairs(table, policy, NEVER[0])
    rows = []
    for condition in CONDITIONS:
        mine, rest = (x[(x["condition"] == condition.name) & x["panel"].isin(PANELS)] for x in (against, never))
        if not len(mine) or not len(rest):
            continue
        worst = rest.loc[rest["p95"].idxmax()]
        rows.append({
            "condition": condition.name, "family": condition.family, "cells": len(mine),
            "kairos_p95": _geometric(mine["p95"]), "kairos_misses": _geometric(mine["misses"]),
            "never_p95": _geometric(rest["p95"]), "worst_never_p95": float(worst["p95"]),
            "worst_cell": f"{worst['panel']} {worst['sweep']:g}", "cells_worse": int((rest["p95"] > 1.0 + WORSE).sum()),
            "worst_slo_points": float(mine["slo_points"].min()),
        })  # fmt: skip
    return pd.DataFrame(rows)

"""What the simulator shows of the system itself: where TTFT goes in the panels, and what faults do to each policy."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.scenario import SLO, Cluster, Workload
from qmodel.scenario.ttft import PARTS
from qmodel.simulation import simulate
from qmodel.studies.evaluation_cases import CONDITIONS, Condition
from qmodel.studies.panels import CELLS, Cell, cell_requests, panel_cell
from qmodel.studies.published import PUBLISHED

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["SWEPT_CELLS", "fault_policies", "fault_table", "simulator_page", "ttft_part_table"]

_SATURATED = 0.7  # prefill load from which a bursty panel's prefill queue saturates
_LOAD = 0.9
# Panels whose prefill load is swept, and what t adds to that load in each.
_SWEPT = {"HL": 0.0, "HH": 0.0, "LT": 0.2}
_SWEPT_LOADS = tuple(round(0.1 * i, 1) for i in range(1, 12))

#: The panels that saturate, at prefill loads from 0.1 to 1.1.
SWEPT_CELLS = tuple(panel_cell(panel, round(load + t, 1)) for panel, t in _SWEPT.items() for load in _SWEPT_LOADS)


def ttft_part_table(cluster: Cluster, folder: Path | None = None, cells: Sequence[Cell] = CELLS) -> DataFrame:
    """Return where P95 TTFT goes in each panel when nothing is deflected.

    Parameters
    ----------
    cluster : Cluster
        2P2D of the model that the panels are solved for.
    folder : Path, optional
        Folder of shared data.
    cells : sequence of Cell, optional
        Cells to run; the evaluation's by default.

    Returns
    -------
    DataFrame
        One row a cell: its panel, prefill and decode load, P95 TTFT [s], the share of it in each part, and the P95 of
        execution alone [s].
    """
    import numpy as np
    import pandas as pd

    rows = []
    for cell in cells:
        result = simulate(cluster, cell_requests(cell, cluster, folder), SLO())
        total = result.ttft_s(0.95)
        parts = {part: value / total for part, value in result.breakdown(0.95).items()}
        loads = {"load_prefill": cell.load_prefill, "load_decode": cell.load_decode}
        alone = float(np.quantile(result.columns["prefill_s"][result.warm_from :], 0.95))
        rows.append(
            {"cell": cell.name, "panel": cell.panel, **loads, "p95_ttft_s": total, **parts, "p95_execution_s": alone}
        )
    return pd.DataFrame(rows)


def fault_policies(cluster: Cluster, workload: Workload, slo: SLO) -> dict[str, Any]:
    """Return every kind of policy, plans derived for the workload, by name.

    Parameters
    ----------
    cluster : Cluster
        What the plans are made for.
    workload : Workload
        What they are planned on.
    slo : SLO
        Their objective.
    """
    from qmodel import derive_thresholds, policies

    plain: dict[str, Any] = {
        "disaggregated": policies.Disaggregated(),
        "colocated": policies.Colocated(512),
        "static 512": policies.StaticLength(512),
        "kairos": policies.Kairos(),
        "earliest completion": policies.EarliestCompletion(),
    }
    forms = {"dispatch": ("dispatch", "fcfs"), "late": ("late", "fcfs"), "late, shortest first": ("late", "spf")}
    plans = {
        name: derive_thresholds(cluster, workload, slo, binding=binding, order=order).policy()  # type: ignore[arg-type]
        for name, (binding, order) in forms.items()
    }
    return plain | plans


def fault_table(
    cluster: Cluster, workload: Workload, count: int = 20_000, conditions: Sequence[Condition] = CONDITIONS
) -> DataFrame:
    """Return what each condition of the evaluation does to each policy on one workload, same requests throughout.

    Parameters
    ----------
    cluster : Cluster
        Simulated cluster.
    workload : Workload
        At the load to run.
    count : int, optional
        Requests a run.
    conditions : sequence of Condition, optional
        What goes wrong; those that concern a plan's traces are left out.

    Returns
    -------
    DataFrame
        One row per condition and policy: P95 TTFT [s], SLO attainment, restarts, and how many requests finished.
    """
    import numpy as np
    import pandas as pd

    slo, rows = SLO(), []
    made: dict[tuple[float, float], Mapping[str, Any]] = {}
    for condition in conditions:
        if condition.planned_on is not None:
            continue
        laws = condition.prefill_laws, condition.decode_laws
        if laws not in made:
            made[laws] = fault_policies(condition.believed(cluster), workload, slo)
        drawn = workload.requests(count=count)
        requests = replace(drawn, arrival_s=drawn.arrival_s / condition.rate)
        for name, policy in made[laws].items():
            signals = None if name == "colocated" else condition.signals(cluster)
            faults = condition.faults(requests.span_s)
            result = simulate(condition.real(cluster), requests, slo, policy, signals=signals, faults=faults)
            rows.append(
                {
                    "condition": condition.name,
                    "policy": name,
                    "p95_ttft_s": result.ttft_s(0.95),
                    "slo_attainment": result.slo_attainment,
                    "restarts": int(result.columns["restarts"].sum()),
                    "finished": int(np.isfinite(result.columns["finish_s"]).sum()),
                    "requests": result.count,
                }
            )
    return pd.DataFrame(rows)


def simulator_page(parts: DataFrame, swept: DataFrame, faults: DataFrame) -> str:
    """Return the page of all tables, as Markdown.

    Parameters
    ----------
    parts : DataFrame
        `ttft_part_table`.
    swept : DataFrame
        `ttft_part_table` of `SWEPT_CELLS`.
    faults : DataFrame
        `fault_table`.
    """
    head = ["# What the simulator shows", "", "Written by `python bench/faults.py -o docs/simulator.md`.", ""]
    return "\n".join([*head, *_parts_section(parts), *_swept_section(swept), *_faults_section(faults)])


def _paragraph(*sentences: str) -> list[str]:
    return [*textwrap.wrap(" ".join(sentences), width=120), ""]


def _parts_section(parts: DataFrame) -> list[str]:
    low, high = PUBLISHED["execution_share"].low, PUBLISHED["execution_share"].high
    lines = ["## Where P95 TTFT goes without deflection", ""]
    lines += _paragraph(
        "DeepSeek-V2-Lite, 2P2D, the evaluation's panels. The paper reports that",
        f"execution is {100 * low:.0f}-{100 * high:.0f} % of P95 TTFT where prefill is saturated.",
        "Shares are those of the requests around the 95th percentile, in %; the last column is the P95 of all",
        "execution times over P95 TTFT, another reading of that figure.",
    )
    lines += [
        "| cell | prefill load | decode load | P95 TTFT [s] | queue | execution | transfer | admission | first step "
        "| P95 execution / P95 TTFT |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in parts.to_dict("records"):
        shares = " | ".join(f"{100 * row[name]:.1f}" for name in PARTS)
        numbers = f"{row['load_prefill']:.2f} | {row['load_decode']:.2f} | {row['p95_ttft_s']:.2f}"
        other = 100 * row["p95_execution_s"] / row["p95_ttft_s"]
        lines.append(f"| {row['cell']} | {numbers} | {shares} | {other:.1f} |")
    return [*lines, "", *_paragraph(*_parts_explained(parts))]


def _parts_explained(parts: DataFrame) -> list[str]:
    """Return how the shares of execution compare with the paper's, and why."""
    known = PUBLISHED["execution_share"]
    low, high = known.low, known.high
    full = parts[parts.load_prefill >= _SATURATED - 1e-9]
    other = full.p95_execution_s / full.p95_ttft_s
    inside, inside_other = full.prefill.between(low, high).sum(), other.between(low, high).sum()
    near, alone = full.prefill * full.p95_ttft_s, full.p95_execution_s
    return [
        f"At prefill loads of {_SATURATED:g} and more the queue dominates as in the paper, and execution is",
        f"{100 * full.prefill.min():.1f}-{100 * full.prefill.max():.1f} % around P95 and",
        f"{100 * other.min():.1f}-{100 * other.max():.1f} % as a ratio of percentiles:",
        f"{inside} and {inside_other} of {len(full)} cells lie within the paper's range, the others below it.",
        f"Execution does not depend on the load: {near.min():.2f}-{near.max():.2f} s around P95 TTFT,",
        f"{alone.min():.2f}-{alone.max():.2f} s at its own P95. So the share only tells how long the queue is:",
        f"it lies in the paper's range iff P95 TTFT is {near.min() / high:.1f}-{near.max() / low:.0f} s.",
    ]


def _swept_section(swept: DataFrame) -> list[str]:
    """Return the share of execution over the prefill load, and where it lies in the paper's range."""
    known = PUBLISHED["execution_share"]
    names = list(dict.fromkeys(swept.panel))
    lines = ["## Execution's share as the prefill queue fills", ""]
    lines += _paragraph(
        "The same panels from light load on: P95 TTFT [s] / share of execution in the requests around it [%], in bold",
        "where that lies within the paper's range.",
    )
    lines += [f"| prefill load | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for load, group in swept.groupby(swept.load_prefill.round(6)):
        found = {row["panel"]: _share_cell(row) for row in group.to_dict("records")}
        lines.append(f"| {load:.1f} | {' | '.join(found.get(name, '') for name in names)} |")
    inside = swept[swept.prefill.between(known.low, known.high)]
    spans = [
        f"{name} from {group.load_prefill.min():.1f} to {group.load_prefill.max():.1f}"
        for name, group in inside.groupby("panel", sort=False)
    ]
    return [
        *lines,
        "",
        *_paragraph(
            "Every panel that saturates passes through the paper's range as its prefill queue fills:",
            f"{', '.join(spans)}.",
            "Code traces come in bursts that overload two prefill instances for a while at any mean load, so HL and LT",
            "lie there at light loads, and below it at the loads of the evaluation.",
        ),
    ]


def _share_cell(row: Mapping[Hashable, float]) -> str:
    known = PUBLISHED["execution_share"]
    text = f"{row['p95_ttft_s']:.2f} / {100 * row['prefill']:.1f}"
    return f"**{text}**" if known.low <= row["prefill"] <= known.high else text


def _faults_section(faults: DataFrame) -> list[str]:
    order = list(dict.fromkeys(faults.policy))
    lines = ["## What goes wrong, by policy", ""]
    lines += _paragraph(
        f"DeepSeek-V2-Lite, 2P2D, built-in azure-conv at load {_LOAD:g}, {int(faults.requests.iloc[0]):,} requests,",
        "one seed, TTFT SLO 1 s, TBT SLO 60 ms. P95 TTFT [s] / SLO attainment.",
        "Plans know nothing of what goes wrong; with wrong laws they were made for these,",
        "and routers estimate with them.",
        "Late binding decides at the instances and sees no stale signals.",
    )
    lines += [f"| condition | {' | '.join(order)} |", f"|---|{'---|' * len(order)}"]
    for name, group in faults.groupby("condition", sort=False):
        cells = [f"{p95:.2f} / {share:.2f}" for p95, share in zip(group.p95_ttft_s, group.slo_attainment, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    total, lost = int(faults.requests.sum()), int((faults.requests - faults.finished).sum())
    lines += [
        "",
        *_paragraph(
            f"Of {total:,} requests in these runs {lost} did not finish; {int(faults.restarts.sum()):,} started again,",
            f"at most {int(faults.restarts.max()):,} in one run.",
        ),
    ]
    return lines

"""What the simulator shows of the system itself: where TTFT goes in the panels, and what faults do to each policy."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.simulation import simulate
from qmodel.studies.evaluation_cases import CONDITIONS, Condition
from qmodel.studies.metrics import PARTS
from qmodel.studies.panels import CELLS, Cell, cell_requests
from qmodel.studies.published import PUBLISHED

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PAGE_CELLS", "fault_policies", "fault_table", "simulator_page", "ttft_part_table"]

_SATURATED = 0.7  # prefill load from which a bursty panel's prefill queue saturates
_LOAD = 0.9


def _finer() -> tuple[Cell, ...]:
    """Return cells between light and saturated ones, where execution passes through the paper's range."""
    both = ("code", "conv")
    return tuple(
        Cell(panel="HH", sweep=t, sources=both, load_prefill=t, load_decode=t) for t in (0.55, 0.6, 0.65, 0.75, 0.8)
    )


#: Cells of the page: the evaluation's, and some between them.
PAGE_CELLS = (*CELLS, *_finer())


def ttft_part_table(cluster: Cluster, folder: Path | None = None, cells: Sequence[Cell] = PAGE_CELLS) -> DataFrame:
    """Return where P95 TTFT goes in each panel when nothing is deflected.

    Parameters
    ----------
    cluster : Cluster
        2P2D of the model that the panels are solved for.
    folder : Path, optional
        Folder of shared data.
    cells : sequence of Cell, optional
        Cells to run; those of the page by default.

    Returns
    -------
    DataFrame
        One row a cell: prefill and decode load, P95 TTFT [s], the share of it in each part, and the P95 of execution
        alone [s].
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
        rows.append({"cell": cell.name, **loads, "p95_ttft_s": total, **parts, "p95_execution_s": alone})
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
        requests = _faster(workload.requests(count=count), condition.rate)
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


def _faster(requests: Requests, factor: float) -> Requests:
    return Requests.from_arrays(
        requests.arrival_s / factor, requests.prompt_tokens, requests.output_tokens, requests.cached_tokens
    )


def simulator_page(parts: DataFrame, faults: DataFrame) -> str:
    """Return the page of both tables, as Markdown.

    Parameters
    ----------
    parts : DataFrame
        `ttft_part_table`.
    faults : DataFrame
        `fault_table`.
    """
    head = ["# What the simulator shows", "", "Written by `python bench/faults.py -o docs/simulator.md`.", ""]
    return "\n".join([*head, *_parts_section(parts), *_faults_section(faults)])


def _paragraph(*sentences: str) -> list[str]:
    return [*textwrap.wrap(" ".join(sentences), width=120), ""]


def _parts_section(parts: DataFrame) -> list[str]:
    low, high = PUBLISHED["execution_share"].low, PUBLISHED["execution_share"].high
    lines = ["## Where P95 TTFT goes without deflection", ""]
    lines += _paragraph(
        "DeepSeek-V2-Lite, 2P2D, the evaluation's panels, and HH at some loads between them. The paper reports that",
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
    swept = parts[parts.cell.str.startswith("HH") & parts.prefill.between(low, high)].p95_ttft_s
    seen = f"between {swept.min():.1f} and {swept.max():.1f} s" if len(swept) else "nowhere"
    near, alone = full.prefill * full.p95_ttft_s, full.p95_execution_s
    return [
        f"At prefill loads of {_SATURATED:g} and more the queue dominates as in the paper, and execution is",
        f"{100 * full.prefill.min():.1f}-{100 * full.prefill.max():.1f} % around P95 and",
        f"{100 * other.min():.1f}-{100 * other.max():.1f} % as a ratio of percentiles:",
        f"{inside} and {inside_other} of {len(full)} cells lie within the paper's range, the others below it.",
        f"Execution does not depend on the load: {near.min():.2f}-{near.max():.2f} s around P95 TTFT,",
        f"{alone.min():.2f}-{alone.max():.2f} s at its own P95. So the share only tells how long the queue is:",
        f"it lies in the paper's range iff P95 TTFT is {near.min() / high:.1f}-{near.max() / low:.0f} s,",
        f"in panel HH {seen}. These panels queue longer: their bursts overload two instances for a while",
        "already at a mean load of 0.7, most of all those with code traces.",
    ]


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

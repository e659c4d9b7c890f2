"""How far predictions are from simulation: one row per case, and the page that shows them.

Run as ``python -m qmodel.studies.validation docs/validation.md``; it needs the shared traces.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qmodel.errors import QModelError
from qmodel.io.calibrations import load_calibration
from qmodel.laws import Calibration
from qmodel.policies import Disaggregated, Kairos
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.simulation import SimulationResult, simulate
from qmodel.studies.panels import CELLS, cell_requests, trace_requests
from qmodel.studies.thresholds import derive_thresholds
from qmodel.system import Prediction, predict
from qmodel.system.predict import Method

__all__ = ["CLUSTERS", "Case", "Row", "cases", "covered", "page", "validate"]

CLUSTERS = ("1P1D", "2P2D", "3P1D", "1P3D", "4P4D", "8P8D")
POISSON_LOADS = (0.5, 0.7, 0.85, 0.95)
POISSON_REQUESTS = 200_000
TIMES = ("ttft_p50", "ttft_p95", "ttft_p99", "tbt_p99")
SHARES = ("ttft_attainment", "tbt_attainment", "slo_attainment", "deflected_share")
LIMITS = SLO(ttft_s=1.0, tbt_s=0.060)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One comparison.

    Parameters
    ----------
    group : {"poisson", "panel", "trace"}
        Part of the grid.
    name : str
        Traffic and load.
    cluster : Cluster
        Pools.
    workload : Workload
        Traffic.
    policy : policy or plan
        Who prefills where.
    policy_name : str
        For the table.
    method : str
        Of `predict`.
    requests : int, optional
        Simulated requests, by default all.
    """

    group: Literal["poisson", "panel", "trace"]
    name: str
    cluster: Cluster
    workload: Workload
    policy: Any
    policy_name: str
    method: Method = "auto"
    requests: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A case's result: predicted and simulated by metric, and the stated half-widths."""

    group: str
    name: str
    cluster: str
    policy: str
    method: str
    predicted: Mapping[str, float]
    simulated: Mapping[str, float]
    stated: Mapping[str, float]

    def error(self, metric: str) -> float:
        """Return the relative error of a time, or the difference of a share."""
        p, s = self.predicted[metric], self.simulated[metric]
        return p / s - 1.0 if metric in TIMES else p - s


def _numbers(outcome: Prediction | SimulationResult) -> dict[str, float]:
    times = {f"ttft_p{round(100 * q)}": float(outcome.ttft_s(q)) for q in (0.5, 0.95, 0.99)}
    shares = {name: float(getattr(outcome, name)) for name in SHARES}
    return {**times, "tbt_p99": float(outcome.tbt_s(0.99)), **shares}


def _policies(cluster: Cluster, workload: Workload) -> Iterator[tuple[str, Any]]:
    yield "none", Disaggregated()
    yield "kairos", Kairos()
    yield "thresholds", derive_thresholds(cluster, workload, LIMITS, binding="dispatch", order="fcfs")
    yield "late", derive_thresholds(cluster, workload, LIMITS, binding="late", order="spf")


def _poisson(requests: Requests, cluster: Cluster, load: float) -> Workload:
    return Workload.poisson(1.0, requests.prompt_tokens, requests.output_tokens).at_load(load, cluster)


def cases(folder: Path | None = None, model: str = "deepseek-v2-lite") -> Iterator[Case]:
    """Yield the grid: Poisson streams, the panels, the traces they are made of, and traces on other clusters.

    Parameters
    ----------
    folder : Path, optional
        Folder of the shared data sets.
    model : str
        Calibrated model on A100.

    Yields
    ------
    Case
        In order of group.
    """
    calibration = load_calibration(model)
    yield from _poisson_cases(calibration, folder)
    yield from _panel_cases(Cluster.parse("2P2D", calibration), folder)
    for spec, loads in (("2P2D", (0.7, 0.9, 1.1)), ("1P3D", (0.9,)), ("4P4D", (0.9,))):
        yield from _trace_cases(Cluster.parse(spec, calibration), loads, folder)


def _poisson_cases(calibration: Calibration, folder: Path | None) -> Iterator[Case]:
    code, conv = trace_requests("code", folder), trace_requests("conv", folder)
    for spec in CLUSTERS:
        cluster = Cluster.parse(spec, calibration)
        for load in POISSON_LOADS:
            yield Case(
                group="poisson", name=f"code lengths {load:g}", cluster=cluster,
                workload=_poisson(code, cluster, load), policy=Disaggregated(), policy_name="none",
                requests=POISSON_REQUESTS * (2 if load > 0.9 else 1),
            )  # fmt: skip
    pair = Cluster.parse("2P2D", calibration)
    for load in (0.8, 1.0, 1.2):
        workload = _poisson(conv, pair, load)
        for policy_name, policy in _policies(pair, workload):
            if policy_name != "none":
                yield Case(
                    group="poisson", name=f"conv lengths {load:g}", cluster=pair, workload=workload, policy=policy,
                    policy_name=policy_name, requests=POISSON_REQUESTS,
                )  # fmt: skip


def _panel_cases(cluster: Cluster, folder: Path | None) -> Iterator[Case]:
    for cell in CELLS:
        workload = Workload.from_requests(cell_requests(cell, cluster, folder), cell.name)
        for policy_name, policy in _policies(cluster, workload):
            methods: tuple[Method, ...] = ("auto", "windows") if policy_name in ("none", "kairos") else ("auto",)
            for method in methods:
                yield Case(
                    group="panel", name=cell.name, cluster=cluster, workload=workload, policy=policy,
                    policy_name=policy_name, method=method,
                )  # fmt: skip


def _trace_cases(cluster: Cluster, loads: Sequence[float], folder: Path | None) -> Iterator[Case]:
    for source in ("code", "conv"):  # r1 alone overloads decode for good: panels LH and LT carry it
        native = Workload.from_requests(trace_requests(source, folder), source)
        for load in loads:
            workload = native.at_load(load, cluster)
            for policy_name, policy in _policies(cluster, workload):
                yield Case(
                    group="trace", name=f"{source} {load:g}", cluster=cluster, workload=workload, policy=policy,
                    policy_name=policy_name,
                )  # fmt: skip


def validate(grid: Iterable[Case]) -> list[Row]:
    """Return predicted and simulated numbers of each case; cases without a steady state are left out.

    Parameters
    ----------
    grid : iterable of Case
        What to compare.

    Returns
    -------
    list of Row
        One a case.
    """
    rows = []
    for case in grid:
        try:
            prediction = predict(case.cluster, case.workload, LIMITS, case.policy, case.method)
        except QModelError as error:
            print(f"left out: {case.name} on {case.cluster.name}, {case.policy_name}: {error}", file=sys.stderr)
            continue
        truth = simulate(case.cluster, case.workload, LIMITS, case.policy, seed=0, requests=case.requests)
        rows.append(
            Row(
                group=case.group,
                name=case.name,
                cluster=case.cluster.name,
                policy=case.policy_name,
                method=prediction.method.split(":")[0],
                predicted=_numbers(prediction),
                simulated=_numbers(truth),
                stated=prediction.error_estimate,
            )
        )
    return rows


def covered(rows: Sequence[Row], metric: str) -> tuple[float, float]:
    """Return the share of rows whose stated half-width covers the error, and the median half-width.

    Parameters
    ----------
    rows : sequence of Row
        At least one.
    metric : str
        One of `TIMES` or `SHARES`.
    """
    stated = np.array([row.stated[metric] for row in rows])
    error = np.array([abs(row.error(metric)) for row in rows])
    return float(np.mean(error <= stated)), float(np.median(stated))


def _summary(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| part | method | cases | P95 TTFT within 5 % / 15 % | worst P95 | worst P50 / P99 | worst TBT P99 "
        "| worst SLO attainment (points) | estimate covers | median half-width |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = sorted({(row.group, row.method) for row in rows})
    for group, method in groups:
        chosen = [row for row in rows if (row.group, row.method) == (group, method)]
        p95 = np.abs([row.error("ttft_p95") for row in chosen])
        worst = {m: max(abs(row.error(m)) for row in chosen) for m in (*TIMES, "slo_attainment")}
        share, width = covered(chosen, "ttft_p95")
        lines.append(
            f"| {group} | {method} | {len(chosen)} | {np.mean(p95 <= 0.05):.0%} / {np.mean(p95 <= 0.15):.0%} "
            f"| {worst['ttft_p95']:.1%} | {worst['ttft_p50']:.1%} / {worst['ttft_p99']:.1%} | {worst['tbt_p99']:.1%} "
            f"| {100 * worst['slo_attainment']:.2f} | {share:.0%} | {width:.1%} |"
        )
    return lines


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| part | case | cluster | policy | method | P95 TTFT simulated | P50 | P95 | P99 | TBT P99 "
        "| SLO attainment | deflected |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        errors = " | ".join(f"{100 * row.error(m):+.1f} %" for m in TIMES)
        shares = " | ".join(f"{100 * row.error(m):+.2f}" for m in ("slo_attainment", "deflected_share"))
        lines.append(
            f"| {row.group} | {row.name} | {row.cluster} | {row.policy} | {row.method} "
            f"| {row.simulated['ttft_p95']:.3g} s | {errors} | {shares} |"
        )
    return lines


_HEAD = """# Predicted against simulated

Written by `python -m qmodel.studies.validation`; DeepSeek-V2-Lite on A100, TTFT SLO 1 s, TBT SLO 60 ms. Errors are
predicted over simulated, minus one, and differences in points for shares. Traces and panels replay the same requests
in both; Poisson streams are compared with long simulations, whose own P95 at load 0.95 still moves by some 5 %. The
windows method sees only arrivals and work per 20 s.
"""


def page(rows: Sequence[Row], worst: int = 8) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    rows : sequence of Row
        Results of `validate`.
    worst : int
        How many of the largest errors of P95 TTFT are named.

    Returns
    -------
    str
        Summary, worst cases and all cases.
    """
    exact = [row for row in rows if row.method != "windows"]
    ranked = sorted(exact, key=lambda row: -abs(row.error("ttft_p95")))[:worst]
    parts = [
        _HEAD,
        "## By part of the grid\n",
        *_summary(rows),
        "\n## Worst cases of the steady state and the recursion\n",
        *_table(ranked),
        "\n## All cases\n",
        *_table(rows),
    ]
    return "\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Write the page to the file named by the only argument."""
    Path(arguments[0]).write_text(page(validate(cases())))


if __name__ == "__main__":
    main(sys.argv[1:])

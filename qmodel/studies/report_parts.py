"""Parts that several reports share: workload, comparison, sensitivity, warnings, provenance."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InputError, QModelError
from qmodel.io.page import Block, Figure, List, Section, Table, Text
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.studies.listings import comparison_listing
from qmodel.studies.replay import replayed
from qmodel.studies.sensitivity import sensitivity
from qmodel.units import format_duration

if TYPE_CHECKING:
    from qmodel.studies.comparison import Comparison

__all__ = [
    "Origin",
    "calibration_warnings",
    "comparison_blocks",
    "footer",
    "predicted_laws",
    "provenance_section",
    "sensitivity_section",
    "warnings_section",
    "workload_section",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a report comes from.

    Parameters
    ----------
    options : Mapping
        Scenario options, as texts and numbers.
    command : sequence of str
        Words after ``qmodel`` that write the report again; empty when it was made from Python.
    notices : sequence of str
        What was decided for the user on the way.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    notices: Sequence[str] = ()


def workload_section(parts: Sequence[tuple[Workload, float]], cluster: Cluster, title: str = "Workload") -> Section:
    """Return what the requests look like: load over time, lengths, and the numbers.

    Parameters
    ----------
    parts : sequence of (Workload, float)
        Workloads and their shares of time.
    cluster : Cluster
        Gives work and load.
    title : str
        Heading.
    """
    from qmodel.plotting.report import svg_of, workload_figure

    blocks: list[Block] = []
    for workload, of_time in parts:
        intro = f"{100 * of_time:.3g} % of the time: " if len(parts) > 1 else ""
        blocks.append(Text(text=f"{intro}{workload.describe(cluster)}."))
        picture = svg_of(workload_figure(workload, cluster))
        blocks.append(Figure(svg=picture, alt=f"Load over time and lengths of {workload.name}"))
    return Section(title=title, blocks=blocks)


def predicted_laws(
    cluster: Cluster, workload: Workload, slo: SLO, policies: Mapping[str, Any], comparison: Comparison
) -> dict[str, Any]:
    """Return predicted TTFT [s] at the shares `plotting.report.SURVIVAL`, for each policy that is covered.

    Parameters
    ----------
    cluster, workload, slo
        What was simulated.
    policies : mapping
        Name to policy.
    comparison : Comparison
        Its first seed's arrivals are predicted, as its samples are of that seed.
    """
    from qmodel.plotting.report import SURVIVAL
    from qmodel.system import predict

    same = replayed(workload, comparison.seeds[0], comparison.requests)
    laws = {}
    for name in comparison.policies:
        try:
            laws[name] = predict(cluster, same, slo, policies[name]).ttft_s(1 - SURVIVAL)
        except QModelError:  # not covered by the queueing model, or without a steady state
            continue
    return laws


def comparison_blocks(
    comparison: Comparison,
    predicted: Mapping[str, Mapping[str, float]],
    laws: Mapping[str, Any],
    slo: SLO,
    strong: str = "",
) -> list[Block]:
    """Return table and picture of policies, simulated beside predicted.

    Parameters
    ----------
    comparison : Comparison
        Simulated metrics.
    predicted : mapping
        Policy to predicted metrics.
    laws : mapping
        From `predicted_laws`.
    slo : SLO
        Limits.
    strong : str
        Policy to set off.
    """
    from qmodel.plotting.report import laws_figure, svg_of

    found = comparison_listing(comparison, predicted)
    bold = {n for n, row in enumerate(found.rows) if row[0] == strong and n not in found.faint}
    picture = svg_of(laws_figure(comparison, laws, slo))
    return [
        Table(columns=found.columns, rows=found.rows, caption=found.title, strong=frozenset(bold), faint=found.faint),
        Figure(svg=picture, alt="Laws of the time to first token, simulated and predicted, and where its P95 goes"),
    ]


def sensitivity_section(cluster: Cluster, workload: Workload, slo: SLO, policy: Any) -> Section:
    """Return what the prediction answers to single changes.

    Parameters
    ----------
    cluster, workload, slo
        The case that is changed.
    policy : object
        Kept as it is.
    """
    from qmodel.plotting.report import sensitivity_figure, svg_of

    try:
        effects = sensitivity(cluster, workload, slo, policy)
    except InputError as error:
        return Section(title="Sensitivity", blocks=[Text(text=f"Not predicted for this policy: {error}.")])
    except QModelError as error:
        return Section(title="Sensitivity", blocks=[Text(text=f"Nothing to compare with: {error}.")])
    rows = [
        [e.change, format_duration(e.p95_ttft_s), f"{100 * e.p95_change:+.1f} %", f"{100 * e.attainment_change:+.2f}"]
        for e in effects
    ]
    columns = ["change", "P95 TTFT", "against now", "SLO attainment [points]"]
    return Section(
        title="Sensitivity",
        blocks=[
            Text(text="One change at a time, by prediction on the same arrivals; the policy stays as it is."),
            Figure(svg=svg_of(sensitivity_figure(effects)), alt="Effects of single changes on P95 TTFT and attainment"),
            Table(columns=columns, rows=rows, caption="The same in numbers", folded=True),
        ],
    )


def warnings_section(lines: Iterable[str]) -> Section:
    """Return what the reader should know before using the answer.

    Parameters
    ----------
    lines : iterable of str
        Warnings; repeated ones are shown once.
    """
    unique = list(dict.fromkeys(lines))
    blocks: list[Block] = [List(lines=unique, warning=True)] if unique else [Text(text="None.")]
    return Section(title="Warnings", blocks=blocks)


def provenance_section(
    origin: Origin, clusters: Cluster, workloads: Sequence[Workload], seeds: Sequence[int], requests: int | None
) -> Section:
    """Return what is needed to make every number again.

    Parameters
    ----------
    origin : Origin
        Command and options.
    clusters : Cluster
        Its calibrations are named.
    workloads : sequence of Workload
        Whose fingerprints are given.
    seeds : sequence of int
        Simulated replications.
    requests : int, optional
        Requests of a run; None for the workload's own number.
    """
    calibrations = dict.fromkeys((*clusters.prefill_calibrations, *clusters.decode_calibrations))
    facts = [[name.replace("_", " "), str(value)] for name, value in origin.options.items() if value is not None]
    facts += [[f"workload {w.name}", f"sha256 {w.fingerprint}"] for w in workloads]
    for c in calibrations:
        facts.append([f"calibration {c.name}", f"sha256 {c.fingerprint}"])
        facts += [[f"{c.name}: {key.replace('_', ' ')}", f"{value:.3g}"] for key, value in c.fit.items()]
    runs = f"{len(seeds)} ({', '.join(map(str, seeds))})" if seeds else "none"
    said = f"{requests:,}" if requests is not None else "as many as the workload has" if seeds else "none"
    facts += [["simulated seeds", runs], ["requests per run", said]]
    facts += [[what, version] for what, version in _versions()]
    blocks: list[Block] = []
    if origin.command:
        blocks.append(Text(text="qmodel " + shlex.join(origin.command), code=True))
    if origin.notices:
        blocks.append(List(lines=list(origin.notices)))
    blocks.append(Table(columns=["", ""], rows=facts))
    return Section(title="Provenance", blocks=blocks)


def _versions() -> list[tuple[str, str]]:
    from qmodel import __version__

    return [("qmodel", __version__), ("Python", platform.python_version()), ("numpy", np.__version__)]


def footer() -> str:
    """Return the last line of a report."""
    from qmodel import __version__

    return f"Made by qmodel {__version__}. This page is one file: it loads nothing and runs nothing."


def calibration_warnings(cluster: Cluster) -> list[str]:
    """Return what the calibrations say of themselves, and that kernels alone are optimistic.

    Parameters
    ----------
    cluster : Cluster
        Whose calibrations are asked.
    """
    lines = []
    for c in dict.fromkeys((*cluster.prefill_calibrations, *cluster.decode_calibrations)):
        if c.engine is None:
            lines.append(
                f"The laws of {c.name} are composed from measured kernels, without the host's overhead: correct them "
                "with measurements of your own engine (qmodel calibrate --measured) before trusting a few per cent."
            )
        lines += [
            f"{c.name}: {text}" for key, text in c.provenance.items() if "note" in key.lower() or "warn" in key.lower()
        ]
    return lines

"""The page that shows how far predictions are from simulation, and the table of half-widths that predictions state.

Run as ``python -m qmodel.studies.validation_page docs/validation.md``; it needs the shared traces. It may be run in
pieces of ``--seconds``: simulations are kept in ``--journal``. With ``--errors`` it prints the table of
`qmodel.system.accuracy` instead.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qmodel.studies.validation import SHARES, TIMES, Case, Row, cases, covered, validate

__all__ = ["fitted_errors", "page", "scatter_rows"]

_FIT_QUANTILE = 0.95
_FEW, _MARGIN = 12, 1.5  # of fewer cells the largest error, with a margin
_LEAST = {"time": 0.005, "share": 0.003}  # nothing is stated to be better than this
_PICTURE = "images/validation.png"

_HEAD = """# Predicted against simulated

Written by `python -m qmodel.studies.validation_page`; A100, DeepSeek-V2-Lite unless a row says Llama-3.1-8B, TTFT SLO
1 s, TBT SLO 60 ms. Errors are predicted over simulated, minus one, and differences in points for shares.

- **Poisson** streams are compared with 12 to 32 long simulations each (13 million requests in all at load 0.95), drawn
  so that every law of gaps and lengths is met exactly and no two cells share draws; the standard error of their mean
  stands beside P95. With a policy, at load 1.2 and on 3P1D, they are 24 runs of 20,000 requests, as `simulate` makes
  them: where pools are overloaded there is no steady state, and both sides speak of these 20,000 requests.
- **Panels and traces** replay the same requests in both. Panels are built for 2P2D; other clusters replay them at the
  panel's prefill load, which leaves 3P1D with three times the decode load per instance.
- The **windows** method sees only arrivals and work per 10 s.
- **Plans** are derived for each cell (at dispatch: FCFS; late: shortest first). Cells for which no plan is feasible,
  and those without a steady state, are left out.
"""


def _ttft(row: Row) -> float:
    return abs(row.error("p95_ttft_s"))


_Test = Callable[[Row, float], bool]
_Rule = tuple[str, Callable[[Row], bool], _Test]
_DISPATCH = ("none", "kairos", "thresholds")


def _within(**limits: float) -> _Test:
    """Return the test of all limits, each widened by a number of standard errors of the simulation."""

    def met(row: Row, standard_errors: float) -> bool:
        return all(
            abs(row.error(metric)) <= limit + standard_errors * row.truth_noise(metric)
            for metric, limit in limits.items()
        )

    return met


def _is_trace(row: Row) -> bool:
    return row.case.group in ("panel", "trace") and row.case.policy in _DISPATCH and row.method != "windows"


_RULES: tuple[_Rule, ...] = (
    (
        "Poisson, no deflection: P50, P95 and P99 TTFT and P99 TBT within 5 %",
        lambda row: row.case.group == "poisson",
        _within(p50_ttft_s=0.05, p95_ttft_s=0.05, p99_ttft_s=0.05, p99_tbt_s=0.05),
    ),
    (
        "Poisson, Kairos and thresholds, loads to 1.2: P95 TTFT within 10 %, deflected share within 3 points",
        lambda row: row.case.group == "poisson + policy",
        _within(p95_ttft_s=0.10, deflected_share=0.03),
    ),
    (
        "Traces and panels, none / Kairos / thresholds: P95 TTFT within 15 %, attainment within 3 points",
        _is_trace,
        _within(p95_ttft_s=0.15, slo_attainment=0.03),
    ),
    ("The same: P95 TTFT within 30 %", _is_trace, _within(p95_ttft_s=0.30)),
    (
        "Late plans and earliest completion on traces and panels: the same limits",
        lambda row: row.case.group in ("panel", "trace") and row.case.policy in ("late", "earliest"),
        _within(p95_ttft_s=0.15, slo_attainment=0.03),
    ),
    ("Windows method: P95 TTFT within 30 %", lambda row: row.method == "windows", _within(p95_ttft_s=0.30)),
)


def _is_fitted(case: Case) -> bool:
    """Return whether a case belongs to the half that half-widths are fitted on."""
    return hashlib.sha256(f"{case.scene} {case.method}".encode()).digest()[0] % 2 == 0


def _kind(row: Row) -> str:
    deflects = row.case.policy != "none" and f"{row.method}, policy" in _KINDS
    return f"{row.method}, policy" if deflects else row.method


_KINDS = (
    "stationary", "stationary, policy", "no steady state", "bursty", "trace", "trace, policy", "windows",
    "windows, policy",
)  # fmt: skip


def fitted_errors(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return half-widths by kind of prediction: 95th percentiles of the errors over half of the cases.

    Parameters
    ----------
    rows : sequence of Row
        Results of `validate`.

    Returns
    -------
    dict
        Kind to metric to half-width: relative for times, absolute for shares.
    """
    table: dict[str, dict[str, float]] = {}
    for kind in _KINDS:
        chosen = [row for row in rows if _kind(row) == kind and _is_fitted(row.case)]
        if chosen:
            table[kind] = {metric: _half_width(chosen, metric) for metric in (*TIMES, *SHARES)}
    return table


def _half_width(rows: Sequence[Row], metric: str) -> float:
    # what the simulation's own noise may add is not the method's error
    excess = [np.sqrt(max(row.error(metric) ** 2 - row.truth_noise(metric) ** 2, 0.0)) for row in rows]
    if metric == "deflected_share" and not any(excess):
        return 0.0
    least = _LEAST["time" if metric in TIMES else "share"]
    if len(excess) < _FEW:
        return round(max(_MARGIN * float(max(excess)), least), 4)
    return round(max(float(np.quantile(excess, _FIT_QUANTILE)), least), 4)


def _percent(value: float) -> str:
    return f"{100 * value:+.1f}"


def _acceptance(rows: Sequence[Row]) -> list[str]:
    lines = ["| what | cells | met | met within two standard errors of the simulation |", "|---|---|---|---|"]
    for what, belongs, met in _RULES:
        chosen = [row for row in rows if belongs(row)]
        if chosen:
            shares = [sum(met(row, wide) for row in chosen) / len(chosen) for wide in (0.0, 2.0)]
            lines.append(f"| {what} | {len(chosen)} | {shares[0]:.1%} | {shares[1]:.1%} |")
    return lines


def _summary(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| part | method | cells | P95 TTFT within 5 / 15 % | median / worst error of P95 | worst of P50 / P99 "
        "| worst TBT P99 | worst attainment (points) | worst deflected share (points) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group, method in dict.fromkeys((row.case.group, row.method) for row in rows):
        chosen = [row for row in rows if (row.case.group, row.method) == (group, method)]
        p95 = np.array([_ttft(row) for row in chosen])
        worst = {m: max(abs(row.error(m)) for row in chosen) for m in (*TIMES, *SHARES)}
        lines.append(
            f"| {group} | {method} | {len(chosen)} | {np.mean(p95 <= 0.05):.0%} / {np.mean(p95 <= 0.15):.0%} "
            f"| {np.median(p95):.1%} / {worst['p95_ttft_s']:.1%} "
            f"| {worst['p50_ttft_s']:.1%} / {worst['p99_ttft_s']:.1%} "
            f"| {worst['p99_tbt_s']:.1%} | {100 * worst['slo_attainment']:.1f} | {100 * worst['deflected_share']:.1f} |"
        )
    return lines


def _coverage(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| kind | cells | P50 | P95 | P99 | TBT P99 | attainment | median half-width of P95 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    metrics = ("p50_ttft_s", "p95_ttft_s", "p99_ttft_s", "p99_tbt_s", "slo_attainment")
    other = [row for row in rows if not _is_fitted(row.case)]
    groups = [(kind, [row for row in other if _kind(row) == kind]) for kind in _KINDS]
    for kind, chosen in [*groups, ("all", other), ("all but windows", [r for r in other if r.method != "windows"])]:
        if chosen:
            shares = " | ".join(f"{covered(chosen, metric)[0]:.0%}" for metric in metrics)
            lines.append(f"| {kind} | {len(chosen)} | {shares} | {covered(chosen, 'p95_ttft_s')[1]:.1%} |")
    return lines


def _cell(row: Row) -> str:
    model = "" if row.case.model.startswith("deepseek") else ", Llama-3.1-8B"
    return f"{row.case.traffic} {row.case.load:g}{model}"


def _why(row: Row) -> str:
    """Return the likely cause of a large error."""
    if _ttft(row) <= 2 * row.truth_noise("p95_ttft_s"):
        return "within twice the standard error of the simulation"
    if row.method == "windows":
        return "bursts and the mix of lengths inside a window are guessed from those between windows"
    if row.method == "no steady state":
        return "a queue that grows all the time: spans differ by themselves"
    if row.case.policy == "late":
        return "shortest first: which of the long prompts is overtaken decides P95, and turns on ties"
    if row.case.group == "poisson":
        return "load 0.95: waits of the simulation and of M/G/k differ by the noise of either"
    if row.method == "stationary":
        return "close to overload: waits settle slowly, and the simulated runs are short"
    return "P95 lies where few requests are: decisions that fall otherwise move it"


def _table(rows: Sequence[Row], why: bool = False) -> list[str]:
    head = (
        "| traffic | cluster | policy | method | P95 TTFT | P50 | P95 | P99 | TBT P99 | TTFT, TBT, SLO met, deflected |"
    )
    lines = [head + (" likely cause |" if why else ""), "|---" * (11 if why else 10) + "|"]
    for row in rows:
        times = " | ".join(_percent(row.error(metric)) for metric in TIMES)
        noise = row.truth_noise("p95_ttft_s")
        shares = ", ".join(_percent(row.error(metric)) for metric in SHARES)
        lines.append(
            f"| {_cell(row)} | {row.case.cluster} | {row.case.policy} | {row.method} "
            f"| {row.simulated['p95_ttft_s']:.3g} s{f' ±{100 * noise:.1f} %' if noise > 0 else ''} "
            f"| {times} | {shares} |" + (f" {_why(row)} |" if why else "")
        )
    return lines


def page(rows: Sequence[Row], worst: int = 12) -> str:
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
        Acceptance, summary, worst cases and all cases.
    """
    exact = [row for row in rows if row.method != "windows"]
    ranked = sorted(exact, key=lambda row: -_ttft(row))[:worst]
    coarse = sorted((row for row in rows if row.method == "windows"), key=lambda row: -_ttft(row))[: worst // 3]
    cpu = {kind: [row.cpu_s for row in rows if _kind(row) == kind] for kind in _KINDS}
    speeds = ", ".join(f"{kind} {1e3 * np.median(times):.0f} ms" for kind, times in cpu.items() if times)
    parts = [
        _HEAD,
        "## What is met\n",
        *_acceptance(rows),
        f"\n![Predicted against simulated, with bands of 5 and 15 %]({_PICTURE})\n",
        "## By part of the grid\n",
        *_summary(rows),
        f"\nMedian processor time of a prediction while this page was written: {speeds}.\n",
        "## How honest the error estimates are\n",
        "Half-widths are 95th percentiles of the errors over half of the cells, drawn by a hash of their names (of",
        "fewer than twelve: 1.5 times the largest). The shares below are those of the *other* half whose simulated",
        "value lies within the stated half-width, which for steady states includes the noise of one run of 20,000",
        "requests.\n",
        *_coverage(rows),
        "\n## Worst cases\n",
        *_table([*ranked, *coarse], why=True),
        "\n## All cases\n",
        "Errors in per cent, of shares in points.\n",
    ]
    for group in dict.fromkeys(row.case.group for row in rows):
        parts += [f"\n### {group.capitalize()}\n", *_table([row for row in rows if row.case.group == group])]
    return "\n".join(parts) + "\n"


def scatter_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what the scatter plot shows as plain rows.

    Parameters
    ----------
    rows : sequence of Row
        Results of `validate`.

    Returns
    -------
    list of dict
        ``panel``, ``metric``, ``simulated`` and ``predicted`` [s].
    """
    names = {"poisson": "Poisson, no deflection", "poisson + policy": "Poisson, Kairos and plans"}
    return [
        {
            "panel": "Windows of 10 s" if row.method == "windows" else names.get(row.case.group, "Panels and traces"),
            "metric": metric,
            "simulated": row.simulated[metric],
            "predicted": row.predicted[metric],
        }
        for row in rows
        for metric in ("p50_ttft_s", "p95_ttft_s", "p99_ttft_s")
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the page, or print the table of half-widths; return 1 when cases are left for another run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="Markdown file to write")
    parser.add_argument("--journal", type=Path, help="JSON lines of simulated cases, to go on from")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--errors", action="store_true", help="print the table of half-widths instead")
    given = parser.parse_args(arguments)
    rows, complete = validate(
        cases(), given.journal, None, given.seconds, lambda line: print(line, file=sys.stderr, flush=True)
    )
    if not complete:
        return 1
    if given.errors:
        for kind, widths in fitted_errors(rows).items():
            print(f'    "{kind}": _row({", ".join(f"{width:g}" for width in widths.values())}),')
        return 0
    from qmodel.plotting.validation import draw_scatter

    given.page.write_text(page(rows))
    draw_scatter(scatter_rows(rows), given.page.parent / _PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

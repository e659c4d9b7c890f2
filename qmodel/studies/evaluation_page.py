"""The evaluation's page: where the plan loses, then means, headline, robustness and every cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.errors import InputError
from qmodel.studies.evaluation import TBT_SLOS_S, evaluate
from qmodel.studies.evaluation_cases import CONDITIONS, MODELS, PANELS
from qmodel.studies.evaluation_report import CELL, NEVER, PLAN, finished, geometric_means, headline, losses, robustness

if TYPE_CHECKING:
    from pandas import DataFrame

    from qmodel.studies.comparison import Progress

__all__ = ["evaluation_files", "evaluation_page", "evaluation_summary"]

RIVALS = ("kairos", "kairos, plan's order", "earliest completion", "earliest completion, plan's order")
DISPATCH = "thresholds at dispatch"
MOST_LOSSES = 12


def evaluation_files(
    rows: list[dict[str, Any]],
    folder: str | Path,
    *,
    parquet: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[Path]]:
    """Run the evaluation and write its table, pictures and page.

    Parameters
    ----------
    rows : list of dict
        From `evaluation.evaluation_grid`.
    folder : str or Path
        Where files go; it is made.
    parquet : bool
        Whether the table is Parquet instead of CSV.
    workers : int
        Processes.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    tuple
        The summary (see `evaluation_summary`) and the files written.

    Raises
    ------
    InputError
        When the folder is a file, or no run went well.
    """
    from qmodel.io.atomic import write_text
    from qmodel.plotting.evaluation import draw_evaluation, draw_robustness
    from qmodel.plotting.figure import save_figure

    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError("output folder", f"'{target}', a file", "a folder", "name another")
    target.mkdir(parents=True, exist_ok=True)
    path = target / ("evaluation.parquet" if parquet else "evaluation.csv")
    table = evaluate(rows, path, workers, progress)
    if (table["error"] != "").all():
        raise InputError("evaluation", "without a run that went well", "right in at least one", table["error"].iloc[0])
    page = target / "evaluation.md"
    write_text(page, evaluation_page(table))
    pictures = {"p95": draw_evaluation, "robustness": draw_robustness}
    written = [path, page]
    for name, draw in pictures.items():
        picture = target / f"evaluation_{name}.png"
        save_figure(draw(table), picture)
        written.append(picture)
    return evaluation_summary(table), written


def evaluation_summary(table: DataFrame) -> dict[str, Any]:
    """Return what the page says, as plain data for JSON.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.

    Returns
    -------
    dict
        ``losses``, ``geometric_means``, ``headline``, ``robustness`` (lists of rows), ``failed`` runs.
    """
    parts = {
        "losses": losses(table),
        "geometric_means": geometric_means(table, [PLAN, DISPATCH]),
        "headline": headline(table),
        "robustness": robustness(table),
    }
    rows = {name: part.to_dict("records") for name, part in parts.items()}
    return {**rows, "runs": len(table), "failed": len(table) - len(finished(table))}


def evaluation_page(table: DataFrame) -> str:
    """Return the page in Markdown.

    Parameters
    ----------
    table : DataFrame
        From `evaluation.evaluate`.
    """
    sections = (_head, _losses, _means, _headline, _robust, _cells)
    return "\n".join(line for section in sections for line in section(table)) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _where(row: Any) -> list[str]:
    return [row.model, f"{row.panel} {row.sweep:g}", row.ttft_slo, f"{1e3 * row.tbt_slo_s:g} ms"]


_WHERE = ["model", "cell", "TTFT SLO", "TBT SLO"]


def _head(table: DataFrame) -> list[str]:
    seeds, runs = table["seed"].nunique(), len(table)
    failed = len(table) - len(finished(table))
    lines = [
        "# Evaluation",
        "",
        "Written by `qmodel evaluate`; do not edit. "
        f"{runs:,} runs on {table['source'].iloc[0]}, 2P2D on A100, {seeds} paired runs a policy, code "
        f"`{table['code'].iloc[0]}`. Every cell is cut in half by time: plans are made for the first half and run, "
        "like every rival, on the second. Ratios are geometric means over the paired runs; below 1 the plan is better.",
        "",
    ]
    parts = [
        f"{model}: {part.loc[part['condition'] == CONDITIONS[0].name, ['panel', 'sweep']].drop_duplicates().shape[0]} "
        f"cells at TTFT SLO {' and '.join(dict.fromkeys(part['ttft_slo']))}, TBT SLO "
        f"{' and '.join(f'{1e3 * tbt:g}' for tbt in sorted(set(part['tbt_slo_s'])))} ms, "
        f"{part['condition'].nunique() - 1} other conditions"
        for model, part in table.groupby("model", sort=False)
    ]
    lines += [f"In it: {'; '.join(parts)}. `qmodel evaluate --full` runs the whole grid.", ""]
    if failed:
        first = table.loc[table["error"].fillna("") != "", "error"].iloc[0]
        lines += [f"**{failed} runs have no result**, the first: {first}", ""]
    return lines


def _losses(table: DataFrame) -> list[str]:
    lines = [
        "## Where the plan loses",
        "",
        "Cells as planned where P95 or P99 TTFT is higher, or attainment lower by more than 0.2 points; worst first, "
        f"at most {MOST_LOSSES} a rival.",
        "",
    ]
    planned = table[table["condition"] == CONDITIONS[0].name]
    total = planned.loc[planned["policy"] == PLAN, CELL].drop_duplicates().shape[0]
    shown = [(PLAN, rival) for rival in (*RIVALS, *NEVER) if (planned["policy"] == rival).any()]
    for policy, rival in [*shown, (DISPATCH, RIVALS[0])]:
        found = losses(table, policy, rival)
        rows = _loss_table(found.head(MOST_LOSSES))
        lines += [f"**{policy}** against **{rival}**: {len(found)} of {total} cells.", "", *rows]
    return lines


def _loss_table(found: DataFrame) -> list[str]:
    if not len(found):
        return []
    rows = [
        [*_where(row), row.lost, f"{row.p95:.2f} [{row.p95_low:.2f}, {row.p95_high:.2f}]", f"{row.p99:.2f}",
         f"{row.slo_points:+.1f} ± {row.slo_half:.1f}", f"{row.tbt_points:+.1f}"]
        for row in found.itertuples()
    ]  # fmt: skip
    return _table([*_WHERE, "lost", "P95 ratio [95 %]", "P99 ratio", "attainment, points", "TBT, points"], rows)


def _means(table: DataFrame) -> list[str]:
    lines = [
        "## Geometric means",
        "",
        "Congested: Kairos' P95 TTFT is above twice its lowest at that model and TTFT SLO. Misses are shares of "
        "requests that miss an SLO. The last two columns are the worst cell's difference of attainment.",
        "",
    ]
    for rival in RIVALS:
        found = geometric_means(table, [PLAN, DISPATCH], rival)
        if rival != RIVALS[0]:
            found = found[(found["policy"] == PLAN) & (found["tbt_slo_s"] == 0.0)]
        rows = [
            [row.policy, row.model, row.ttft_slo, "both" if row.tbt_slo_s == 0 else f"{1e3 * row.tbt_slo_s:g} ms",
             f"{row.cells} ({row.count})", f"{row.p95:.3f}", f"{row.p99:.3f}", f"{row.misses:.3f}",
             f"{row.worst_slo_points:+.2f}", f"{row.worst_tbt_points:+.2f}"]
            for row in found.itertuples()
        ]  # fmt: skip
        columns = ["policy", "model", "TTFT SLO", "TBT SLO", "cells", "P95", "P99", "misses", "worst", "worst TBT"]
        lines += [f"Against **{rival}**:", "", *_table(columns, rows)]
    return lines


def _headline(table: DataFrame) -> list[str]:
    lines = ["## Against schedulers that never deflect", ""]
    for title, names in (("as published, first come first served", NEVER[:1]), ("the better of two orders", NEVER)):
        lines += _headline_of(headline(table, names), title)
    return lines


def _headline_of(found: DataFrame, title: str) -> list[str]:
    found = found[found["panel"].isin(PANELS)]
    full = found[found["saturated"]]
    lines = [f"**Least outstanding work, {title}.**", ""]
    if len(full):
        best, most = full.loc[full["p95_change"].idxmin()], full.loc[full["attainment_change"].idxmax()]
        lines += [
            "Where it is saturated (meets the SLOs of fewer than 90 % of requests): P95 TTFT "
            f"{_percent(best.p95_change)} at best ({', '.join(_where(best))}), attainment "
            f"{_percent(most.attainment_change)} at best ({', '.join(_where(most))}). The paper's headline is -81 % "
            "and +79 %.",
            "",
        ]
    shown = found[(found["ttft_slo"] == "1 s") & (found["tbt_slo_s"] == TBT_SLOS_S[0]) & (found["model"] == MODELS[0])]
    rows = [
        [*_where(row)[1:2], f"{row.best_p95_s:.2f}", f"{row.p95_s:.2f}", _percent(row.p95_change),
         f"{100 * row.best_slo:.1f} %", f"{100 * row.slo:.1f} %", _percent(row.attainment_change),
         "yes" if row.saturated else "no"]
        for row in shown.itertuples()
    ]  # fmt: skip
    columns = ["cell", "its P95 [s]", "plan's [s]", "change", "its attainment", "plan's", "change", "saturated"]
    return [*lines, *_table(columns, rows)]


def _percent(change: float) -> str:
    return f"{100 * change:+.0f} %"


def _robust(table: DataFrame) -> list[str]:
    lines = ["## When the world differs from the plan", ""]
    for policy in (PLAN, DISPATCH):
        found = robustness(table, policy)
        found = found[found["condition"] != CONDITIONS[0].name]
        if not len(found):
            continue
        foreign, faulty = found[found["family"] == "trace"], found[found["family"].isin(("fault", "signals"))]
        if len(foreign):
            ratio = float(foreign["kairos_p95"].max())
            word = "better than" if ratio < 1 else "no better than"
            lines += [
                f"**{policy}**, planned on one trace and run on another: {word} Kairos, geometric mean of P95 TTFT at "
                f"most {ratio:.2f}.",
                "",
            ]
        if len(faulty):
            worst = faulty.loc[faulty["worst_never_p95"].idxmax()]
            lines += [
                f"**{policy}**, under every fault and staleness: P95 TTFT at worst {worst.worst_never_p95:.2f} times "
                f"that of never deflecting ({worst.condition}, {worst.worst_cell}); "
                f"{int(faulty['cells_worse'].sum())} of {int(faulty['cells'].sum())} cells are more than 5 % above it.",
                "",
            ]
        rows = [
            [row.condition, str(row.cells), f"{row.kairos_p95:.2f}", f"{row.kairos_misses:.2f}",
             f"{row.worst_slo_points:+.1f}", f"{row.never_p95:.2f}", f"{row.worst_never_p95:.2f} ({row.worst_cell})",
             str(row.cells_worse)]
            for row in found.itertuples()
        ]  # fmt: skip
        columns = ["condition", "cells", "P95 / Kairos", "misses / Kairos", "worst attainment, points",
                   "P95 / never", "worst P95 / never", "cells > 1.05"]  # fmt: skip
        lines += [f"Geometric means of **{policy}**:", "", *_table(columns, rows)]
    return lines


def _cells(table: DataFrame) -> list[str]:
    kept = finished(table)
    kept = kept[kept["condition"] == CONDITIONS[0].name]
    lines = ["## Every cell", "", "P95 TTFT [s] / SLO attainment, means over the runs.", ""]
    names = list(dict.fromkeys(kept["policy"]))
    for (model, ttft, tbt), part in kept.groupby(["model", "ttft_slo", "tbt_slo_s"], sort=False):
        mean = part.groupby(["panel", "sweep", "policy"], sort=False)[["p95_ttft_s", "slo_attainment"]].mean()
        rows = []
        for panel, sweep in dict.fromkeys(zip(part["panel"], part["sweep"], strict=True)):
            values = [mean.loc[(panel, sweep, name)] if (panel, sweep, name) in mean.index else None for name in names]
            cells = ["" if v is None else f"{v['p95_ttft_s']:.2f} / {v['slo_attainment']:.3f}" for v in values]
            rows.append([f"{panel} {sweep:g}", *cells])
        lines += [f"{model}, TTFT SLO {ttft}, TBT SLO {1e3 * tbt:g} ms:", "", *_table(["cell", *names], rows)]
    return lines

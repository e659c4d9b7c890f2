"""Ours beside what is published: a row per published number, read from the tables behind the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qmodel.studies.figures_laws import LARGEST_CHUNK
from qmodel.studies.published import PUBLISHED
from qmodel.studies.scenes import CENTRE, MODEL

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["against_published", "markdown", "write_published"]

Tables = Mapping[str, "DataFrame"]


def _execution(tables: Tables) -> tuple[str, str]:
    table = tables["fig02_ttft_parts"]
    found = table[table["part"] == "prefill"].set_index("panel")["share"]
    known = PUBLISHED["execution_share"]
    queue, idle = found[found < known.low].index, found[found > known.high].index
    reasons = []
    if len(queue):
        reasons.append(f"{', '.join(queue)}: bursts overload prefill for minutes: P95 is nearly all queueing")
    if len(idle):
        reasons.append(f"{', '.join(idle)}: little waits, so execution is most of what is left")
    shares = ", ".join(f"{panel} {share:.1%}" for panel, share in found.items())
    return shares, "; ".join(reasons) or "in the published range"


def _flat_chunk(tables: Tables) -> tuple[str, str]:
    deep = tables["fig01_chunk_cost"]["done_tokens"].max() / 1024
    return _chunk(tables, int(PUBLISHED["flat_chunk_tokens"].high)), (
        f"low end: at a prompt's start; high end: {deep:.0f}k tokens into a long prompt, whose latents each chunk "
        "reads again, a case that the published bound may not mean"
    )


def _large_chunk(tables: Tables) -> tuple[str, str]:
    return _chunk(tables, LARGEST_CHUNK), (
        "composed kernels reach it only deep inside a long prompt, where a chunk re-reads what is done; the rest is "
        "engine overhead (graphs off for large steps, multi-pass context), which calibration can add"
    )


def _chunk(tables: Tables, chunk: int) -> str:
    table = tables["fig01_chunk_cost"]
    here = table[table["chunk_tokens"] == chunk]
    ranges = here.groupby("engine", sort=False)["increase_s"].agg(["min", "max"]) * 1e3
    return "; ".join(f"{row['min']:.0f}-{row['max']:.0f} ms {engine}" for engine, row in ranges.iterrows())


def _gain(tables: Tables, name: str, metric: str) -> dict[str, float]:
    """Return thresholds over disaggregated per panel at the centre of the sweep."""
    table = tables[name]
    here = table[(table["metric"] == metric) & ((table["sweep"] - CENTRE).abs() < 1e-9)]
    wide = here.pivot(index="panel", columns="policy", values="mean")
    ratio: dict[str, float] = (wide["thresholds"] / wide["disaggregated"]).to_dict()
    return ratio


def _p95(tables: Tables) -> tuple[str, str]:
    ratios = _gain(tables, "fig04_p95_ttft", "p95_ttft_s")
    execution = tables["fig02_ttft_parts"].query("part == 'prefill'").set_index("panel")["share"]
    light = execution[execution > PUBLISHED["execution_share"].high].index
    why = "ours binds late and orders its queue, the published rule does neither"
    return ", ".join(f"{panel} {ratio - 1:+.0%}" for panel, ratio in ratios.items()), (
        f"{why}; little waits in {', '.join(light)}" if len(light) else why
    )


def _attained(tables: Tables) -> tuple[str, str]:
    ratios = _gain(tables, "fig05_attainment", "slo_attainment")
    table = tables["fig05_attainment"]
    plain = table[(table["policy"] == "disaggregated") & ((table["sweep"] - CENTRE).abs() < 1e-9)]["mean"]
    return ", ".join(f"{panel} {ratio - 1:+.0%}" for panel, ratio in ratios.items()), (
        f"relative to what never deflecting meets, {plain.min():.0%} to {plain.max():.0%} of requests: the smaller, "
        "the larger the gain"
    )


def _decision(tables: Tables) -> tuple[str, str]:
    table = tables["fig09_decision_cost"]
    timed = table[table["quantity"] == "runtime [s]"].set_index("decode_instances")["median"] * 1e6
    first, last = timed.index.min(), timed.index.max()
    return f"{timed[first]:.1f} us with {first}, {timed[last]:.0f} us with {last} decode instances", (
        "plain Python, standard library only, on the machine that made the figure"
    )


def _law(tables: Tables) -> tuple[str, str]:
    table = tables["fig13_law_errors"]
    here = table[(table["measure"] == "step") & (table["gpu"] == "a100")]
    own = here[(here["model"] == MODEL) & (here["tp"] == 1)]["error"].iloc[0]
    return f"{own:.1%} for {MODEL}; {here['error'].min():.1%}-{here['error'].max():.1%} over all on A100", (
        "against composed kernels off the fitted grid, not against a running engine"
    )


def _peers(tables: Tables) -> tuple[str, str]:
    table = tables["fig17_job_cost"]
    ours = table[table["per"].eq("request") & table["job"].str.startswith("simulate")].groupby("job")["seconds"].max()
    return ", ".join(f"{1e6 * s:.0f} us ({job.removeprefix('simulate, ')})" for job, s in ours.items()), (
        "ours at its slowest size; theirs were run on another machine, so read orders of magnitude"
    )


ROWS: Mapping[str, tuple[str, Callable[[Tables], tuple[str, str]]]] = {
    "flat_chunk_s": ("fig01", _flat_chunk),
    "large_chunk_s": ("fig01", _large_chunk),
    "execution_share": ("fig02", _execution),
    "p95_ttft_ratio": ("fig04", _p95),
    "attainment_ratio": ("fig05", _attained),
    "decision_s": ("fig09", _decision),
    "step_law_mape": ("fig13", _law),
    "blis_request_s": ("fig17", _peers),
}


def against_published(tables: Tables) -> DataFrame:
    """Return each published number with ours beside it.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Tables behind the figures, by their names.

    Returns
    -------
    DataFrame
        Columns figure, what, published, ours, why (they differ, or what to know) and source.
    """
    import pandas as pd

    rows = []
    for key, (figure, ours) in ROWS.items():
        known = PUBLISHED[key]
        value, why = ours(tables)
        rows.append(
            {
                "figure": figure, "what": known.what, "published": _shown(key), "ours": value, "why": why,
                "source": known.source,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _shown(key: str) -> str:
    known = PUBLISHED[key]
    if key.endswith("_ratio"):
        return f"{known.low - 1:+.0%}"
    if key == "execution_share":
        return f"{known.low:.0%}-{known.high:.0%}"
    if known.unit == "s":
        ends = dict.fromkeys(f"{1e3 * value:.3g}" for value in (known.low or known.high, known.high))
        return f"{'-'.join(ends)} ms"
    return f"{known.high:.0%}"


def markdown(table: DataFrame) -> str:
    """Return the table of `against_published` as Markdown."""
    head = "| figure | published | value | here | to know |\n|---|---|---|---|---|\n"
    rows = (f"| {r.figure} | {r.what} | {r.published} | {r.ours} | {r.why} |\n" for r in table.itertuples())
    return head + "".join(rows)


def write_published(folder: Path) -> list[Path]:
    """Write ``published.csv`` and ``published.md`` beside the figures, from their tables.

    Parameters
    ----------
    folder : Path
        Where `make_figures` has written every figure.

    Returns
    -------
    list of Path
        Files written.
    """
    from qmodel.io.atomic import write_text
    from qmodel.io.tables import read_table, save_table

    table = against_published({path.stem: read_table(path) for path in sorted(folder.glob("fig*.csv"))})
    csv, page = folder / "published.csv", folder / "published.md"
    save_table(table, csv)
    write_text(page, markdown(table))
    return [csv, page]

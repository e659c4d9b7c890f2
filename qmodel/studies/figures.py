"""The figures of the paper: which there are, and how one is made: a study, its tidy table, its picture, three files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.errors import InputError
from qmodel.studies.scenes import Stage, scenes, source_digest

if TYPE_CHECKING:
    from pandas import DataFrame

    from qmodel.studies.comparison import Progress

__all__ = ["FIGURES", "PaperFigure", "figure_named", "make_figures", "stage_for"]

QUICK_SEEDS, FULL_SEEDS = 5, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFigure:
    """A figure: the study that makes its table, and the function that draws it.

    Parameters
    ----------
    name : str
        ``figNN_words``; the stem of its files.
    title : str
        What it shows, in a line.
    part : str
        Module of both: ``studies.figures_<part>`` and ``plotting.figures_<part>``.
    study : str
        Function of a `Stage` that returns the tidy table; the picture is drawn by ``draw_<study>``.
    """

    name: str
    title: str
    part: str
    study: str

    def table(self, stage: Stage) -> DataFrame:
        """Return the tidy table behind the figure.

        Parameters
        ----------
        stage : Stage
            Scenes and runs.
        """
        table: DataFrame = getattr(import_module(f"qmodel.studies.figures_{self.part}"), self.study)(stage)
        return table

    def draw(self, table: DataFrame) -> Any:
        """Return the picture of a table.

        Parameters
        ----------
        table : DataFrame
            From `table`, or read back from its CSV.
        """
        return getattr(import_module(f"qmodel.plotting.figures_{self.part}"), f"draw_{self.study}")(table)


FIGURES = (
    PaperFigure(
        name="fig01_chunk_cost", part="laws", study="chunk_cost",
        title="What a prefill chunk adds to a decode step",
    ),
    PaperFigure(
        name="fig02_ttft_parts", part="panels", study="ttft_parts",
        title="Where P95 TTFT goes without deflection",
    ),
    PaperFigure(
        name="fig03_asymmetry", part="queue", study="asymmetry",
        title="A burst queues at prefill while decode has slack, and what deflection does to it",
    ),
    PaperFigure(
        name="fig04_p95_ttft", part="panels", study="p95_ttft",
        title="P95 TTFT by panel and policy over load",
    ),
    PaperFigure(
        name="fig05_attainment", part="panels", study="attainment",
        title="SLO attainment by panel and policy over load",
    ),
    PaperFigure(
        name="fig06_ttft_laws", part="panels", study="ttft_laws",
        title="The law of TTFT by panel and policy",
    ),
    PaperFigure(
        name="fig07_price_frontier", part="rules", study="price_frontier",
        title="What Kairos' alpha and the prices of thresholds do",
    ),
    PaperFigure(
        name="fig08_static_splits", part="rules", study="static_splits",
        title="The same instances as 1P3D, 2P2D and 3P1D, with and without deflection",
    ),
    PaperFigure(
        name="fig09_decision_cost", part="cost", study="decision_cost",
        title="What one routing decision takes",
    ),
    PaperFigure(
        name="fig10_tbt_laws", part="panels", study="tbt_laws",
        title="Time between tokens under deflection: nobody is hurt",
    ),
    PaperFigure(
        name="fig11_model", part="model", study="predicted_against_simulated",
        title="The analytical model against the simulator",
    ),
    PaperFigure(
        name="fig12_mgk_errors", part="queue", study="mgk_errors",
        title="Errors of M/G/k methods",
    ),
    PaperFigure(
        name="fig13_law_errors", part="laws", study="law_errors",
        title="Errors of the calibrated laws",
    ),
    PaperFigure(
        name="fig14_threshold_map", part="plan", study="threshold_map",
        title="Deflection thresholds as a map",
    ),
    PaperFigure(
        name="fig15_shadow_prices", part="plan", study="shadow_prices",
        title="What one more of each resource is worth over load",
    ),
    PaperFigure(
        name="fig16_robustness", part="robust", study="robustness",
        title="Faults, stale signals, wrong laws, other rates, another trace's plan",
    ),
    PaperFigure(
        name="fig17_job_cost", part="cost", study="job_cost",
        title="What planning, predicting and simulating cost as the cluster grows",
    ),
)  # fmt: skip


def figure_named(name: str) -> PaperFigure:
    """Return the figure of a name or its beginning, such as ``fig04``.

    Parameters
    ----------
    name : str
        E.g. ``fig04`` or ``fig04_p95_ttft``.

    Returns
    -------
    PaperFigure
        The only figure whose name starts so.

    Raises
    ------
    InputError
        When there is none.
    """
    found = [figure for figure in FIGURES if figure.name == name or figure.name.startswith(f"{name}_")]
    if len(found) != 1:
        raise InputError("figure", repr(name), f"one of {', '.join(figure.name.split('_')[0] for figure in FIGURES)}")
    return found[0]


def stage_for(folder: Path, full: bool, progress: Progress | None = None) -> Stage:
    """Return the stage that `make_figures` works on: every scene, five runs each, or twenty in full.

    Parameters
    ----------
    folder : Path
        Output folder; runs are kept in its ``runs``.
    full : bool
        Whether to take fine grids and many replications.
    progress : callable, optional
        As in `Stage`.

    Returns
    -------
    Stage
        Scenes and how long to run.
    """
    seeds = tuple(range(FULL_SEEDS if full else QUICK_SEEDS))
    return Stage(scenes=tuple(scenes()), seeds=seeds, full=full, folder=folder / "runs", progress=progress)


def make_figures(
    folder: str | Path,
    names: Iterable[str] | None = None,
    full: bool = False,
    progress: Progress | None = None,
    stage: Stage | None = None,
) -> list[Path]:
    """Make figures: for each a CSV with the numbers, and the picture as PDF and PNG.

    A figure whose files were made by the same code in the same mode is left as it is, so that an interrupted job goes
    on where it was.

    Parameters
    ----------
    folder : str or Path
        Where files go; it is made.
    names : iterable of str, optional
        Some figures; all by default.
    full : bool
        Whether to take fine grids and many replications.
    progress : callable, optional
        Called with (what, done, total).
    stage : Stage, optional
        Other scenes or runs than `stage_for` chooses.

    Returns
    -------
    list of Path
        Files written, CSV, PDF and PNG of each figure in turn; with all of them the table of ours beside published.

    Raises
    ------
    InputError
        When a name is unknown, or the folder is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError("output folder", f"'{target}', a file", "a folder", "name another")
    chosen = [figure_named(name) for name in names] if names else list(FIGURES)
    target.mkdir(parents=True, exist_ok=True)
    work = stage or stage_for(target, full, progress)
    written: list[Path] = []
    for number, figure in enumerate(chosen):
        report = _within(progress, figure.name, number, len(chosen))
        written += _make(figure, work.smaller(progress=report), target)
    if len(chosen) == len(FIGURES):
        from qmodel.studies.figures_published import write_published

        written += write_published(target)
    return written


def _within(progress: Progress | None, name: str, number: int, total: int) -> Progress | None:
    if progress is None:
        return None

    def report(what: str, done: int, of: int) -> None:
        progress(f"{name}: {what}", number * 100 + (100 * done) // max(1, of), total * 100)

    report("starting", 0, 1)
    return report


def _make(figure: PaperFigure, stage: Stage, folder: Path) -> list[Path]:
    from qmodel.io.atomic import write_text
    from qmodel.io.tables import read_table, save_table
    from qmodel.plotting.figure import save_figure, style

    csv, pdf, png = (folder / f"{figure.name}.{suffix}" for suffix in ("csv", "pdf", "png"))
    mark = (stage.folder or folder) / f"{figure.name}.made-with"
    made_with = f"{source_digest()} {stage.digest()}\n"
    current = csv.exists() and mark.exists() and mark.read_text() == made_with
    if not current:
        save_table(figure.table(stage), csv)
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_text(mark, made_with)
    table = read_table(csv)
    with style():
        picture = figure.draw(table)
        save_figure(picture, pdf)
        save_figure(picture, png)
    return [csv, pdf, png]

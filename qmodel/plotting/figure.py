"""One style for every picture, and files that are written atomically and come out the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.errors import InputError
from qmodel.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "COLUMN_IN",
    "HATCHES",
    "LINES",
    "MARKERS",
    "PAGE_IN",
    "POLICY_STYLE",
    "log_ticks",
    "new_figure",
    "panel_title",
    "plain_log",
    "policy_style",
    "save_figure",
    "style",
]

# Widths of a paper's column and of its page [inches].
COLUMN_IN, PAGE_IN = 3.4, 7.0

# Okabe-Ito colours: told apart by colour-blind readers; line styles and hatches carry the same in grey.
COLORS = ("#555555", "#E69F00", "#56B4E9", "#CC79A7", "#0072B2", "#009E73", "#D55E00")
LINES = (
    (0, (1, 1)),
    (0, (4, 1.5)),
    (0, (5, 1, 1, 1)),
    (0, (2, 1)),
    "solid",
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# One look per policy in every picture: colour, line, marker.
POLICY_STYLE: dict[str, tuple[str, Any, str]] = {
    "disaggregated": (COLORS[0], LINES[0], MARKERS[0]),
    "kairos": (COLORS[1], LINES[1], MARKERS[1]),
    "earliest completion": (COLORS[2], LINES[2], MARKERS[2]),
    "thresholds at dispatch": (COLORS[3], LINES[3], MARKERS[3]),
    "thresholds": (COLORS[4], LINES[4], MARKERS[4]),
    "kairos, spf order": (COLORS[6], LINES[5], MARKERS[5]),
    "kairos, aged order": (COLORS[6], LINES[5], MARKERS[5]),
    "kairos, due order": (COLORS[6], LINES[5], MARKERS[5]),
}
_NARROW, _WIDE = 5.0, 50.0  # largest over smallest value of a logarithmic axis, where its labels change
_PANELS = {
    "LL": "LL: light prefill, light decode",
    "HL": "HL: heavy prefill, light decode",
    "LH": "LH: light prefill, heavy decode",
    "HH": "HH: heavy prefill, heavy decode",
    "LT": "LT: long tail, bursty",
}

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "svg.hashsalt": "qmodel",
    "pdf.fonttype": 42,
}


def policy_style(policy: str, number: int = 0) -> dict[str, Any]:
    """Return colour, line style and marker of a policy, for `Axes.plot`; unknown names go by their number.

    Parameters
    ----------
    policy : str
        Name.
    number : int, optional
        Its place among the policies drawn.
    """
    other = (COLORS[number % len(COLORS)], LINES[number % len(LINES)], MARKERS[number % len(MARKERS)])
    color, line, marker = POLICY_STYLE.get(policy, other)
    return {"color": color, "ls": line, "marker": marker}


def panel_title(panel: str, short: bool = False) -> str:
    """Return the heading of a panel of the evaluation.

    Parameters
    ----------
    panel : str
        LL, HL, LH, HH, LT or the name of a workload.
    short : bool, optional
        Whether only its name is wanted.
    """
    return panel if short else _PANELS.get(panel, panel)


def plain_log(axis: Any, subs: tuple[float, ...] = (1.0,)) -> None:
    """Label a logarithmic axis with plain numbers, such as 0.1, 1 and 10,000.

    Parameters
    ----------
    axis : matplotlib Axis
        ``axes.xaxis`` or ``axes.yaxis``, logarithmic.
    subs : tuple of float, optional
        Which multiples of each power of ten get a label.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def log_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, as many as its range needs and do not run into one another.

    Parameters
    ----------
    axis : matplotlib Axis
        ``axes.xaxis`` or ``axes.yaxis``, logarithmic, its limits set.
    """
    from matplotlib.ticker import MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    plain_log(axis, (1.0, 2.0, 5.0) if high / low < _WIDE else (1.0,))
    if high / low < _NARROW:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(NullLocator())


@contextmanager
def style() -> Iterator[None]:
    """Apply the style inside a `with` block, leaving the user's own settings alone."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure that no window system knows of.

    Parameters
    ----------
    width_in, height_in : float
        Size [inches].

    Returns
    -------
    Figure
        With constrained layout.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically, without dates, so that the same numbers give the same bytes.

    Parameters
    ----------
    figure : Figure
        What to write.
    path : str or Path
        A .png, .pdf or .svg file.

    Raises
    ------
    InputError
        When the suffix is another one.
    """
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Producer": None},
        ".svg": {"Date": None},
    }
    suffix = Path(path).suffix.lower()
    if suffix not in metadata:
        raise InputError("picture", f"'{path}'", "a .png, .pdf or .svg file")
    with style(), atomic_path(path) as temporary:
        figure.savefig(temporary, metadata=metadata[suffix])

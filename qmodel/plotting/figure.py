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

__all__ = ["COLORS", "HATCHES", "LINES", "new_figure", "save_figure", "style"]

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

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "svg.hashsalt": "qmodel",
    "pdf.fonttype": 42,
}


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

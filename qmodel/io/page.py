"""One self-contained HTML page: no script, no network, every text escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from qmodel.errors import InputError
from qmodel.io.atomic import check_target, write_text

__all__ = ["Block", "Cards", "Figure", "List", "Section", "Table", "Text", "check_report", "render_page", "save_page"]

_LONG = 12  # characters of a headline number that fit at full size
# Browsers enforce what the page promises: nothing is loaded, nothing runs.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph.

    Parameters
    ----------
    text : str
        Plain text.
    code : bool
        Whether it is shown as a command.
    """

    text: str
    code: bool = False

    def html(self) -> str:
        """Return the paragraph as HTML."""
        return f"<pre>{escape(self.text)}</pre>" if self.code else f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """Headline numbers, side by side.

    Parameters
    ----------
    items : sequence of (str, str, str)
        Label, value, and a line beneath.
    """

    items: Sequence[tuple[str, str, str]]

    def html(self) -> str:
        """Return the cards as HTML."""
        cards = (
            f'<div class="card"><div class="label">{escape(label)}</div>'
            f'<div class="value{" long" if len(value) > _LONG else ""}">{escape(value)}</div>'
            f'<div class="note">{escape(note)}</div></div>'
            for label, value, note in self.items
        )
        return f'<div class="cards">{"".join(cards)}</div>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table whose first column names its rows.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequence of str
        Cells.
    caption : str
        Line above the table.
    strong, faint : frozenset of int
        Rows shown in bold, or in grey.
    folded : bool
        Whether it is shown only when its caption is clicked.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    strong: frozenset[int] = frozenset()
    faint: frozenset[int] = frozenset()
    folded: bool = False

    def html(self) -> str:
        """Return the table as HTML."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns)
        head = f"<thead><tr>{head}</tr></thead>" if any(self.columns) else ""
        body = "".join(self._row(number, row) for number, row in enumerate(self.rows))
        table = f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
        caption = escape(self.caption)
        if self.folded:
            return f"<details><summary>{caption}</summary>{table}</details>"
        return f"<h3>{caption}</h3>{table}" if caption else table

    def _row(self, number: int, row: Sequence[str]) -> str:
        names = [name for name, rows in (("strong", self.strong), ("faint", self.faint)) if number in rows]
        first, *others = (escape(cell) for cell in row)
        cells = f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)
        return f'<tr class="{" ".join(names)}">{cells}</tr>' if names else f"<tr>{cells}</tr>"


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """Lines, one below the other.

    Parameters
    ----------
    lines : sequence of str
        Plain texts.
    warning : bool
        Whether they are set off as warnings.
    """

    lines: Sequence[str]
    warning: bool = False

    def html(self) -> str:
        """Return the list as HTML."""
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.lines)
        return f'<ul class="warning">{lines}</ul>' if self.warning else f"<ul>{lines}</ul>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture inside the page.

    Parameters
    ----------
    svg : bytes
        The picture; shown as an image, so nothing in it can run.
    alt : str
        What it shows, for those who cannot see it.
    """

    svg: bytes
    alt: str

    def html(self) -> str:
        """Return the picture as HTML."""
        data = base64.b64encode(self.svg).decode("ascii")
        source = f"data:image/svg+xml;base64,{data}"
        return f'<figure><img src="{source}" alt="{escape(self.alt)}"></figure>'


Block = Text | Cards | Table | List | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page with a heading.

    Parameters
    ----------
    title : str
        Heading; also its place in the page's navigation.
    blocks : sequence of Block
        What it holds.
    """

    title: str
    blocks: Sequence[Block]


def check_report(path: str | Path) -> None:
    """Refuse a report file that is not named .html or cannot be written.

    Parameters
    ----------
    path : str or Path
        File the user named.

    Raises
    ------
    InputError
        When it cannot be written.
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InputError("--report", f"'{path}'", "an .html file", "e.g. --report report.html")
    check_target(path)


def render_page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """Return the page as HTML; the same content gives the same text.

    Parameters
    ----------
    title, subtitle : str
        Heading and the line beneath it.
    sections : sequence of Section
        Parts, in order.
    footer : str
        Last line.
    """
    css = files("qmodel").joinpath("data", "report.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#part-{number}">{escape(s.title)}</a>' for number, s in enumerate(sections))
    parts = "\n".join(
        f'<section id="part-{number}"><h2>{escape(s.title)}</h2>{"".join(block.html() for block in s.blocks)}</section>'
        for number, s in enumerate(sections)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body>
<header><div class="inner">
<div class="brand">qmodel</div><h1>{escape(title)}</h1><p>{escape(subtitle)}</p>
</div></header>
<nav><div class="inner">{links}</div></nav>
<main>
{parts}
</main>
<footer><div class="inner">{escape(footer)}</div></footer>
</body>
</html>
"""


def save_page(path: str | Path, page: str) -> None:
    """Write a page whole or not at all.

    Parameters
    ----------
    path : str or Path
        An .html file.
    page : str
        From `render_page`.
    """
    check_report(path)
    write_text(path, page)

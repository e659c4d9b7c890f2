"""A journal of finished cells beside a table: appended as rows come, read back after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmodel.errors import InputError
from qmodel.io.tables import check_table_target, save_table

__all__ = ["Journal"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Journal:
    """Rows of a sweep by the number of their cell, kept in ``NAME.journal`` until the table is complete.

    Parameters
    ----------
    target : Path, optional
        Table to write; None keeps nothing.
    fingerprint : str
        Hash of the grid.
    rows : Mapping
        Rows found on opening, by cell number.
    """

    target: Path | None
    fingerprint: str
    rows: Mapping[int, dict[str, Any]]

    @classmethod
    def open(cls, target: str | Path | None, fingerprint: str) -> Journal:
        """Return the journal of a table, with the rows of an earlier run of the same grid.

        Parameters
        ----------
        target : str or Path or None
            Table, .csv or .parquet.
        fingerprint : str
            Hash of the grid.

        Raises
        ------
        InputError
            When the table cannot be written, or its journal is of another grid.
        """
        if target is None:
            return cls(target=None, fingerprint=fingerprint, rows={})
        path = check_table_target(target)
        journal = cls(target=path, fingerprint=fingerprint, rows={})
        rows: dict[int, dict[str, Any]] = {}
        length = 0
        if journal.path.is_symlink():  # appended to in place, so a link would lead the rows elsewhere
            raise InputError("journal", f"'{journal.path}', a link", "a file of its own", "remove it")
        if journal.path.exists():
            rows, length = _read(journal.path, fingerprint)
            os.truncate(journal.path, length)  # a line cut by a kill would swallow the next one
        if length == 0:
            journal._write_lines([{"grid": fingerprint}])
        return cls(target=path, fingerprint=fingerprint, rows=rows)

    @property
    def path(self) -> Path:
        """The journal's file."""
        assert self.target is not None
        return self.target.with_name(self.target.name + ".journal")

    def append(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Add rows by cell number, and make sure that they are on disk."""
        if self.target is not None:
            self._write_lines([{"cell": number, "row": dict(row)} for number, row in rows])

    def write_table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the table, whole or not at all; one of failures alone is not written: it would replace a better one."""
        if self.target is None or all(row.get("error") for row in rows):
            return
        import pandas as pd

        save_table(pd.DataFrame(list(rows)), self.target)

    def close(self) -> None:
        """Remove the journal: the table is complete."""
        if self.target is not None:
            self.path.unlink(missing_ok=True)

    def _write_lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path, fingerprint: str) -> tuple[dict[int, dict[str, Any]], int]:
    """Return the rows of a journal, and the length of its whole lines [bytes]."""
    rows: dict[int, dict[str, Any]] = {}
    length = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            entry = _entry(line)
            if length == 0:
                _check_grid(path, entry, fingerprint)
            elif isinstance(entry.get("cell"), int) and isinstance(entry.get("row"), dict):
                rows[entry["cell"]] = entry["row"]
            else:
                break
            length += len(line)
    return rows, length


def _entry(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _check_grid(path: Path, entry: Mapping[str, Any], fingerprint: str) -> None:
    if entry.get("grid") != fingerprint:
        raise InputError(
            "journal", f"'{path}', of another sweep", "of the same grid", "remove it, or name another file"
        )

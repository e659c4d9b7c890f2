"""Text of a trace file: bytes to rows or JSON objects with line numbers, within bounds and without surprises."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError, MissingExtraError

__all__ = [
    "MAX_BYTES",
    "MAX_ROWS",
    "MAX_TOKENS",
    "Options",
    "RawTrace",
    "column",
    "csv_columns",
    "csv_rows",
    "json_objects",
    "load_json",
    "read_text",
    "shown",
]

FloatArray = npt.NDArray[np.float64]

MAX_BYTES = 256 * 1024 * 1024  # decompressed
MAX_ROWS = 5_000_000
MAX_LINE = 4 * 1024 * 1024
MAX_TOKENS = 2**31
MAX_NUMBER = 1e20  # above an epoch in nanoseconds, and far from overflow
_GZIP_MAGIC, _PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller asked of a reader.

    Parameters
    ----------
    path : str
        Name of the file, for messages.
    folder : Path, optional
        Where sibling files lie; None for a data frame.
    cached : str, optional
        Column of cached prompt tokens.
    unit_s : float, optional
        Seconds per unit of the time column, when overridden.
    """

    path: str
    folder: Path | None = None
    cached: str | None = None
    unit_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawTrace:
    """Columns of a trace as read, before checks; times in seconds.

    Parameters
    ----------
    arrival_s, prompt_tokens, output_tokens : ndarray
        One value per kept row.
    lines : sequence of int
        Line of each kept row in the file.
    cached_tokens : ndarray, optional
        Prompt tokens found in a prefix cache.
    dropped : dict
        Reason to number of rows left out.
    notices : tuple of str
        Choices made while reading.
    """

    arrival_s: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    lines: Sequence[int]
    cached_tokens: FloatArray | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def shown(value: object, limit: int = 40) -> str:
    """Return a value from a file as a short printable text."""
    text = ascii(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_text(path: Path) -> str:
    """Return the text of a file: plain, gzipped, or a Parquet table as CSV.

    Parameters
    ----------
    path : Path
        File to read.

    Returns
    -------
    str
        Its text without byte-order mark.

    Raises
    ------
    InputError
        When it is missing, a directory, unreadable, empty, not text, or larger than 256 MiB once decompressed.
    """
    what = f"trace '{path}'"
    try:
        if not path.exists():
            raise InputError(what, "missing", "a file", "check the path")
        if not path.is_file():
            raise InputError(what, "a directory" if path.is_dir() else "not a regular file", "a trace file")
        with path.open("rb") as handle:
            magic = handle.read(4)
            handle.seek(0)
            packed = magic[:2] == _GZIP_MAGIC
            raw: Any = gzip.GzipFile(fileobj=handle) if packed else handle
            data: bytes = raw.read(MAX_BYTES + 1)
    except InputError:
        raise
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(what, f"unreadable ({error})", "a readable file, gzipped or plain") from error
    if len(data) > MAX_BYTES:
        raise InputError(what, "too large", f"at most {MAX_BYTES >> 20} MiB of text", "cut it first")
    if data[:4] == _PARQUET_MAGIC:
        return _parquet_text(data, what)
    if not data.strip():
        raise InputError(what, "empty", "a trace with requests", "check the file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(what, f"not text (byte {error.start})", "UTF-8 text, gzipped or plain") from error


def _parquet_text(data: bytes, what: str) -> str:
    """Return a Parquet table of plain columns as CSV."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet needs pyarrow", remedy="pip install 'qmodel[profiles]'") from error
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        if file.metadata.num_rows > MAX_ROWS:
            raise InputError(what, f"{file.metadata.num_rows:,} rows", f"at most {MAX_ROWS:,}", "cut it first")
        plain = [f.name for f in file.schema_arrow if not pyarrow.types.is_nested(f.type)]
        columns = file.read(columns=plain).to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(what, f"broken Parquet ({error})", "a readable table") from error
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()


def csv_rows(text: str, path: str, first_line: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and fields of each non-empty row of a CSV text.

    Parameters
    ----------
    text : str
        CSV, with or without header.
    path : str
        For messages.
    first_line : int
        Line of the file at which `text` begins.

    Yields
    ------
    tuple
        Line on which the row ends, and its fields.
    """

    def lines() -> Iterator[str]:
        for number, line in enumerate(io.StringIO(text, newline=""), start=first_line):
            if len(line) > MAX_LINE or number > MAX_ROWS + first_line:
                what = f"trace '{path}', line {number}"
                raise InputError(what, "too much", f"lines of {MAX_LINE:,} characters, {MAX_ROWS:,} of them")
            yield line

    reader = csv.reader(lines())
    try:
        for row in reader:
            if row and any(row):
                yield reader.line_num + first_line - 1, row
    except csv.Error as error:
        where = f"trace '{path}', line {reader.line_num + first_line - 1}"
        raise InputError(where, f"broken CSV ({error})", "plain CSV") from error


def csv_columns(
    text: str, path: str, wanted: Sequence[str], first_line: int = 1
) -> tuple[dict[str, list[str]], list[int]]:
    """Return the wanted columns of a CSV text with header, as text.

    Parameters
    ----------
    text : str
        CSV with a header row.
    path : str
        For messages.
    wanted : sequence of str
        Column names.
    first_line : int
        Line of the file at which `text` begins.

    Returns
    -------
    tuple
        Column name to fields, and the line of each row.

    Raises
    ------
    InputError
        When a column is missing or stands there twice, or a row is too short.
    """
    rows = csv_rows(text, path, first_line)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    for name in wanted:
        if name not in header:
            raise InputError(f"column '{name}' of '{path}'", "missing", f"among {shown(header, 200)}")
        if header.count(name) > 1:
            raise InputError(f"column '{name}' of '{path}'", f"there {header.count(name)} times", "there once")
    index = [header.index(name) for name in wanted]
    columns: list[list[str]] = [[] for _ in wanted]
    lines: list[int] = []
    for line, row in rows:
        if len(row) < len(header):
            raise InputError(f"'{path}', line {line}", f"a row of {len(row)} fields", f"one of {len(header)} fields")
        for values, i in zip(columns, index, strict=True):
            values.append(row[i])
        lines.append(line)
    return dict(zip(wanted, columns, strict=True)), lines


def json_objects(text: str, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line of a JSONL text, or number and item of a JSON list.

    Parameters
    ----------
    text : str
        One JSON object a line, or one list of objects.
    path : str
        For messages.

    Yields
    ------
    tuple
        Line (of a list: item) number from 1, and object.
    """
    numbered: Iterable[tuple[int, Any]]
    if text.lstrip().startswith("["):
        items = load_json(text, f"trace '{path}'")
        numbered = enumerate(items if isinstance(items, list) else [items], start=1)
    else:
        numbered = (
            (number, load_json(line, f"trace '{path}', line {number}"))
            for number, line in enumerate(io.StringIO(text), start=1)
            if line.strip()
        )
    for count, (number, value) in enumerate(numbered):
        if count >= MAX_ROWS:
            raise InputError(f"trace '{path}', line {number}", "too much", f"at most {MAX_ROWS:,} requests")
        if not isinstance(value, dict):
            raise InputError(f"trace '{path}', line {number}", shown(value), "a JSON object")
        yield number, value


def load_json(text: str, what: str) -> Any:
    """Return the value of a JSON text; `what` names it in the message of the InputError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(what, "JSON nested too deeply", "flat objects") from error
    except ValueError as error:
        reason = getattr(error, "msg", str(error))
        raise InputError(what, f"broken JSON ({reason})", "valid JSON", "mend or drop the line") from error


def column(
    name: str,
    raw: Sequence[Any],
    lines: Sequence[int],
    path: str,
    limit: str = "a finite number",
    parse: Callable[[Any], float] = float,
) -> FloatArray:
    """Return a column as floats.

    Parameters
    ----------
    name : str
        Column name, for messages.
    raw : sequence
        Text or numbers, one per row.
    lines : sequence of int
        Line of each row.
    path : str
        For messages.
    limit : str
        What is accepted, for messages.
    parse : callable
        Text to float.

    Returns
    -------
    ndarray
        Finite values.

    Raises
    ------
    InputError
        At the first value that is not a finite number.
    """
    values = np.empty(len(raw))
    for i, item in enumerate(raw):
        try:
            value = math.nan if isinstance(item, bool) else parse(item)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not abs(value) <= MAX_NUMBER:
            raise InputError(f"{name} in '{path}', line {lines[i]}", shown(item), limit, "mend or drop the line")
        values[i] = value
    return values

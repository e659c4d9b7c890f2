"""Text of a trace file: bytes to rows or JSON objects with their line numbers, within bounds and without surprises."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError

__all__ = ["MAX_BYTES", "RawTrace", "column", "csv_rows", "json_objects", "read_text", "shown"]

FloatArray = npt.NDArray[np.float64]

MAX_BYTES = 256 * 1024 * 1024  # decompressed; some 17 million canonical rows
MAX_TOKENS = 2**31
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(slots=True, kw_only=True)
class RawTrace:
    """Columns of a trace as read, before checks; times in seconds.

    Parameters
    ----------
    arrival_s, prompt_tokens, output_tokens : ndarray
        One value per kept row.
    cached_tokens : ndarray, optional
        Prompt tokens found in a prefix cache.
    lines : sequence of int
        Line of each kept row in the file.
    dropped : dict
        Reason to number of rows left out.
    notices : list of str
        Choices made while reading.
    """

    arrival_s: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    lines: Sequence[int]
    cached_tokens: FloatArray | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def shown(value: object, limit: int = 40) -> str:
    """Return a value from a file as a short printable text."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_text(path: Path) -> str:
    """Return the text of a file, gzipped or not.

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
            raise InputError(what, "not a regular file", "a file", "name a file in it" if path.is_dir() else "")
        with path.open("rb") as handle:
            raw: Any = handle
            if handle.read(2) == _GZIP_MAGIC:
                raw = gzip.GzipFile(fileobj=handle)
            handle.seek(0)
            data: bytes = raw.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(what, f"unreadable ({error})", "a readable file, gzipped or plain") from error
    if len(data) > MAX_BYTES:
        raise InputError(what, "too large", f"at most {MAX_BYTES >> 20} MiB of text", "cut it first")
    if not data.strip():
        raise InputError(what, "empty", "a trace with requests", "check the file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(what, f"not text (byte {error.start})", "UTF-8 text, gzipped or plain") from error


def csv_rows(text: str, path: str) -> tuple[list[list[str]], list[int]]:
    """Return the non-empty rows of a CSV text with the line each ends on.

    Parameters
    ----------
    text : str
        CSV, with or without header.
    path : str
        For messages.

    Returns
    -------
    tuple
        Rows and their line numbers.
    """
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if row and any(row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"trace '{path}', line {reader.line_num}", f"broken CSV ({error})", "plain CSV") from error
    return rows, lines


def json_objects(text: str, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each non-empty line of a JSONL text.

    Parameters
    ----------
    text : str
        One JSON object a line.
    path : str
        For messages.

    Yields
    ------
    tuple
        Line number from 1 and object.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        value = load_json(line, f"trace '{path}', line {number}")
        if not isinstance(value, dict):
            raise InputError(f"trace '{path}', line {number}", shown(line), "a JSON object")
        yield number, value


def load_json(text: str, what: str) -> Any:
    """Return the value of a JSON text; `what` names it in the message of the InputError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply" if isinstance(error, RecursionError) else str(error))
        raise InputError(what, f"broken JSON ({reason})", "valid JSON", "mend or drop the line") from error


def column(
    name: str,
    raw: Sequence[Any],
    lines: Sequence[int],
    path: str,
    limit: str = "a number",
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
            value = parse(item) if not isinstance(item, bool) else math.nan
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{name} in '{path}', line {lines[i]}", shown(item), limit, "mend or drop the line")
        values[i] = value
    return values

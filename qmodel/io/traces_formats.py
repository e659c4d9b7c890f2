"""Formats of trace files: how each is told from the others, and which columns mean what in which unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qmodel.errors import InputError
from qmodel.io.traces_text import RawTrace, column, csv_rows, json_objects, load_json, shown

__all__ = ["FORMATS", "Format", "Options", "recognised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller asked of a reader.

    Parameters
    ----------
    path : str
        Name of the file, for messages.
    folder : Path, optional
        Where sibling files lie.
    cached : str, optional
        Column of cached prompt tokens.
    unit_s : float, optional
        Seconds per unit of the time column, when overridden.
    """

    path: str
    folder: Path | None
    cached: str | None
    unit_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A trace format.

    Parameters
    ----------
    title : str
        Name for people.
    read : callable
        Text and options to `RawTrace`.
    columns : frozenset of str
        Header columns, or keys of the first object, that tell the format.
    """

    title: str
    read: Callable[[str, Options], RawTrace]
    columns: frozenset[str]


def recognised(text: str, path: str) -> str:
    """Return the name of the format of a trace text.

    Parameters
    ----------
    text : str
        Whole text of the file.
    path : str
        For messages.

    Returns
    -------
    str
        Key of `FORMATS`.

    Raises
    ------
    InputError
        When no format fits: says what was seen and which are known.
    """
    first = text.lstrip().split("\n", 1)[0].strip()
    if first.startswith("{"):
        keys = frozenset(load_json(first, f"trace '{path}', line 1"))
    else:
        keys = frozenset(name.strip() for row in csv_rows(first, path)[0][:1] for name in row)
    for name, fmt in FORMATS.items():
        if fmt.columns <= keys:
            return name
    raise InputError(
        f"format of trace '{path}'",
        f"unknown (first line {shown(first, 60)})",
        f"one of {', '.join(FORMATS)}",
        "see the trace formats in the documentation",
    )


def _csv_columns(text: str, options: Options, wanted: Mapping[str, str]) -> tuple[dict[str, list[str]], list[int]]:
    """Return the wanted columns (role to header name) as text, with line numbers."""
    rows, lines = csv_rows(text, options.path)
    header = [name.strip() for name in rows[0]]
    index = {}
    for role, name in wanted.items():
        if name not in header:
            raise InputError(f"column '{name}' of '{options.path}'", "missing", f"among {shown(header, 120)}")
        index[role] = header.index(name)
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) <= max(index.values()):
            raise InputError(f"'{options.path}', line {line}", f"{len(row)} fields", f"{len(header)} fields")
    return {role: [row[i] for row in rows[1:]] for role, i in index.items()}, lines[1:]


def _read_table(time: str, prompt: str, output: str, unit_s: float = 1.0) -> Callable[[str, Options], RawTrace]:
    """Return the reader of a CSV whose columns are plain numbers."""

    def read(text: str, options: Options) -> RawTrace:
        wanted = {"time": time, "prompt": prompt, "output": output}
        if options.cached:
            wanted["cached"] = options.cached
        raw, lines = _csv_columns(text, options, wanted)
        scale = options.unit_s or unit_s
        return RawTrace(
            arrival_s=column(time, raw["time"], lines, options.path) * scale,
            prompt_tokens=column(prompt, raw["prompt"], lines, options.path),
            output_tokens=column(output, raw["output"], lines, options.path),
            cached_tokens=column(wanted["cached"], raw["cached"], lines, options.path) if options.cached else None,
            lines=lines,
        )

    return read


def _split_timestamp(text: str) -> tuple[datetime, float]:
    """Return date and time to the second, and the rest [s]; a missing zone is UTC, a seventh decimal is kept."""
    whole, _, rest = text.strip().partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    moment = datetime.fromisoformat(whole + rest[digits:])
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment, float(f"0.{rest[:digits]}") if digits else 0.0


def _read_azure(text: str, options: Options) -> RawTrace:
    wanted = {"time": "TIMESTAMP", "prompt": "ContextTokens", "output": "GeneratedTokens"}
    raw, lines = _csv_columns(text, options, wanted)
    start = None

    def since_start(value: str) -> float:
        nonlocal start
        moment, fraction = _split_timestamp(value)
        start = start or moment  # counted from the first row, so that floats keep the last decimals
        return (moment - start).total_seconds() + fraction

    limit = "a date and time such as 2023-11-16 18:15:46.6805900"
    arrival = column("TIMESTAMP", raw["time"], lines, options.path, limit, since_start)
    return RawTrace(
        arrival_s=arrival - arrival.min(initial=0.0),
        prompt_tokens=column("ContextTokens", raw["prompt"], lines, options.path),
        output_tokens=column("GeneratedTokens", raw["output"], lines, options.path),
        lines=lines,
    )


def _read_mooncake(text: str, options: Options) -> RawTrace:
    columns: dict[str, list[Any]] = {"timestamp": [], "input_length": [], "output_length": []}
    lines = []
    for line, item in json_objects(text, options.path):
        for key, values in columns.items():
            values.append(item.get(key))
        lines.append(line)
    unit = options.unit_s or 1e-3
    return RawTrace(
        arrival_s=column("timestamp", columns["timestamp"], lines, options.path) * unit,
        prompt_tokens=column("input_length", columns["input_length"], lines, options.path),
        output_tokens=column("output_length", columns["output_length"], lines, options.path),
        lines=lines,
        notices=[f"timestamps taken as {unit:g} s each"],
    )


FORMATS: dict[str, Format] = {
    "canonical": Format(
        title="canonical CSV",
        read=_read_table("arrival_s", "prompt_tokens", "output_tokens"),
        columns=frozenset({"arrival_s", "prompt_tokens", "output_tokens"}),
    ),
    "azure": Format(
        title="Azure LLM trace (CSV)",
        read=_read_azure,
        columns=frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}),
    ),
    "mooncake": Format(
        title="Mooncake trace (JSONL)",
        read=_read_mooncake,
        columns=frozenset({"timestamp", "input_length", "output_length", "hash_ids"}),
    ),
}

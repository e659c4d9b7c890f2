"""Trace files: recognised by content, read, checked, and turned into requests with a report of what was done."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.io.traces_formats import FORMATS, recognised
from qmodel.io.traces_text import MAX_TOKENS, Options, RawTrace, read_text
from qmodel.scenario.requests import Requests

__all__ = ["Trace", "read_trace", "shared_data"]

MAX_SPAN_S = 1e9  # thirty years: more is a wrong unit
MEAN_GAPS_NOTED = 10  # a first request this many mean gaps after 0 is worth a line
_TIME_SCALE = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests of a trace file, with what was recognised and done.

    Parameters
    ----------
    name : str
        File name without endings.
    format : str
        Format that was recognised or asked for.
    requests : Requests
        The requests, sorted, from time 0.
    dropped : dict
        Reason to number of rows left out.
    notices : tuple of str
        Lines for the user: format, rows kept and dropped, sorting, units.
    """

    name: str
    format: str
    requests: Requests
    dropped: dict[str, int]
    notices: tuple[str, ...]


def shared_data() -> Path | None:
    """Return the folder of shared data sets: `$QMODEL_DATA`, else ``../shared/data`` beside the project, if there."""
    named = os.environ.get("QMODEL_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder if folder.is_dir() else None


def read_trace(
    path_or_frame: object, format: str = "auto", *, cached: str | None = None, time_unit: str | None = None
) -> Trace:
    """Return the requests of a trace file or data frame.

    Parameters
    ----------
    path_or_frame : str, Path or DataFrame
        File in a known format, gzipped or not, or a frame with such columns.
    format : str
        Name of the format; "auto" recognises it by content.
    cached : str, optional
        Column of prompt tokens found in a prefix cache, e.g. ``prefix_hit_lru5m``.
    time_unit : {"s", "ms", "us", "ns"}, optional
        Unit of the times, where it is to be other than the format's.

    Returns
    -------
    Trace
        Requests sorted by time and counted from the first.

    Raises
    ------
    InputError
        Names the file, line, value and limit of the first thing that cannot be used.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError("trace format", repr(format), f"auto or one of {', '.join(FORMATS)}")
    if time_unit is not None and time_unit not in _TIME_SCALE:
        raise InputError("time unit of the trace", repr(time_unit), f"one of {', '.join(_TIME_SCALE)}")
    if isinstance(path_or_frame, (str, os.PathLike)):
        path = Path(path_or_frame)
        text, label, name = read_text(path), str(path), path.name.split(".")[0] or path.name
    elif hasattr(path_or_frame, "columns") and hasattr(path_or_frame, "to_csv"):
        text, label, name = str(path_or_frame.to_csv(index=False)), "data frame", "frame"
    else:
        raise InputError("trace", f"a {type(path_or_frame).__name__}", "a path or a data frame")
    folder = Path(label).parent if isinstance(path_or_frame, (str, os.PathLike)) else None
    options = Options(path=label, folder=folder, cached=cached, unit_s=_TIME_SCALE[time_unit] if time_unit else None)
    chosen = recognised(text, label) if format == "auto" else format
    if time_unit is not None and not FORMATS[chosen].plain_times:
        limit = f"left out: times of {FORMATS[chosen].title} are in a unit of their own"
        raise InputError("time unit of the trace", repr(time_unit), limit)
    raw = FORMATS[chosen].read(text, options)
    if time_unit is not None:
        raw = replace(raw, notices=(f"times taken in {time_unit}, as asked", *raw.notices))
    return _checked(raw, chosen, name, label, cached)


def _checked(raw: RawTrace, format: str, name: str, label: str, cached: str | None) -> Trace:
    n = len(raw.arrival_s)
    if n == 0:
        why = ", ".join(f"{count:,} dropped: {reason}" for reason, count in raw.dropped.items()) or "no rows"
        raise InputError(f"trace '{label}'", f"without requests ({why})", "a trace with requests", "check the file")
    _check_tokens("prompt tokens", raw.prompt_tokens, raw, label)
    _check_tokens("output tokens", raw.output_tokens, raw, label)
    negative = np.flatnonzero(raw.arrival_s < 0)
    if len(negative):
        i = int(negative[0])
        raise InputError(f"time in '{label}', line {raw.lines[i]}", f"{raw.arrival_s[i]:.6g} s", ">= 0 s", "mend it")
    if float(np.ptp(raw.arrival_s)) > MAX_SPAN_S:
        span = f"{float(np.ptp(raw.arrival_s)):.6g} s"
        raise InputError(f"time span of '{label}'", span, f"at most {MAX_SPAN_S:g} s", "give the time unit")
    if cached and raw.cached_tokens is None:
        raise InputError("cached tokens", repr(cached), f"left out: {FORMATS[format].title} has no such column")
    notices = list(raw.notices)
    order = np.argsort(raw.arrival_s, kind="stable")
    moved = int(np.sum(np.diff(raw.arrival_s) < 0))
    if moved:
        notices.append(f"times go backwards at {moved:,} of {n:,} rows: sorted")
    arrival = raw.arrival_s[order]
    if arrival[0] > MEAN_GAPS_NOTED * (arrival[-1] - arrival[0]) / n and arrival[0] < MAX_SPAN_S:
        notices.append(f"times begin at {arrival[0]:.6g} s: counted from the first request")
    prompt = np.rint(raw.prompt_tokens[order]).astype(np.int64)
    hit = _cached(raw, prompt, order, cached, notices)
    requests = Requests.from_arrays(
        arrival - arrival[0], prompt, np.rint(raw.output_tokens[order]).astype(np.int64), hit
    )
    head = f"{label}: {FORMATS[format].title}, {n:,} requests over {requests.span_s:,.6g} s"
    for reason, count in raw.dropped.items():
        notices.insert(0, f"dropped {count:,} of {n + sum(raw.dropped.values()):,} rows: {reason}")
    return Trace(name=name, format=format, requests=requests, dropped=dict(raw.dropped), notices=(head, *notices))


def _check_tokens(what: str, tokens: Any, raw: RawTrace, label: str) -> None:
    bad = np.flatnonzero((tokens < 1) | (tokens > MAX_TOKENS) | (tokens != np.rint(tokens)))
    if len(bad):
        i = int(bad[0])
        where = f"{what} in '{label}', line {raw.lines[i]}"
        raise InputError(where, f"{tokens[i]:.15g}", f"a whole number in [1, {MAX_TOKENS:,}]", "mend or drop the line")


def _cached(raw: RawTrace, prompt: Any, order: Any, cached: str | None, notices: list[str]) -> Any:
    if raw.cached_tokens is None:
        return 0
    bad = np.flatnonzero(raw.cached_tokens < 0)
    if len(bad):
        i = int(bad[0])
        raise InputError(f"{cached} in line {raw.lines[i]}", f"{raw.cached_tokens[i]:.15g}", ">= 0 tokens")
    hit = np.floor(np.minimum(raw.cached_tokens[order], 2.0**53)).astype(np.int64)
    over = int(np.sum(hit >= prompt))
    if over:
        notices.append(f"{cached}: {over:,} prompts fully cached; their last token is computed anyway")
    return np.minimum(hit, prompt - 1)

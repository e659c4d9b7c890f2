"""Readers of CSV trace formats."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from qmodel.errors import InputError
from qmodel.io.traces_text import Options, RawTrace, column, csv_columns

__all__ = ["read_azure", "read_blis", "read_burstgpt", "read_lengths_only", "table_reader"]

BLIS_FIRST = "request_id,"


def table_reader(time: str, prompt: str, output: str, unit_s: float = 1.0) -> Callable[[str, Options], RawTrace]:
    """Return the reader of a CSV whose columns are plain numbers.

    Parameters
    ----------
    time, prompt, output : str
        Column names.
    unit_s : float
        Seconds per unit of time.
    """

    def read(text: str, options: Options) -> RawTrace:
        path, cached = options.path, options.cached
        wanted = (time, prompt, output, *([cached] if cached else []))
        raw, lines = csv_columns(text, path, wanted)
        return RawTrace(
            arrival_s=column(time, raw[time], lines, path) * (options.unit_s or unit_s),
            prompt_tokens=column(prompt, raw[prompt], lines, path),
            output_tokens=column(output, raw[output], lines, path),
            cached_tokens=column(cached, raw[cached], lines, path) if cached else None,
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


def read_azure(text: str, options: Options) -> RawTrace:
    """Return an Azure LLM inference trace of 2023 or 2024."""
    time, prompt, output = "TIMESTAMP", "ContextTokens", "GeneratedTokens"
    raw, lines = csv_columns(text, options.path, (time, prompt, output))
    start: datetime | None = None

    def since_start(value: str) -> float:
        nonlocal start
        moment, fraction = _split_timestamp(value)
        start = start or moment  # counted from the first row, so that floats keep the last decimals
        return (moment - start).total_seconds() + fraction

    limit = "a date and time such as 2023-11-16 18:15:46.6805900"
    arrival = column(time, raw[time], lines, options.path, limit, since_start)
    return RawTrace(
        arrival_s=arrival - np.min(arrival, initial=0.0),
        prompt_tokens=column(prompt, raw[prompt], lines, options.path),
        output_tokens=column(output, raw[output], lines, options.path),
        lines=lines,
    )


def read_burstgpt(text: str, options: Options) -> RawTrace:
    """Return a BurstGPT trace without its failed requests, whose response is 0 tokens."""
    time, prompt, output = "Timestamp", "Request tokens", "Response tokens"
    raw, lines = csv_columns(text, options.path, (time, prompt, output))
    response = column(output, raw[output], lines, options.path)
    kept = np.flatnonzero(response != 0)
    dropped = len(lines) - len(kept)
    return RawTrace(
        arrival_s=column(time, raw[time], lines, options.path)[kept] * (options.unit_s or 1.0),
        prompt_tokens=column(prompt, raw[prompt], lines, options.path)[kept],
        output_tokens=response[kept],
        lines=[lines[i] for i in kept],
        dropped={"failed requests, 0 response tokens": dropped} if dropped else {},
    )


def read_blis(text: str, options: Options) -> RawTrace:
    """Return the finished requests of a BLIS trace, v2 or v3, with or without its YAML header."""
    lines_before = 0
    if not text.startswith(BLIS_FIRST):
        position = text.find("\n" + BLIS_FIRST) + 1
        lines_before, text = text.count("\n", 0, position), text[position:]
    time, prompt, output = "arrival_time_us", "input_tokens", "output_tokens"
    cached = [options.cached] if options.cached else []
    raw, lines = csv_columns(text, options.path, (time, prompt, output, "status", *cached), lines_before + 1)
    kept = [i for i, status in enumerate(raw["status"]) if status.strip().lower() == "ok"]
    columns = {name: [raw[name][i] for i in kept] for name in raw}
    at, dropped = [lines[i] for i in kept], len(lines) - len(kept)
    return RawTrace(
        arrival_s=column(time, columns[time], at, options.path) * (options.unit_s or 1e-6),
        prompt_tokens=column(prompt, columns[prompt], at, options.path),
        output_tokens=column(output, columns[output], at, options.path),
        cached_tokens=column(cached[0], columns[cached[0]], at, options.path) if cached else None,
        lines=at,
        dropped={"status is not ok": dropped} if dropped else {},
    )


def read_lengths_only(text: str, options: Options) -> RawTrace:
    """Refuse a Vidur file of lengths without times, and say what to do with it."""
    raise InputError(
        f"trace '{options.path}'",
        "lengths without arrival times",
        "requests with times",
        "use Workload.poisson(rate_per_s, prompt_tokens=..., output_tokens=...) with its columns",
    )

"""Readers of JSON and JSONL trace formats, and of measured results that hold a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.io.traces_text import Options, RawTrace, column, json_objects, load_json, shown

__all__ = [
    "read_aiperf",
    "read_llmservingsim",
    "read_timed",
    "read_vllm_bench",
    "timed_reader",
]

FloatArray = npt.NDArray[np.float64]
Extract = Callable[[Mapping[str, Any]], tuple[Any, Any, Any] | str]

MILLISECOND_SPAN = 1e5  # whole numbers that span more are taken as ms: a day is 86,400 s
AIPERF_KEYS = ("text_input", "texts", "delay", "session_id")


def _extracted(
    text: str, options: Options, extract: Extract, names: tuple[str, str, str]
) -> tuple[list[FloatArray], list[int], dict[str, int]]:
    """Return time, prompt and output columns; `extract` gives a row's values, or the reason to drop it."""
    raw: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    lines: list[int] = []
    dropped: dict[str, int] = {}
    for line, item in json_objects(text, options.path):
        found = extract(item)
        if isinstance(found, str):
            dropped[found] = dropped.get(found, 0) + 1
            continue
        for values, value in zip(raw, found, strict=True):
            values.append(value)
        lines.append(line)
    return [_numbers(n, v, lines, options.path) for n, v in zip(names, raw, strict=True)], lines, dropped


def _numbers(name: str, raw: list[Any], lines: list[int], path: str) -> FloatArray:
    """Return a column as floats; whole numbers too large for floats (epoch ns) are counted from the least."""
    if raw and all(type(v) is int for v in raw) and min(raw) > 2**53:
        least = min(raw)
        raw = [v - least for v in raw]
    return column(name, raw, lines, path)


def timed_reader(time: str, prompt: str, output: str, unit_s: float) -> Callable[[str, Options], RawTrace]:
    """Return the reader of JSONL with a time column in a known unit.

    Parameters
    ----------
    time, prompt, output : str
        Keys.
    unit_s : float
        Seconds per unit of time.
    """

    def extract(item: Mapping[str, Any]) -> tuple[Any, Any, Any] | str:
        if time not in item and "delay" in item:
            return "later turns of a session, without a time"
        if prompt not in item and any(key in item for key in AIPERF_KEYS):
            return "texts without a length"
        if output not in item and any(key in item for key in AIPERF_KEYS):
            return "without an output length"
        return item.get(time), item.get(prompt), item.get(output)

    def read(text: str, options: Options) -> RawTrace:
        (at, prompts, outputs), lines, dropped = _extracted(text, options, extract, (time, prompt, output))
        return RawTrace(
            arrival_s=at * (options.unit_s or unit_s),
            prompt_tokens=prompts,
            output_tokens=outputs,
            lines=lines,
            dropped=dropped,
            notices=() if options.unit_s else (f"'{time}' taken in {_UNITS[unit_s]}",),
        )

    return read


_UNITS = {1.0: "seconds", 1e-3: "milliseconds"}


def read_timed(text: str, options: Options) -> RawTrace:
    """Return a JSONL trace whose unit of time nothing but its values tells."""
    raw = timed_reader("timestamp", "input_length", "output_length", 1.0)(text, options)
    if options.unit_s or not len(raw.arrival_s):
        return raw
    at = raw.arrival_s  # as they stand: the reader above takes them as seconds
    whole = bool(np.all(at == np.rint(at)))
    span = float(np.ptp(at))
    keys = next(json_objects(text, options.path))[1]
    millis = (whole and span > MILLISECOND_SPAN) or any(key in keys for key in AIPERF_KEYS)
    why = "whole numbers" if whole else "fractions"
    return RawTrace(
        arrival_s=at * (1e-3 if millis else 1.0),
        prompt_tokens=raw.prompt_tokens,
        output_tokens=raw.output_tokens,
        lines=raw.lines,
        dropped=raw.dropped,
        notices=(
            f"'timestamp' taken in {'milliseconds' if millis else 'seconds'} ({why} that span {span:,.6g}); "
            "if that is wrong, give the time unit",
        ),
    )


def read_llmservingsim(text: str, options: Options) -> RawTrace:
    """Return an LLMServingSim trace without its agentic lines, whose requests wait for each other."""

    def extract(item: Mapping[str, Any]) -> tuple[Any, Any, Any] | str:
        if "sub_requests" in item:
            return "agentic sessions"
        return item.get("arrival_time_ns"), item.get("input_toks"), item.get("output_toks")

    names = ("arrival_time_ns", "input_toks", "output_toks")
    (at, prompts, outputs), lines, dropped = _extracted(text, options, extract, names)
    return RawTrace(
        arrival_s=at * (options.unit_s or 1e-9),
        prompt_tokens=prompts,
        output_tokens=outputs,
        lines=lines,
        dropped=dropped,
    )


def read_aiperf(text: str, options: Options) -> RawTrace:
    """Return the requests of an aiperf or genai-perf result without those that failed."""

    def extract(item: Mapping[str, Any]) -> tuple[Any, Any, Any] | str:
        metrics, metadata = item.get("metrics"), item.get("metadata")
        if item.get("error"):
            return "failed requests"
        if not isinstance(metrics, dict) or not metrics or not isinstance(metadata, dict):
            return "without metrics"
        lengths = [metrics.get(key) for key in ("input_sequence_length", "output_sequence_length")]
        values = [length.get("value") if isinstance(length, dict) else None for length in lengths]
        return metadata.get("request_start_ns"), values[0], values[1]

    names = ("request_start_ns", "input_sequence_length", "output_sequence_length")
    (at, prompts, outputs), lines, dropped = _extracted(text, options, extract, names)
    return RawTrace(
        arrival_s=at * (options.unit_s or 1e-9),
        prompt_tokens=prompts,
        output_tokens=outputs,
        lines=lines,
        dropped=dropped,
        notices=("a measured result: lengths and start times are what the benchmark sent",),
    )


def read_vllm_bench(text: str, options: Options) -> RawTrace:
    """Return the requests of a detailed ``vllm bench serve`` result without those that made no token."""
    path = options.path
    result = load_json(text, f"trace '{path}'")
    columns = {key: result.get(key) if isinstance(result, dict) else None for key in ("input_lens", "output_lens")}
    for key, values in columns.items():
        if not isinstance(values, list) or len(values) != len(columns["input_lens"] or []):
            raise InputError(f"'{key}' of '{path}'", shown(values), "a list, one per request", "use --save-detailed")
    count = len(columns["input_lens"] or [])
    items = range(1, count + 1)
    outputs = column("output_lens", columns["output_lens"] or [], items, path)
    prompts = column("input_lens", columns["input_lens"] or [], items, path)
    at, notices = _bench_times(result, count, path)
    kept = np.flatnonzero(outputs != 0)
    dropped = count - len(kept)
    return RawTrace(
        arrival_s=at[kept],
        prompt_tokens=prompts[kept],
        output_tokens=outputs[kept],
        lines=[int(i) + 1 for i in kept],
        dropped={"failed requests, 0 output tokens": dropped} if dropped else {},
        notices=notices,
    )


def _bench_times(result: Mapping[str, Any], count: int, path: str) -> tuple[FloatArray, tuple[str, ...]]:
    """Return start times [s]: measured, or drawn again from the rate and burstiness of the benchmark."""
    starts = result.get("start_times")
    if isinstance(starts, list) and starts:
        if len(starts) != count:
            raise InputError(f"'start_times' of '{path}'", f"{len(starts)} long", f"{count}, one per request")
        at = column("start_times", starts, range(1, count + 1), path)
        return at - np.min(at), ("a measured result: lengths and start times are what the benchmark sent",)
    limit = "a finite rate > 0 [1/s], or 'start_times' in the file"
    rate = float(column("request_rate", [result.get("request_rate")], [1], path, limit)[0])
    burstiness = float(column("burstiness", [result.get("burstiness", 1.0)], [1], path)[0])
    if not rate > 0 or not burstiness > 0:
        raise InputError(f"request_rate and burstiness of '{path}'", f"{rate:g} and {burstiness:g}", "> 0")
    gaps = np.random.default_rng(0).gamma(burstiness, 1 / (rate * burstiness), count)
    return np.cumsum(gaps), (f"no start times: drawn at {rate:g}/s with burstiness {burstiness:g}, seed 0",)

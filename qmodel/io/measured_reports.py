"""Results of load generators: requests with their token times from vLLM bench, aiperf, GuideLLM and inference-perf."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.laws.measured import RequestTimes
from qmodel.units import MS

__all__ = ["aiperf_requests", "guidellm_requests", "inference_perf_requests", "vllm_requests"]

Found = tuple[RequestTimes, list[str]]
Row = tuple[float, float, float, float, np.ndarray[Any, Any]]  # start [s], prompt, output, TTFT [s], gaps [s]

NS = 1e-9
_HUGE = 1e20  # above an epoch in nanoseconds
_MOST_TOKENS = 2**20  # of one output; more is another column
_VLLM = ("input_lens", "output_lens", "ttfts", "itls")
_AIPERF = ("input_sequence_length", "output_sequence_length", "time_to_first_token", "inter_token_latency")
_MEANS = "token times are each request's mean"


def vllm_requests(file: Path, result: Mapping[str, Any]) -> Found:
    """Return the requests of a vLLM ``bench serve`` result saved with ``--save-detailed``, without those that failed.

    Parameters
    ----------
    file : Path
        For messages.
    result : mapping
        Parsed file: ``input_lens``, ``output_lens`` [tokens], ``ttfts`` [s], ``itls`` [s], ``start_times`` [s] if new.
    """
    missing = [name for name in _VLLM if name not in result]
    if missing:
        raise InputError(f"arrays of '{file}'", f"without {', '.join(missing)}", "saved with --save-detailed")
    clocked = bool(result.get("start_times"))
    columns = [result[name] for name in (*_VLLM, *(["start_times"] if clocked else []))]
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        raise InputError(f"arrays of '{file}'", "of different lengths", "lists of equal length")
    rows: list[Row | None] = []
    for prompt, output, ttft, gaps, *start in zip(*columns, strict=True):
        at, prompts, outputs, first_s = _floats(file, [*(start or [0.0]), prompt, output, ttft])
        rows.append((at, prompts, outputs, first_s, _floats(file, gaps)))  # a failed request has a TTFT of 0
    requests, notes = _collected(file, rows, 0, [])
    return (requests if clocked else replace(requests, start_s=np.zeros(0))), notes


def aiperf_requests(file: Path, text: str) -> Found:
    """Return the requests of an aiperf ``profile_export.jsonl`` without those that failed.

    Parameters
    ----------
    file : Path
        For messages.
    text : str
        Its content: one object a line, times in ms and epoch ns.
    """
    rows: list[Row | None] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("metrics"), dict):
            raise InputError(f"line {number} of '{file}'", "not an aiperf record", "an object with metrics")
        rows.append(_aiperf_row(file, entry))
    return _collected(file, rows, 0, [_MEANS])


def _aiperf_row(file: Path, entry: Mapping[str, Any]) -> Row | None:
    metrics = entry["metrics"]
    if entry.get("error") or "time_to_first_token" not in metrics:
        return None
    values = [_object(metrics.get(name)).get("value", 0.0) for name in _AIPERF]
    start_ns = _object(entry.get("metadata")).get("request_start_ns", 0)
    start, prompt, output, ttft_ms, gap_ms = _floats(file, [start_ns, *values])
    return start * NS, prompt, output, ttft_ms * MS, _even(output, gap_ms)


def guidellm_requests(file: Path, report: Mapping[str, Any]) -> Found:
    """Return the successful requests of a GuideLLM ``benchmarks.json``, all its benchmarks one after another.

    Parameters
    ----------
    file : Path
        For messages.
    report : mapping
        Parsed file: ``benchmarks``, each with ``requests.successful``; times in ms, starts in s.
    """
    benchmarks = report.get("benchmarks")
    if not isinstance(benchmarks, list):
        raise InputError(f"'benchmarks' of '{file}'", type(benchmarks).__name__, "a list")
    rows: list[Row | None] = []
    failed = 0
    for benchmark in benchmarks:
        requests = benchmark.get("requests") if isinstance(benchmark, dict) else None
        if not isinstance(requests, dict):
            continue
        failed += sum(len(requests.get(name) or ()) for name in ("errored", "incomplete"))
        rows += [_guidellm_row(file, entry) for entry in requests.get("successful") or ()]
    return _collected(file, rows, failed, [_MEANS])


def _guidellm_row(file: Path, entry: Any) -> Row | None:
    if not isinstance(entry, dict):
        return None
    start = entry.get("request_start_time", entry.get("start_time"))
    names = ("prompt_tokens", "output_tokens", "time_to_first_token_ms")
    values = [start, *(entry.get(name) for name in names)]
    if any(value is None for value in values):
        return None
    start, prompt, output, ttft_ms, gap_ms = _floats(file, [*values, entry.get("inter_token_latency_ms") or 0.0])
    return start, prompt, output, ttft_ms * MS, _even(output, gap_ms)


def _even(output: float, gap_ms: float) -> np.ndarray[Any, Any]:
    """Return the times between a request's tokens [s] where only their mean is known."""
    return np.full(int(output) - 1 if 1 <= output <= _MOST_TOKENS else 0, gap_ms * MS)


def inference_perf_requests(file: Path, entries: Sequence[Any]) -> Found:
    """Return the requests of an inference-perf ``per_request_lifecycle_metrics.json`` without those that failed.

    Parameters
    ----------
    file : Path
        For messages.
    entries : sequence
        Parsed file: one object a request, with ``start_time`` [s], ``info`` (token counts and ``output_token_times``
        [s], in one object or under ``request_metrics`` and ``response_metrics``) and ``error``.
    """
    rows = [_inference_perf_row(file, entry) for entry in entries]
    return _collected(file, rows, 0, [])


def _inference_perf_row(file: Path, entry: Any) -> Row | None:
    if not isinstance(entry, dict) or entry.get("error"):
        return None
    info = _object(entry.get("info"))
    asked, answered = _object(info.get("request_metrics")), _object(info.get("response_metrics"))
    prompt = info.get("input_tokens", _object(asked.get("text")).get("input_tokens"))
    output = info.get("output_tokens", answered.get("output_tokens"))
    times = info.get("output_token_times", answered.get("output_token_times"))
    if prompt is None or entry.get("start_time") is None or not isinstance(times, list) or not times:
        return None
    start, prompt, output, *at = _floats(file, [entry["start_time"], prompt, output or len(times), *times])
    return start, prompt, output, at[0] - start, np.diff(at)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _floats(file: Path, values: Any) -> np.ndarray[Any, Any]:
    try:
        found = np.array(values, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"requests of '{file}'", str(error), "numbers") from None
    if found.ndim != 1:
        raise InputError(
            f"requests of '{file}'", "a value in place of a list, or a list in place of a value", "numbers"
        )
    if not np.all(np.abs(found) <= _HUGE):
        raise InputError(f"requests of '{file}'", "a number that is not finite or huge", "times and token counts")
    return found


def _collected(file: Path, rows: Sequence[Row | None], failed: int, notes: list[str]) -> Found:
    """Return the usable rows as arrays; a request without a token, or with times that go backwards, is left out."""
    good = [
        row
        for row in rows
        if row and row[1] >= 1 and 1 <= row[2] <= _MOST_TOKENS and row[3] > 0 and bool(np.all(row[4] >= 0))
    ]
    failed += len(rows) - len(good)
    if not good:
        raise InputError(f"requests of '{file}'", "none that can be used", "at least one with its first token's time")
    start, prompt, output, ttft = (np.array([row[at] for row in good]) for at in range(4))
    requests = RequestTimes(
        start_s=start - start.min(),
        prompt_tokens=prompt,
        output_tokens=output,
        ttft_s=ttft,
        itl_s=tuple(row[4] for row in good),
    )
    return requests, [*notes, *([f"{failed} failed requests left out"] if failed else [])]

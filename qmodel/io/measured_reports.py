"""Reports of GuideLLM and inference-perf: requests with their token times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.laws.measured import RequestTimes
from qmodel.units import MS

__all__ = ["guidellm_requests", "inference_perf_requests"]

Found = tuple[RequestTimes, list[str]]
Row = tuple[float, float, float, float, np.ndarray[Any, Any]]  # start [s], prompt, output, TTFT [s], gaps [s]


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
    return _collected(file, rows, failed, ["token times are each request's mean"])


def _guidellm_row(file: Path, entry: Any) -> Row | None:
    if not isinstance(entry, dict):
        return None
    start = entry.get("request_start_time", entry.get("start_time"))
    names = ("prompt_tokens", "output_tokens", "time_to_first_token_ms")
    values = [start, *(entry.get(name) for name in names)]
    if any(value is None for value in values):
        return None
    start, prompt, output, ttft_ms, gap_ms = _floats(file, [*values, entry.get("inter_token_latency_ms") or 0.0])
    return start, prompt, output, ttft_ms * MS, np.full(max(0, int(output) - 1), gap_ms * MS)


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


def _floats(file: Path, values: Iterable[Any]) -> list[float]:
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"requests of '{file}'", str(error), "numbers") from None
    if not np.all(np.isfinite(found)) or max(map(abs, found)) > 1e15:
        raise InputError(f"requests of '{file}'", "a number that is not finite or huge", "times and token counts")
    return found


def _collected(file: Path, rows: Sequence[Row | None], failed: int, notes: list[str]) -> Found:
    """Return the usable rows as arrays; a request without a token, or with times that go backwards, is left out."""
    good = [
        row for row in rows if row and row[1] >= 1 and 1 <= row[2] <= 1e8 and row[3] > 0 and bool(np.all(row[4] >= 0))
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

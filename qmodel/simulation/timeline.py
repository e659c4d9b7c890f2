"""A run as a timeline for Perfetto or chrome://tracing: what every instance did, request by request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from qmodel.errors import InputError
from qmodel.simulation.result import SimulationResult

__all__ = ["trace_events", "trace_json"]

# Rows of an instance, top to bottom; requests in a stage at the same time lie in rows of their own.
STAGES = ("queue", "prefill", "hosted prefill", "transfer", "admission", "decode")
_ROWS = 1000  # thread numbers of a stage: at most so many rows, more than a batch of any engine
_US = 1e6


class _Slice(NamedTuple):
    begin_us: float
    end_us: float
    unit: int
    stage: str
    request: int


def trace_events(result: SimulationResult, start_s: float = 0.0, end_s: float = np.inf) -> list[dict[str, Any]]:
    """Return the requests that live in a time window as events of the Trace Event Format, times in microseconds.

    Every instance is a process whose threads are rows of a stage: waiting, prefill, transfer (at its receiver),
    admission and decode. Each stage of a request is a complete event ("X"); a flow arrow ("s", "f") leads from a
    prefill to the transfer of its cache; counters ("C") tell how many requests an instance has in each stage.

    Parameters
    ----------
    result : SimulationResult
        The run.
    start_s, end_s : float, optional
        Window [s]; requests that finish before or arrive after it are left out.

    Returns
    -------
    list of dict
        Metadata ("M") first, then all others in order of time.

    Raises
    ------
    InputError
        When the window is empty.
    """
    if not start_s < end_s:
        raise InputError("window", f"{start_s} to {end_s}", "start before end [s]")
    chosen = np.flatnonzero((result.columns["finish_s"] > start_s) & (result.columns["arrival_s"] < end_s))
    slices = sorted(piece for r in chosen for piece in _slices(result, int(r)))
    events: list[dict[str, Any]] = []
    threads: dict[tuple[int, int], str] = {}
    sent: dict[int, dict[str, Any]] = {}
    free: dict[tuple[int, str], list[float]] = {}
    for piece in slices:
        row = _free_row(free.setdefault((piece.unit, piece.stage), []), piece)
        tid = STAGES.index(piece.stage) * _ROWS + row + 1
        threads[piece.unit, tid] = f"{piece.stage} {row + 1}"
        event = {
            "ph": "X", "name": f"request {piece.request}", "cat": piece.stage, "pid": piece.unit + 1, "tid": tid,
            "ts": piece.begin_us, "dur": round(piece.end_us - piece.begin_us, 3), "args": _about(result, piece.request),
        }  # fmt: skip
        events.append(event)
        if piece.stage == "prefill":
            sent[piece.request] = event
        elif piece.stage == "transfer" and piece.request in sent:
            events += _arrow(sent[piece.request], event, piece.request)
    events += _counters(slices)
    return [*_names(result, threads), *sorted(events, key=lambda event: event["ts"])]


def _slices(result: SimulationResult, r: int) -> Iterator[_Slice]:
    """Yield the stages that a request passed, without those that took no time."""
    c = result.columns
    prefill_units = int((result.units["pool"] == "prefill").sum())
    deflected, decode = bool(c["deflected"][r]), prefill_units + int(c["decode_instance"][r])
    first = decode if deflected else int(c["prefill_instance"][r])
    at = float(c["arrival_s"][r])
    ends = [("queue", first, at + float(c["queue_s"][r]))]
    ends.append(("hosted prefill" if deflected else "prefill", first, ends[-1][2] + float(c["prefill_s"][r])))
    ends.append(("transfer", decode, ends[-1][2] + float(c["transfer_s"][r])))
    ends.append(("admission", decode, ends[-1][2] + float(c["admission_s"][r])))
    ends.append(("decode", decode, float(c["finish_s"][r])))
    for stage, unit, end in ends:
        begin_us, end_us = round(_US * at, 3), round(_US * end, 3)
        if end_us > begin_us and c["decode_instance"][r] >= -(stage in ("queue", "prefill")):
            yield _Slice(begin_us, end_us, unit, stage, r)
        at = max(at, end)


def _free_row(rows: list[float], piece: _Slice) -> int:
    """Return the first row that is free when a slice begins, and mark it busy until the slice ends."""
    for row, until in enumerate(rows):
        if until <= piece.begin_us:
            rows[row] = piece.end_us
            return row
    rows.append(piece.end_us)
    return len(rows) - 1


def _about(result: SimulationResult, r: int) -> dict[str, Any]:
    c = result.columns
    names = ("prompt_tokens", "output_tokens", "cached_tokens", "preemptions", "restarts", "tbt_violations")
    return {name: int(c[name][r]) for name in names} | {"ttft_ms": round(1e3 * float(c["ttft_s"][r]), 3)}


def _arrow(source: dict[str, Any], target: dict[str, Any], request: int) -> list[dict[str, Any]]:
    """Return a flow from the end of one slice to the start of another; both ends lie inside their slices."""
    flow = {"name": "KV cache", "cat": "transfer", "id": request}
    leaves = source["ts"] + source["dur"] - min(1.0, 0.5 * source["dur"])
    enters = target["ts"] + min(1.0, 0.5 * target["dur"])
    return [
        {**flow, "ph": "s", "pid": source["pid"], "tid": source["tid"], "ts": round(leaves, 4)},
        {**flow, "ph": "f", "bp": "e", "pid": target["pid"], "tid": target["tid"], "ts": round(enters, 4)},
    ]


def _counters(slices: list[_Slice]) -> list[dict[str, Any]]:
    """Return how many requests an instance has in each stage, at every change."""
    changes = sorted(
        change
        for piece in slices
        for change in (
            (piece.begin_us, piece.unit, piece.stage, 1),
            (piece.end_us, piece.unit, piece.stage, -1),
        )
    )
    held: dict[int, dict[str, int]] = {}
    for piece in slices:
        held.setdefault(piece.unit, {})[piece.stage] = 0
    latest: dict[tuple[float, int], dict[str, int]] = {}
    for time, unit, stage, step in changes:
        counts = held[unit]
        counts[stage] += step
        latest[time, unit] = dict(counts)
    return [
        {"ph": "C", "name": "requests", "pid": unit + 1, "tid": 0, "ts": time, "args": counts}
        for (time, unit), counts in latest.items()
    ]


def _names(result: SimulationResult, threads: dict[tuple[int, int], str]) -> list[dict[str, Any]]:
    """Return names and order of processes and threads."""
    events: list[dict[str, Any]] = []

    def note(kind: str, unit: int, tid: int, **about: Any) -> None:
        events.append({"ph": "M", "name": kind, "pid": unit + 1, "tid": tid, "ts": 0, "args": about})

    for unit, (pool, number) in enumerate(zip(result.units["pool"], result.units["instance"], strict=True)):
        note("process_name", unit, 0, name=f"{pool} {number}")
        note("process_sort_index", unit, 0, sort_index=unit)
    for (unit, tid), name in sorted(threads.items()):
        note("thread_name", unit, tid, name=name)
        note("thread_sort_index", unit, tid, sort_index=tid)
    return events


def trace_json(result: SimulationResult, start_s: float = 0.0, end_s: float = np.inf) -> str:
    """Return the timeline as JSON text that Perfetto and chrome://tracing open; parameters as in `trace_events`.

    Parameters
    ----------
    result : SimulationResult
        The run.
    start_s, end_s : float, optional
        Window [s].
    """
    about = {"policy": result.policy, "requests": result.count}
    document = {"traceEvents": trace_events(result, start_s, end_s), "displayTimeUnit": "ms", "otherData": about}
    return json.dumps(document)

"""A run as a timeline for Perfetto or chrome://tracing: what every instance did, request by request."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.simulation.result import SimulationResult

__all__ = ["trace_events", "trace_json"]

_US = 1e6


def trace_events(result: SimulationResult, start_s: float = 0.0, end_s: float = np.inf) -> list[dict[str, Any]]:
    """Return Chrome trace events (times in microseconds) of the requests that live in a time window.

    Every instance is a process. A request is an asynchronous slice in each stage it passes: waiting and prefill at
    its prefill instance (or at the decode instance that hosts it), transfer and admission, decode.

    Parameters
    ----------
    result : SimulationResult
        The run.
    start_s, end_s : float, optional
        Window [s]; requests that finish before or arrive after it are left out.

    Returns
    -------
    list of dict
        Events of the Trace Event Format: metadata, then begin and end of each slice.

    Raises
    ------
    InputError
        When the window is empty.
    """
    if not start_s < end_s:
        raise InputError("window", f"{start_s} to {end_s}", "start before end [s]")
    c = result.columns
    pools = result.units["pool"]
    names = [f"{pool} {number}" for pool, number in zip(pools, result.units["instance"], strict=True)]
    prefill = int((pools == "prefill").sum())
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": u, "args": {"name": name}} for u, name in enumerate(names)
    ]
    for r in np.flatnonzero((c["finish_s"] > start_s) & (c["arrival_s"] < end_s)):
        deflected = bool(c["deflected"][r])
        decode = prefill + int(c["decode_instance"][r])
        first = decode if deflected else int(c["prefill_instance"][r])
        begun = c["arrival_s"][r] + c["queue_s"][r]
        prefilled = begun + c["prefill_s"][r]
        landed = prefilled + c["transfer_s"][r]
        admitted = landed + c["admission_s"][r]
        stages = [
            ("queue", first, c["arrival_s"][r], begun),
            ("hosted prefill" if deflected else "prefill", first, begun, prefilled),
            ("transfer", decode, prefilled, landed),
            ("admission", decode, landed, admitted),
            ("decode", decode, admitted, c["finish_s"][r]),
        ]
        about = {
            "prompt_tokens": int(c["prompt_tokens"][r]),
            "output_tokens": int(c["output_tokens"][r]),
            "ttft_ms": round(1e3 * float(c["ttft_s"][r]), 3),
        }
        for stage, unit, begin, end in stages:
            if end <= begin or unit < 0:
                continue
            base = {"cat": stage, "name": f"{stage} {r}", "id": f"{stage}-{r}", "pid": unit, "tid": 0}
            events.append({**base, "ph": "b", "ts": _US * float(begin), "args": about})
            events.append({**base, "ph": "e", "ts": _US * float(end)})
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
    return json.dumps({"traceEvents": trace_events(result, start_s, end_s), "displayTimeUnit": "ms"})

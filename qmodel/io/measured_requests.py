"""Results of load generators: requests with their token times, and the steps that they imply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.laws.measured import DecodeTimes, PromptTimes, RequestTimes
from qmodel.units import MS

__all__ = ["aiperf_requests", "steps_of_moments", "steps_of_requests", "vllm_requests"]

Array = npt.NDArray[np.float64]

NS = 1e-9
_BINS = 24  # of batch, and of prompt length, on a log scale


def vllm_requests(file: Path, result: dict[str, Any]) -> tuple[RequestTimes, list[str]]:
    """Return the requests of a vLLM ``bench serve`` result saved with ``--save-detailed``.

    Parameters
    ----------
    file : Path
        For messages.
    result : dict
        Parsed file: ``input_lens``, ``output_lens`` [tokens], ``ttfts`` [s], ``itls`` [s], ``start_times`` [s] if new.
    """
    missing = [name for name in ("input_lens", "output_lens", "ttfts", "itls") if name not in result]
    if missing:
        raise InputError(f"arrays of '{file}'", f"without {', '.join(missing)}", "saved with --save-detailed")
    sizes = {len(result[name]) for name in ("input_lens", "output_lens", "ttfts", "itls")}
    if len(sizes) != 1:
        raise InputError(f"arrays of '{file}'", "of different lengths", "of equal length")
    try:
        itls = [np.asarray(row, dtype=float) for row in result["itls"]]
        prompt, output, ttft = (np.asarray(result[n], dtype=float) for n in ("input_lens", "output_lens", "ttfts"))
        start = np.asarray(result.get("start_times", []), dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"arrays of '{file}'", str(error), "numbers") from None
    good = (ttft > 0) & (prompt > 0) & np.array([bool(np.all(x >= 0)) for x in itls])  # failed requests have ttft 0
    notes = [f"{int((~good).sum())} failed requests left out"] if not good.all() else []
    if not good.any():
        raise InputError(f"requests of '{file}'", "all failed", "with a time to first token")
    start = start[good] - start[good].min() if len(start) == len(good) else np.zeros(0)
    kept = tuple(x for x, keep in zip(itls, good, strict=True) if keep)
    requests = RequestTimes(
        start_s=start, prompt_tokens=prompt[good], output_tokens=output[good], ttft_s=ttft[good], itl_s=kept
    )
    return requests, notes


def aiperf_requests(file: Path, text: str) -> tuple[RequestTimes, list[str]]:
    """Return the requests of an aiperf ``profile_export.jsonl``; lines with an error are left out.

    Parameters
    ----------
    file : Path
        For messages.
    text : str
        Its content: one object a line, times in ms and epoch ns.
    """
    rows: list[tuple[float, ...]] = []
    failed = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            metrics = entry["metrics"]
        except (ValueError, RecursionError, KeyError, TypeError):
            raise InputError(f"line {number} of '{file}'", "not an aiperf record", "an object with metrics") from None
        if entry.get("error") or "time_to_first_token" not in metrics:
            failed += 1
            continue
        values = {name: float(metrics.get(name, {}).get("value", 0.0)) for name in _AIPERF}
        start = float(entry.get("metadata", {}).get("request_start_ns", 0)) * NS
        rows.append((start, *values.values()))
    if not rows:
        raise InputError(f"requests of '{file}'", "none that succeeded", "at least one")
    start, prompt, output, ttft, itl = np.array(rows).T
    tokens = [np.full(max(0, int(o) - 1), gap * MS) for o, gap in zip(output, itl, strict=True)]
    requests = RequestTimes(
        start_s=start - start.min(), prompt_tokens=prompt, output_tokens=output, ttft_s=ttft * MS, itl_s=tuple(tokens)
    )
    notes = ["token times are each request's mean"] + ([f"{failed} failed requests left out"] if failed else [])
    return requests, notes


_AIPERF = ("input_sequence_length", "output_sequence_length", "time_to_first_token", "inter_token_latency")


def steps_of_requests(requests: RequestTimes, tp: int) -> tuple[DecodeTimes, PromptTimes, list[str]]:
    """Return the decode steps and unqueued prompt phases that timed requests imply.

    A time between tokens is one engine step; its batch is the number of requests between first and last token at
    that moment. Steps are binned by batch and their median taken, which sets aside the few that host a prompt. A
    prompt is unqueued when no earlier request still waited for its first token.

    Parameters
    ----------
    requests : RequestTimes
        Requests of one instance.
    tp : int
        GPUs of that instance.
    """
    r = requests
    if not len(r.start_s):
        return _without_clock(r, tp)
    batch, context, gaps = steps_of_moments(r)
    return _binned(batch, context, gaps, tp), _unqueued(r, r.start_s + r.ttft_s, tp), []


def steps_of_moments(r: RequestTimes) -> tuple[Array, Array, Array]:
    """Return batch, tokens of context and duration [s] of the step behind every time between tokens.

    Parameters
    ----------
    r : RequestTimes
        Requests of one instance, with start times.
    """
    first = r.start_s + r.ttft_s
    token_times = [f + np.cumsum(gaps) for f, gaps in zip(first, r.itl_s, strict=True)]
    gaps = np.concatenate([*r.itl_s, np.zeros(0)])
    ends = np.concatenate([*token_times, np.zeros(0)])
    last = np.array([t[-1] if len(t) else f for t, f in zip(token_times, first, strict=True)])
    middle = ends - gaps / 2
    good = gaps > 0
    return _active(first, last, middle)[good], _resident(r, first, last, ends, middle)[good], gaps[good]


def _active(first: Array, last: Array, at: Array) -> Array:
    started = np.searchsorted(np.sort(first), at, side="right")
    ended = np.searchsorted(np.sort(last), at, side="left")
    return np.asarray(np.maximum(1.0, started - ended), dtype=np.float64)


def _resident(r: RequestTimes, first: Array, last: Array, ends: Array, at: Array) -> Array:
    """Return the tokens of context of the requests in decode at each moment."""
    tokens = r.prompt_tokens + np.array([len(x) for x in r.itl_s])
    times = np.concatenate([first, ends, last])
    change = np.concatenate([r.prompt_tokens, np.ones(len(ends)), -tokens])
    order = np.argsort(times, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(change[order])])
    return np.asarray(np.maximum(1.0, total[np.searchsorted(times[order], at, side="right")]))


def _bins(values: Array) -> npt.NDArray[np.intp]:
    edges = np.unique(np.geomspace(values.min(), values.max() * 1.0001, _BINS + 1))
    return np.searchsorted(edges, values, side="right")


def _binned(batch: Array, context: Array, gaps: Array, tp: int) -> DecodeTimes:
    if not len(gaps):
        return DecodeTimes(tp=gaps, batch=gaps, context=gaps, time_s=gaps, peak=gaps)
    bins = _bins(batch)
    groups = [bins == i for i in np.unique(bins)]
    columns = [
        np.array([f(x[g]) for g in groups]) for f, x in ((np.mean, batch), (np.mean, context), (np.median, gaps))
    ]
    b, k, t = columns
    return DecodeTimes(tp=np.full(len(groups), float(tp)), batch=b, context=k, time_s=t, peak=k)


def _unqueued(r: RequestTimes, first: Array, tp: int) -> PromptTimes:
    order = np.argsort(r.start_s, kind="stable")
    before = np.concatenate([[-np.inf], np.maximum.accumulate(first[order])[:-1]])
    alone = order[r.start_s[order] >= before]
    ones = np.ones(len(alone))
    length = r.prompt_tokens[alone]
    return PromptTimes(tp=tp * ones, prompts=ones, tokens=length, time_s=r.ttft_s[alone], peak=length)


def _without_clock(r: RequestTimes, tp: int) -> tuple[DecodeTimes, PromptTimes, list[str]]:
    """Return one prompt point per length bin; without start times the batch of a step is unknown."""
    bins = _bins(r.prompt_tokens)
    groups = [bins == i for i in np.unique(bins)]
    tokens = np.array([r.prompt_tokens[g].mean() for g in groups])
    fastest = np.array([np.quantile(r.ttft_s[g], 0.1) for g in groups])
    ones = np.ones(len(groups))
    none = np.zeros(0)
    note = "no start times: prompt times are the fastest tenth of each length, decode batches are unknown"
    prompt = PromptTimes(tp=tp * ones, prompts=ones, tokens=tokens, time_s=fastest, peak=tokens)
    return DecodeTimes(tp=none, batch=none, context=none, time_s=none, peak=none), prompt, [note]

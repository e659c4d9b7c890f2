"""The decode steps and prompt phases that timed requests of one instance imply."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qmodel.laws.measured import DecodeTimes, PromptTimes, RequestTimes

__all__ = ["steps_of_moments", "steps_of_requests"]

Array = npt.NDArray[np.float64]

_BINS = 24  # of batch, and of prompt length, on a log scale


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

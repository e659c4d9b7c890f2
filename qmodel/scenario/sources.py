"""Where requests come from: a recorded trace or a Poisson stream; each draws arrivals, lengths and windows.

A source knows its own clock only; `Workload` scales time. All arrays are treated as read-only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.scenario.requests import Requests

__all__ = ["JointLengths", "LengthLaw", "PoissonSource", "Source", "TraceSource", "WorkOf", "window_starts"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
JointLengths = tuple[IntArray, IntArray, IntArray, FloatArray]
WorkOf = Callable[[FloatArray, FloatArray], FloatArray]

BOOTSTRAP_BLOCKS = 8  # a trace is prolonged by eighths of itself: minutes of drift stay together
DEFAULT_COUNT = 20_000
MAX_JOINT_POINTS = 200_000
MAX_WINDOWS = 10_000_000


class Source(Protocol):
    """What `Workload` needs from a source of requests."""

    @property
    def kind(self) -> str:
        """One of "trace", "windows" or "poisson"."""
        ...

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate [1/s]."""
        ...

    @property
    def span_s(self) -> float:
        """Time after which the source repeats, or that its default number of requests takes [s]."""
        ...

    @property
    def default_count(self) -> int:
        """Requests drawn when no number is given."""
        ...

    def draw(self, count: int, phase: float, rng: np.random.Generator) -> Requests:
        """Return `count` requests from `phase` (a share of the span) on."""
        ...

    def lengths(self) -> JointLengths:
        """Return the joint law of (prompt, output, cached) tokens with its weights."""
        ...

    def windows(self, work_of: WorkOf, width_s: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return window starts [s], arrivals [1/s] and work [s/s] over one span."""
        ...

    def model(self) -> dict[str, Any]:
        """Return a compact model as plain JSON values."""
        ...

    def digest(self) -> str:
        """Return a sha256 of the source's content."""
        ...


def window_starts(span_s: float, width_s: float) -> FloatArray:
    """Return the starts of equal windows that cover a span exactly.

    Parameters
    ----------
    span_s : float
        Time to cover [s].
    width_s : float
        Wished width [s]; the nearest that divides the span is taken.

    Returns
    -------
    ndarray
        Starts [s].
    """
    if not (np.isfinite(width_s) and width_s > 0):
        raise InputError("window width", width_s, "finite and > 0 [s]", "give e.g. width_s=60.0")
    if span_s / width_s > MAX_WINDOWS:
        raise InputError("window width", width_s, f">= {span_s / MAX_WINDOWS:.3g} s", "choose wider windows")
    count = max(1, round(span_s / width_s))
    return np.arange(count, dtype=np.float64) * (span_s / count)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceSource:
    """Requests as recorded, repeated in a circle.

    Parameters
    ----------
    requests : Requests
        The trace, its first arrival near 0.
    """

    requests: Requests

    @property
    def kind(self) -> str:
        """Always "trace"."""
        return "trace"

    @property
    def rate_per_s(self) -> float:
        """(n - 1) arrivals over the time between first and last [1/s]."""
        return len(self.requests) / self.span_s

    @property
    def span_s(self) -> float:
        """Period of the circle [s]: from first to last arrival, plus one mean gap."""
        t, n = self.requests.arrival_s, len(self.requests)
        if t[-1] <= t[0]:
            raise InputError("time span of the trace", "0 s", "> 0 s", "give a trace with two or more arrival times")
        return float((t[-1] - t[0]) * n / (n - 1))

    @property
    def default_count(self) -> int:
        """Every request of the trace."""
        return len(self.requests)

    def draw(self, count: int, phase: float, rng: np.random.Generator) -> Requests:
        """Return the trace turned by `phase`, prolonged by blocks drawn from it with `rng`."""
        trace, n = self.requests, len(self.requests)
        if phase == 0 and count <= n:
            return _taken(trace, trace.arrival_s[:count], np.arange(count))
        span, start = self.span_s, float(trace.arrival_s[0])
        t = np.concatenate([trace.arrival_s, trace.arrival_s + span]) - start
        first = int(np.searchsorted(t[:n], phase * span))
        rows, times, have, end = [np.arange(first, first + n)], [t[first : first + n] - phase * span], n, span
        block = span / BOOTSTRAP_BLOCKS
        while have < count:
            begin = rng.random() * span
            low, high = np.searchsorted(t, [begin, begin + block])
            rows.append(np.arange(low, high))
            times.append(t[low:high] - begin + end)
            have, end = have + int(high - low), end + block
        index = np.concatenate(rows)[:count] % n
        return _taken(trace, np.concatenate(times)[:count], index)

    def lengths(self) -> JointLengths:
        """Return the requests' tokens, equally weighted."""
        r, n = self.requests, len(self.requests)
        return r.prompt_tokens, r.output_tokens, r.cached_tokens, np.full(n, 1.0 / n)

    def windows(self, work_of: WorkOf, width_s: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return arrivals and work counted in equal windows over the trace."""
        r, span = self.requests, self.span_s
        start = window_starts(span, width_s)
        width = span / len(start)
        cell = np.minimum(((r.arrival_s - r.arrival_s[0]) / width).astype(np.int64), len(start) - 1)
        work = work_of(r.prompt_tokens.astype(float), r.cached_tokens.astype(float))
        counts = np.bincount(cell, minlength=len(start)) / width
        return start, counts, np.bincount(cell, weights=work, minlength=len(start)) / width

    def model(self) -> dict[str, Any]:
        """Return a windowed model fitted to the trace."""
        from qmodel.scenario.window_fit import fit_windows

        return fit_windows(self.requests).model()

    def digest(self) -> str:
        """Return a sha256 of every column."""
        sha = hashlib.sha256(b"trace")
        for name in ("arrival_s", "prompt_tokens", "output_tokens", "cached_tokens", "slo_class"):
            sha.update(np.ascontiguousarray(getattr(self.requests, name)).tobytes())
        return sha.hexdigest()


def _taken(trace: Requests, arrival_s: FloatArray, index: IntArray) -> Requests:
    return Requests(
        arrival_s=arrival_s,
        prompt_tokens=trace.prompt_tokens[index],
        output_tokens=trace.output_tokens[index],
        cached_tokens=trace.cached_tokens[index],
        slo_class=trace.slo_class[index],
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LengthLaw:
    """A law of token counts on finitely many values.

    Parameters
    ----------
    values : ndarray of int
        Tokens, >= 1, strictly increasing.
    weights : ndarray of float
        Probabilities, > 0, summing to 1.
    """

    values: IntArray
    weights: FloatArray

    def __post_init__(self) -> None:
        if len(self.values) == 0 or np.any(self.values < 1) or np.any(np.diff(self.values) <= 0):
            raise InputError("values of a length law", "empty, below 1 or not increasing", "increasing and >= 1")
        w = self.weights
        if w.shape != self.values.shape or not (np.all(w >= 0) and abs(float(np.sum(w)) - 1) <= 1e-9):
            raise InputError("weights of a length law", "not one per value or not summing to 1", "probabilities")

    @classmethod
    def of(cls, spec: Any, name: str) -> LengthLaw:
        """Return the law that a number, samples or a (values, weights) tuple describes.

        Parameters
        ----------
        spec : float, array_like or tuple
            Tokens; parts of a token are rounded.
        name : str
            What the law is about, for messages.

        Returns
        -------
        LengthLaw
            Values merged and sorted.

        Raises
        ------
        InputError
            When a value is below 1 token or not finite, or weights are negative, all zero or too few.
        """
        try:
            paired = isinstance(spec, tuple) and len(spec) == 2 and all(np.ndim(part) == 1 for part in spec)
            raw, given = spec if paired else (spec, None)
            values = np.asarray(raw, dtype=np.float64).reshape(-1)
            weights = np.ones(len(values)) if given is None else np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(name, type(spec).__name__, "a number, samples or (values, weights)") from error
        if len(values) == 0 or not np.all(np.isfinite(values)) or np.min(values) < 1 or np.max(values) > 2**53:
            bad = "empty" if len(values) == 0 else float(values[np.argmin(values)])
            raise InputError(name, bad, "finite and >= 1 token", "drop or mend such values")
        if weights.shape != values.shape or not np.all(np.isfinite(weights)) or np.any(weights < 0):
            raise InputError(f"weights of {name}", "negative, not finite or not one per value", "one >= 0 per value")
        if not np.sum(weights) > 0:
            raise InputError(f"sum of weights of {name}", float(np.sum(weights)), "> 0")
        merged, inverse = np.unique(np.rint(values).astype(np.int64), return_inverse=True)
        total = np.bincount(inverse.reshape(-1), weights=weights)
        return cls(values=merged[total > 0], weights=total[total > 0] / np.sum(total))

    def quantile(self, u: FloatArray) -> IntArray:
        """Return the smallest value whose cumulative probability exceeds each `u` in [0, 1)."""
        edge = np.cumsum(self.weights)
        return self.values[np.minimum(np.searchsorted(edge, u, side="right"), len(edge) - 1)]

    def reduced(self, points: int) -> LengthLaw:
        """Return the law on at most `points` values, the medians of strata of equal probability."""
        if len(self.values) <= points:
            return self
        return LengthLaw.of(self.quantile((np.arange(points) + 0.5) / points), "lengths")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoissonSource:
    """Poisson arrivals with independent prompt and output lengths.

    Parameters
    ----------
    rate_per_s : float
        Arrival rate [1/s].
    prompt, output : LengthLaw
        Laws of the lengths [tokens].
    """

    rate_per_s: float
    prompt: LengthLaw
    output: LengthLaw

    def __post_init__(self) -> None:
        rate = self.rate_per_s
        if not (isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool) and 1e-9 <= rate <= 1e9):
            raise InputError("arrival rate", rate, "in [1e-9, 1e9] per second", "give e.g. 5.0")

    @property
    def kind(self) -> str:
        """Always "poisson"."""
        return "poisson"

    @property
    def span_s(self) -> float:
        """Time that the default number of requests takes on average [s]."""
        return DEFAULT_COUNT / self.rate_per_s

    @property
    def default_count(self) -> int:
        """20,000 requests."""
        return DEFAULT_COUNT

    def draw(self, count: int, phase: float, rng: np.random.Generator) -> Requests:
        """Return `count` requests; the first of more requests are the same."""
        u = rng.random((count, 3))
        return Requests.from_arrays(
            np.cumsum(-np.log1p(-u[:, 0])) / self.rate_per_s,
            self.prompt.quantile(u[:, 1]),
            self.output.quantile(u[:, 2]),
        )

    def lengths(self) -> JointLengths:
        """Return the product law; laws of very many values are thinned to strata."""
        p, o = self.prompt, self.output
        if len(p.values) * len(o.values) > MAX_JOINT_POINTS:
            o = o.reduced(100)
            p = p.reduced(MAX_JOINT_POINTS // len(o.values))
        prompt = np.repeat(p.values, len(o.values))
        weights = np.repeat(p.weights, len(o.values)) * np.tile(o.weights, len(p.values))
        return prompt, np.tile(o.values, len(p.values)), np.zeros_like(prompt), weights

    def windows(self, work_of: WorkOf, width_s: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return equal windows of constant arrivals and work."""
        start = window_starts(self.span_s, width_s)
        work = work_of(self.prompt.values.astype(float), np.zeros(len(self.prompt.values)))
        mean = float(np.dot(self.prompt.weights, work))
        return start, np.full(len(start), self.rate_per_s), np.full(len(start), self.rate_per_s * mean)

    def model(self) -> dict[str, Any]:
        """Return rate and laws as plain values."""
        return {
            "kind": self.kind,
            "rate_per_s": float(self.rate_per_s),
            "prompt_tokens": {"values": self.prompt.values.tolist(), "weights": self.prompt.weights.tolist()},
            "output_tokens": {"values": self.output.values.tolist(), "weights": self.output.weights.tolist()},
        }

    def digest(self) -> str:
        """Return a sha256 of the model."""
        return hashlib.sha256(json.dumps(self.model(), sort_keys=True).encode()).hexdigest()

"""Compact model of real traffic: arrivals that change from window to window, bursts inside, lengths that drift.

Time runs through equal windows, each with its own arrival rate. Inside a window each cell of about a second has that
rate times an independent gamma factor of mean 1, and arrivals are Poisson given it. Prompt lengths come from one
quantile function by a rank; ranks are cut into bands, and each drift window has its own share of requests in each
band, so that the mix of short and long prompts drifts while the overall law stays. Outputs come from quantiles given
the class of the prompt's rank. The span repeats, redrawn, when more is asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.scenario.requests import Requests
from qmodel.scenario.sources import DEFAULT_COUNT, JointLengths, WorkOf, window_starts

__all__ = ["WindowedSource"]

FloatArray = npt.NDArray[np.float64]

GRID_RANKS = 200  # cells of the joint law that `lengths` returns, times the output levels
SHARE_TOLERANCE = 1e-3  # shares are stored rounded
MAX_CELLS = 10_000_000
MAX_BURST_SCV = 1000.0
MAX_SPAN_S = 1e9
SPAN_REQUESTS = (0.01, 10_000_000)  # expected in the busiest window: neither endless nor all memory
_ARRAYS = (
    "arrivals_per_s",
    "band_edges",
    "band_shares",
    "prompt_levels",
    "prompt_tokens",
    "output_levels",
    "output_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowedSource:
    """A windowed model of arrivals and lengths.

    Parameters
    ----------
    span_s : float
        Time that the windows cover before they repeat [s].
    arrivals_per_s : ndarray, shape (n,)
        Arrival rate of each of n equal windows [1/s].
    cells_per_window : int
        Cells of a window, each with its own burst factor.
    burst_scv : float
        Squared coefficient of variation of the burst factor; 0 is Poisson inside a window.
    band_edges : ndarray, shape (b + 1,)
        Ranks that bound the bands of prompt length, from 0 to 1.
    band_shares : ndarray, shape (m, b)
        Share of requests in each band, in each of m equal drift windows.
    prompt_levels, prompt_tokens : ndarray
        Quantile function of prompt lengths: levels from 0 to 1 and tokens.
    output_levels : ndarray
        Levels of the output quantiles, from 0 to 1.
    output_tokens : ndarray, shape (classes, levels)
        Output quantiles for equal classes of the prompt's rank [tokens].
    """

    span_s: float
    arrivals_per_s: FloatArray
    cells_per_window: int
    burst_scv: float
    band_edges: FloatArray
    band_shares: FloatArray
    prompt_levels: FloatArray
    prompt_tokens: FloatArray
    output_levels: FloatArray
    output_tokens: FloatArray

    def __post_init__(self) -> None:
        if not (np.isfinite(self.span_s) and self.span_s > 0):
            raise InputError("span of a workload model", self.span_s, "finite and > 0 [s]")
        rates = self.arrivals_per_s
        if rates.ndim != 1 or not np.all(np.isfinite(rates)) or np.any(rates < 0) or not np.sum(rates) > 0:
            raise InputError("arrivals of a workload model", "negative, not finite or all zero", ">= 0, some > 0 [1/s]")
        low, high = SPAN_REQUESTS
        if not low <= float(np.max(rates)) * self.span_s / len(rates) <= high or not self.span_s <= MAX_SPAN_S:
            raise InputError("busiest window of a workload model", "out of range", f"of {low} to {high:,} requests")
        if not 0 <= self.burst_scv <= MAX_BURST_SCV:
            raise InputError("burst SCV of a workload model", self.burst_scv, f"in [0, {MAX_BURST_SCV:g}]")
        if not 1 <= self.cells_per_window * len(rates) <= MAX_CELLS or self.cells_per_window < 1:
            raise InputError("cells of a workload model", self.cells_per_window, f">= 1, {MAX_CELLS:,} together")
        _check_levels("band edges", self.band_edges)
        shares = self.band_shares
        if shares.ndim != 2 or len(shares) < 1 or shares.shape[1] != len(self.band_edges) - 1:
            raise InputError("band shares of a workload model", f"of shape {shares.shape}", "one per band and window")
        if not np.all(shares >= 0) or not np.all(np.abs(np.sum(shares, axis=1) - 1) <= SHARE_TOLERANCE):
            raise InputError("band shares of a workload model", "negative or not summing to 1", "shares of each window")
        _check_quantiles("prompt", self.prompt_levels, np.atleast_2d(self.prompt_tokens))
        _check_quantiles("output", self.output_levels, self.output_tokens)

    @property
    def kind(self) -> str:
        """Always "windows"."""
        return "windows"

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate over the span [1/s]."""
        return float(np.mean(self.arrivals_per_s))

    @property
    def default_count(self) -> int:
        """20,000 requests."""
        return DEFAULT_COUNT

    def draw(self, count: int, phase: float, rng: np.random.Generator) -> Requests:
        """Return `count` requests from the window at `phase` on; the first of more requests are the same."""
        n, cells, v = len(self.arrivals_per_s), self.cells_per_window, self.burst_scv
        first = int(phase * n) % n
        mean = np.repeat(np.roll(self.arrivals_per_s, -first), cells) * (self.span_s / (n * cells))
        times: list[FloatArray] = []
        have, turn = 0, 0
        while have < count:
            factor = rng.standard_gamma(1 / v, len(mean)) * v if v > 0 else 1.0
            cell = np.repeat(np.arange(len(mean)), rng.poisson(mean * factor))
            times.append(np.sort(cell + rng.random(len(cell))) + turn * len(mean))
            have, turn = have + len(cell), turn + 1
        arrival = np.concatenate(times)[:count] * (self.span_s / (n * cells))
        share = (arrival / self.span_s + first / n) % 1.0
        # lengths have their own stream, so that they do not depend on how many turns were drawn
        u = rng.spawn(1)[0].random((count, 2))
        prompt, output = self._lengths_at(self._ranks(share, u[:, 0]), u[:, 1])
        return Requests.from_arrays(arrival, prompt, output)

    def _ranks(self, share: FloatArray, u: FloatArray) -> FloatArray:
        """Return ranks in [0, 1] of prompts that arrive at `share` of the span."""
        windows, bands = self.band_shares.shape
        normal = self.band_shares / np.sum(self.band_shares, axis=1, keepdims=True)
        ends = np.cumsum(normal, axis=1)
        row = np.minimum((share * windows).astype(np.int64), windows - 1)
        band = np.minimum(np.sum(u[:, None] >= ends[row], axis=1), bands - 1)
        # a band of share 0 is met only by rounding at the end of the last one: take its edge
        within = normal[row, band]
        inside = np.divide(u - ends[row, band], within, out=np.zeros_like(u), where=within > 0) + 1
        return np.asarray(self.band_edges[band] + np.clip(inside, 0.0, 1.0) * np.diff(self.band_edges)[band])

    def _lengths_at(self, rank: FloatArray, u: FloatArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        prompt = np.interp(rank, self.prompt_levels, self.prompt_tokens)
        classes = len(self.output_tokens)
        of = np.minimum((rank * classes).astype(np.int64), classes - 1)
        j = np.minimum(np.searchsorted(self.output_levels, u, side="right") - 1, len(self.output_levels) - 2)
        low, high = self.output_levels[j], self.output_levels[j + 1]
        f = (u - low) / (high - low)
        output = (1 - f) * self.output_tokens[of, j] + f * self.output_tokens[of, j + 1]
        return _whole(prompt), _whole(output)

    def _cells(self) -> tuple[FloatArray, FloatArray]:
        """Return the middle ranks of cells where all laws are linear, and each drift window's shares of them."""
        classes = np.arange(len(self.output_tokens)) / len(self.output_tokens)
        even = np.linspace(0.0, 1.0, GRID_RANKS + 1)
        edge = np.unique(np.r_[even, self.prompt_levels, classes, self.band_edges])
        middle, width = (edge[1:] + edge[:-1]) / 2, np.diff(edge)
        band = np.searchsorted(self.band_edges, middle, side="right") - 1
        share = self.band_shares[:, band] * (width / np.diff(self.band_edges)[band])
        return middle, share / np.sum(share, axis=1, keepdims=True)

    def lengths(self) -> JointLengths:
        """Return the overall joint law on cells between quantile levels, each at its middle."""
        rank, share = self._cells()
        m, n = len(share), len(self.arrivals_per_s)
        arrivals = np.repeat(self.arrivals_per_s, m).reshape(m, n).sum(axis=1)
        weights = (arrivals / np.sum(arrivals)) @ share
        u = (self.output_levels[1:] + self.output_levels[:-1]) / 2
        prompt, output = self._lengths_at(np.repeat(rank, len(u)), np.tile(u, len(rank)))
        joint = np.outer(weights, np.diff(self.output_levels)).reshape(-1)
        return prompt, output, np.zeros_like(prompt), joint

    def windows(self, work_of: WorkOf, width_s: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return expected arrivals and work of equal windows."""
        start = window_starts(self.span_s, width_s)
        rank, share = self._cells()
        prompt = _whole(np.interp(rank, self.prompt_levels, self.prompt_tokens)).astype(float)
        work = share @ work_of(prompt, np.zeros(len(prompt)))
        n, m, k = len(self.arrivals_per_s), len(share), len(start)
        cut = np.unique(np.r_[np.arange(n) / n, np.arange(m) / m, np.arange(k) / k])
        middle, part = (cut + np.r_[cut[1:], 1.0]) / 2, np.diff(np.r_[cut, 1.0])
        rate = self.arrivals_per_s[(middle * n).astype(np.int64)] * part * k
        offered = rate * work[(middle * m).astype(np.int64)]
        cell = (middle * k).astype(np.int64)
        sums = [np.asarray(np.bincount(cell, weights=x), dtype=np.float64) for x in (rate, offered)]
        return start, sums[0], sums[1]

    def model(self) -> dict[str, Any]:
        """Return the model as plain JSON values."""
        return {
            "kind": self.kind,
            "span_s": float(self.span_s),
            "cells_per_window": int(self.cells_per_window),
            "burst_scv": float(self.burst_scv),
            **{name: getattr(self, name).tolist() for name in _ARRAYS},
        }

    def digest(self) -> str:
        """Return a sha256 of the model."""
        return hashlib.sha256(json.dumps(self.model(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_model(cls, model: Mapping[str, Any]) -> WindowedSource:
        """Return the source that `model()` described."""
        return cls(
            span_s=float(model["span_s"]),
            cells_per_window=int(model["cells_per_window"]),
            burst_scv=float(model["burst_scv"]),
            **{name: np.array(model[name], dtype=float) for name in _ARRAYS},
        )


def _check_levels(name: str, levels: FloatArray) -> None:
    if levels.ndim != 1 or len(levels) < 2 or levels[0] != 0 or levels[-1] != 1 or not np.all(np.diff(levels) > 0):
        raise InputError(f"{name} of a workload model", "not a grid", "increasing from 0 to 1")


def _check_quantiles(name: str, levels: FloatArray, tokens: FloatArray) -> None:
    _check_levels(f"{name} levels", levels)
    if tokens.ndim != 2 or len(tokens) < 1 or tokens.shape[1] != len(levels):
        raise InputError(f"{name} quantiles of a workload model", f"of shape {tokens.shape}", "one per level")
    if not np.all((tokens >= 1) & (tokens <= 2**53)) or np.any(np.diff(tokens, axis=1) < 0):
        raise InputError(f"{name} quantiles of a workload model", "below 1 or decreasing", "increasing, >= 1 token")


def _whole(tokens: FloatArray) -> npt.NDArray[np.int64]:
    return np.maximum(np.rint(tokens), 1).astype(np.int64)

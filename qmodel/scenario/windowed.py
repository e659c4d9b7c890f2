"""Compact model of real traffic: arrivals that change from window to window, bursts inside, lengths that drift.

Time runs through windows with their own arrival rate. Inside a window each cell of about a second has that rate times
an independent gamma factor of mean 1, and arrivals are Poisson given it. Prompt lengths come from one quantile
function Q by a rank that drifts: in drift window i the rank is G(U^(1/kappa_i)), where G(x) = sum_i p_i x^kappa_i
makes ranks uniform over the whole span, so that Q stays the overall law while its windows have their own means.
Outputs come from quantiles given the class of the prompt's rank. The span repeats, redrawn, when more is asked.
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
from qmodel.scenario.sources import DEFAULT_COUNT, JointLengths, WorkOf, window_means

__all__ = ["WindowedSource"]

FloatArray = npt.NDArray[np.float64]

KAPPA_LIMIT = 8.0  # a window's mean rank stays within 1/9 and 8/9
MODEL_DIGITS = 5  # significant digits kept: far below the fit error
GRID_RANKS = 200  # cells of the joint law that `lengths` returns, times the output levels
_RANK = np.linspace(0.0, 1.0, 2049)
# Levels of quantile tables: every 2 %, then finer towards the longest prompts, which carry the work.
PROMPT_LEVELS = np.r_[0.0, 0.01, np.arange(1, 49) / 50, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 1.0]
OUTPUT_LEVELS = np.r_[0.0, np.arange(1, 20) / 20, 0.97, 0.98, 0.99, 0.995, 1.0]
OUTPUT_CLASSES = 10


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
    drift : ndarray, shape (m,)
        kappa of each of m equal drift windows: 1 is the overall law, more means longer prompts.
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
    drift: FloatArray
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
        if self.cells_per_window < 1 or not (np.isfinite(self.burst_scv) and self.burst_scv >= 0):
            raise InputError("bursts of a workload model", self.burst_scv, "SCV >= 0 in >= 1 cells")
        if self.drift.ndim != 1 or len(self.drift) == 0 or not np.all((self.drift >= 0.01) & (self.drift <= 100)):
            raise InputError("drift of a workload model", "outside its range", "in [0.01, 100]")
        _check_quantiles("prompt", self.prompt_levels, self.prompt_tokens[None, :])
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
        n, cells = len(self.arrivals_per_s), self.cells_per_window
        first = int(phase * n) % n
        mean = np.repeat(np.roll(self.arrivals_per_s, -first), cells) * (self.span_s / (n * cells))
        times: list[FloatArray] = []
        have, turn = 0, 0
        while have < count:
            factor = rng.standard_gamma(1 / self.burst_scv, len(mean)) * self.burst_scv if self.burst_scv > 0 else 1.0
            cell = np.repeat(np.arange(len(mean)), rng.poisson(mean * factor))
            inside = np.sort(cell + rng.random(len(cell))) + turn * len(mean)
            times.append(inside)
            have, turn = have + len(inside), turn + 1
        arrival = np.concatenate(times)[:count] * (self.span_s / (n * cells))
        share = (arrival / self.span_s + first / n) % 1.0
        # lengths have their own stream, so that they do not depend on how many turns were drawn
        u = rng.spawn(1)[0].random((count, 2))
        prompt, output = self._lengths_at(self._ranks(share, u[:, 0]), u[:, 1])
        return Requests.from_arrays(arrival, prompt, output)

    def _ranks(self, share: FloatArray, u: FloatArray) -> FloatArray:
        """Return ranks in [0, 1) of prompts that arrive at `share` of the span."""
        m = len(self.drift)
        kappa = self.drift[np.minimum((share * m).astype(np.int64), m - 1)]
        return np.interp(u ** (1 / kappa), _RANK, self._mixture())

    def _mixture(self) -> FloatArray:
        """Return G on the grid of ranks."""
        m, n = len(self.drift), len(self.arrivals_per_s)
        fine = np.repeat(self.arrivals_per_s, m)  # windows cut at both grids: n*m equal parts
        p = fine.reshape(m, n).sum(axis=1)
        return np.asarray((p / p.sum()) @ _RANK ** self.drift[:, None])

    def _lengths_at(self, rank: FloatArray, u: FloatArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        prompt = np.interp(rank, self.prompt_levels, self.prompt_tokens)
        classes = len(self.output_tokens)
        of = np.minimum((rank * classes).astype(np.int64), classes - 1)
        j = np.minimum(np.searchsorted(self.output_levels, u, side="right") - 1, len(self.output_levels) - 2)
        low, high = self.output_levels[j], self.output_levels[j + 1]
        f = (u - low) / (high - low)
        output = (1 - f) * self.output_tokens[of, j] + f * self.output_tokens[of, j + 1]
        return _whole(prompt), _whole(output)

    def _rank_edges(self) -> FloatArray:
        """Return ranks between which prompt quantiles are linear and the output class is one."""
        classes = np.arange(len(self.output_tokens)) / len(self.output_tokens)
        return np.unique(np.r_[np.linspace(0.0, 1.0, GRID_RANKS + 1), self.prompt_levels, classes])

    def lengths(self) -> JointLengths:
        """Return the overall joint law on cells between quantile levels, each at its middle."""
        edge, level = self._rank_edges(), self.output_levels
        rank, u = (edge[1:] + edge[:-1]) / 2, (level[1:] + level[:-1]) / 2
        prompt, output = self._lengths_at(np.repeat(rank, len(u)), np.tile(u, len(rank)))
        return prompt, output, np.zeros_like(prompt), np.outer(np.diff(edge), np.diff(level)).reshape(-1)

    def windows(self, work_of: WorkOf, width_s: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return expected arrivals and work of equal windows."""
        start = window_means(self.span_s, width_s)
        n, m, k = len(self.arrivals_per_s), len(self.drift), len(start)
        cut = np.unique(np.r_[np.arange(n) / n, np.arange(m) / m, np.arange(k) / k])
        middle, part = (cut + np.r_[cut[1:], 1.0]) / 2, np.diff(np.r_[cut, 1.0])
        edge = self._rank_edges()
        prompt = np.rint(np.interp((edge[1:] + edge[:-1]) / 2, self.prompt_levels, self.prompt_tokens))
        share = np.diff(np.interp(edge, self._mixture(), _RANK) ** self.drift[:, None], axis=1)
        work = share @ work_of(prompt, np.zeros(len(prompt)))
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
            "arrivals_per_s": self.arrivals_per_s.tolist(),
            "cells_per_window": int(self.cells_per_window),
            "burst_scv": float(self.burst_scv),
            "drift": self.drift.tolist(),
            "prompt_levels": self.prompt_levels.tolist(),
            "prompt_tokens": self.prompt_tokens.tolist(),
            "output_levels": self.output_levels.tolist(),
            "output_tokens": self.output_tokens.tolist(),
        }

    def digest(self) -> str:
        """Return a sha256 of the model."""
        return hashlib.sha256(json.dumps(self.model(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_model(cls, model: Mapping[str, Any]) -> WindowedSource:
        """Return the source that `model()` described."""
        arrays = (
            "arrivals_per_s",
            "drift",
            "prompt_levels",
            "prompt_tokens",
            "output_levels",
            "output_tokens",
        )
        return cls(
            span_s=float(model["span_s"]),
            cells_per_window=int(model["cells_per_window"]),
            burst_scv=float(model["burst_scv"]),
            **{name: np.array(model[name], dtype=float) for name in arrays},
        )

    @classmethod
    def fitted(cls, requests: Requests, window_s: float = 10.0, drift_window_s: float = 60.0) -> WindowedSource:
        """Return the model of recorded requests; *empirical*, by moments.

        Parameters
        ----------
        requests : Requests
            A trace with two or more arrival times.
        window_s, drift_window_s : float
            Wished widths of arrival and drift windows [s].

        Returns
        -------
        WindowedSource
            Rates shrunk by their sampling noise, bursts from the variance of counts inside windows, drift from the
            mean rank of prompts in each drift window.
        """
        from qmodel.scenario.window_fit import fit_windows

        return cls.from_model(fit_windows(requests, window_s, drift_window_s))


def _check_quantiles(name: str, levels: FloatArray, tokens: FloatArray) -> None:
    if levels.ndim != 1 or len(levels) < 2 or levels[0] != 0 or levels[-1] != 1 or np.any(np.diff(levels) <= 0):
        raise InputError(f"{name} levels of a workload model", "not a grid", "increasing from 0 to 1")
    if tokens.ndim != 2 or len(tokens) < 1 or tokens.shape[1] != len(levels):
        raise InputError(f"{name} quantiles of a workload model", f"of shape {tokens.shape}", "one per level")
    if not np.all(np.isfinite(tokens)) or np.any(tokens < 1) or np.any(np.diff(tokens, axis=1) < 0):
        raise InputError(f"{name} quantiles of a workload model", "below 1 or decreasing", "increasing, >= 1 token")


def _whole(tokens: FloatArray) -> npt.NDArray[np.int64]:
    return np.maximum(np.rint(tokens), 1).astype(np.int64)

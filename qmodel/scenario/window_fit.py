"""Fit of the windowed workload model to recorded requests, by moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.scenario.requests import Requests
from qmodel.scenario.sources import TraceSource, window_means
from qmodel.scenario.windowed import (
    KAPPA_LIMIT,
    MODEL_DIGITS,
    OUTPUT_CLASSES,
    OUTPUT_LEVELS,
    PROMPT_LEVELS,
)

__all__ = ["fit_windows"]

FloatArray = npt.NDArray[np.float64]

CELL_S = 1.0  # bursts of real services last seconds
DRIFT_ROUNDS = 30


def fit_windows(requests: Requests, window_s: float, drift_window_s: float) -> dict[str, Any]:
    """Return the plain values of a `WindowedSource` fitted to `requests`; *empirical*.

    Parameters
    ----------
    requests : Requests
        A trace with two or more arrival times.
    window_s, drift_window_s : float
        Wished widths of arrival and drift windows [s].

    Returns
    -------
    dict
        As `WindowedSource.model` gives.
    """
    span = TraceSource(requests=requests).span_s
    at = requests.arrival_s - requests.arrival_s[0]
    n, m = len(window_means(span, window_s)), len(window_means(span, drift_window_s))
    cells = max(1, round(span / n / CELL_S))
    rates = _shrunk_rates(_counts(at, span, n)) / (span / n)
    drift = _drift(at, requests.prompt_tokens.astype(float), span, m)
    return {
        "kind": "windows",
        "span_s": _rounded(span),
        "arrivals_per_s": _rounded(rates * (len(at) / span / np.mean(rates))),
        "cells_per_window": cells,
        "burst_scv": _rounded(_burst_scv(_counts(at, span, n * cells).reshape(n, cells))),
        "drift": _rounded(drift),
        "prompt_levels": PROMPT_LEVELS.tolist(),
        "prompt_tokens": _rounded(np.quantile(requests.prompt_tokens, PROMPT_LEVELS)),
        "output_levels": OUTPUT_LEVELS.tolist(),
        "output_tokens": _rounded(_output_quantiles(requests)),
    }


def _counts(at: FloatArray, span: float, n: int) -> FloatArray:
    cell = np.minimum((at / span * n).astype(np.int64), n - 1)
    return np.bincount(cell, minlength=n).astype(float)


def _shrunk_rates(counts: FloatArray) -> FloatArray:
    """Return window counts drawn to their mean by the share of their variance that is Poisson noise."""
    mean, variance = float(np.mean(counts)), float(np.var(counts))
    signal = max(0.0, 1.0 - mean / variance) if variance > 0 else 0.0
    return mean + signal * (counts - mean)


def _burst_scv(counts: FloatArray) -> float:
    """Return the SCV of the gamma factor from counts in cells; *exact* in the mean for gamma-mixed Poisson.

    Given a window of c cells with rate m per cell, the sample variance of its counts has mean m + v*m^2, and
    (sum^2 - sum_sq)/(c*(c-1)) has mean m^2.
    """
    c = counts.shape[1]
    if c < 2:
        return 0.0
    excess = np.var(counts, axis=1, ddof=1) - np.mean(counts, axis=1)
    square = (np.sum(counts, axis=1) ** 2 - np.sum(counts**2, axis=1)) / (c * (c - 1))
    return max(0.0, float(np.sum(excess) / np.sum(square))) if np.sum(square) > 0 else 0.0


def _drift(at: FloatArray, prompt: FloatArray, span: float, m: int) -> FloatArray:
    """Return kappa of each drift window from the mean rank of its prompts, shrunk by sampling noise."""
    n = len(prompt)
    order = np.argsort(prompt, kind="stable")
    _, first, inverse, size = np.unique(prompt[order], return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(n)
    rank[order] = (first[inverse] + size[inverse] / 2) / n  # mid-ranks: ties share one
    cell = np.minimum((at / span * m).astype(np.int64), m - 1)
    count = np.bincount(cell, minlength=m)
    mean = np.bincount(cell, weights=rank, minlength=m) / np.maximum(count, 1)
    noise = float(np.var(rank)) / np.maximum(count, 1)
    between = max(0.0, float(np.sum(count * ((mean - 0.5) ** 2 - noise)) / n))
    goal = 0.5 + between / (between + noise) * (mean - 0.5) if between > 0 else np.full(m, 0.5)
    return _kappa_for(np.where(count > 0, goal, 0.5), count / n)


def _kappa_for(goal: FloatArray, p: FloatArray) -> FloatArray:
    """Return kappa with mean rank `goal` in each window, G being the mixture by window shares `p`.

    The mean of G(U^(1/kappa_i)) is sum_j p_j * kappa_i/(kappa_i + kappa_j); solved by damped fixed point.
    """
    kappa = np.clip(goal / (1 - goal), 1 / KAPPA_LIMIT, KAPPA_LIMIT)
    for _ in range(DRIFT_ROUNDS):
        got = (kappa[:, None] / (kappa[:, None] + kappa[None, :])) @ p
        kappa = kappa * (goal / (1 - goal)) / (got / (1 - got))
        kappa = np.clip(kappa / np.exp(p @ np.log(kappa)), 1 / KAPPA_LIMIT, KAPPA_LIMIT)
    return kappa


def _output_quantiles(requests: Requests) -> FloatArray:
    """Return output quantiles in equal classes of the prompt's rank."""
    order = np.argsort(requests.prompt_tokens, kind="stable")
    classes = min(OUTPUT_CLASSES, max(1, len(order) // 50))
    parts = np.array_split(requests.output_tokens[order], classes)
    return np.array([np.quantile(part, OUTPUT_LEVELS) for part in parts])


def _rounded(values: FloatArray | float) -> Any:
    text = np.array([float(f"{v:.{MODEL_DIGITS}g}") for v in np.ravel(values)])
    return text.reshape(np.shape(values)).tolist() if np.ndim(values) else float(text[0])

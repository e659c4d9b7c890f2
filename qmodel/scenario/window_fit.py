"""Fit of the windowed workload model to recorded requests, by moments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qmodel.scenario.requests import Requests
from qmodel.scenario.sources import TraceSource, window_starts
from qmodel.scenario.windowed import WindowedSource

__all__ = ["fit_windows"]

FloatArray = npt.NDArray[np.float64]

WINDOW_S = 60.0  # drift over minutes
PARTS = 6  # arrival windows of 10 s inside it: bursts and gaps of tens of seconds
MAX_DRIFT_WINDOWS = 1500  # a day of minutes; longer traces get wider windows
MAX_CELLS = 1_000_000
CELL_S = 1.0  # bursts of real services last seconds
BANDS = 12
OUTPUT_CLASSES = 10
MODEL_DIGITS = 5  # significant digits kept: far below the fit error
# Levels of quantile tables: every 2 %, then finer towards the longest prompts, which carry the work.
PROMPT_LEVELS = np.r_[0.0, 0.01, np.arange(1, 49) / 50, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 1.0]
OUTPUT_LEVELS = np.r_[0.0, np.arange(1, 20) / 20, 0.97, 0.98, 0.99, 0.995, 1.0]


def fit_windows(requests: Requests, window_s: float = WINDOW_S, parts: int = PARTS) -> WindowedSource:
    """Return the windowed model of recorded requests; *empirical*, by moments.

    Parameters
    ----------
    requests : Requests
        A trace with two or more arrival times.
    window_s : float
        Wished width of drift windows [s].
    parts : int
        Arrival windows in each drift window.

    Returns
    -------
    WindowedSource
        Its draws have the trace's variance of counts in both kinds of windows (rates are drawn to their mean by what
        is Poisson noise), inside them by cells of a second, and its mix of prompt lengths in drift windows.
    """
    span = TraceSource(requests=requests).span_s
    at = requests.arrival_s - requests.arrival_s[0]
    m = len(window_starts(span, max(window_s, span / MAX_DRIFT_WINDOWS)))
    n = m * parts
    cells = max(1, min(round(span / n / CELL_S), MAX_CELLS // n))
    order = _order(requests.prompt_tokens)
    edges, shares = _bands(at, requests.prompt_tokens.astype(float), order, span, m)
    return WindowedSource(
        span_s=float(_rounded(span)),
        arrivals_per_s=_rounded(_rates(_counts(at, span, n).reshape(m, parts)).reshape(-1) / (span / n)),
        cells_per_window=cells,
        burst_scv=float(_rounded(_burst_scv(_counts(at, span, n * cells).reshape(n, cells)))),
        band_edges=edges,
        band_shares=shares,
        prompt_levels=PROMPT_LEVELS,
        prompt_tokens=_rounded(_cell_quantiles(requests.prompt_tokens.astype(float), PROMPT_LEVELS)),
        output_levels=OUTPUT_LEVELS,
        output_tokens=_rounded(_output_quantiles(requests, order)),
    )


def _counts(at: FloatArray, span: float, n: int) -> FloatArray:
    cell = np.minimum((at / span * n).astype(np.int64), n - 1)
    return np.bincount(cell, minlength=n).astype(float)


def _rates(counts: FloatArray) -> FloatArray:
    """Return expected counts whose Poisson draws vary as `counts` do, between rows and inside them.

    Deviations are multiplied by the root of the share of their variance that is not Poisson noise (constrained
    empirical Bayes, Louis, JASA 79, 1984). A window without arrivals stays empty where the gamma law of rates that
    the counts suggest has its mode at 0.
    """
    parts = counts.shape[1]
    rows = np.sum(counts, axis=1)
    mean = float(np.mean(rows))
    slow = mean + _signal(float(np.var(rows)), mean) * (rows - mean)
    inside = counts - rows[:, None] / parts
    noise = mean / parts * (1 - 1 / parts)
    spread = float(np.mean(inside**2))
    fast = _signal(spread, noise) * inside / np.maximum(rows[:, None] / parts, 1e-300)
    expected = np.maximum(slow[:, None] / parts * (1 + fast), 0.0)
    overall = float(np.mean(counts))
    gamma_shape = overall**2 / max(float(np.var(counts)) - overall, 1e-300)
    expected[(counts == 0) & (gamma_shape < 1)] = 0.0
    total = float(np.sum(counts)) / float(np.sum(expected))
    return np.asarray(expected * total)


def _signal(variance: float, noise: float) -> float:
    return float(np.sqrt(max(0.0, 1.0 - noise / variance))) if variance > 0 else 0.0


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


def _order(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order by tokens, equal ones mixed, so that their ranks say nothing about time."""
    return np.lexsort((np.random.default_rng(0).permutation(len(tokens)), tokens))


def _bands(
    at: FloatArray, prompt: FloatArray, order: npt.NDArray[np.int64], span: float, m: int
) -> tuple[FloatArray, FloatArray]:
    """Return rank edges of bands of equal (requests + tokens)/2, and each drift window's shares of them.

    Shares are pulled to the overall ones by the number of pseudo-requests that leaves their observed spread.
    """
    n = len(prompt)
    sorted_work = np.cumsum(prompt[order])
    measure = (np.arange(1, n + 1) / n + sorted_work / sorted_work[-1]) / 2
    cut = np.unique(np.searchsorted(measure, np.arange(1, BANDS) / BANDS))
    cut = cut[(cut > 0) & (cut < n)]
    edges = np.array([0.0, *cut / n, 1.0])
    rank = np.empty(n)
    rank[order] = (np.arange(n) + 0.5) / n
    band = np.searchsorted(cut, np.rint(rank * n - 0.5), side="right")
    window = np.minimum((at / span * m).astype(np.int64), m - 1)
    table = np.zeros((m, len(edges) - 1))
    np.add.at(table, (window, band), 1.0)
    rows, overall = np.sum(table, axis=1, keepdims=True), np.diff(edges)
    expected = rows * overall
    chi2 = float(np.sum((table - expected) ** 2 / np.maximum(expected, 1e-300)))
    degrees = max(1, (m - 1) * (len(overall) - 1))
    keep = _signal(chi2 / degrees, 1.0)
    shares = overall + keep * (np.where(rows > 0, table / np.maximum(rows, 1.0), overall) - overall)
    return edges, np.asarray(np.round(np.maximum(shares, 0.0), MODEL_DIGITS), dtype=np.float64)


def _cell_quantiles(values: FloatArray, levels: FloatArray) -> FloatArray:
    """Return quantiles at `levels` of the sample."""
    return np.asarray(np.quantile(values, levels))


def _output_quantiles(requests: Requests, order: npt.NDArray[np.int64]) -> FloatArray:
    """Return output quantiles in equal classes of the prompt's rank."""
    classes = min(OUTPUT_CLASSES, max(1, len(order) // 50))
    parts = np.array_split(requests.output_tokens[order].astype(float), classes)
    return np.array([_cell_quantiles(part, OUTPUT_LEVELS) for part in parts])


def _rounded(values: FloatArray | float) -> FloatArray:
    text = np.array([float(f"{v:.{MODEL_DIGITS}g}") for v in np.ravel(values)])
    return text.reshape(np.shape(values))

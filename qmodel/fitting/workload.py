"""Fit of compact workload models, and how far their draws are from the trace they were fitted to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.queueing.paths import kiefer_wolfowitz
from qmodel.scenario.requests import Requests
from qmodel.scenario.window_fit import PARTS, WINDOW_S, fit_windows
from qmodel.scenario.windowed import WindowedSource
from qmodel.scenario.workload import Workload

__all__ = ["fit_workload", "workload_statistics"]

FloatArray = npt.NDArray[np.float64]

IDC_WINDOWS_S = (1.0, 10.0, 60.0, 120.0)
TEST_LOAD = 0.7  # of the queueing test that compares draws with the trace


def workload_statistics(requests: Requests, span_s: float) -> dict[str, float]:
    """Return what a model of `requests` has to reproduce.

    Parameters
    ----------
    requests : Requests
        Recorded or drawn.
    span_s : float
        Time they cover [s].

    Returns
    -------
    dict
        Rate [1/s], mean [tokens] and SCV of lengths, SCV of gaps, index of dispersion of counts and of prompt work by
        window (1 for Poisson), and mean, P95 and P99 wait of two servers at load 0.7 in mean service times, for
        service proportional to prompt tokens.
    """
    t = requests.arrival_s - requests.arrival_s[0]
    prompt, output = requests.prompt_tokens.astype(float), requests.output_tokens.astype(float)
    found = {"rate_per_s": len(t) / span_s, "gap_scv": _scv(np.diff(t))}
    for name, tokens in (("prompt", prompt), ("output", output)):
        found[f"{name}_mean"], found[f"{name}_scv"] = float(np.mean(tokens)), _scv(tokens)
    for width in IDC_WINDOWS_S:
        n = max(2, int(span_s / width))
        inside = t < n * width
        cell = (t[inside] / width).astype(np.int64)
        count = np.bincount(cell, minlength=n)[:n]
        work = np.bincount(cell, weights=prompt[inside], minlength=n)[:n]
        found[f"idc_{width:g}s"] = float(np.var(count) / np.mean(count))
        per_request = float(np.mean(prompt**2) / np.mean(prompt))
        found[f"work_idc_{width:g}s"] = float(np.var(work) / np.mean(work)) / per_request
    mean_service = 2 * TEST_LOAD * span_s / len(t)
    waits = kiefer_wolfowitz(t, prompt / np.mean(prompt) * mean_service, 2) / mean_service
    found["wait_mean"] = float(np.mean(waits))
    found["wait_p95"], found["wait_p99"] = (float(np.quantile(waits, q)) for q in (0.95, 0.99))
    return found


def fit_workload(
    trace: Workload, window_s: float = WINDOW_S, parts: int = PARTS, seeds: Iterable[int] = range(20)
) -> dict[str, Any]:
    """Return a compact model of a trace with its measured errors; *empirical*.

    Parameters
    ----------
    trace : Workload
        Of kind "trace", at its own rate.
    window_s : float
        Wished width of drift windows [s].
    parts : int
        Arrival windows in each drift window.
    seeds : iterable of int
        Draws of the trace's own length that are compared with it.

    Returns
    -------
    dict
        Model for `Workload.from_model`, with ``fit``: for each statistic the trace's value, the mean over draws and
        their standard deviation.
    """
    recorded = trace.requests(seed=0)
    source = fit_windows(recorded, window_s, parts)
    model = Workload(name=trace.name, source=source).model()
    drawn = [workload_statistics(_one_span(source, seed), source.span_s) for seed in seeds]
    fit = {}
    for name, value in workload_statistics(recorded, trace.span_s).items():
        values = np.array([d[name] for d in drawn])
        fit[name] = {"trace": value, "model": float(np.mean(values)), "spread": float(np.std(values))}
    return {**model, "fit": {k: {n: float(f"{v:.4g}") for n, v in e.items()} for k, e in fit.items()}}


def _one_span(source: WindowedSource, seed: int) -> Requests:
    """Return one span of requests, from its first window on."""
    expected = source.rate_per_s * source.span_s
    drawn = source.draw(int(2 * expected + 100), 0.0, np.random.default_rng(seed))
    n = int(np.searchsorted(drawn.arrival_s, source.span_s))
    return Requests.from_arrays(drawn.arrival_s[:n], drawn.prompt_tokens[:n], drawn.output_tokens[:n])


def _scv(values: FloatArray) -> float:
    return float(np.var(values) / np.mean(values) ** 2)

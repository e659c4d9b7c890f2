"""TTFT and TBT that a calibration predicts for requests a load generator timed, by percentile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qmodel.laws import Calibration, RequestTimes

__all__ = ["percentile_errors", "request_laws"]

Array = npt.NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)


def percentile_errors(calibration: Calibration, requests: RequestTimes) -> dict[str, dict[str, float]]:
    """Return predicted/measured - 1 of TTFT and TBT by percentile; *approximation*.

    TTFT: prompts are served one at a time in order of arrival (without start times: alone). TBT: each step at the
    batch and context that the file shows at that moment; steps that host a prompt are not told apart.

    Parameters
    ----------
    calibration : Calibration
        Laws of the engine.
    requests : RequestTimes
        Requests of one instance.

    Returns
    -------
    dict
        ``{"ttft": {"p50": ...}, "tbt": {...}}``; no ``tbt`` when the file has no start times or no gaps between tokens.
    """
    return {name: _errors(*law) for name, law in request_laws(calibration, requests).items()}


def request_laws(calibration: Calibration, requests: RequestTimes) -> dict[str, tuple[Array, Array]]:
    """Return predicted and measured TTFT and TBT [s] of the same requests and steps, as `percentile_errors` has them.

    Parameters
    ----------
    calibration : Calibration
        Laws of the engine.
    requests : RequestTimes
        Requests of one instance.

    Returns
    -------
    dict
        ``ttft`` and, where the file has start times and gaps between tokens, ``tbt``, each a pair of samples.
    """
    alone = np.asarray(calibration.lone_prefill_s(requests.prompt_tokens))
    out = {"ttft": (_queued(alone, requests.start_s), requests.ttft_s)}
    if len(requests.start_s) and any(len(x) for x in requests.itl_s):
        from qmodel.io.measured_requests import steps_of_moments

        batch, context, gaps = steps_of_moments(requests)
        if len(gaps):  # none where every answer came in one piece
            out["tbt"] = np.asarray(calibration.step.step_time_s(batch, context)), gaps
    return out


def _queued(service_s: Array, start_s: Array) -> Array:
    """Return wait plus service of a single server, first come first served (Lindley's recursion)."""
    if not len(start_s):
        return service_s
    out = np.empty(len(service_s))
    free = -np.inf
    for i in np.argsort(start_s, kind="stable"):
        free = max(free, start_s[i]) + service_s[i]
        out[i] = free - start_s[i]
    return out


def _errors(predicted: Array, measured: Array) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(predicted, q) / np.percentile(measured, q) - 1) for q in PERCENTILES}

"""Predictions over a span of time: from the requests themselves, or from sums per window."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.policies.state import KernelSpec
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.system.errors import recursion_errors
from qmodel.system.prediction import Prediction
from qmodel.system.recursion import Trajectory, run_recursion

__all__ = ["from_trajectories", "predict_trace", "predict_windows"]

FloatArray = npt.NDArray[np.float64]
_WINDOW_S = 20.0
_REDRAWS = {"fast": 1, "balanced": 2, "exact": 8}
_WINDOWS_NOISE = 0.12  # standard error of P95 TTFT from sums per window, over the shared traces
_TILT_STEPS = 60
_SEED = 20260703


def from_trajectories(
    runs: list[Trajectory], method: str, slo: SLO, errors: dict[str, float], warnings: tuple[str, ...] = ()
) -> Prediction:
    """Return the prediction that pools equally likely runs.

    Parameters
    ----------
    runs : list of Trajectory
        At least one.
    method : str
        How they were made.
    slo : SLO
        Limits for attainment.
    errors : dict
        Half-widths by metric.
    warnings : tuple of str
        What the reader should know.
    """
    return Prediction(
        method=method,
        slo=slo,
        parts_s=np.concatenate([run.parts_s for run in runs], axis=1),
        prompt_tokens=np.concatenate([run.prompt_tokens for run in runs]),
        deflected=np.concatenate([run.deflected for run in runs]),
        tbt_met=np.concatenate([run.tbt_met for run in runs]).astype(float),
        tbt_grid_s=runs[0].tbt_grid_s,
        tbt_cdf=np.mean([run.tbt_cdf for run in runs], axis=0),
        mean_tbt_s=np.concatenate([run.mean_tbt_s for run in runs]),
        utilisation={pool: float(np.mean([run.utilisation[pool] for run in runs])) for pool in runs[0].utilisation},
        error_estimate=errors,
        warnings=warnings,
    )


def predict_trace(cluster: Cluster, workload: Workload, slo: SLO, spec: KernelSpec) -> Prediction:
    """Return the prediction for the workload's own requests (replication 0).

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    workload : Workload
        Its requests are taken as `simulate` does with seed 0.
    slo : SLO
        Limits for attainment.
    spec : KernelSpec
        Policy as data.

    Returns
    -------
    Prediction
        Laws over the requests that count.
    """
    run = run_recursion(cluster, workload.requests(seed=0), slo, spec)
    method = "trace: recursion over the requests, packed prefill steps, fluid decode batches"
    return from_trajectories([run], method, slo, recursion_errors(spec))


def predict_windows(
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    spec: KernelSpec,
    fidelity: Literal["fast", "balanced", "exact"] = "balanced",
    window_s: float = _WINDOW_S,
) -> Prediction:
    """Return the prediction that sees only the sums of arrivals and work per window and the law of lengths.

    Inside a window arrivals are uniform, and lengths follow the law of the whole workload tilted exponentially in
    their work, so that its mean is the window's: the least informative law with that mean.

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    workload : Workload
        Gives `windows` and `lengths`.
    slo : SLO
        Limits for attainment.
    spec : KernelSpec
        Policy as data.
    fidelity : {"fast", "balanced", "exact"}
        How many redraws are pooled.
    window_s : float
        Wished width of windows [s].

    Returns
    -------
    Prediction
        Laws over the redrawn requests.

    Raises
    ------
    InputError
        When there are no arrivals in any window.
    """
    start, arrivals, work = workload.windows(cluster, window_s)
    width = workload.span_s / len(start)
    rng = np.random.default_rng(_SEED)
    runs = [
        run_recursion(cluster, _redraw(cluster, workload, start, arrivals * width, work * width, width, rng), slo, spec)
        for _ in range(_REDRAWS[fidelity])
    ]
    method = f"windows: recursion over requests redrawn from sums per {width:.3g} s"
    return from_trajectories(runs, method, slo, recursion_errors(spec, _WINDOWS_NOISE))


def _redraw(
    cluster: Cluster,
    workload: Workload,
    start: FloatArray,
    count: FloatArray,
    work: FloatArray,
    width: float,
    rng: np.random.Generator,
) -> Requests:
    """Return requests with the windows' numbers of arrivals and, in the mean, their work."""
    prompt, output, cached, weights = workload.lengths()
    cost = np.asarray(cluster.work_s(prompt.astype(float), cached.astype(float)))
    order = np.argsort(cost, kind="stable")
    whole = np.floor(np.cumsum(count) + 0.5).astype(np.int64)
    numbers = np.diff(whole, prepend=0)
    if whole[-1] < 1:
        raise InputError("arrivals in all windows", float(count.sum()), ">= 1", "give a longer trace")
    tilt = _tilts(cost[order], weights[order], work / np.maximum(count, 1e-9))
    times, picks = [], []
    for i in np.flatnonzero(numbers):
        law = _tilted(cost[order], weights[order], tilt[i : i + 1])[0]
        even = (rng.permutation(int(numbers[i])) + rng.random(int(numbers[i]))) / numbers[i]
        picks.append(order[np.minimum(np.searchsorted(np.cumsum(law), even), len(order) - 1)])
        times.append(np.sort(start[i] + width * rng.random(int(numbers[i]))))
    chosen = np.concatenate(picks)
    return Requests.from_arrays(np.concatenate(times), prompt[chosen], output[chosen], cached[chosen])


def _tilted(cost: FloatArray, weights: FloatArray, tilt: FloatArray) -> FloatArray:
    """Return weights * exp(tilt*cost), normalised, one row a tilt."""
    exponent = np.multiply.outer(tilt, cost)
    law = weights * np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return np.asarray(law / law.sum(axis=1, keepdims=True))


def _tilts(cost: FloatArray, weights: FloatArray, mean: FloatArray) -> FloatArray:
    """Return, for each wanted mean cost, the tilt that gives it, by bisection; means out of reach are held."""
    bins = np.array_split(np.arange(len(cost)), min(len(cost), 256))
    share = np.array([weights[b].sum() for b in bins])
    level = np.array([np.average(cost[b], weights=np.maximum(weights[b], 1e-300)) for b in bins])
    scale = 40.0 / max(float(level[-1] - level[0]), 1e-12) * np.ones(len(mean))
    low, high = -scale, scale
    for _ in range(_TILT_STEPS):
        middle = 0.5 * (low + high)
        above = _tilted(level, share, middle) @ level > mean
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    return np.asarray(0.5 * (low + high))

"""Predictions over a span of time: from the requests themselves, or from sums per window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.policies.state import KernelSpec
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.system.accuracy import deflects, kind_of, method_errors, with_spread, with_swaps
from qmodel.system.prediction import Prediction
from qmodel.system.recursion import Trajectory, run_recursion

__all__ = ["from_trajectories", "predict_trace", "predict_windows"]

FloatArray = npt.NDArray[np.float64]
_WINDOW_S = 10.0  # narrower windows would be the requests themselves, wider ones lose bursts (decision 0065)
_REDRAWS = {"fast": 1, "balanced": 2, "exact": 8}
_TILT_STEPS = 60  # of bisection: past the last digit
_TILT_BINS = 256  # of lengths, equally likely
_SPLITS = 4  # halvings of a window: cells of 0.6 s
_MOST_UNEVEN = 0.24  # variance of a half's share; 0.25 is all or nothing
_SEED = 20260703
_ENOUGH, _NUDGED, _NUDGE = 16_000, 6, 0.002  # short traces are run so often, that close decisions average


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

    A short trace turns on single decisions, of a policy or of who decodes where: it is run several times with trifling
    changes of step times.

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
    requests = workload.requests(seed=0)
    count = min(_NUDGED, max(1 if deflects(spec) else 2, _ENOUGH // len(requests)))
    nudges = [1.0, *(1.0 + _NUDGE * np.random.default_rng(_SEED).uniform(-1.0, 1.0, count - 1))]
    runs = [run_recursion(cluster, requests, slo, spec, nudge) for nudge in nudges]
    method = "trace: recursion over the requests, packed prefill steps, fluid decode batches"
    if count > 1:
        method += f", {count} times with step times nudged by {100 * _NUDGE:g} %"
    errors = method_errors(kind_of("trace", spec))
    found = with_swaps(from_trajectories(runs, method, slo, errors), len(requests), deflects(spec))
    return with_spread(found, [from_trajectories([run], method, slo, errors) for run in runs])


def predict_windows(
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    spec: KernelSpec,
    fidelity: Literal["fast", "balanced", "exact"] = "balanced",
    window_s: float = _WINDOW_S,
) -> Prediction:
    """Return the prediction that sees only the sums of arrivals and work per window and the law of lengths.

    Inside a window arrivals are as bursty as the differences between windows let expect, and lengths follow the law of
    the whole workload tilted exponentially in their work, so that its mean is the window's: the least informative law
    with that mean.

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
    return from_trajectories(runs, method, slo, method_errors(kind_of("windows", spec)))


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
    laws = _tilted_laws(cost[order], weights[order], work / np.maximum(count, 1e-9))
    inside = _cell_laws(count, rng)
    times, picks = [], []
    for i in np.flatnonzero(numbers):
        n = int(numbers[i])
        even = (rng.permutation(n) + rng.random(n)) / n
        picks.append(order[np.minimum(np.searchsorted(laws(int(i)), even), len(order) - 1)])
        share = np.interp(rng.random(n), inside[i], np.linspace(0.0, 1.0, inside.shape[1]))
        times.append(np.sort(start[i] + width * share))
    chosen = np.concatenate(picks)
    return Requests.from_arrays(np.concatenate(times), prompt[chosen], output[chosen], cached[chosen])


def _cell_laws(count: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return cumulative shares of each window's arrivals over its cells: halves of halves, as uneven as windows are.

    How unevenly two neighbouring windows share their arrivals (beyond chance) says how bursty traffic is at their
    scale, pairs of windows how it is at twice that scale. Below a window it falls from scale to scale as it does
    there, or stays, each half taking a symmetric beta share (a multiplicative cascade: Riedi et al., IEEE Trans. Inf.
    Theory 45, 1999).
    """
    near, far = _unevenness(count), _unevenness(count[: len(count) // 2 * 2].reshape(-1, 2).sum(axis=1))
    trend = min(near / far, 1.0) if far > 0 else 1.0
    shares = np.ones((len(count), 1))
    for level in range(1, _SPLITS + 1):
        variance = min(near * trend**level, _MOST_UNEVEN)
        half = np.full(shares.shape, 0.5)
        if variance > 1e-4:
            a = (0.25 / variance - 1.0) / 2.0
            half = rng.beta(a, a, size=shares.shape)
        shares = np.stack([shares * half, shares * (1.0 - half)], axis=2).reshape(len(count), -1)
    return np.concatenate([np.zeros((len(count), 1)), np.cumsum(shares, axis=1)], axis=1)


def _unevenness(count: FloatArray) -> float:
    """Return the variance of the share that one of two neighbours has of their arrivals, less that of chance."""
    pairs = count[: len(count) // 2 * 2].reshape(-1, 2)
    total = pairs.sum(axis=1)
    if not np.any(total > 0):
        return 0.0
    pairs, total = pairs[total > 0], total[total > 0]
    spread = (pairs[:, 0] / total - 0.5) ** 2 - 0.25 / np.maximum(total, 1.0)
    return max(float(np.average(spread, weights=total)), 0.0)


def _tilted_laws(cost: FloatArray, weights: FloatArray, mean: FloatArray) -> Callable[[int], FloatArray]:
    """Return, by window, the cumulative law of lengths (by increasing cost) tilted to the window's mean cost.

    Weights are multiplied by exp(tilt * mean cost of the bin); means out of reach are held.
    """
    bins = np.minimum((np.cumsum(weights) - weights / 2) * _TILT_BINS, _TILT_BINS - 1).astype(np.int64)
    share, total = (np.asarray(np.bincount(bins, mass), dtype=float) for mass in (weights, weights * cost))
    level = total / np.maximum(share, 1e-300)
    scale = 40.0 / max(float(cost[-1] - cost[0]), 1e-12) * np.ones(len(mean))
    low, high = -scale, scale
    for _ in range(_TILT_STEPS):
        middle = 0.5 * (low + high)
        above = _tilted(level, share, middle) @ level > mean
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    factor = _tilted(level, share, 0.5 * (low + high)) / np.maximum(share, 1e-300)
    return lambda i: np.asarray(np.cumsum(weights * factor[i][bins]))


def _tilted(level: FloatArray, share: FloatArray, tilt: FloatArray) -> FloatArray:
    """Return share * exp(tilt*level), normalised, one row a tilt."""
    exponent = np.multiply.outer(tilt, level)
    law = share * np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return np.asarray(law / law.sum(axis=1, keepdims=True))

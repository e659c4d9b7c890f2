"""How far predictions are from simulation: method errors as measured, and the noise of finite runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qmodel.policies.state import KernelSpec
from qmodel.system.prediction import Prediction
from qmodel.system.recursion import WARMUP

__all__ = [
    "TABLE",
    "deflects",
    "kind_of",
    "method_errors",
    "path_noise",
    "with_drift",
    "with_noise",
    "with_spread",
    "with_swaps",
]

FloatArray = npt.NDArray[np.float64]

# Half-widths by kind of prediction: relative for times, absolute for shares. `qmodel.studies.validation_page --errors`
# prints them: 95th percentiles over half of the cells of docs/validation.md, which has the coverage over the others.
# Windows with a policy: half of the cells of decision 0065; TBT without one or over a span: random traffic (0068).
_METRICS = (
    "p50_ttft_s", "p95_ttft_s", "p99_ttft_s", "p99_tbt_s", "ttft_attainment", "tbt_attainment", "slo_attainment",
    "deflected_share",
)  # fmt: skip


def _row(*widths: float) -> dict[str, float]:
    return dict(zip(_METRICS, widths, strict=True))


TABLE: Mapping[str, Mapping[str, float]] = {
    "stationary": _row(0.0187, 0.0129, 0.0287, 0.025, 0.0031, 0.003, 0.0031, 0),
    "stationary, policy": _row(0.0081, 0.0166, 0.0722, 0.005, 0.003, 0.003, 0.003, 0.003),
    "no steady state": _row(0.2635, 0.01, 0.1448, 0.005, 0.0184, 0.003, 0.0184, 0.003),
    "bursty": _row(0.9, 0.85, 0.85, 0.15, 0.35, 0.02, 0.35, 0.0),  # built-in workloads at loads .5 to .85
    "trace": _row(0.0066, 0.005, 0.0059, 0.018, 0.003, 0.003, 0.003, 0),
    "trace, policy": _row(0.0221, 0.0219, 0.0282, 0.018, 0.0037, 0.003, 0.0037, 0.0046),
    "windows": _row(0.4463, 0.2736, 0.3307, 0.2802, 0.0823, 0.003, 0.0823, 0),
    "windows, policy": _row(0.69, 0.64, 0.53, 0.0136, 0.21, 0.003, 0.21, 0.11),
}
_LEVELS = {"p50_ttft_s": 0.5, "p95_ttft_s": 0.95, "p99_ttft_s": 0.99}
_SHARES = ("ttft_attainment", "slo_attainment")
_LEAST_TAIL = 1e-12  # with thousands of residents hardly a batch is independent, and levels would round to 1
_TBT_LEVEL = 0.99
_NORMAL_90 = 1.645
_COUNTED_SHARE = 1.0 - WARMUP
# Student's quantile of 95 % by number of runs, 1 to 6 and more; it is not asked for one.
_STUDENT_90 = (np.inf, 6.314, 2.920, 2.353, 2.132, 2.015)
# Ranks move by this share of the standard error of as many free draws, on random traffic of decision 0068.
_SWAPPED = {False: 0.5, True: 1.0}  # without and with a policy
_NEAR = 0.1  # relative width around a time over which waits are averaged
_BATCHES = 32  # of a path, whose means tell how far neighbouring requests fare alike


def deflects(spec: KernelSpec) -> bool:
    """Return whether a policy decides anything beyond the least outstanding work."""
    return spec.kind != "none" or spec.route_by_requests


def kind_of(method: str, spec: KernelSpec) -> str:
    """Return the row of `TABLE` for a method and a policy.

    Parameters
    ----------
    method : str
        ``stationary``, ``no steady state``, ``bursty``, ``trace`` or ``windows``.
    spec : KernelSpec
        Policy as data.
    """
    return f"{method}, policy" if deflects(spec) and f"{method}, policy" in TABLE else method


def method_errors(kind: str) -> dict[str, float]:
    """Return the measured half-widths of a kind of prediction: relative for times, absolute for shares."""
    return dict(TABLE[kind])


def path_noise(load: float, scv: float, requests: int) -> float:
    """Return the relative standard error of a mean wait from `requests` Poisson requests; *approximation*.

    sqrt((2 + 5*rho - 4*rho^2 + rho^3)*(1 + SCV)/(2*n*rho))/(1 - rho): exact in the limit of long runs for M/M/1 (Whitt,
    Manage. Sci. 35, 1989), its heavy-traffic scaling with the SCV of the work, also for pools.

    Parameters
    ----------
    load, scv : float
        Load of the pool, and squared coefficient of variation of the work.
    requests : int
        Length of the path.
    """
    rho = min(max(load, 0.02), 0.98)
    spread = (2.0 + 5.0 * rho - 4.0 * rho**2 + rho**3) / rho
    return float(np.sqrt(spread * (1.0 + scv) / (2.0 * requests)) / (1.0 - rho))


def with_noise(prediction: Prediction, requests: int, residents: float, mean_noise: float | None = None) -> Prediction:
    """Return a steady-state prediction whose half-widths also cover one finite run and the path it rests on.

    A run counts how many of its requests exceed a time. The variance of that count is read off the path by the means
    of its batches, and at least that of free draws; where waits are known exactly, at least that of a queue in heavy
    traffic, SE(p) = mean_noise*sqrt(p*(1 - p + p*log(p))) for the chance p of a longer wait (the asymptotic variance of
    the indicator for reflected Brownian motion, by Poisson's equation; relative to the mean as in Whitt, Manage. Sci.
    35, 1989). A percentile then moves as far as the law of TTFT says. How long steps take changes with who is resident,
    so that n requests show n/(2*residents) independent batches. Half-widths of 90 % add in squares.

    Parameters
    ----------
    prediction : Prediction
        With the half-widths of its method; its requests in order of arrival.
    requests : int
        Length of a run.
    residents : float
        Mean number of requests that are being decoded.
    mean_noise : float, optional
        Relative standard error of a run's mean wait when the prediction's own waits follow an exact law.
    """
    total, errors = prediction.parts_s.sum(axis=0), dict(prediction.error_estimate)

    def share_error(level_s: float, p: float) -> float:
        each = _variance(total > level_s, p)
        run, own = each / (_COUNTED_SHARE * requests), each / len(total)
        if mean_noise is not None and p > 0.0:
            near = np.abs(total - level_s) <= _NEAR * level_s
            waiting = float(prediction.parts_s[0, near].mean() / level_s) if near.any() else 0.0
            heavy = (mean_noise * waiting) ** 2 * p * (1.0 - p + p * np.log(p))
            run, own = max(run, heavy), own * max(1.0 - waiting, 0.0) ** 2
        return float(np.sqrt(run + own))

    above = 1.0 - np.array(list(_LEVELS.values()))
    levels = np.quantile(total, 1.0 - above)
    reach = _NORMAL_90 * np.array([share_error(*pair) for pair in zip(levels, above, strict=True)]) / above
    low, high = np.quantile(total, np.clip(1.0 - above * np.exp([reach, -reach]), 0.0, 1.0))
    widths = dict(zip(_LEVELS, 0.5 * (high - low) / levels, strict=True))
    limit = prediction.slo.ttft_s
    widths |= dict.fromkeys(_SHARES, _NORMAL_90 * share_error(limit, float(np.mean(total > limit))))
    independent = 1.0 / len(total) + 1.0 / (_COUNTED_SHARE * requests)
    if prediction.deflected.any():
        moved = _variance(prediction.deflected, prediction.deflected_share)
        widths["deflected_share"] = _NORMAL_90 * np.sqrt(moved * independent)
    if np.isfinite(prediction.mean_tbt_s).any():
        p = 1.0 - _TBT_LEVEL
        far = _NORMAL_90 * np.sqrt((1.0 - p) * 2.0 * max(residents, 0.5) * independent / p)
        low, level, high = prediction.tbt_s(1.0 - np.clip(p * np.exp([far, 0.0, -far]), _LEAST_TAIL, 0.9))
        widths["p99_tbt_s"] = 0.5 * (high - low) / level
    for name, width in widths.items():
        errors[name] = float(np.hypot(errors[name], width))
    return replace(prediction, error_estimate=errors)


def _variance(happens: npt.NDArray[np.bool_], p: float) -> float:
    """Return the variance, for each request of a long run, of how many are hit; p*(1 - p) or more."""
    size = len(happens) // _BATCHES
    means = happens[: size * _BATCHES].reshape(_BATCHES, size).mean(axis=1)
    return max(size * float(np.var(means, ddof=1)), p * (1.0 - p))


def with_drift(prediction: Prediction, requests: int, span_s: float, scv: float) -> Prediction:
    """Return a prediction of lasting overload whose half-widths also cover how much work a run brings; *approximation*.

    Paths are spread evenly over their laws, a run of n free draws brings sqrt((1 + scv)/n) more or less work, which
    nothing evens out: by then it has delayed a share q of the span by as much, or all that there is. Half-widths of
    90 % add in squares.

    Parameters
    ----------
    prediction : Prediction
        With the half-widths of its method.
    requests : int
        Length of a run.
    span_s : float
        Time it takes [s].
    scv : float
        Squared coefficient of variation of the work.
    """
    errors, late = dict(prediction.error_estimate), _NORMAL_90 * span_s * np.sqrt((1.0 + scv) / requests)
    for name, q in _LEVELS.items():
        errors[name] = float(np.hypot(errors[name], min(q * late / prediction.ttft_s(q), 1.0)))
    return replace(prediction, error_estimate=errors)


def with_swaps(prediction: Prediction, requests: int, by_policy: bool) -> Prediction:
    """Return a prediction over a span whose half-widths also cover requests that fare otherwise in truth.

    Close decisions, and steps just missed, fall otherwise in a recursion than in the engine: some requests swap places.
    A percentile then moves by as much as times differ around its rank, which is little among many requests and much
    where few hold the tail. Half-widths of 90 % add in squares.

    Parameters
    ----------
    prediction : Prediction
        With the half-widths of its method.
    requests : int
        Length of the trace.
    by_policy : bool
        Whether a policy decides.
    """
    total, errors = prediction.parts_s.sum(axis=0), dict(prediction.error_estimate)
    reach = _NORMAL_90 * _SWAPPED[by_policy] / np.sqrt(_COUNTED_SHARE * requests)
    for name, q in _LEVELS.items():
        ranks = reach * np.sqrt(q * (1.0 - q)) * np.array([-1.0, 1.0])
        low, high = np.quantile(total, np.clip(q + ranks, 0.0, 1.0))
        errors[name] = float(np.hypot(errors[name], 0.5 * (high - low) / np.quantile(total, q)))
    for name in ("ttft_attainment", "tbt_attainment", "slo_attainment"):
        met = float(getattr(prediction, name))
        errors[name] = float(np.hypot(errors[name], reach * np.sqrt(met * (1.0 - met))))
    return replace(prediction, error_estimate=errors)


def with_spread(prediction: Prediction, runs: Sequence[Prediction]) -> Prediction:
    """Return a prediction that pools runs whose half-widths also cover how far single runs lie apart.

    The truth is one more run of the kind: it differs from the mean of m runs by their standard deviation times
    sqrt(1 + 1/m), whose quantile at 90 % is Student's with m - 1 degrees of freedom. Nothing is added by one run.

    Parameters
    ----------
    prediction : Prediction
        With the half-widths of its method.
    runs : sequence of Prediction
        The same for each run alone.
    """
    m, errors = len(runs), dict(prediction.error_estimate)
    if m < 2:
        return prediction
    factor = _STUDENT_90[min(m, len(_STUDENT_90)) - 1] * np.sqrt(1.0 + 1.0 / m)
    for name in errors:
        values = np.array([_metric(run, name) for run in runs])
        scale = float(values.mean()) if name.endswith("_s") else 1.0
        if np.isfinite(scale) and scale > 0.0:
            errors[name] = float(np.hypot(errors[name], factor * float(values.std(ddof=1)) / scale))
    return replace(prediction, error_estimate=errors)


def _metric(run: Prediction, name: str) -> float:
    if name in _LEVELS:
        return float(run.ttft_s(_LEVELS[name]))
    if name == "p99_tbt_s":
        return float(run.tbt_s(_TBT_LEVEL)) if np.isfinite(run.mean_tbt_s).any() else np.nan
    return float(getattr(run, name))

"""How far predictions are from simulation: method errors as measured, and the noise of finite runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qmodel.policies.state import KernelSpec
from qmodel.system.prediction import Prediction

__all__ = ["TABLE", "deflects", "kind_of", "method_errors", "path_noise", "with_noise", "with_swaps"]

FloatArray = npt.NDArray[np.float64]

# Half-widths by kind of prediction: relative for times, absolute for shares. `qmodel.studies.validation_page --errors`
# prints them: 95th percentiles over half of the cells of docs/validation.md, which has the coverage over the others.
# Windows with a policy: half of the cells of decision 0065; TBT over a span: the random traffic of decision 0068.
_METRICS = (
    "p50_ttft_s", "p95_ttft_s", "p99_ttft_s", "p99_tbt_s", "ttft_attainment", "tbt_attainment", "slo_attainment",
    "deflected_share",
)  # fmt: skip


def _row(*widths: float) -> dict[str, float]:
    return dict(zip(_METRICS, widths, strict=True))


TABLE: Mapping[str, Mapping[str, float]] = {
    "stationary": _row(0.0316, 0.038, 0.0174, 0.025, 0.0113, 0.003, 0.0113, 0),
    "stationary, policy": _row(0.0139, 0.0203, 0.0671, 0.005, 0.003, 0.003, 0.003, 0.003),
    "no steady state": _row(0.4, 0.12, 0.1, 0.005, 0.02, 0.003, 0.02, 0.01),  # of single runs, six a cell
    "bursty": _row(0.9, 0.85, 0.85, 0.15, 0.35, 0.02, 0.35, 0.0),  # built-in workloads at loads .5 to .85
    "trace": _row(0.005, 0.005, 0.0056, 0.018, 0.003, 0.003, 0.003, 0),
    "trace, policy": _row(0.0217, 0.0215, 0.0201, 0.018, 0.0038, 0.003, 0.0038, 0.0046),
    "windows": _row(0.4463, 0.2736, 0.3307, 0.2802, 0.0823, 0.003, 0.0823, 0),
    "windows, policy": _row(0.69, 0.64, 0.53, 0.0136, 0.21, 0.003, 0.21, 0.11),
}
_LEVELS = {"p50_ttft_s": 0.5, "p95_ttft_s": 0.95, "p99_ttft_s": 0.99}
_NOISE_BY_LEVEL = {"p50_ttft_s": 1.8, "p95_ttft_s": 1.2, "p99_ttft_s": 1.4}  # against runs of 20,000 requests
_SHARES = ("ttft_attainment", "slo_attainment")
_NORMAL_90 = 1.645
_COUNTED_SHARE = 0.9
# Ranks move by this share of the standard error of as many free draws, on random traffic of decision 0068.
_SWAPPED = {False: 0.5, True: 1.0}  # without and with a policy
_NEAR = 0.1  # relative width around a time over which waits are averaged and the density of TTFT is read off


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


def with_noise(prediction: Prediction, noise: float) -> Prediction:
    """Return a steady-state prediction whose half-widths also cover one finite run of the workload's usual length.

    Only waits are noisy: the noise of a percentile of TTFT is that of the wait times its share there, and that of
    attainment follows by the density of TTFT at the SLO. Half-widths of 90 % add in squares.

    Parameters
    ----------
    prediction : Prediction
        With the half-widths of its method.
    noise : float
        Relative standard error of a mean wait.
    """
    total, errors = prediction.parts_s.sum(axis=0), dict(prediction.error_estimate)
    relative = {}
    for name, level in zip(_LEVELS, np.quantile(total, list(_LEVELS.values())), strict=True):
        near = np.abs(total - level) <= _NEAR * level
        relative[name] = _NOISE_BY_LEVEL[name] * noise * float(prediction.parts_s[0, near].mean() / level)
    limit = prediction.slo.ttft_s
    density = float(np.mean(np.abs(total - limit) <= _NEAR * limit)) / (2 * _NEAR)
    absolute = dict.fromkeys(_SHARES, density * relative["p95_ttft_s"])
    for name, value in {**relative, **absolute}.items():
        errors[name] = float(np.hypot(errors[name], _NORMAL_90 * value))
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

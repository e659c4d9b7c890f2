"""How far predictions are from simulation: method errors as measured, and the noise of finite paths."""

from __future__ import annotations

import numpy as np

from qmodel.policies.state import KernelSpec

__all__ = ["path_noise", "recursion_errors", "stationary_errors"]

# Half-widths that covered at least nine in ten comparisons with the simulator; docs/validation.md has them all.
_STATIONARY = {"ttft_p50": 0.025, "ttft_p95": 0.025, "ttft_p99": 0.04, "tbt_p99": 0.03}
_PLAIN = {"ttft_p50": 0.01, "ttft_p95": 0.01, "ttft_p99": 0.01, "tbt_p99": 0.02}
_POLICY = {"ttft_p50": 0.04, "ttft_p95": 0.06, "ttft_p99": 0.06, "tbt_p99": 0.02}
_SHARES = {"ttft_attainment": 0.01, "tbt_attainment": 0.01, "slo_attainment": 0.01}
_NOISE_PER_QUANTILE = {"ttft_p50": 0.7, "ttft_p95": 1.0, "ttft_p99": 1.4}


def path_noise(load: float, scv: float, requests: int) -> float:
    """Return the relative standard error of a P95 wait from `requests` Poisson requests; *approximation*.

    sqrt((1 + SCV)/n)/(1 - rho), the heavy-traffic relaxation of a single queue, which covers pools too.

    Parameters
    ----------
    load, scv : float
        Load of the pool, and squared coefficient of variation of the work.
    requests : int
        Length of the path.
    """
    return float(np.sqrt((1.0 + scv) / requests) / max(1.0 - load, 0.02))


def stationary_errors(requests: int) -> dict[str, float]:
    """Return half-widths of a stationary prediction: relative for times, absolute for shares.

    Parameters
    ----------
    requests : int
        Length of the coupled path.
    """
    noise = 0.01 * np.sqrt(8_192 / requests)
    errors = {name: float(np.hypot(value, 2 * noise)) for name, value in _STATIONARY.items()}
    errors["tbt_p99"] = _STATIONARY["tbt_p99"]
    return {**errors, **_SHARES, "deflected_share": 0.0}


def recursion_errors(spec: KernelSpec, noise: float = 0.0) -> dict[str, float]:
    """Return half-widths of the recursion over requests: relative for times, absolute for shares.

    Parameters
    ----------
    spec : KernelSpec
        Policy; without deflection the prefill side is exact.
    noise : float
        Relative standard error of P95 when the requests are a sample of those meant.
    """
    plain = spec.kind == "none"
    method = _PLAIN if plain else _POLICY
    errors = {
        name: float(np.hypot(value, 2 * noise * _NOISE_PER_QUANTILE.get(name, 0.0))) for name, value in method.items()
    }
    shares = {name: float(np.hypot(value, noise)) for name, value in _SHARES.items()}
    return {**errors, **shares, "deflected_share": 0.0 if plain else 0.015}

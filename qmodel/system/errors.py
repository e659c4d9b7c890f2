"""How far predictions are from simulation: measured method errors and sampling noise."""

from __future__ import annotations

import numpy as np

__all__ = ["stationary_errors"]


def stationary_errors(load: float, work_square: float, requests: int) -> dict[str, float]:
    """Return relative half-widths of a stationary prediction by metric (absolute for shares)."""
    del work_square
    noise = 0.01 * np.sqrt(16_384 / requests)
    base = float(0.015 + noise + 0.01 * load)
    return {
        "ttft_p50": base,
        "ttft_p95": base,
        "ttft_p99": 1.5 * base,
        "tbt_p99": 0.03,
        "ttft_attainment": 0.01,
        "tbt_attainment": 0.01,
        "slo_attainment": 0.015,
        "deflected_share": 0.0,
    }

"""The metrics that every prediction and simulation is reported by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qmodel.scenario.ttft import PART_LABELS, PARTS
from qmodel.simulation.statistics import mean_interval

__all__ = ["METRICS", "Outcome", "label", "measure", "over_seeds"]

_LABELS = {
    "p50_ttft_s": "P50 TTFT",
    "p95_ttft_s": "P95 TTFT",
    "p99_ttft_s": "P99 TTFT",
    "p99_tbt_s": "P99 TBT",
    "ttft_attainment": "TTFT met",
    "tbt_attainment": "TBT met",
    "slo_attainment": "SLO met",
    "deflected_share": "deflected",
}
METRICS = tuple(_LABELS)


class Outcome(Protocol):
    """What predictions and simulations share."""

    def ttft_s(self, q: float) -> float:
        """Return a quantile of TTFT [s]."""

    def tbt_s(self, q: float) -> float:
        """Return a quantile of TBT by token [s]."""

    def breakdown(self, q: float) -> Mapping[str, float]:
        """Return the mean of each part of TTFT [s] among the requests near a quantile."""

    @property
    def ttft_attainment(self) -> float:
        """Share of requests within the TTFT SLO."""

    @property
    def tbt_attainment(self) -> float:
        """Share of requests with every TBT within the SLO."""

    @property
    def slo_attainment(self) -> float:
        """Share of requests that meet both."""

    @property
    def deflected_share(self) -> float:
        """Share of requests whose prefill ran on a decode instance."""


def measure(outcome: Outcome) -> dict[str, float]:
    """Return the metrics and the parts of P95 TTFT of a prediction or a simulation.

    Parameters
    ----------
    outcome : Prediction or SimulationResult
        Anything with the shared methods.

    Returns
    -------
    dict
        `METRICS` (times in seconds, shares in [0, 1]) and ``p95_<part>_s`` for each of `PARTS`.
    """
    numbers = {
        "p50_ttft_s": outcome.ttft_s(0.50),
        "p95_ttft_s": outcome.ttft_s(0.95),
        "p99_ttft_s": outcome.ttft_s(0.99),
        "p99_tbt_s": outcome.tbt_s(0.99),
        "ttft_attainment": outcome.ttft_attainment,
        "tbt_attainment": outcome.tbt_attainment,
        "slo_attainment": outcome.slo_attainment,
        "deflected_share": outcome.deflected_share,
    }
    parts = outcome.breakdown(0.95)
    numbers |= {f"p95_{part}_s": parts[part] for part in PARTS}
    return {name: float(value) for name, value in numbers.items()}


def label(name: str) -> str:
    """Return the name of a metric for people.

    Parameters
    ----------
    name : str
        Key of `measure`, or another quantile or time named alike.

    Examples
    --------
    >>> label("slo_attainment"), label("p95_first_step_s"), label("p50_tbt_s"), label("mean_wait_s")
    ('SLO met', 'P95 TTFT, first step', 'P50 TBT', 'mean wait')
    """
    if name in _LABELS:
        return _LABELS[name]
    found = re.fullmatch(r"p(\d+)_(\w+)_s", name)
    if found is None:
        return name.removesuffix("_s").replace("_", " ")
    level, what = found.groups()
    return f"P{level} TTFT, {PART_LABELS[what]}" if what in PART_LABELS else f"P{level} {what.upper()}"


def over_seeds(values: npt.ArrayLike) -> tuple[float, float]:
    """Return mean and half-width of the 95 % Student interval over replications; half-width 0 for a single one.

    Parameters
    ----------
    values : array_like, shape (n,)
        One value per seed, at least one.

    Returns
    -------
    tuple of float
        (mean, half-width), in the unit of the values.

    Examples
    --------
    >>> over_seeds([2.0])
    (2.0, 0.0)
    >>> mean, half = over_seeds([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    x = np.asarray(values, dtype=float)
    return mean_interval(x) if x.size > 1 else (float(x[0]), 0.0)

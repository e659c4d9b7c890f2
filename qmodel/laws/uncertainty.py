"""Calibrations drawn from the uncertainty of their fit, so that predictions can carry an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.laws.step import PNormLaw

if TYPE_CHECKING:
    from qmodel.laws.calibration import Calibration

__all__ = ["draw_calibrations"]

Array = npt.NDArray[np.float64]

_LOWEST = {"p": 1.0}  # every other coefficient may reach 0
_HIGHEST = {"a": 0.9}


def draw_calibrations(calibration: Calibration, n: int, rng: np.random.Generator) -> list[Calibration]:
    """Return `n` calibrations drawn from the fit's covariance; *approximation* (normal, clipped to what laws allow).

    Parameters
    ----------
    calibration : Calibration
        With standard errors, and correlations where coefficients share data.
    n : int
        Draws, >= 1.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    list of Calibration
        The same model, GPU and tp, other coefficients.

    Raises
    ------
    InputError
        When `n` < 1 or the calibration has no standard errors.
    """
    if n < 1:
        raise InputError("draws", n, ">= 1")
    names = sorted(calibration.standard_errors)
    if not names:
        remedy = "leave out draws, or run qmodel calibrate with --profiles (kernel tables or a CSV of steps)"
        raise InputError("standard errors of the calibration", "absent", "in its file", remedy)
    centre = np.array([_value(calibration, name) for name in names])
    factor = _factor(names, calibration.standard_errors, calibration.correlations)
    draws = centre + rng.standard_normal((n, len(names))) @ factor.T
    return [_with(calibration, dict(zip(names, row.tolist(), strict=True))) for row in draws]


def _value(calibration: Calibration, name: str) -> float:
    part, _, coefficient = name.partition(".")
    owner: Any = getattr(calibration, part, None)
    if owner is None or not hasattr(owner, coefficient):
        raise InputError("standard error", repr(name), "of a coefficient of step, prefill or engine")
    return float(getattr(owner, coefficient))


def _factor(names: list[str], errors: Mapping[str, float], correlations: Mapping[str, float]) -> Array:
    """Return F with F F' the covariance; rounded correlations are made positive semi-definite."""
    matrix = np.eye(len(names))
    index = {name: i for i, name in enumerate(names)}
    for pair, value in correlations.items():
        first, _, second = pair.partition("|")
        if first in index and second in index:
            matrix[index[first], index[second]] = matrix[index[second], index[first]] = value
    values, vectors = np.linalg.eigh(matrix)
    scale = np.array([errors[name] for name in names])
    return np.asarray(scale[:, None] * vectors * np.sqrt(np.maximum(values, 0.0)))


def _with(calibration: Calibration, values: Mapping[str, float]) -> Calibration:
    changes: dict[str, dict[str, float]] = {"step": {}, "prefill": {}, "engine": {}}
    for name, value in values.items():
        part, _, coefficient = name.partition(".")
        low, high = _LOWEST.get(coefficient, 0.0), _HIGHEST.get(coefficient, np.inf)
        changes[part][coefficient] = float(np.clip(value, low, high))
    bare = calibration.without_engine()
    laws = {}
    for part in ("step", "prefill"):
        law = getattr(bare, part)
        laws[part] = replace(law, **changes[part])
        if isinstance(law, PNormLaw) and part == "prefill" and "step.reload_s" in values:
            laws[part] = replace(laws[part], reload_s=laws["step"].reload_s)  # the prefill law borrows it
    drawn = replace(bare, **laws)
    return drawn.with_engine(replace(calibration.engine, **changes["engine"])) if calibration.engine else drawn

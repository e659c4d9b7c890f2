"""Checks that an argument is a number, or an array of numbers: one clear line, and none of numpy's own errors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError

__all__ = ["check_array", "check_count", "check_number", "check_positive", "check_rng", "shown"]

FloatArray = npt.NDArray[np.float64]

#: Letters of a wrong value that a message shows.
SHOWN = 60


def check_number(what: str, value: object) -> float:
    """Return `value` as a float when it is a single real number (NaN and infinity included), else raise InputError."""
    try:
        if isinstance(value, str | bytes) or getattr(value, "ndim", 0) != 0:
            raise TypeError
        return float(value)  # type: ignore[arg-type]  # what is no number fails here
    except (TypeError, ValueError, OverflowError):
        raise InputError(what, shown(value), "a number") from None


def check_array(what: str, value: object) -> FloatArray:
    """Return `value` as an array of floats when it is made of real numbers, else raise InputError."""
    try:
        found = np.asarray(value)
        if found.dtype.kind in "SUc":  # numpy would read strings and drop imaginary parts
            raise TypeError
        return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(what, shown(value), "a number or an array of numbers") from None


def check_positive(what: str, value: float) -> float:
    """Return `value` as a float when it is finite and > 0, else raise InputError."""
    number = check_number(what, value)
    if not (math.isfinite(number) and number > 0):
        raise InputError(what, number, "finite and > 0")
    return number


def check_count(what: str, value: object) -> int:
    """Return `value` as an int when it is a whole number >= 0, else raise InputError."""
    number = check_number(what, value)
    if not (math.isfinite(number) and number == int(number) and number >= 0):
        raise InputError(what, number, "a whole number >= 0")
    return int(number)


def check_rng(rng: object) -> np.random.Generator:
    """Return `rng` when it is one of numpy's generators, else raise InputError."""
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", shown(rng), "a numpy.random.Generator", "pass numpy.random.default_rng(seed)")
    return rng


def shown(value: object) -> str:
    """Return a wrong value in few letters, with its type."""
    try:
        text = repr(value)
    except ValueError:  # an integer with too many digits to print
        text = "too large"
    return f"{text if len(text) <= SHOWN else text[:SHOWN] + '...'} ({type(value).__name__})"

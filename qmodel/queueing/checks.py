"""Checks of arguments that every model shares; those of plain numbers are `distributions.checks`, passed on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qmodel.distributions.checks import check_array, check_number, check_positive, shown
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError, UnstableError

__all__ = [
    "check_array",
    "check_load",
    "check_number",
    "check_positive",
    "check_scv",
    "check_servers",
    "check_service",
    "check_together",
    "check_two_moments",
    "check_whole",
    "shown",
]

FloatArray = npt.NDArray[np.float64]


def check_together(shape: tuple[int, ...] | None = None, /, **arrays: npt.ArrayLike) -> list[FloatArray]:
    """Return arrays of numbers brought to one shape (`shape` if given), one axis at least, else raise InputError."""
    found = [np.atleast_1d(check_array(what, value)) for what, value in arrays.items()]
    try:
        common = np.broadcast_shapes(shape or (1,), *(array.shape for array in found))
        if shape not in (None, common):
            raise ValueError
        return [np.array(np.broadcast_to(array, common)) for array in found]
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in found)
        limit = "of shapes that go together" if shape is None else f"of shape {shape} or single numbers"
        raise InputError(" and ".join(arrays), f"of shapes {shapes}", limit) from None


def check_service(service: object) -> ServiceTime:
    """Return `service` when it is a service law, else raise InputError."""
    if not isinstance(service, ServiceTime):
        remedy = "build one with ServiceTime.from_samples, .exponential, .lognormal, ..."
        raise InputError("service law", shown(service), "a ServiceTime", remedy)
    return service


def check_scv(what: str, value: float) -> float:
    """Return a squared coefficient of variation when it is finite and >= 0, else raise InputError."""
    number = check_number(what, value)
    if not (math.isfinite(number) and number >= 0):
        raise InputError(what, number, "finite and >= 0")
    return number


def check_servers(servers: int) -> int:
    """Return the number of servers when it is a whole number >= 1, else raise InputError."""
    return check_whole("servers", servers, 1)


def check_whole(what: str, value: float, least: int) -> int:
    """Return `value` as an int when it is a whole number >= `least`, else raise InputError."""
    number = check_number(what, value)
    if not math.isfinite(number) or number != int(number) or number < least:
        raise InputError(what, value, f"a whole number >= {least}")
    return int(number)


def check_load(arrival_rate_per_s: float, servers: int, mean_service_s: float) -> float:
    """Return the load rate * mean service / servers when it is below 1.

    Raises
    ------
    UnstableError
        When the load is 1 or more: waits grow without bound.
    """
    check_positive("arrival rate", arrival_rate_per_s)
    load = arrival_rate_per_s * mean_service_s / check_servers(servers)
    if load >= 1.0:
        need = math.floor(arrival_rate_per_s * mean_service_s) + 1
        limit_rate = servers / mean_service_s
        remedy = f"use at least {need} servers or a rate below {limit_rate:.6g}/s, or a model with thresholds"
        raise UnstableError("load of the queue", load, "below 1", remedy)
    return load


def check_two_moments(
    arrival_rate_per_s: float, arrival_scv: float, servers: int, mean_service_s: float, service_scv: float
) -> float:
    """Return the load of a GI/G/k queue when its two moments of gaps and services are in range, else raise."""
    check_positive("mean service time", mean_service_s)
    check_scv("scv of arrivals", arrival_scv)
    check_scv("scv of services", service_scv)
    return check_load(arrival_rate_per_s, servers, mean_service_s)

"""Checks of arguments that every model shares."""

from __future__ import annotations

import math

from qmodel.errors import InputError, UnstableError

__all__ = ["check_load", "check_positive", "check_scv", "check_servers"]


def check_positive(what: str, value: float) -> float:
    """Return `value` as a float when it is finite and > 0, else raise InputError."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(what, value, "finite and > 0")
    return float(value)


def check_scv(what: str, value: float) -> float:
    """Return a squared coefficient of variation when it is finite and >= 0, else raise InputError."""
    if not (math.isfinite(value) and value >= 0):
        raise InputError(what, value, "finite and >= 0")
    return float(value)


def check_servers(servers: int) -> int:
    """Return the number of servers when it is a whole number >= 1, else raise InputError."""
    if not math.isfinite(servers) or servers != int(servers) or servers < 1:
        raise InputError("servers", servers, "a whole number >= 1")
    return int(servers)


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

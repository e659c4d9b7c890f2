"""A user's own rule as an njit function that the simulator calls without leaving compiled code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.policies.rule import Order
from qmodel.policies.state import CHUNKS, KernelSpec

__all__ = ["DECODE", "PREFILL", "Compiled"]

#: Pools of a compiled decision's answer.
PREFILL, DECODE = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compiled:
    """A rule of your own, compiled by numba: a decision costs the simulator about as much as a built-in rule's.

    `decide(state, request, parameters)` returns (pool, instance, host_s): `PREFILL` or `DECODE`, the instance within
    the pool from 0, and for a deflected prompt its host time there as you estimate it [s]. `state` and `request` have
    the fields of `ClusterState` and `RequestView`. Instead of laws and methods `qmodel.policies.estimates` offers
    `execution_s`, `transfer_s`, `limit_s` and `schedule_s` as compiled functions. An instance that is down shows
    1e15 as its work or load.

    Parameters
    ----------
    decide : callable
        Function decorated with ``numba.njit``. One that raises, or names no instance, ends the simulation with an
        error.
    parameters : array_like
        Numbers handed to it, shape (n,), so that one compiled function serves many settings.
    name : str
        Short name for tables.
    chunks : tuple of int
        Candidate sizes of hosted chunks, largest first [tokens].
    beta : float
        Hosted chunks may use beta * (strictest TBT SLO among the residents).
    order : {"fcfs", "spf", "aged"}
        Order of the prefill queues.
    ageing_per_s : float
        Order "aged": seconds of work by which a second of waiting advances a request.

    Examples
    --------
    >>> import numba
    >>> @numba.njit
    ... def shortest_queue(state, request, parameters):
    ...     return 0, state.prefill_requests.argmin(), 0.0
    >>> Compiled(decide=shortest_queue, name="shortest queue").name
    'shortest queue'
    """

    decide: Callable[..., Any]
    parameters: npt.ArrayLike = field(default=())
    name: str = "compiled"
    chunks: tuple[int, ...] = CHUNKS
    beta: float = 1.0
    order: Order = "fcfs"
    ageing_per_s: float = 0.0

    def __post_init__(self) -> None:
        if not hasattr(self.decide, "py_func"):
            raise InputError("decide of Compiled", repr(self.decide), "an njit function", "decorate it with numba.njit")
        numbers = np.asarray(self.parameters, dtype=float)
        if numbers.ndim != 1 or not np.all(np.isfinite(numbers)):
            raise InputError("parameters of Compiled", f"of shape {numbers.shape}", "one row of finite numbers")
        if not (np.isfinite(self.beta) and self.beta > 0):
            raise InputError("beta of Compiled", self.beta, "finite and > 0", "give e.g. 1.0")

    def kernel_spec(self) -> KernelSpec:
        """Return the policy as data."""
        return KernelSpec(
            kind="compiled",
            order=self.order,
            ageing_per_s=self.ageing_per_s,
            chunks=self.chunks,
            beta=self.beta,
            decide=self.decide,
            parameters=np.ascontiguousarray(self.parameters, dtype=float),
        )

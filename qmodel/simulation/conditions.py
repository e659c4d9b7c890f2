"""What may go wrong, as data: faults of instances and links, and a router that sees late or wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel._kernels import sim_faults as kf
from qmodel.errors import InputError
from qmodel.scenario import Cluster

__all__ = ["Fault", "Signals"]

# Each observation is an event: shorter intervals would be all that is simulated.
_LEAST_INTERVAL_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One instance down, slow, or with a slow link, from a time to another.

    Requests at an instance that goes down start again from their prompt, wherever the policy then sends them; their
    times count from the original arrival and are those of the last attempt. A cache on its way from or to it is
    lost too.

    Parameters
    ----------
    kind : {"down", "slow", "link"}
        The instance stops, its steps take `factor` times as long, or its link has 1/`factor` of its rate.
    pool : {"prefill", "decode"}
        Pool of the instance.
    instance : int
        Number within the pool, from 0.
    from_s, until_s : float
        When it begins and ends [s].
    factor : float
        How many times slower, > 0; not used by "down".

    Examples
    --------
    >>> Fault(kind="down", pool="prefill", instance=0, from_s=600.0, until_s=660.0).factor
    1.0
    """

    kind: Literal["down", "slow", "link"]
    pool: Literal["prefill", "decode"]
    instance: int
    from_s: float
    until_s: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("down", "slow", "link"):
            raise InputError("fault kind", repr(self.kind), "down, slow or link")
        if self.pool not in ("prefill", "decode"):
            raise InputError("fault pool", repr(self.pool), "prefill or decode")
        if not isinstance(self.instance, (int, np.integer)):
            raise InputError("fault instance", repr(self.instance), "a whole number")
        if not (np.isfinite(self.from_s) and np.isfinite(self.until_s) and 0 <= self.from_s < self.until_s):
            raise InputError("fault times", f"{self.from_s} to {self.until_s}", "finite, >= 0 and in order [s]")
        if not (np.isfinite(self.factor) and self.factor > 0):
            raise InputError("fault factor", self.factor, "finite and > 0", "2.0 is half speed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """How well the router knows the cluster.

    Parameters
    ----------
    observation_interval_s : float
        The router decides on a snapshot taken every so often [s]; 0: on the state of the moment. That an instance has
        stopped is known at once. Late binding decides at the instances and has no such delay.
    estimate_noise : float
        Standard deviation of the logarithm of the error by which each request's estimates on the prefill side and
        on the decode side are multiplied, each with mean 1.
    seed : int
        Seed of that error.
    estimates : Cluster, optional
        Cluster whose laws the router estimates with; its own shape must be that of the simulated one.
    """

    observation_interval_s: float = 0.0
    estimate_noise: float = 0.0
    seed: int = 0
    estimates: Cluster | None = None

    def __post_init__(self) -> None:
        for name in ("observation_interval_s", "estimate_noise"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(name, value, "finite and >= 0")
        if 0 < self.observation_interval_s < _LEAST_INTERVAL_S:
            raise InputError("observation_interval_s", self.observation_interval_s, f"0 or >= {_LEAST_INTERVAL_S}")

    def noise(self, n: int) -> npt.NDArray[np.float64]:
        """Return the factors of n requests, shape (n, 2): prefill side, decode side; shape (1, 2) without noise."""
        sigma = self.estimate_noise
        if sigma == 0:
            return np.ones((1, 2))
        return np.exp(np.random.default_rng(self.seed).normal(-(sigma**2) / 2, sigma, (n, 2)))


def fault_events(faults: Sequence[Fault], prefill: int, decode: int) -> npt.NDArray[np.float64]:
    """Return the events (time, unit, action, value) of faults in order of time, shape (n, 4).

    Parameters
    ----------
    faults : sequence of Fault
        In any order; two of the same kind may not overlap on an instance when they stop it.
    prefill, decode : int
        Number of instances of each pool.

    Raises
    ------
    InputError
        When an instance does not exist, or is down twice at a time.
    """
    rows: list[tuple[float, int, int, float]] = []
    down: dict[int, float] = {}
    for fault in sorted(faults, key=lambda f: f.from_s):
        size = prefill if fault.pool == "prefill" else decode
        if not 0 <= fault.instance < size:
            raise InputError(f"{fault.pool} instance of a fault", fault.instance, f"in 0..{size - 1}")
        unit = fault.instance + (0 if fault.pool == "prefill" else prefill)
        if fault.kind == "down":
            if fault.from_s < down.get(unit, 0.0):
                raise InputError("faults", f"that stop {fault.pool} {fault.instance} twice at a time", "apart")
            down[unit] = fault.until_s
            rows += [(fault.from_s, unit, kf.STOP, 0.0), (fault.until_s, unit, kf.START, 0.0)]
        else:
            action = kf.SPEED if fault.kind == "slow" else kf.LINK
            value = fault.factor if fault.kind == "slow" else 1 / fault.factor
            rows += [(fault.from_s, unit, action, value), (fault.until_s, unit, action, 1 / value)]
    rows.sort(key=lambda row: row[0])
    return np.array(rows, dtype=float).reshape(-1, 4)

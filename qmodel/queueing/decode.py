"""Decode batches: state-dependent processor sharing with a cap and a waiting room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError, UnstableError
from qmodel.queueing.checks import check_array, check_number, check_positive, check_whole
from qmodel.queueing.metrics import brief

__all__ = ["DecodeBatch", "Weight", "decode_batch"]

FloatArray = npt.NDArray[np.float64]
Weight = Literal["time", "token", "step"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeBatch:
    """Law of the number of resident requests of a decode instance and of its step time.

    Parameters
    ----------
    time_law : ndarray, shape (max_batch + 1,)
        P(n resident) over time, n = 0 .. max_batch.
    step_s : ndarray, shape (max_batch + 1,)
        Step time at n resident requests [s]; entry 0 is 0.
    mean_waiting : float
        Mean number of requests in the waiting room.
    wait_probability : float
        P(an arrival finds max_batch or more in the system), so waits for a place.
    mean_join_wait_s : float
        Mean wait for a place in the batch [s], Little's law on the waiting room.
    method : str
        How it was computed.
    """

    time_law: FloatArray
    step_s: FloatArray
    mean_waiting: float
    wait_probability: float
    mean_join_wait_s: float
    method: str

    def __repr__(self) -> str:
        return brief(self, "max_batch", "mean_batch", "wait_probability", "mean_join_wait_s", "method")

    @property
    def max_batch(self) -> int:
        """Cap on resident requests."""
        return len(self.time_law) - 1

    @property
    def mean_batch(self) -> float:
        """Mean number of resident requests over time, empty times included."""
        return float(self.time_law @ np.arange(len(self.time_law)))

    @property
    def mean_in_system(self) -> float:
        """Mean number of requests resident or waiting for a place."""
        return self.mean_batch + self.mean_waiting

    def law(self, weight: Weight = "time") -> FloatArray:
        """Return P(n), n = 0 .. max_batch, as seen over time, by tokens (n/T(n)) or by steps (1/T(n))."""
        if weight == "time":
            return self.time_law
        if weight not in ("token", "step"):
            raise InputError("weight", repr(weight), "'time', 'token' or 'step'")
        batch = np.arange(1, len(self.time_law)) if weight == "token" else 1.0
        mass = np.concatenate([[0.0], self.time_law[1:] * batch / self.step_s[1:]])
        return np.asarray(mass / mass.sum())

    def mean_step_s(self, weight: Weight = "token") -> float:
        """Return the mean step time [s] under `weight`; over time it is given that a step runs."""
        law = self.law(weight)[1:]
        return float(law @ self.step_s[1:] / law.sum())

    def step_quantile_s(self, q: float, weight: Weight = "token") -> float:
        """Return the smallest step time [s] whose cumulative probability under `weight` reaches q, 0 <= q <= 1."""
        if not 0.0 <= check_number("quantile level", q) <= 1.0:
            raise InputError("quantile level", q, "between 0 and 1")
        law = self.law(weight)[1:]
        order = np.argsort(self.step_s[1:], kind="stable")
        cumulative = np.cumsum(law[order])
        index = np.searchsorted(cumulative, q * cumulative[-1] * (1 - 1e-15))
        return float(self.step_s[1:][order][min(index, len(order) - 1)])


def decode_batch(
    arrival_rate_per_s: float,
    mean_output_tokens: float,
    step_time_s: Callable[[FloatArray], npt.ArrayLike] | npt.ArrayLike,
    max_batch: int,
) -> DecodeBatch:
    """Exact for exponential token counts (any, without the cap): residents of a decode instance.

    pi(n) ~ prod_{j<=n} lam*E[O]*T(min(j, N))/min(j, N): each of n resident requests receives tokens at rate 1/T(n),
    so the total rate n/T(n) depends on n alone. Without the waiting room beyond N the law of n does not depend on the
    law of O but for its mean.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson arrivals at this instance [1/s].
    mean_output_tokens : float
        Mean number of decode steps per request, E[O].
    step_time_s : callable or array_like
        T(n) [s]: a function of an array n = 1 .. max_batch, or those values.
    max_batch : int
        N, most requests resident at once.

    Returns
    -------
    DecodeBatch
        Law of the batch, of the step time and of the waiting room.

    Raises
    ------
    UnstableError
        When tokens arrive at least as fast as a full batch makes them.

    Notes
    -----
    Cohen, The multiple phase service network with generalized processor sharing, Acta Informatica 12 (1979).

    Examples
    --------
    >>> batch = decode_batch(5.0, 200.0, lambda n: 0.012 + 0.0004 * n, 64)
    >>> round(batch.mean_batch, 3)
    20.667
    """
    lam, tokens = (
        check_positive("arrival rate", arrival_rate_per_s),
        check_positive("output tokens", mean_output_tokens),
    )
    n = np.arange(1, check_whole("max_batch", max_batch, 1) + 1, dtype=np.float64)
    step = check_array("step times", step_time_s(n) if callable(step_time_s) else step_time_s)
    step = np.broadcast_to(step, n.shape) if step.ndim == 0 else step
    if step.shape != n.shape or not np.all(np.isfinite(step) & (step > 0)):
        raise InputError("step times", f"of shape {step.shape}", f"finite, > 0 and of shape {n.shape}")
    ratio = lam * tokens * step / n
    full = float(ratio[-1])
    if full >= 1.0:
        limit = n[-1] / step[-1] / tokens
        raise UnstableError("decode load at a full batch", full, "below 1", f"keep the rate below {limit:.6g}/s")
    log_mass = np.concatenate([[0.0], np.cumsum(np.log(ratio))])
    mass = np.exp(log_mass - log_mass.max())
    waiting_mass = mass[-1] * full / (1 - full)
    total = mass.sum() + waiting_mass
    law = mass / total
    law[-1] += waiting_mass / total
    mean_waiting = float(mass[-1] / total * full / (1 - full) ** 2)
    return DecodeBatch(
        time_law=law,
        step_s=np.concatenate([[0.0], step]),
        mean_waiting=mean_waiting,
        wait_probability=min(float(law[-1]), 1.0),
        mean_join_wait_s=mean_waiting / lam,
        method="product form of state-dependent processor sharing",
    )

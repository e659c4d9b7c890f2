"""What the networks that correct an interpolation of M/G/k see of it: the queue as a whole, and each percentile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qmodel.distributions.parts import Atoms
from qmodel.distributions.service import ServiceTime
from qmodel.queueing.metrics import TabulatedTail
from qmodel.queueing.renewal import LONGEST

__all__ = ["FREQUENCIES", "LawFacts", "Traits", "law_facts", "percentile_inputs"]

FloatArray = npt.NDArray[np.float64]

#: Frequencies, over the matching one, at which residual transforms are compared.
FREQUENCIES = np.array([1 / 16, 1 / 4, 1.0, 4.0, 16.0])
#: Times, in mean services, at which the residual life is looked at.
TIMES = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0])
#: Times, over a percentile, at which the residual life is looked at: as they are, and times the number of servers.
AROUND = np.array([0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.4, 2.0, 3.0])
AT_ONE_SERVER = np.array([0.3, 0.6, 1.0, 1.5])
#: Times, over a percentile, to which the tail's fall is measured.
SLOPES = np.array([0.2, 0.5, 0.75, 0.9, 1.1, 1.3, 1.7, 2.5])
#: Added to the SCV under the logarithm; probability that counts as none.
LEAST_SCV, NONE = 0.05, 1e-300
#: Points, fine near 0, at which residual services are integrated, over the longest.
_CUBES = np.linspace(0.0, 1.0, 257) ** 3


@dataclass(frozen=True, slots=True)
class LawFacts:
    """What every queue asks of a law: its mean [s], SCV, largest atom, and the law in units of the mean."""

    mean_s: float
    scv: float
    largest_atom: float
    unit: ServiceTime


@lru_cache(maxsize=8)
def law_facts(service: ServiceTime) -> LawFacts:
    """Return the facts of a law; kept for a few laws (told apart by identity), as calls come in rows."""
    mean = service.mean_s
    unit = service.scaled(1 / mean)
    return LawFacts(mean, unit.scv, _largest_atom(unit), unit)


def _largest_atom(law: ServiceTime) -> float:
    """Return the largest probability of a single service time."""
    pieces = zip(law.parts, law.weights, strict=True)
    return max((w * float(part.weights.max()) for part, w in pieces if isinstance(part, Atoms)), default=0.0)


@lru_cache(maxsize=32)
def _of_the_law(unit: ServiceTime, servers: int) -> FloatArray:
    """Return P(S_e > t) at `TIMES`, and logarithms of the mean least of 2, k/2, k, k + 1 and 2k residual services."""
    grid = min(unit.upper_s, LONGEST) * _CUBES
    beyond = unit.residual_tail(np.concatenate([TIMES, grid]))
    steps, tail = (grid[1:] - grid[:-1]) / 2, beyond[len(TIMES) :]
    counts = (2.0, max(servers / 2, 1.0), servers, servers + 1, 2 * servers)
    powers = np.array([tail**count for count in counts])
    return np.concatenate([beyond[: len(TIMES)], np.log((powers[:, 1:] + powers[:, :-1]) @ steps)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traits:
    """How a queue looks, and how its law differs from the solved laws that stand for it.

    Parameters
    ----------
    law : LawFacts
        The law.
    servers : int
        Number of servers.
    load : float
        Load of each.
    wait_probability : float
        P(W > 0) of the solved laws.
    delay : float
        E[W | W > 0] of the solved laws, in mean services.
    fitted : bool
        Whether one H2 law has the same mean, SCV and transform.
    exponent : float
        How far the mean was extrapolated otherwise.
    differences : ndarray, shape (5,)
        Residual transforms less those of the solved laws, at `FREQUENCIES`.
    """

    law: LawFacts
    servers: int
    load: float
    wait_probability: float
    delay: float
    fitted: bool
    exponent: float
    differences: FloatArray

    @property
    def inputs(self) -> FloatArray:
        """What the networks see of the whole queue."""
        delayed, k, idle = min(max(self.wait_probability, NONE), 1.0), self.servers, 1 - self.load
        queue = (delayed, math.log(delayed), math.log(k), self.load, math.log(idle), idle * math.sqrt(k))
        answer = (math.log(max(self.delay, NONE)), self.exponent, float(self.fitted))
        law = (math.log(self.law.scv + LEAST_SCV), self.law.largest_atom)
        return np.concatenate([queue, answer, law, self.differences, _of_the_law(self.law.unit, k)])


def percentile_inputs(
    traits: Traits, inputs: FloatArray, levels: FloatArray, waits: FloatArray, tail: TabulatedTail, renewal: FloatArray
) -> FloatArray:
    """Return what the networks see of percentiles, one row each.

    Parameters
    ----------
    traits : Traits
        The queue.
    inputs : ndarray, shape (n,)
        Its inputs.
    levels : ndarray, shape (m,)
        P(W > t) at the percentiles.
    waits : ndarray, shape (m,)
        The percentiles t > 0 [mean services].
    tail : TabulatedTail
        The tail that has these percentiles.
    renewal : ndarray, shape (m,)
        Logarithm of P(W > t | W > 0) by the renewal equation (`renewal_tails`).

    Returns
    -------
    ndarray, shape (m, n + 26)
        Inputs.
    """
    unit, k = traits.law.unit, traits.servers
    spare = float(tail.log_tail[0]) - np.log(levels)
    times = np.multiply.outer(waits, np.concatenate([AROUND, k * AT_ONE_SERVER]))
    falls = tail.log_tails(np.multiply.outer(waits, SLOPES)) + (spare - tail.log_tail[0])[:, None]
    own = (spare, np.log(levels), np.log(waits), np.log(waits / traits.delay), renewal + spare)
    whole = np.broadcast_to(inputs, (len(levels), len(inputs)))
    return np.concatenate([whole, np.stack(own, axis=1), unit.residual_tail(times), falls], axis=1)

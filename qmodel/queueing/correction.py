"""M/G/k for any service law: the interpolation between solved queues, corrected by what simulated queues taught.

What the interpolation misses is a smooth function of some thirty numbers (`traits`); small networks have learnt it, and
how far they are off. See docs/decisions/0019; weights are in `data/mgk_correction.json`, made by
calibration/mgk_correction.py.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.interpolation import Sketch, sketched
from qmodel.queueing.matrix import MAX_SERVERS
from qmodel.queueing.metrics import QueueMetrics, TabulatedTail
from qmodel.queueing.traits import law_facts, percentile_inputs

__all__ = ["NETWORKS", "Network", "networks", "solve_mgk", "with_head"]

FloatArray = npt.NDArray[np.float64]

#: The networks: logarithms of the factors of mean and P(W > 0), of those of percentiles, and of relative errors left.
NETWORKS = ("head", "percentile", "mean_error", "percentile_error")
#: P(W > t) at the percentiles that are corrected, over P(W > 0) and as such.
SHARES, LEVELS = (0.95, 0.75, 0.5), (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
#: Least log(P(W > 0)/P(W > t)) of a percentile that was learnt from: nearer, it is ill-conditioned.
LEAST_SPARE = 0.03
#: P(W > 0) of the rarest waits that were learnt from: percentiles of rarer ones are not corrected.
RARE = 2e-3
#: Percentiles with an error estimate.
STATED = {"p95": 0.05, "p99": 0.01}
#: Spreads by which an input may be beyond those learnt from, and relative errors stated where one is further off.
MARGIN, OUTSIDE = 0.5, {"mean": 0.05, "p95": 0.1, "p99": 0.1}
#: Relative error of P(W > 0): what a percentile a little above P(W = 0) misses is this over log(P(W > 0)/(1 - q)).
PROBABILITY_ERROR, NEAREST = 0.002, 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """Two hidden layers of x/(1 + exp(-x)), after inputs are kept within those that it learnt from.

    Parameters
    ----------
    low, high : ndarray, shape (n,)
        Range of each input.
    centre, scale : ndarray, shape (n,)
        What is taken off each input, and what the rest is divided by.
    weights : tuple of ndarray
        Weights of the three layers, shapes (n, h), (h, h) and (h, m).
    biases : tuple of ndarray
        Their biases.
    """

    low: FloatArray
    high: FloatArray
    centre: FloatArray
    scale: FloatArray
    weights: tuple[FloatArray, FloatArray, FloatArray]
    biases: tuple[FloatArray, FloatArray, FloatArray]

    def knows(self, inputs: FloatArray) -> bool:
        """Return whether all inputs are like those that it learnt from."""
        beyond = np.maximum(self.low - inputs, inputs - self.high)
        return not bool((beyond > MARGIN * self.scale).any())

    def __call__(self, inputs: FloatArray) -> FloatArray:
        """Return outputs, shape (..., m), for inputs of shape (..., n)."""
        values = (np.minimum(np.maximum(inputs, self.low), self.high) - self.centre) / self.scale
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = values @ weight + bias
            values = values * expit(values)
        return np.asarray(values @ self.weights[-1] + self.biases[-1])


@lru_cache(maxsize=1)
def networks() -> dict[str, Network]:
    """Return the networks by name."""
    text = files("qmodel").joinpath("data", "mgk_correction.json").read_text(encoding="utf-8")
    return {name: _network(parts) for name, parts in json.loads(text)["networks"].items()}


def _network(parts: dict[str, Any]) -> Network:
    ranges = {name: np.asarray(parts[name], dtype=np.float64) for name in ("low", "high", "centre", "scale")}
    first, second, last = (np.asarray(weight, dtype=np.float64) for weight in parts["weights"])
    one, two, three = (np.asarray(bias, dtype=np.float64) for bias in parts["biases"])
    return Network(**ranges, weights=(first, second, last), biases=(one, two, three))


def solve_mgk(arrival_rate_per_s: float, servers: int, service: ServiceTime) -> QueueMetrics:
    """Approximation: M/G/k from exact solutions for laws with the same mean, SCV and transform value, corrected.

    Over random bounded laws of SCV 0 to 5, k <= 16 and loads .5 to .95 the mean is within 1 % of simulation in 99 %,
    P95 and P99 within 2 % in 99 %; the error estimate says where it may miss by more.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers, at most 128.
    service : ServiceTime
        Law of a service time.

    Returns
    -------
    QueueMetrics
        The law of the wait.

    Raises
    ------
    UnstableError
        When the load is 1 or more.
    """
    law = law_facts(service)
    if servers > MAX_SERVERS:
        raise InputError("servers of the interpolation", servers, f"at most {MAX_SERVERS}", "use method='auto'")
    sketch = sketched(arrival_rate_per_s * law.mean_s, servers, law)
    mean_wait, tail, errors = _corrected(sketch)
    return QueueMetrics(
        arrival_rate_per_s=arrival_rate_per_s,
        servers=servers,
        mean_service_s=law.mean_s,
        mean_wait_s=mean_wait * law.mean_s,
        wait_probability=math.exp(tail.log_tail[0]) if sketch.wait_probability > 0 else 0.0,
        wait_law=TabulatedTail(grid=tail.grid * law.mean_s, log_tail=tail.log_tail, decay=tail.decay / law.mean_s),
        method=f"from exact {sketch.names}, same mean, SCV and transform; correction learnt from simulated queues",
        exact=False,
        error_estimate=errors,
    )


def _corrected(sketch: Sketch) -> tuple[float, TabulatedTail, dict[str, float]]:
    """Return mean, tail and error estimates of a queue with services of mean 1."""
    learnt, inputs = networks(), sketch.traits.inputs
    mean, delayed = (float(x) for x in learnt["head"](inputs))
    tail = with_head(sketch, mean, delayed)
    errors = {"mean": math.exp(float(learnt["mean_error"](inputs)[0])), "p95": 0.0, "p99": 0.0}
    levels, waits = _percentiles(tail)
    if len(levels):
        seen = percentile_inputs(sketch.traits, inputs, levels, waits, tail, sketch.renewal_at(waits))
        stretch = learnt["percentile"](seen)[:, 0]
        left = np.exp(learnt["percentile_error"](seen)[:, 0])
        errors |= _stated(levels, left, float(tail.log_tail[0]))
        tail = _stretched(tail, levels, stretch)
    if not learnt["head"].knows(inputs):
        errors = {name: max(error, OUTSIDE[name]) if error > 0 else 0.0 for name, error in errors.items()}
    return sketch.mean_wait * math.exp(mean), tail, errors


def with_head(sketch: Sketch, mean: float, delayed: float) -> TabulatedTail:
    """Return the tail with mean and P(W > 0) times exp(mean) and exp(delayed): higher, and stretched."""
    tail = sketch.tail
    delayed = min(delayed, -float(tail.log_tail[0]))
    stretch = math.exp(mean - delayed)
    return TabulatedTail(grid=tail.grid * stretch, log_tail=tail.log_tail + delayed, decay=tail.decay / stretch)


def _percentiles(tail: TabulatedTail) -> tuple[FloatArray, FloatArray]:
    """Return P(W > t), falling, and t at percentiles that are corrected."""
    head = float(tail.log_tail[0])
    if head < math.log(RARE):
        return np.empty(0), np.empty(0)
    levels = np.array([*(math.exp(head) * share for share in SHARES), *LEVELS])
    levels = np.sort(levels[head - np.log(levels) >= LEAST_SPARE])[::-1]
    waits = np.interp(-np.log(levels), -tail.log_tail, tail.grid)
    known = waits > 0
    return levels[known], waits[known]


def _stated(levels: FloatArray, left: FloatArray, head: float) -> dict[str, float]:
    """Return relative errors of P95 and P99 from those left at `levels`; 0 for a percentile at which nobody waits."""
    errors = {}
    for name, level in STATED.items():
        spare = head - math.log(level)
        if spare >= LEAST_SPARE:
            errors[name] = float(np.interp(-level, -levels, left))
        else:
            errors[name] = PROBABILITY_ERROR / max(spare, NEAREST) if spare > -PROBABILITY_ERROR else 0.0
    return errors


def _stretched(tail: TabulatedTail, levels: FloatArray, stretch: FloatArray) -> TabulatedTail:
    """Return a tail whose times are stretched by exp(stretch) at `levels`, in between by the logarithm of the level."""
    times = np.exp(np.interp(-tail.log_tail, -np.log(levels), stretch))
    return replace(tail, grid=np.maximum.accumulate(tail.grid * times), decay=tail.decay / float(times[-1]))

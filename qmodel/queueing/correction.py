"""What the interpolation of M/G/k still misses, learnt from simulated queues: one small network for each quantity.

See docs/decisions/0019; the weights are in `data/mgk_correction.json`, made by bench/mgk_correction.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FREQUENCIES", "LEVELS", "Traits", "error_estimates", "log_corrections"]

FloatArray = npt.NDArray[np.float64]

#: Frequencies, over the matching one, at which residual transforms are compared; those that the networks see.
FREQUENCIES = np.array([1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 16.0])
SEEN = (0, 1, 3, 5, 6)
#: P(W > t) at the percentiles with a network of their own.
LEVELS = {"p90": 0.1, "p95": 0.05, "p99": 0.01}
#: Least log(P(W > 0)/P(W > t)) of a percentile that was learnt from: nearer, it is ill-conditioned.
LEAST_SPARE = 0.15
#: Added to the SCV under the logarithm.
LEAST_SCV = 0.05
#: Extrapolation along the probes beyond which errors have a regression of their own.
FAR = 0.5
#: Relative error of the probability of waiting at which a percentile may still turn out to be 0.
NEAR_NOBODY = 0.05
#: Relative error of the probability of waiting, and the least log(P(W > 0)/(1 - q)) it is divided by.
PROBABILITY_ERROR, NEAREST = 0.003, 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traits:
    """How a law differs from the solved laws that stand for it.

    Parameters
    ----------
    servers : int
        Number of servers.
    load : float
        Load of each.
    scv : float
        SCV of the law.
    wait_probability : float
        P(W > 0) of the solved laws.
    fitted : bool
        Whether one H2 law has the same mean, SCV and transform.
    exponent : float
        How far the mean was extrapolated otherwise.
    largest_atom : float
        Largest probability of a single service time.
    residual : float
        Log of the mean least residual service over that of the solved laws.
    differences : ndarray, shape (7,)
        Residual transforms less those of the solved laws, at `FREQUENCIES`.
    """

    servers: int
    load: float
    scv: float
    wait_probability: float
    fitted: bool
    exponent: float
    largest_atom: float
    residual: float
    differences: FloatArray

    @property
    def free(self) -> float:
        """P(W = 0)."""
        return 1.0 - min(self.wait_probability, 1.0)

    @property
    def kind(self) -> str:
        """Which regression of errors holds: near the solved laws, far from them, or one H2 law fitted."""
        return "fitted" if self.fitted else "near" if self.exponent <= FAR else "far"

    @property
    def inputs(self) -> FloatArray:
        """What the networks see."""
        law = (math.log(self.scv + LEAST_SCV), self.exponent, self.largest_atom, float(self.fitted))
        return np.array(
            [self.free, math.log(self.servers), self.load, *law, *self.differences[list(SEEN)], self.residual]
        )

    @property
    def doubts(self) -> FloatArray:
        """What errors are regressed on."""
        free, (low, high) = self.free, np.abs(self.differences[[2, 4]])
        far = (self.exponent, self.exponent**2 * free, self.largest_atom * free)
        return np.array([1.0, abs(self.residual) * free**2, low, high, *far])


@lru_cache(maxsize=1)
def _learnt() -> dict[str, Any]:
    """Return networks and errors by name, arrays as arrays."""
    text = files("qmodel").joinpath("data", "mgk_correction.json").read_text(encoding="utf-8")
    data = json.loads(text)
    networks = {
        name: {part: np.asarray(value, dtype=np.float64) for part, value in network.items()}
        for name, network in data["networks"].items()
    }
    return {"networks": networks, "errors": data["errors"]}


def output(network: Mapping[str, FloatArray], inputs: FloatArray) -> FloatArray:
    """Return what a network says of inputs (rows), kept within those that it learnt from."""
    known = np.clip(inputs, network["low"], network["high"])
    hidden = np.tanh((known - network["centre"]) / network["scale"] @ network["weights"] + network["bias"])
    return np.asarray(hidden @ network["out"] + network["offset"])


def log_corrections(traits: Traits) -> dict[str, float]:
    """Return logarithms of factors for the ``mean``, P(W > 0) and each percentile that is clear of P(W = 0)."""
    networks, inputs = _learnt()["networks"], traits.inputs
    found = {name: float(output(networks[name], inputs)) for name in ("mean", "delayed")}
    for name, beyond in LEVELS.items():
        spare = math.log(max(traits.wait_probability, 1e-300) / beyond)
        if spare >= LEAST_SPARE:
            found[name] = float(output(networks[name], np.append(inputs, spare)))
    return found


def error_estimates(traits: Traits) -> dict[str, float]:
    """Return relative errors of mean, P95 and P99 that nine in ten laws keep; 0 for a percentile at which nobody waits.

    A percentile q is about delay * log(P(W > 0)/(1 - q)): a little above P(W = 0) small errors of P(W > 0) move it far.
    """
    estimates = {name: float(np.dot(row, traits.doubts)) for name, row in _learnt()["errors"][traits.kind].items()}
    for name in ("p95", "p99"):
        beyond = LEVELS[name]
        if traits.wait_probability < (1 - NEAR_NOBODY) * beyond:
            estimates[name] = 0.0
        else:
            spare = math.log(max(traits.wait_probability, beyond) / beyond)
            estimates[name] += PROBABILITY_ERROR * max(1 / max(spare, NEAREST) - 1, 0.0)
    return estimates

"""Building blocks of service-time laws: point masses, gamma, two phases in series and the (truncated) lognormal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincc, ndtr, ndtri

__all__ = ["Atoms", "Gamma", "LogNormal", "Part", "TwoPhase"]

FloatArray = npt.NDArray[np.float64]

#: Standard deviations beyond which the normal law has no mass in double precision.
NORMAL_REACH = 9.0
#: Nodes of the quadrature for the lognormal transform (1e-10 for SCV up to 10).
QUADRATURE_NODES = 200
#: Logarithm of the largest number, about.
LARGEST_LOG = 700.0
#: Gamma shapes whose tails are summed rather than looked up: several times as fast.
FEW_PHASES = (2.0, 3.0, 4.0)


@lru_cache(maxsize=1)
def _quadrature() -> tuple[FloatArray, FloatArray]:
    """Return the Gauss-Legendre nodes and weights on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    return nodes, weights


def _powers(x: FloatArray, factors: Sequence[float]) -> FloatArray:
    """Return exp(-x) times the sum of factor_j x^j/j!."""
    total = np.zeros(np.shape(x))
    for j in range(len(factors) - 1, -1, -1):
        total = factors[j] + total * x / (j + 1)
    return np.asarray(np.exp(-x) * total)


class Part(Protocol):
    """What a component of a service law must be able to say about itself (times in seconds)."""

    def moment(self, order: int) -> float:
        """Return E[S^order], order 1, 2 or 3."""

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(S > t)."""

    def tail_integral(self, t: FloatArray) -> FloatArray:
        """Return the integral of P(S > u) over u > t."""

    def transform(self, s: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """Return E[exp(-s*S)] where it exists."""

    @property
    def mgf_limit(self) -> float:
        """Supremum of the exponents at which E[exp(theta*S)] is finite."""

    @property
    def upper(self) -> float:
        """Largest possible value, infinity when unbounded."""

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return `count` draws."""

    def scaled(self, factor: float) -> Part:
        """Return the law of factor*S."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Atoms:
    """Point masses `weights` (sum 1) at increasing `values`."""

    values: FloatArray
    weights: FloatArray

    def moment(self, order: int) -> float:
        """Return E[S^order]."""
        return float(self.weights @ self.values**order)

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(S > t)."""
        above = np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)
        return np.asarray(above[np.searchsorted(self.values, t, side="right")])

    def tail_integral(self, t: FloatArray) -> FloatArray:
        """Return the integral of P(S > u) over u > t."""
        above = np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)
        mass = np.append(np.cumsum((self.weights * self.values)[::-1])[::-1], 0.0)
        index = np.searchsorted(self.values, t, side="right")
        return np.asarray(np.maximum(mass[index] - t * above[index], 0.0))

    def transform(self, s: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """Return E[exp(-s*S)]."""
        return np.asarray(np.exp(-np.multiply.outer(s, self.values)) @ self.weights)

    @property
    def mgf_limit(self) -> float:
        """Infinity: a bounded law has every exponential moment."""
        return math.inf

    @property
    def upper(self) -> float:
        """Largest value."""
        return float(self.values[-1])

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return draws by inversion."""
        cumulative = np.cumsum(self.weights)
        index = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        return np.asarray(self.values[np.minimum(index, len(self.values) - 1)])

    def scaled(self, factor: float) -> Atoms:
        """Return the law of factor*S."""
        return Atoms(values=self.values * factor, weights=self.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """Gamma law of the given shape and mean; integer shapes are Erlang, shape 1 exponential."""

    shape: float
    mean_s: float

    @property
    def _few(self) -> bool:
        """Whether the law is an Erlang law of few phases: its functions are short sums."""
        return self.shape in FEW_PHASES

    def moment(self, order: int) -> float:
        """Return E[S^order] = scale^order * shape*(shape+1)*..."""
        scale = self.mean_s / self.shape
        return scale**order * math.prod(self.shape + i for i in range(order))

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(S > t); Q(n, x) = exp(-x) sum of x^j/j! over j < n for a whole shape n."""
        x = np.maximum(t, 0.0) * self.shape / self.mean_s
        if self._few:
            return _powers(x, [1.0] * int(self.shape))
        return np.asarray(gammaincc(self.shape, x))

    def tail_integral(self, t: FloatArray) -> FloatArray:
        """Return E[(S - t)^+] = mean*Q(shape+1, x) - t*Q(shape, x), Q the regularised upper gamma function."""
        if self.shape == 1.0:
            return np.asarray(self.mean_s * np.exp(-np.maximum(t, 0.0) / self.mean_s) - np.minimum(t, 0.0))
        x = np.maximum(t, 0.0) * self.shape / self.mean_s
        if self._few:
            # Phase n - j is the one at work, n - j of them are still to do.
            left = _powers(x, [self.shape - j for j in range(int(self.shape))])
            return np.asarray(self.mean_s / self.shape * left - np.minimum(t, 0.0))
        inside = self.mean_s * gammaincc(self.shape + 1, x) - t * gammaincc(self.shape, x)
        return np.asarray(np.maximum(inside, 0.0))

    def transform(self, s: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """Return (1 + s*mean/shape)^-shape."""
        return np.asarray((1.0 + s * (self.mean_s / self.shape)) ** (-self.shape))

    @property
    def mgf_limit(self) -> float:
        """Rate of the gamma law."""
        return self.shape / self.mean_s

    @property
    def upper(self) -> float:
        """Infinity."""
        return math.inf

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return gamma draws."""
        return rng.gamma(self.shape, self.mean_s / self.shape, count)

    def scaled(self, factor: float) -> Gamma:
        """Return the law of factor*S."""
        return Gamma(shape=self.shape, mean_s=self.mean_s * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPhase:
    """Sum of two independent exponential times of different means."""

    mean1_s: float
    mean2_s: float

    def moment(self, order: int) -> float:
        """Return E[S^order] = order! * sum of mean1^i * mean2^(order-i)."""
        return math.factorial(order) * sum(self.mean1_s**i * self.mean2_s ** (order - i) for i in range(order + 1))

    def _weights(self) -> tuple[float, float]:
        gap = self.mean1_s - self.mean2_s
        return self.mean1_s / gap, -self.mean2_s / gap

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(S > t)."""
        a, b = self._weights()
        t = np.maximum(t, 0.0)
        return np.asarray(a * np.exp(-t / self.mean1_s) + b * np.exp(-t / self.mean2_s))

    def tail_integral(self, t: FloatArray) -> FloatArray:
        """Return the integral of P(S > u) over u > t."""
        a, b = self._weights()
        inside = a * self.mean1_s * np.exp(-np.maximum(t, 0.0) / self.mean1_s)
        inside = inside + b * self.mean2_s * np.exp(-np.maximum(t, 0.0) / self.mean2_s)
        return np.asarray(inside - np.minimum(t, 0.0))

    def transform(self, s: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """Return the product of the two exponential transforms."""
        return np.asarray(1.0 / ((1.0 + s * self.mean1_s) * (1.0 + s * self.mean2_s)))

    @property
    def mgf_limit(self) -> float:
        """Smaller of the two rates."""
        return 1.0 / max(self.mean1_s, self.mean2_s)

    @property
    def upper(self) -> float:
        """Infinity."""
        return math.inf

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return sums of two exponential draws."""
        return rng.exponential(self.mean1_s, count) + rng.exponential(self.mean2_s, count)

    def scaled(self, factor: float) -> TwoPhase:
        """Return the law of factor*S."""
        return TwoPhase(mean1_s=self.mean1_s * factor, mean2_s=self.mean2_s * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormal:
    """Lognormal law exp(mu + sigma*Z), conditioned on being at most `upper` (infinity: the whole law)."""

    mu: float
    sigma: float
    upper: float = math.inf

    def _z(self, t: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore"):
            return np.asarray((np.log(np.maximum(t, 0.0)) - self.mu) / self.sigma)

    def mass(self, order: int) -> float:
        """Return P(exp(mu + sigma*Z) <= upper) under the law tilted by `order`."""
        return float(ndtr(self._z(np.asarray(self.upper)) - order * self.sigma))

    def moment(self, order: int) -> float:
        """Return E[S^order]."""
        log = order * self.mu + 0.5 * (order * self.sigma) ** 2
        return math.exp(log) * self.mass(order) / self.mass(0) if log < LARGEST_LOG else math.inf

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(S > t)."""
        beyond = ndtr(-self._z(np.asarray(self.upper)))
        return np.asarray(np.maximum(ndtr(-self._z(t)) - beyond, 0.0) / self.mass(0))

    def tail_integral(self, t: FloatArray) -> FloatArray:
        """Return E[(S - t)^+]."""
        top = self._z(np.asarray(self.upper))
        tilted = math.exp(self.mu + 0.5 * self.sigma**2) / self.mass(0)
        tilted = tilted * (ndtr(self.sigma - self._z(t)) - ndtr(self.sigma - top))
        return np.asarray(np.maximum(tilted - t * self.tail(t), 0.0))

    def transform(self, s: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
        """Return E[exp(-s*S)] by Gauss-Legendre quadrature over the normal variable."""
        nodes, weights = _quadrature()
        top = min(float(self._z(np.asarray(self.upper))), NORMAL_REACH + self.sigma)
        z = (top + NORMAL_REACH) / 2 * nodes + (top - NORMAL_REACH) / 2
        mass = weights * np.exp(-0.5 * z * z)
        return np.asarray(np.exp(-np.multiply.outer(s, np.exp(self.mu + self.sigma * z))) @ (mass / mass.sum()))

    @property
    def mgf_limit(self) -> float:
        """Zero for the whole law (no exponential moment), infinity once truncated."""
        return 0.0 if math.isinf(self.upper) else math.inf

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return draws by inversion."""
        return np.asarray(np.exp(self.mu + self.sigma * ndtri(rng.random(count) * self.mass(0))))

    def scaled(self, factor: float) -> LogNormal:
        """Return the law of factor*S."""
        return LogNormal(mu=self.mu + math.log(factor), sigma=self.sigma, upper=self.upper * factor)

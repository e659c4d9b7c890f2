"""The law of the wait, whatever model it came from, and what is computed from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qmodel.errors import ConvergenceError, InputError
from qmodel.queueing.checks import check_array, check_number

__all__ = ["ExponentialSum", "FunctionTail", "QueueMetrics", "TabulatedTail", "WaitLaw"]

FloatArray = npt.NDArray[np.float64]

#: Relative width at which the search for a quantile stops.
QUANTILE_TOLERANCE = 1e-12
#: Where a bracket is looked into, in widths: evenly, and around the interpolated point.
EVEN = np.arange(1, 8) / 8
AROUND = np.concatenate([-(8.0 ** -np.arange(1, 7)), [0.0], 8.0 ** -np.arange(6, 0, -1)])
#: Half step of the difference that stands for a density, in mean delays of those who wait; and at most, in mean
#: services over servers, unless the tail is a table.
DENSITY_STEP, FINE_STEP = 2e-3, 5e-4
#: Panels over which a tail that is no sum of exponentials is integrated, of how many nodes, and the level they end at.
PANELS, NODES, FAR = 256, 6, 1e-9
#: Percentiles that a summary shows.
SHOWN = (0.5, 0.95, 0.99)


class WaitLaw(Protocol):
    """P(W > t) as a function."""

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(W > t) at t >= 0 [s]."""

    def quantile(self, q: float, scale: float) -> float:
        """Return the smallest t with P(W <= t) >= q; `scale` [s] is a typical wait to start from."""


def brief(answer: object, *names: str) -> str:
    """Return an answer in one line: its class and the properties of these names."""

    def word(value: object) -> str:
        return f"{value:.6g}" if isinstance(value, float) else repr(value)

    return f"{type(answer).__name__}({', '.join(f'{name}={word(getattr(answer, name))}' for name in names)})"


def checked_times(t: npt.ArrayLike) -> FloatArray:
    """Return times as an array when none is NaN, else raise InputError."""
    at = check_array("time", t)
    if np.isnan(at).any():
        raise InputError("time", math.nan, "a number")
    return at


def search_quantile(law: WaitLaw, q: float, scale: float) -> float:
    """Return the smallest t >= 0 with tail(t) <= 1 - q, from a bracket that begins at `scale`."""
    want = 1.0 - q
    if float(law.tail(np.zeros(1))[0]) <= want:
        return 0.0
    low, high = 0.0, scale
    for _ in range(200):
        if float(law.tail(np.array([high]))[0]) <= want:
            return refined_quantile(law, want, low, high)
        low, high = high, 2.0 * high
    raise ConvergenceError("bracket of a wait quantile", high, f"past the {q:g} quantile", "ask for a lower q")


def refined_quantile(law: WaitLaw, want: float, low: float, high: float) -> float:
    """Return the smallest t with tail(t) <= want within a bracket.

    Each round divides the bracket evenly, so that it shrinks eightfold at least, and more finely around where the
    logarithm of the tail, taken for a straight line, passes `want`, so that it mostly shrinks as with Newton's method.
    """
    above, below = (float(x) for x in law.tail(np.array([low, high])))
    while high - low > QUANTILE_TOLERANCE * high:
        width = high - low
        # A tail that falls to nothing, or a jump, has no slope to follow.
        slope = math.log(above / below) if above > below > 0 else 0.0
        guess = low + width * (math.log(above / want) / slope if slope > 0 else 0.5)
        inner = np.concatenate([low + width * EVEN, guess + width * AROUND])
        grid = np.concatenate([[low], np.sort(np.clip(inner, low, high)), [high]])
        tails = law.tail(grid)
        first = max(int(np.argmax(tails <= want)), 1)
        if not tails[first] <= want:
            break
        low, high, above, below = (
            float(grid[first - 1]),
            float(grid[first]),
            float(tails[first - 1]),
            float(tails[first]),
        )
        if high - low >= width:
            break
    return high


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExponentialSum:
    """P(W > t) = Re sum of coefficient * exp(-rate*t)."""

    coefficients: npt.NDArray[np.complex128]
    rates: npt.NDArray[np.complex128]

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(W > t)."""
        if np.all(self.rates.imag == 0):
            terms = np.exp(-np.multiply.outer(t, self.rates.real)) @ self.coefficients.real
        else:
            terms = (np.exp(-np.multiply.outer(t, self.rates)) @ self.coefficients).real
        return np.asarray(np.clip(terms, 0.0, 1.0))

    def quantile(self, q: float, scale: float) -> float:
        """Return the q quantile [s]."""
        return search_quantile(self, q, scale)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TabulatedTail:
    """P(W > t) on a grid, log-linear between its points and beyond them exponential at `decay` [1/s]."""

    grid: FloatArray
    log_tail: FloatArray
    decay: float

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(W > t)."""
        return np.asarray(np.exp(self.log_tails(t)))

    def log_tails(self, t: FloatArray) -> FloatArray:
        """Return the logarithm of P(W > t)."""
        inside = np.interp(t, self.grid, self.log_tail)
        beyond = self.log_tail[-1] - self.decay * (t - self.grid[-1])
        return np.asarray(np.where(t > self.grid[-1], beyond, inside))

    def scaled(self, factor: float) -> TabulatedTail:
        """Return the table times `factor`."""
        return TabulatedTail(grid=self.grid, log_tail=self.log_tail + math.log(factor), decay=self.decay)

    def quantile(self, q: float, scale: float) -> float:
        """Return the q quantile [s] by inverting the table."""
        want = math.log1p(-q)
        if self.log_tail[0] <= want:
            return 0.0
        if want < self.log_tail[-1]:
            return float(self.grid[-1] + (self.log_tail[-1] - want) / self.decay)
        i = int(np.argmax(self.log_tail <= want))
        high, low = self.log_tail[i - 1], self.log_tail[i]
        return float(self.grid[i - 1] + (self.grid[i] - self.grid[i - 1]) * (high - want) / (high - low))


class _TailFunction(Protocol):
    def __call__(self, t: FloatArray) -> FloatArray: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FunctionTail:
    """P(W > t) from a function of an array."""

    function: _TailFunction

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(W > t)."""
        return np.clip(self.function(t), 0.0, 1.0)

    def quantile(self, q: float, scale: float) -> float:
        """Return the q quantile [s]."""
        return search_quantile(self, q, scale)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueueMetrics:
    """What arrivals to a queue experience.

    Parameters
    ----------
    arrival_rate_per_s : float
        Mean arrival rate [1/s].
    servers : int
        Number of servers.
    mean_service_s : float
        Mean service time [s].
    mean_wait_s : float
        Mean wait before service, over all arrivals [s].
    wait_probability : float
        P(W > 0) as arrivals see it.
    wait_law : WaitLaw
        The whole law of the wait.
    method : str
        How it was computed, in words.
    exact : bool
        Whether the method is exact but for the errors of numbers.
    error_estimate : dict of str to float
        Relative half-width of ``mean``, ``p95`` and ``p99`` seen against references; empty where only rounding is left.

    Examples
    --------
    >>> from qmodel.queueing import ServiceTime, mgk
    >>> metrics = mgk(0.7, 1, ServiceTime.exponential(1.0))
    >>> round(metrics.mean_wait_s, 6), round(metrics.wait_quantile_s(0.95), 4)
    (2.333333, 8.7969)
    """

    arrival_rate_per_s: float
    servers: int
    mean_service_s: float
    mean_wait_s: float
    wait_probability: float
    wait_law: WaitLaw
    method: str
    exact: bool = True
    error_estimate: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, top in (
            ("mean wait", self.mean_wait_s, math.inf),
            ("probability of waiting", self.wait_probability, 1.0 + 1e-9),
        ):
            if not (math.isfinite(value) and -1e-12 <= value <= top):
                raise ConvergenceError(f"{name} by {self.method}", value, "finite and >= 0", "choose another method")

    def __repr__(self) -> str:
        # The law itself may be a table of hundreds of numbers.
        names = ("arrival_rate_per_s", "servers", "utilisation", "mean_wait_s", "wait_probability", "exact", "method")
        return brief(self, *names)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td>{escape(value) if isinstance(value, str) else format(value, '.5g')}</td></tr>"
            for name, value in self.summary().items()
        )
        return f"<table>{cells}</table>"

    def summary(self) -> dict[str, float | str]:
        """Return what one asks first, by name: load, wait and numbers, the method and its stated errors.

        Returns
        -------
        dict
            Names carry their units; errors are relative. Several of them make a table: ``pandas.DataFrame([...])``.
        """
        found: dict[str, float | str] = {
            "arrival_rate_per_s": self.arrival_rate_per_s,
            "servers": self.servers,
            "utilisation": self.utilisation,
            "wait_probability": self.wait_probability,
            "mean_wait_s": self.mean_wait_s,
            "wait_std_s": self.wait_std_s,
        }
        found |= {f"p{100 * q:.0f}_wait_s": self.wait_quantile_s(q) for q in SHOWN}
        found |= {"mean_sojourn_s": self.mean_sojourn_s, "mean_queue": self.mean_queue, "mean_number": self.mean_number}
        found |= {f"{name}_error": error for name, error in self.error_estimate.items()}
        return found | {"method": self.method}

    @property
    def utilisation(self) -> float:
        """Offered load per server, rate * mean service / servers."""
        return self.arrival_rate_per_s * self.mean_service_s / self.servers

    @property
    def mean_queue(self) -> float:
        """Mean number of waiting customers, by Little's law."""
        return self.arrival_rate_per_s * self.mean_wait_s

    @property
    def mean_sojourn_s(self) -> float:
        """Mean time in the system, wait and service [s]."""
        return self.mean_wait_s + self.mean_service_s

    @property
    def mean_number(self) -> float:
        """Mean number of customers in the system, waiting or served, by Little's law."""
        return self.arrival_rate_per_s * self.mean_sojourn_s

    @property
    def mean_delay_s(self) -> float:
        """Mean wait of those who wait at all, E[W | W > 0] [s]; 0 when nobody does."""
        return self.mean_wait_s / self.wait_probability if self.wait_probability > 0 else 0.0

    @property
    def wait_variance_s2(self) -> float:
        """Variance of the wait over all arrivals [s^2], from the integral of 2 t P(W > t); as good as the tail is."""
        first, second = _moments(self.wait_law, self.mean_wait_s, self.wait_probability)
        return max(second - first * first, 0.0)

    @property
    def wait_std_s(self) -> float:
        """Standard deviation of the wait over all arrivals [s]."""
        return math.sqrt(self.wait_variance_s2)

    def wait_tail(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(W > t) for t in seconds; negative times give 1."""
        at = checked_times(t)
        return np.asarray(np.where(at < 0, 1.0, self.wait_law.tail(np.maximum(at, 0.0))))

    def wait_cdf(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(W <= t) for t in seconds."""
        return np.asarray(1.0 - self.wait_tail(t))

    def density_per_s(self, t: npt.ArrayLike) -> FloatArray:
        """Return the density [1/s] of the wait at t > 0 [s], the mass at 0 left out; at t = 0 its limit from above.

        A sum of exponentials is differentiated, any other tail differenced over a small step: relative error about
        1e-6, of a table 1e-4. Where the density jumps (multiples of services on a lattice): the mean of both sides.
        """
        at = checked_times(t)
        law = self.wait_law
        if isinstance(law, ExponentialSum):
            terms = np.exp(-np.multiply.outer(np.maximum(at, 0.0), law.rates)) @ (law.coefficients * law.rates)
            slope = terms.real
        else:
            # Where nobody waits both are 0, or one of them is too small to be anything else.
            known = self.wait_probability > 0 and self.mean_wait_s > 0
            step = DENSITY_STEP * (self.mean_delay_s if known else self.mean_service_s)
            if not isinstance(law, TabulatedTail):
                step = min(step, FINE_STEP * self.mean_service_s / self.servers)
            from_above = at < step
            low = np.maximum(np.where(from_above, at, at - step), 0.0)
            one, two, three = (law.tail(low + i * step) for i in range(3))
            slope = np.where(from_above, 3 * one - 4 * two + three, one - three) / (2 * step)
        return np.asarray(np.where(at < 0, 0.0, np.maximum(slope, 0.0)))

    def wait_quantile_s(self, q: float) -> float:
        """Return the q quantile of the wait [s], 0 <= q < 1; zero while q <= P(W = 0)."""
        if not 0.0 <= check_number("quantile level", q) < 1.0:
            raise InputError("quantile level", q, "at least 0 and below 1")
        if q <= 1.0 - self.wait_probability:
            return 0.0
        scale = self.mean_wait_s if self.mean_wait_s > 0 else self.mean_service_s
        return self.wait_law.quantile(q, scale)


def _moments(law: WaitLaw, mean: float, delayed: float) -> tuple[float, float]:
    """Return E[W] [s] and E[W^2] [s^2], the integrals of P(W > t) and of 2 t P(W > t)."""
    if isinstance(law, ExponentialSum):
        terms = law.coefficients / law.rates
        return float(terms.sum().real), float(2 * (terms / law.rates).sum().real)
    if not (mean > 0 and delayed > 0):
        return 0.0, 0.0
    if isinstance(law, TabulatedTail):
        edges, decay = law.grid, law.decay
    else:
        # Panels as fine near 0 as kinks there ask for; beyond the last the tail is a single exponential.
        top = law.quantile(1 - FAR * delayed, mean)
        edges = top * np.linspace(0.0, 1.0, PANELS + 1) ** 1.5
        near, far = law.tail(np.array([0.9 * top, top]))
        decay = math.log(near / far) / (0.1 * top) if near > far > 0 else math.inf
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(edges)[:, None] / 2
    at = edges[:-1, None] + half * (1 + nodes)
    mass = law.tail(at) * half * weights
    last = float(law.tail(edges[-1:])[0]) / decay
    return float(mass.sum()) + last, float(2 * (mass * at).sum() + 2 * last * (edges[-1] + 1 / decay))


def tabulated(metrics: QueueMetrics, points: int = 400, reach: float = 14.0) -> TabulatedTail:
    """Return the tail of `metrics` as a table of `points` up to `reach` mean delays."""
    if isinstance(metrics.wait_law, TabulatedTail):
        return metrics.wait_law
    # Where nobody waits the tail is as small as numbers go, and falls within a service.
    scale = metrics.mean_delay_s or metrics.mean_service_s / metrics.servers
    grid = np.linspace(0.0, reach, points) * scale
    log_tail = np.log(np.maximum(metrics.wait_law.tail(grid), 1e-300))
    decay = (log_tail[-1 - points // 10] - log_tail[-1]) / (grid[-1] - grid[-1 - points // 10])
    whole = (log_tail[0] - log_tail[-1]) / grid[-1]
    return TabulatedTail(
        grid=grid, log_tail=np.minimum.accumulate(log_tail), decay=float(max(decay, whole)) or 1 / scale
    )

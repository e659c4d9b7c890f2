"""Arrival laws: Poisson, renewal, two-phase Markov-modulated Poisson, and Poisson with a rate by window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qmodel.distributions.checks import check_array, check_count, check_number, check_positive, check_rng, shown
from qmodel.distributions.phase_type import fit_phase_type
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError, OutOfRangeError

__all__ = ["Arrivals", "MmppArrivals", "PoissonArrivals", "RenewalArrivals", "WindowedArrivals"]

FloatArray = npt.NDArray[np.float64]

#: Points of the renewal equation, and mean gaps beyond which the variance of counts is taken for its linear limit.
RENEWAL_POINTS, LONG_WINDOW = 1 << 14, 12.0
#: Phases that gaps are given at most when they are made Markovian.
GAP_PHASES = 30
#: Tilt that keeps the renewal equation from wrapping around the Fourier transform.
TILT = 18.0


class Arrivals(Protocol):
    """A stationary law of arrivals."""

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second."""

    @property
    def scv(self) -> float:
        """Squared coefficient of variation of the time between arrivals."""

    def idc(self, window_s: float) -> float:
        """Return variance over mean of the number of arrivals in a window of that length [s]."""

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return the first `count` arrival times [s], from 0 on."""


def _draws(count: int, rng: np.random.Generator) -> tuple[int, np.random.Generator]:
    return check_count("number of arrivals", count), check_rng(rng)


@dataclass(frozen=True, slots=True)  # one field: its place says enough
class PoissonArrivals:
    """Poisson arrivals.

    Parameters
    ----------
    rate_per_s : float
        Arrivals per second.
    """

    rate_per_s: float

    def __post_init__(self) -> None:
        check_positive("arrival rate", self.rate_per_s)

    @property
    def scv(self) -> float:
        """One."""
        return 1.0

    def idc(self, window_s: float) -> float:
        """Return one, whatever the window [s]."""
        check_positive("window", window_s)
        return 1.0

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return the first `count` arrival times [s]."""
        count, rng = _draws(count, rng)
        return np.cumsum(rng.exponential(1 / self.rate_per_s, count))

    def as_map(self) -> tuple[FloatArray, FloatArray, bool]:
        """Return (D0, D1) of the Markovian arrival process [1/s], and that it is exact."""
        rate = np.array([[self.rate_per_s]])
        return -rate, rate, True


@dataclass(frozen=True, slots=True, eq=False)  # one field: its place says enough
class RenewalArrivals:
    """Independent times between arrivals.

    Parameters
    ----------
    gap : ServiceTime
        Law of the time between arrivals [s].

    Examples
    --------
    >>> arrivals = RenewalArrivals.hyperexponential(10.0, 4.0)
    >>> round(arrivals.scv, 9), round(arrivals.idc(1e6), 3)
    (4.0, 4.0)
    """

    gap: ServiceTime

    def __post_init__(self) -> None:
        if not isinstance(self.gap, ServiceTime):
            raise InputError("law of the gaps", shown(self.gap), "a ServiceTime")

    @classmethod
    def gamma(cls, rate_per_s: float, scv: float) -> RenewalArrivals:
        """Return gamma gaps of a rate [1/s] and squared coefficient of variation."""
        return cls(gap=ServiceTime.gamma(1 / check_positive("arrival rate", rate_per_s), scv))

    @classmethod
    def hyperexponential(cls, rate_per_s: float, scv: float) -> RenewalArrivals:
        """Return two-phase hyperexponential gaps with balanced means, of a rate [1/s] and `scv` >= 1."""
        mean = 1 / check_positive("arrival rate", rate_per_s)
        scv = check_number("scv of hyperexponential gaps", scv)
        if not (math.isfinite(scv) and scv >= 1):
            raise OutOfRangeError("scv of hyperexponential gaps", scv, "at least 1", "use RenewalArrivals.gamma")
        share = (1 + math.sqrt((scv - 1) / (scv + 1))) / 2
        means = (mean / (2 * share), mean / (2 * (1 - share)))
        return cls(gap=ServiceTime.hyperexponential((share, 1 - share), means))

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second."""
        return 1 / self.gap.mean_s

    @property
    def scv(self) -> float:
        """Squared coefficient of variation of the gaps."""
        return self.gap.scv

    def idc(self, window_s: float) -> float:
        """Return variance over mean of the arrivals in a stationary window [s].

        Var N(t) = rate * integral_0^t (1 + 2 m(u)) du - (rate*t)^2, m the renewal function, solved on a grid; for long
        windows its linear limit (Cox, Renewal Theory, 1962, eq. 4.5.8). Relative error about 1e-3.
        """
        t, mean = check_positive("window", window_s), self.gap.mean_s
        if t > LONG_WINDOW * mean * max(1.0, self.scv):
            second, third = self.gap.moment(2), self.gap.moment(3)
            central = third - 3 * mean * second + 2 * mean**3
            return self.scv + (1 / 6 + self.scv**2 / 2 - central / (3 * mean**3)) * mean / t
        # m = F + F*m on points half a step off, in the tilted transform; twice the length against wrapping.
        step = t / RENEWAL_POINTS
        edges = np.arange(2 * RENEWAL_POINTS + 1) * step
        mass = -np.diff(self.gap.tail(edges))
        mass[0] += 1 - float(self.gap.tail(0.0))
        tilt = np.exp(-TILT / (2 * RENEWAL_POINTS) * np.arange(2 * RENEWAL_POINTS))
        # A jump within a cell lies half a cell in: the mean of rounding down and up.
        turn = np.exp(-2j * np.pi * np.fft.rfftfreq(2 * RENEWAL_POINTS)) * tilt[1]
        shifted = np.fft.rfft(mass * tilt) * (1 + turn) / 2
        renewals = np.fft.irfft(shifted / (1 - shifted), 2 * RENEWAL_POINTS) / tilt
        function = np.cumsum(renewals)[: RENEWAL_POINTS + 1]
        # At a point of the lattice half of the mass there belongs to earlier times.
        at = function - 0.5 * renewals[: RENEWAL_POINTS + 1]
        at[0] = 0.0
        area = step * float(at.sum() - 0.5 * (at[0] + at[-1]))
        rate = 1 / mean
        return max(1 + 2 * area / t - rate * t, 0.0)

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return the first `count` arrival times [s], an arrival having come just before 0."""
        count, rng = _draws(count, rng)
        return np.cumsum(self.gap.sample(count, rng))

    def as_map(self, most_phases: int = GAP_PHASES) -> tuple[FloatArray, FloatArray, bool]:
        """Return (D0, D1) of a Markovian arrival process [1/s], and whether it is exact or fitted to moments.

        Gaps of SCV below 1/2 are of n - 1 or n equal phases with the same two moments (Tijms, Stochastic Models, 1994,
        p. 358), as far as `most_phases` allow: more regular ones than that become Erlang.
        """
        if self.scv < 0.5 - 1e-9:
            scv = max(self.scv, 1 / most_phases)
            n = math.ceil(1 / scv * (1 - 1e-9))
            fewer = max((n * scv - math.sqrt(max(n * (1 + scv) - n * n * scv, 0.0))) / (1 + scv), 0.0)
            rate = (n - fewer) / self.gap.mean_s
            quiet = -rate * np.eye(n) + rate * np.eye(n, k=1)
            arrive = np.zeros((n, n))
            arrive[-1, :2] = rate * (1 - fewer), rate * fewer
            return quiet, arrive, self.gap.name == f"Erlang-{n}"
        fit = fit_phase_type(self.gap)
        a, b, p = fit.rate1_per_s, fit.rate2_per_s, fit.start1
        quiet = np.array([[-a, a * fit.go_on], [0.0, -b]])
        leave = np.array([a * (1 - fit.go_on), b])
        if p >= 1.0 and fit.go_on == 0.0:
            return np.array([[-a]]), np.array([[a]]), fit.moments_matched == 0
        return quiet, np.outer(leave, [p, 1 - p]), fit.moments_matched == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MmppArrivals:
    """Poisson arrivals whose rate switches between two values at exponential times.

    Parameters
    ----------
    rates_per_s : tuple of float
        Arrival rate in either phase [1/s].
    switch_per_s : tuple of float
        Rate of leaving either phase [1/s].

    Notes
    -----
    Fischer & Meier-Hellstern, The Markov-modulated Poisson process cookbook, Perf. Eval. 18 (1993).

    Examples
    --------
    >>> arrivals = MmppArrivals(rates_per_s=(1.0, 4.0), switch_per_s=(0.1, 0.2))
    >>> arrivals.rate_per_s, round(arrivals.idc(1e9), 4)
    (2.0, 7.6667)
    """

    rates_per_s: tuple[float, float]
    switch_per_s: tuple[float, float]

    def __post_init__(self) -> None:
        for what, pair in (("rates", self.rates_per_s), ("switching rates", self.switch_per_s)):
            if check_array(f"{what} of an MMPP", pair).shape != (2,):
                raise InputError(f"{what} of an MMPP", shown(pair), "two numbers")
        for rate in self.rates_per_s:
            if not (math.isfinite(rate) and rate >= 0):
                raise InputError("arrival rate of a phase", rate, "finite and >= 0")
        check_positive("larger arrival rate", max(self.rates_per_s))
        for switch in self.switch_per_s:
            check_positive("switching rate", switch)

    @property
    def phase_law(self) -> tuple[float, float]:
        """Share of time in either phase."""
        one, two = self.switch_per_s
        return two / (one + two), one / (one + two)

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second."""
        return math.fsum(p * r for p, r in zip(self.phase_law, self.rates_per_s, strict=True))

    @property
    def scv(self) -> float:
        """Squared coefficient of variation of the gaps, 2 rate pi (-D0)^-1 1 - 1."""
        quiet, arrive, _ = self.as_map()
        seen = np.array(self.phase_law) @ arrive / self.rate_per_s
        inverse = np.linalg.inv(-quiet)
        one = np.ones(2)
        return float(2 * (seen @ inverse @ inverse @ one) * self.rate_per_s**2 - 1)

    def idc(self, window_s: float) -> float:
        """Return 1 + A (1 - (1 - exp(-s t))/(s t)), A = 2 p1 p2 (r1 - r2)^2/(s rate), s the sum of switching rates."""
        t, s = check_positive("window", window_s), sum(self.switch_per_s)
        one, two = self.phase_law
        spread = (self.rates_per_s[0] - self.rates_per_s[1]) ** 2
        return 1 + 2 * one * two * spread / (s * self.rate_per_s) * _ramp(s * t)

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return the first `count` arrival times [s], the phase at 0 drawn from its stationary law."""
        count, rng = _draws(count, rng)
        times: list[FloatArray] = []
        found, now, phase = 0, 0.0, int(rng.random() >= self.phase_law[0])
        stays = max(int(count * max(self.switch_per_s) / self.rate_per_s), 16)
        while found < count:
            phases = (phase + np.arange(stays)) % 2
            length = rng.exponential(1.0, stays) / np.array(self.switch_per_s)[phases]
            begin = now + np.concatenate([[0.0], np.cumsum(length)])
            numbers = rng.poisson(length * np.array(self.rates_per_s)[phases])
            inside = np.repeat(begin[:-1], numbers) + rng.random(int(numbers.sum())) * np.repeat(length, numbers)
            times.append(np.sort(inside))
            found, now, phase = found + inside.size, float(begin[-1]), int(1 - phases[-1])
        return np.concatenate(times)[:count] if times else np.empty(0)

    def as_map(self) -> tuple[FloatArray, FloatArray, bool]:
        """Return (D0, D1) of the Markovian arrival process [1/s], and that it is exact."""
        (a, b), arrive = self.switch_per_s, np.diag(np.array(self.rates_per_s, dtype=np.float64))
        return np.array([[-a, a], [b, -b]]) - arrive, arrive, True


def _ramp(x: float) -> float:
    """Return 1 - (1 - exp(-x))/x."""
    return x / 2 - x * x / 6 if x < 1e-5 else 1 + math.expm1(-x) / x


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowedArrivals:
    """Poisson arrivals at a rate that is constant within windows; beyond the last the windows begin again.

    Parameters
    ----------
    edges_s : ndarray, shape (windows + 1,)
        Window edges [s], increasing.
    rates_per_s : ndarray, shape (windows,)
        Rate in each window [1/s].
    """

    edges_s: FloatArray
    rates_per_s: FloatArray

    def __repr__(self) -> str:
        about = f"windows={self.rates_per_s.size}, horizon_s={self.horizon_s:.6g}, rate_per_s={self.rate_per_s:.6g}"
        return f"WindowedArrivals({about})"

    def __post_init__(self) -> None:
        edges, rates = self.edges_s, self.rates_per_s
        if not (isinstance(edges, np.ndarray) and isinstance(rates, np.ndarray)):
            raise InputError("window edges and rates", shown((edges, rates)), "arrays", "wrap lists in numpy.array")
        if edges.ndim != 1 or edges.shape != (rates.size + 1,) or not np.all(np.diff(edges) > 0):
            raise InputError("window edges", f"of shape {edges.shape}", "increasing, one more than the rates")
        if not (np.all(np.isfinite(edges)) and np.all(np.isfinite(rates) & (rates >= 0)) and rates.sum() > 0):
            raise InputError("rate of a window", "negative, not finite or all zero", "finite, >= 0, not all zero")

    @classmethod
    def from_times(cls, arrival_s: npt.ArrayLike, width_s: float = 60.0) -> WindowedArrivals:
        """Return the rates of a trace's arrival times [s] in windows of a width [s]."""
        times, width = checked_times(arrival_s), check_positive("window", width_s)
        windows = max(math.ceil((times[-1] - times[0]) / width), 1)
        edges = times[0] + np.arange(windows + 1) * width
        counts, _ = np.histogram(times, edges)
        return cls(edges_s=edges, rates_per_s=counts / width)

    @property
    def _widths(self) -> FloatArray:
        return np.diff(self.edges_s)

    @property
    def horizon_s(self) -> float:
        """Time until the windows begin again [s]."""
        return float(self.edges_s[-1] - self.edges_s[0])

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second."""
        return float(self.rates_per_s @ self._widths) / self.horizon_s

    @property
    def scv(self) -> float:
        """Squared coefficient of variation of the gaps: E[T^2] = 2 E[T] * mean time from any moment to an arrival."""
        safe = np.where(self.rates_per_s > 0, self.rates_per_s, 1.0)
        idle, width = self.rates_per_s == 0, self._widths
        stay = np.exp(-self.rates_per_s * width)
        within = np.where(idle, width, -np.expm1(-safe * width) / safe)
        # Time to the next arrival at each window's start: R = within + stay * R of the next window.
        after, chance = 0.0, 1.0
        for w in range(width.size - 1, -1, -1):
            after, chance = within[w] + stay[w] * after, chance * stay[w]
        first = after / (1 - chance)
        total, later = 0.0, first
        for w in range(width.size - 1, -1, -1):
            area = width[w] ** 2 / 2 if idle[w] else (width[w] - within[w]) / safe[w]
            total += area + within[w] * later
            later = within[w] + stay[w] * later
        return 2 * self.rate_per_s * total / self.horizon_s - 1

    def idc(self, window_s: float) -> float:
        """Return variance over mean of the arrivals in a window [s] that starts at any moment alike."""
        t, horizon = check_positive("window", window_s), self.horizon_s
        starts = self.edges_s - self.edges_s[0]
        expected = np.concatenate([[0.0], np.cumsum(self.rates_per_s * self._widths)])

        def arrived(at: FloatArray) -> FloatArray:
            turns = np.floor(at / horizon)
            return np.asarray(turns * expected[-1] + np.interp(at - turns * horizon, starts, expected))

        # Expected arrivals are linear in the start between these breaks: Simpson's rule is exact for the square.
        breaks = np.unique(np.concatenate([starts, (starts - t) % horizon]))
        ends = arrived(breaks + t) - arrived(breaks)
        low, high = ends[:-1], ends[1:]
        square = float((np.diff(breaks) * (low * low + low * high + high * high) / 3).sum()) / horizon
        mean = self.rate_per_s * t
        return 1 + max(square - mean * mean, 0.0) / mean

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return the first `count` arrival times [s], from the first edge on."""
        count, rng = _draws(count, rng)
        # Unit-rate arrivals, stretched by the inverse of the expected number.
        expected = np.concatenate([[0.0], np.cumsum(self.rates_per_s * self._widths)])
        at = np.cumsum(rng.exponential(1.0, count))
        turns, within = np.divmod(at, expected[-1])
        window = np.searchsorted(expected[1:], within, side="right").clip(max=self.rates_per_s.size - 1)
        part = (within - expected[window]) / np.where(self.rates_per_s > 0, self.rates_per_s, 1.0)[window]
        return np.asarray(self.edges_s[window] + part + turns * self.horizon_s)


def checked_times(arrival_s: npt.ArrayLike) -> FloatArray:
    """Return arrival times as an array when they are finite, sorted and at least two apart, else raise InputError."""
    times = check_array("arrival times", arrival_s)
    if times.ndim != 1 or times.size < 2 or not np.all(np.isfinite(times)):
        raise InputError("arrival times", f"of shape {times.shape}", "one-dimensional, finite, two or more")
    if np.any(np.diff(times) < 0) or not times[-1] > times[0]:
        raise InputError("arrival times", "decreasing or all equal", "sorted, over some time")
    return times

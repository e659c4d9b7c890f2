"""Two-phase laws (exponential, H2, Erlang-2, hypoexponential) and their fits to the moments of a service law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.distributions.checks import shown
from qmodel.distributions.parts import Gamma, TwoPhase
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError, OutOfRangeError

__all__ = ["PhaseType2", "as_phase_type", "fit_h2_transform", "fit_phase_type", "h2_of_shape", "phases_of"]

FloatArray = npt.NDArray[np.float64]

#: Relative distance below which two phases count as one (rounding, not modelling).
SAME_PHASE = 1e-9
#: Least product of the two phase means, in squared sums, and largest phase mean, in means, that stay well conditioned.
LEAST_SPREAD = 1e-4
LARGEST_PHASE = 300.0
#: Phases up to which a law is taken for one: beyond, its eigenvectors take longer than a grid.
MOST_PHASES = 32
#: Points at which tails are set side by side, and the level up to which.
POINTS, FAR = 2001, 1 - 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseType2:
    """A law of at most two exponential phases.

    Starts in phase 1 with probability `start1`, else in phase 2; after phase 1 continues in phase 2 with
    probability `go_on`; phase 2 is always the last.

    Parameters
    ----------
    start1 : float
        Probability of starting in phase 1.
    rate1_per_s, rate2_per_s : float
        Rates of the phases [1/s].
    go_on : float
        Probability of phase 2 after phase 1: 0 for H2, 1 for phases in series.
    moments_matched : int
        How many moments of the law it was fitted to it has; 0 when it is that law itself.
    """

    start1: float
    rate1_per_s: float
    rate2_per_s: float
    go_on: float = 0.0
    moments_matched: int = 0

    @property
    def law(self) -> ServiceTime:
        """The same law as a `ServiceTime`."""
        mean1, mean2 = 1 / self.rate1_per_s, 1 / self.rate2_per_s
        if self.go_on == 0.0:
            return ServiceTime.hyperexponential((self.start1, 1 - self.start1), (mean1, mean2))
        return ServiceTime.hypoexponential(mean1, mean2)

    def misfit(self, service: ServiceTime) -> dict[str, float]:
        """Return how far this law is from the one that it was fitted to.

        Parameters
        ----------
        service : ServiceTime
            The law that was fitted.

        Returns
        -------
        dict
            Relative errors of ``mean``, ``scv`` and ``third_moment`` (absolute where the SCV is 0), and ``tail``, the
            largest difference of P(S > t).
        """
        own = self.law
        longest = max(own.quantile_s(FAR), service.quantile_s(FAR))
        grid, atoms = longest * np.linspace(0.0, 1.0, POINTS) ** 3, service.atoms()
        grid = grid if atoms is None else np.append(grid, atoms[0])
        # A jump is looked at from either side.
        grid = np.concatenate([grid, np.nextafter(grid, 0.0)])
        scv = own.scv / service.scv - 1 if service.scv > 0 else own.scv
        return {
            "mean": own.mean_s / service.mean_s - 1,
            "scv": scv,
            "third_moment": own.moment(3) / service.moment(3) - 1,
            "tail": float(np.abs(own.tail(grid) - service.tail(grid)).max()),
        }

    @property
    def name(self) -> str:
        """H2, M, E2 or hypoexponential."""
        if self.go_on:
            return "E2" if abs(self.rate1_per_s - self.rate2_per_s) <= SAME_PHASE * self.rate1_per_s else "hypo"
        return "M" if self.start1 >= 1.0 else "H2"


def fit_phase_type(service: ServiceTime) -> PhaseType2:
    """Return a law of two phases with the moments of `service` (exact when it is such a law itself).

    SCV >= 1: hyperexponential with three moments when m1*m3 >= 1.5*m2^2, else two (balanced as far as the
    third allows: its limit, an exponential phase and a phase of zero length); 0.5 <= SCV < 1: two phases in series.

    Parameters
    ----------
    service : ServiceTime
        Law to match.

    Returns
    -------
    PhaseType2
        The fit; `moments_matched` says how many moments agree.

    Raises
    ------
    OutOfRangeError
        When SCV < 0.5: two phases cannot be that regular.

    Notes
    -----
    Whitt, Approximating a point process by a renewal process I, Oper. Res. 30 (1982), eqs 3.5-3.7.

    Examples
    --------
    >>> service = ServiceTime.lognormal(1.0, 2.0, upper_s=30.0)
    >>> fit = fit_phase_type(service)
    >>> fit.name, fit.moments_matched, round(fit.misfit(service)["tail"], 3)
    ('H2', 3, 0.062)
    """
    if not isinstance(service, ServiceTime):
        raise InputError("service law", shown(service), "a ServiceTime")
    own = as_phase_type(service)
    if own is not None:
        return own
    m1, scv = service.mean_s, service.scv
    if scv < 0.5 - SAME_PHASE:
        raise OutOfRangeError(
            "scv of the service law",
            scv,
            ">= 0.5 for a two-phase fit",
            "mgk takes such laws as they are",
        )
    if abs(scv - 1) <= SAME_PHASE:
        return PhaseType2(start1=1.0, rate1_per_s=1 / m1, rate2_per_s=1 / m1, moments_matched=2)
    if scv < 1:
        spread = math.sqrt(max(2 * scv - 1, 0.0))
        return PhaseType2(
            start1=1.0, rate1_per_s=2 / (m1 * (1 + spread)), rate2_per_s=2 / (m1 * (1 - spread)), go_on=1.0,
            moments_matched=2,
        )  # fmt: skip
    return _fit_h2(m1, service.moment(2), service.moment(3))


def _fit_h2(m1: float, m2: float, m3: float) -> PhaseType2:
    """Return the H2 law with moments m1, m2 and, where possible, m3."""
    matched = 3
    if m1 * m3 < 1.5 * m2**2 * (1 + 1e-6) or not math.isfinite(m3):
        m3, matched = 1.5 * m2**2 / m1 * (1 + 1e-6 if math.isfinite(m3) else 2.0), 2
    # Means of the phases are the roots of y^2 - b*y + c; f_n = m_n/n!.
    f2, f3 = m2 / 2, m3 / 6
    b = (f3 - m1 * f2) / (f2 - m1**2)
    c = (m1 * f3 - f2**2) / (f2 - m1**2)
    root = math.sqrt(b * b - 4 * c)
    large = (b + root) / 2
    small = c / large
    start1 = (large - m1) / (large - small)
    return PhaseType2(start1=start1, rate1_per_s=1 / small, rate2_per_s=1 / large, moments_matched=matched)


def fit_h2_transform(service: ServiceTime, at_per_s: float) -> PhaseType2 | None:
    """Return the H2 law with two moments of `service` and its Laplace transform at `at_per_s`, None when there is none.

    With phase means y1, y2, b = y1 + y2, c = y1*y2: E[exp(-s*S)] = (1 + (b - m1) s)/(1 + b s + c s^2) and
    c = b*m1 - m2/2, so the transform is linear in b.
    """
    m1, f2, s = service.mean_s, service.moment(2) / 2, at_per_s
    value = float(service.laplace(s).real)
    below = value * (s + m1 * s * s) - s
    if below == 0.0:
        return None
    b = (1 - m1 * s - value * (1 - f2 * s * s)) / below
    c = b * m1 - f2
    if not (b > 0 and c > LEAST_SPREAD * b * b and b * b > 4 * c):
        return None
    large = (b + math.sqrt(b * b - 4 * c)) / 2
    small = c / large
    if not small < m1 < large < LARGEST_PHASE * m1:
        return None
    start1 = (large - m1) / (large - small)
    return PhaseType2(start1=start1, rate1_per_s=1 / small, rate2_per_s=1 / large, moments_matched=2)


def h2_of_shape(m1: float, m2: float, shape: float) -> PhaseType2:
    """Return the H2 law with moments m1, m2 and m3 = 1.5*shape*m2^2/m1, shape > 1."""
    return _fit_h2(m1, m2, 1.5 * shape * m2**2 / m1)


def as_phase_type(service: ServiceTime) -> PhaseType2 | None:
    """Return `service` itself when it already is a law of two phases."""
    parts = [(part, w) for part, w in zip(service.parts, service.weights, strict=True) if w > 0]
    if len(parts) == 1:
        part = parts[0][0]
        if isinstance(part, TwoPhase):
            return PhaseType2(start1=1.0, rate1_per_s=1 / part.mean1_s, rate2_per_s=1 / part.mean2_s, go_on=1.0)
        if isinstance(part, Gamma) and part.shape == 1:
            return PhaseType2(start1=1.0, rate1_per_s=1 / part.mean_s, rate2_per_s=1 / part.mean_s)
        if isinstance(part, Gamma) and part.shape == 2:
            return PhaseType2(start1=1.0, rate1_per_s=2 / part.mean_s, rate2_per_s=2 / part.mean_s, go_on=1.0)
        return None
    if len(parts) == 2:
        (one, w), (two, _) = parts
        if isinstance(one, Gamma) and isinstance(two, Gamma) and one.shape == two.shape == 1:
            return PhaseType2(start1=w, rate1_per_s=1 / one.mean_s, rate2_per_s=1 / two.mean_s)
    return None


def phases_of(service: ServiceTime) -> tuple[FloatArray, FloatArray] | None:
    """Return (probabilities of the first phase, rates [1/s] between phases) of a mixture of sums of exponential times.

    None when the law is not one, or has more than `MOST_PHASES` phases. The rates are those of the phase-type
    generator: negative on the diagonal, rows short of zero by the rate at which the service ends.
    """
    chains: list[list[float]] = []
    for part in service.parts:
        if isinstance(part, TwoPhase):
            chains.append([1 / part.mean1_s, 1 / part.mean2_s])
        elif isinstance(part, Gamma) and part.shape == int(part.shape) <= MOST_PHASES:
            chains.append([part.shape / part.mean_s] * int(part.shape))
        else:
            return None
    size = sum(len(chain) for chain in chains)
    if size > MOST_PHASES:
        return None
    start, rates, at = np.zeros(size), np.zeros((size, size)), 0
    for chain, weight in zip(chains, service.weights, strict=True):
        start[at] = weight
        for i, rate in enumerate(chain):
            rates[at + i, at + i] = -rate
            if i + 1 < len(chain):
                rates[at + i, at + i + 1] = rate
        at += len(chain)
    return start, rates

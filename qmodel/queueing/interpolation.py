"""M/G/k for any service law: exact solutions of nearby laws, corrected to the law at hand.

Two moments do not determine M/G/k. What else matters is, to good accuracy, one number: the Laplace transform of the
service time at a frequency that grows with the spare capacity. Laws of two phases with the same three numbers are
solved exactly; where there is none, exact solutions are interpolated (docs/decisions/0020). What that misses is learnt
from simulated queues (`correction`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qmodel.distributions.phase_type import PhaseType2, fit_h2_transform, fit_phase_type, h2_of_shape
from qmodel.distributions.service import ServiceTime
from qmodel.errors import QModelError
from qmodel.queueing.deterministic import solve_mdk
from qmodel.queueing.erlang import mmk
from qmodel.queueing.matrix import mean_wait_mphk, solve_mphk
from qmodel.queueing.metrics import FunctionTail, QueueMetrics, TabulatedTail, WaitLaw
from qmodel.queueing.renewal import renewal_tails
from qmodel.queueing.traits import FREQUENCIES, LawFacts, Traits

__all__ = ["Sketch", "heaviest_neighbour", "matching_frequency", "sketched"]

FloatArray = npt.NDArray[np.float64]

#: The transform is matched at (FREQUENCY + FREQUENCY_SLOPE*k*(1 - rho))*sqrt(2/(1 + scv))/mean: fitted to simulation,
#: twelve laws, k = 2..16, rho = .5...95 (docs/decisions/0020).
FREQUENCY = 0.3
FREQUENCY_SLOPE = 0.075
#: SCV from which H2 fits are well conditioned, and half-width of the band around 1 treated as nearly exponential.
H2_SCV = 1.02
NEAR_EXPONENTIAL = 0.05
#: Second moment and shapes of the two H2 laws that measure how the wait answers to the transform.
PROBE_SECOND_MOMENT = 2.5
PROBE_SHAPES = (1.02, 1.6)
#: Probability of waiting that is rounding, not queueing.
NOBODY_WAITS = 1e-13
#: Largest cell of the renewal grid, in services over k.
COARSE = 1.0
#: Largest extrapolation along the probes.
LARGEST_EXPONENT = 2.0
#: Servers from which the tail of a fitted H2 queue is better than its renewal correction, and up to which it is worse.
CORRECTED_UP_TO, UNCORRECTED_FROM = 2, 10
#: The table of the tail: points of the renewal equation, points kept, length in conditional means.
POINTS, KEPT, REACH = 512, 160, 10.0
#: Renewal tails below are rounding.
LEAST_TAIL = 1e-12
#: Even steps of a tail that is marched.
EVEN = 301
_GRID = np.unique(np.concatenate([np.linspace(0, 1, KEPT // 3), np.geomspace(0.05, REACH, 2 * KEPT // 3)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Exactly solved laws with weights, the mean wait they imply, and how far that was extrapolated."""

    weights: tuple[float, ...]
    metrics: tuple[QueueMetrics, ...]
    laws: tuple[ServiceTime, ...]
    mean_wait: float
    exponent: float
    fitted: bool

    @property
    def wait_probability(self) -> float:
        return math.fsum(w * m.wait_probability for w, m in zip(self.weights, self.metrics, strict=True))

    @property
    def own_mean(self) -> float:
        return math.fsum(w * m.mean_wait_s for w, m in zip(self.weights, self.metrics, strict=True))

    @property
    def names(self) -> str:
        return " and ".join(metrics.method.split(" ")[1] for metrics in self.metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """What the solved laws say of a queue with services of mean 1, before it is corrected.

    Parameters
    ----------
    mean_wait : float
        Mean wait.
    wait_probability : float
        P(W > 0).
    tail : TabulatedTail
        P(W > t).
    renewal : ndarray
        Logarithm of P(W > t | W > 0) of the law itself by the renewal equation, on the grid of `tail`.
    traits : Traits
        How the queue looks.
    names : str
        The solved queues.
    """

    mean_wait: float
    wait_probability: float
    tail: TabulatedTail
    renewal: FloatArray
    traits: Traits
    names: str

    def renewal_at(self, t: FloatArray) -> FloatArray:
        """Return `renewal` at times on and off the grid."""
        return np.interp(t, self.tail.grid, self.renewal)


def sketched(rate: float, servers: int, law: LawFacts) -> Sketch:
    """Return what the solved laws say of a queue with services of mean 1."""
    base = _base(rate, servers, law)
    at = matching_frequency(servers, rate / servers, law.scv) * FREQUENCIES
    values = np.sum([w * one.laplace(at).real for w, one in zip(base.weights, base.laws, strict=True)], axis=0)
    mean_wait, delayed = max(base.mean_wait, 0.0), base.wait_probability
    traits = Traits(
        law=law,
        servers=servers,
        load=rate / servers,
        wait_probability=delayed,
        delay=mean_wait / delayed if delayed > 0 and mean_wait > 0 else 1.0 / servers,
        fitted=base.fitted,
        exponent=base.exponent,
        differences=(values - law.unit.laplace(at).real) / at,
    )
    tail, renewal = _tail(rate, servers, law.unit, base)
    return Sketch(
        mean_wait=mean_wait,
        wait_probability=delayed,
        tail=tail,
        renewal=renewal,
        traits=traits,
        names=base.names,
    )


@lru_cache(maxsize=1)
def _regular_laws() -> tuple[ServiceTime, ServiceTime, PhaseType2]:
    """Return the deterministic and the Erlang-2 law of mean 1, the latter also as phases."""
    even = ServiceTime.erlang(2, 1.0)
    return ServiceTime.deterministic(1.0), even, fit_phase_type(even)


def heaviest_neighbour(rate: float, servers: int, law: LawFacts) -> tuple[ServiceTime, QueueMetrics, float]:
    """Return the exactly solved law nearest to that of mean 1, its wait, and the mean wait that follows for `law`."""
    base = _base(rate, servers, law)
    at = int(np.argmax(base.weights))
    return base.laws[at], base.metrics[at], base.mean_wait


def matching_frequency(k: int, rho: float, scv: float) -> float:
    """Return the frequency at which the Laplace transform of the service law is matched, in 1/mean."""
    return (FREQUENCY + FREQUENCY_SLOPE * k * (1 - rho)) * math.sqrt(2 / (1 + scv))


def _transform(law: ServiceTime, at: float) -> float:
    return float(law.laplace(at).real)


def _transform_h2(phases: PhaseType2, at: float) -> float:
    share, one, two = phases.start1, phases.rate1_per_s, phases.rate2_per_s
    return share * one / (one + at) + (1 - share) * two / (two + at)


@lru_cache(maxsize=4)
def _base(lam: float, k: int, facts: LawFacts) -> Base:
    """Return the exactly solved neighbours of a law of mean 1; kept, as a path asks again."""
    scv, unit = facts.scv, facts.unit
    at = matching_frequency(k, lam / k, scv)
    if scv >= H2_SCV:
        fit = fit_h2_transform(unit, at)
        if fit is not None:
            try:
                metrics = solve_mphk(lam, k, fit)
            except QModelError:
                pass  # an ill-conditioned fit: go by the neighbours
            else:
                return Base(
                    weights=(1.0,),
                    metrics=(metrics,),
                    laws=(fit.law,),
                    mean_wait=metrics.mean_wait_s,
                    exponent=0.0,
                    fitted=True,
                )
    weights, metrics_of, laws = _neighbours(lam, k, facts)
    own = math.fsum(w * m.mean_wait_s for w, m in zip(weights, metrics_of, strict=True))
    value = math.fsum(w * _transform(law, at) for w, law in zip(weights, laws, strict=True))
    # The two regular laws make up the SCV exactly.
    missing = 0.0 if scv < 0.5 else scv - laws[0].scv
    exponents = _exponents(missing, _transform(unit, at) - value, at)
    return Base(
        weights=weights,
        metrics=metrics_of,
        laws=laws,
        mean_wait=own * _response(lam, k, exponents),
        exponent=min(abs(exponents[0]), abs(exponents[1])),
        fitted=False,
    )


def _response(lam: float, k: int, exponents: tuple[float, float]) -> float:
    """Return the factor by which the mean wait answers to a step along the probes; 1 where they cannot be solved."""
    if exponents == (0.0, 0.0):
        return 1.0
    try:
        waits = [mean_wait_mphk(lam, k, probe) for probe in _probes()]
    except QModelError:
        return 1.0
    centre = mmk(lam, k, 1.0).mean_wait_s
    if not min(*waits, centre) > 0:
        return 1.0
    (one, two), (first, second) = waits, exponents
    return math.exp(first * math.log(one / centre) + second * math.log(two / centre))


def _neighbours(
    lam: float, k: int, facts: LawFacts
) -> tuple[tuple[float, ...], tuple[QueueMetrics, ...], tuple[ServiceTime, ...]]:
    """Return weights, exact solutions and laws whose mixture has (nearly) the SCV of the law."""
    scv, unit = facts.scv, facts.unit
    if scv < 0.5:
        constant, even, phases = _regular_laws()
        share = scv / 0.5
        metrics = (solve_mdk(lam, k, 1.0), solve_mphk(lam, k, phases))
        return (1 - share, share), metrics, (constant, even)
    if abs(scv - 1) <= NEAR_EXPONENTIAL:
        phases = fit_phase_type(ServiceTime.exponential(1.0))
    elif scv < 1:
        phases = fit_phase_type(unit)
    else:
        phases = h2_of_shape(1.0, unit.moment(2), PROBE_SHAPES[0])
    return (1.0,), (solve_mphk(lam, k, phases),), (phases.law,)


@lru_cache(maxsize=1)
def _probes() -> tuple[PhaseType2, PhaseType2]:
    smooth, rough = (h2_of_shape(1.0, PROBE_SECOND_MOMENT, shape) for shape in PROBE_SHAPES)
    return smooth, rough


def _exponents(missing_scv: float, missing_transform: float, at: float) -> tuple[float, float]:
    """Return how far to go from the exponential law towards each probe to make up SCV and transform."""
    centre = 1 / (1 + at)
    step_scv = PROBE_SECOND_MOMENT - 2.0
    one, two = (_transform_h2(probe, at) - centre for probe in _probes())
    total = missing_scv / step_scv
    first = (missing_transform - total * two) / (one - two)
    first = min(max(first, -LARGEST_EXPONENT), LARGEST_EXPONENT)
    second = min(max(total - first, -LARGEST_EXPONENT), LARGEST_EXPONENT)
    return first, second


def _tail(lam: float, k: int, unit: ServiceTime, base: Base) -> tuple[TabulatedTail, FloatArray]:
    """Return the tail of the wait, and the law's own renewal tail given delay, as a logarithm, on the same grid.

    The first is the neighbours' exact tails times the ratio of renewal tails, at the right mean.
    """
    delayed = base.wait_probability
    scale = base.mean_wait / delayed if delayed > 0 and base.mean_wait > 0 else 1.0 / k
    if delayed < NOBODY_WAITS:
        # Percentiles are 0; an exponential with the mean.
        top = math.log(max(delayed, 1e-300))
        table = TabulatedTail(grid=np.array([0.0, scale]), log_tail=np.array([top, top - 1.0]), decay=1.0 / scale)
        return table, np.array([0.0, -1.0])
    grid = _GRID * scale
    plain = np.maximum(_mixed(base, grid), 1e-300)
    log_tail = np.interp(grid, grid * (base.mean_wait / base.own_mean), np.log(plain))
    share = _renewal_share(k, base, scale)
    laws = (unit, *base.laws) if share > 0 else (unit,)
    times, tails = renewal_tails(lam, k, laws, REACH * scale, POINTS)
    own, *theirs = (np.interp(grid, times, row) for row in np.log(np.maximum(tails, LEAST_TAIL)))
    if share > 0:
        ratio = np.exp(own) / sum(w * np.exp(row) for w, row in zip(base.weights, theirs, strict=True))
        corrected = np.minimum.accumulate(plain * np.clip(ratio, 0.05, 20.0))
        area = float((corrected[1:] + corrected[:-1]) @ (grid[1:] - grid[:-1]) / 2)
        stretch = base.mean_wait / area
        log_tail = share * np.interp(grid, grid * stretch, np.log(corrected)) + (1 - share) * log_tail
    log_tail[0] = math.log(delayed)
    log_tail = np.minimum.accumulate(log_tail)
    back = KEPT // 10
    decay = (log_tail[-1 - back] - log_tail[-1]) / (grid[-1] - grid[-1 - back])
    whole = (log_tail[0] - log_tail[-1]) / grid[-1]
    return TabulatedTail(grid=grid, log_tail=log_tail, decay=float(max(decay, whole))), own


def _renewal_share(k: int, base: Base, scale: float) -> float:
    """Return how far the renewal tails' ratio corrects the tail: all the way for neighbours, less for a fitted law."""
    if REACH * scale / POINTS > COARSE / k:
        # In heavy traffic the grid cannot resolve services, and the neighbours' tail needs no correction.
        return 0.0
    share = (UNCORRECTED_FROM - k) / (UNCORRECTED_FROM - CORRECTED_UP_TO) if base.fitted else 1.0
    return min(max(share, 0.0), 1.0)


def _mixed(base: Base, grid: FloatArray) -> FloatArray:
    return np.asarray(sum(w * _tail_at(m.wait_law, grid) for w, m in zip(base.weights, base.metrics, strict=True)))


def _tail_at(law: WaitLaw, grid: FloatArray) -> FloatArray:
    """Return a tail on the grid; one that is marched step by step is read off even steps."""
    if not isinstance(law, FunctionTail):
        return law.tail(grid)
    even = np.linspace(0.0, float(grid[-1]), EVEN)
    return np.asarray(np.exp(np.interp(grid, even, np.log(np.maximum(law.tail(even), 1e-300)))))

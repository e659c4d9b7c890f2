"""Bursty arrivals: MAP/PH/k and MMPP/G/k as quasi-birth-and-death processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_qbd import log_reduction, service_blocks, solve_map_ph2
from qmodel.distributions.phase_type import PhaseType2, fit_phase_type
from qmodel.distributions.service import ServiceTime
from qmodel.errors import ConvergenceError, InputError
from qmodel.queueing.checks import check_array, check_load, check_servers, check_service
from qmodel.queueing.matrix import MAX_SERVERS, REDUCTION_TOLERANCE
from qmodel.queueing.metrics import FunctionTail, QueueMetrics

__all__ = ["map_k", "mmpp_k"]

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]

#: How far the expansion over R's eigenvalues may miss P(W > 0), relatively, before it is given up for uniformisation.
EXPANSION_TOLERANCE = 1e-6
#: Steps of the uniformised process, at most; relative change of their ratio over as many at which they are geometric;
#: share of P(W > 0) below which nothing is left.
MOST_STEPS, SPAN, GEOMETRIC, NOTHING = 100_000, 64, 1e-9, 1e-13
#: Standard deviations within which Poisson numbers count, and times at once.
NEAR, TIMES = 9.0, 256
#: Relative errors of laws that two phases stand for, and what spare capacity (1 - rho) sqrt(k) adds (bench/bursty.py).
ERRORS = {"mean": (0.03, 0.1), "p95": (0.03, 0.1), "p99": (0.05, 0.25)}
#: Least index of dispersion: deterministic gaps have none.
MIN_INDEX = 0.01
#: SCV below which two phases cannot follow the service law.
TWO_PHASE_SCV = 0.5


def mmpp_k(rates_per_s: npt.ArrayLike, switch_per_s: npt.ArrayLike, servers: int, service: ServiceTime) -> QueueMetrics:
    """Exact for two-phase services: FCFS queue whose Poisson rate follows a Markov chain.

    Parameters
    ----------
    rates_per_s : array_like, shape (m,)
        Arrival rate in each phase [1/s].
    switch_per_s : array_like, shape (m,) for m = 2, or (m, m)
        For two phases the rates of leaving each [1/s]; in general the rate from phase i to j (diagonal ignored).
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time; matched by two phases where it is not such a law itself.

    Returns
    -------
    QueueMetrics
        Waits as arrivals see them.

    Raises
    ------
    InputError
        When rates are negative or the shapes disagree.
    UnstableError
        When mean rate * mean service / servers is 1 or more.

    Examples
    --------
    >>> metrics = mmpp_k([0.4375, 1.75], [0.025, 0.1], 1, ServiceTime.exponential(1.0))
    >>> round(metrics.mean_wait_s, 4)
    10.3355
    """
    rates = np.atleast_1d(check_array("rates", rates_per_s))
    switch = check_array("switching rates", switch_per_s)
    size = rates.size
    if size == 2 and switch.shape == (2,):
        switch = np.array([[0.0, switch[0]], [switch[1], 0.0]])
    if rates.ndim != 1 or switch.shape != (size, size):
        raise InputError("switching rates", f"of shape {switch.shape}", f"({size}, {size}), one row per arrival rate")
    switch = switch - np.diag(np.diag(switch))
    generator = switch - np.diag(switch.sum(axis=1))
    return map_k(generator - np.diag(rates), np.diag(rates), servers, service)


def map_k(d0: npt.ArrayLike, d1: npt.ArrayLike, servers: int, service: ServiceTime) -> QueueMetrics:
    """Exact for two-phase services: FCFS queue fed by a Markovian arrival process.

    With pi_(k+n) = pi_k R^n and R = sum_l r_l v_l u_l, an arrival that finds n waiting starts when n + 1 services have
    ended, so P(W > t) = sum_l (pi_k v_l)/(1 - r_l) * u_l (D1 1 x exp((S + r_l C) t) 1) / rate, where S + r C is a
    Kronecker sum over the k servers: the exponential is a symmetric power of a 2 x 2 one.

    Parameters
    ----------
    d0, d1 : array_like, shape (m, m)
        Rates of the phase process [1/s] without and with an arrival; d0 + d1 has zero row sums.
    servers : int
        Number of servers.
    service : ServiceTime
        Law of a service time. Below SCV 0.5 the logarithms of the tails of exact solutions at SCV 1 and 0.5 are
        extrapolated, by the logarithm of the SCV plus the limiting index of dispersion of the arrivals.

    Returns
    -------
    QueueMetrics
        Waits as arrivals see them.

    Raises
    ------
    InputError
        When (d0, d1) is not a Markovian arrival process.
    UnstableError
        When the load is 1 or more.
    ConvergenceError
        When the matrix reduction does not converge.

    Notes
    -----
    Latouche & Ramaswami, Introduction to Matrix Analytic Methods (1999); Ozawa, Stoch. Models 22 (2006).

    Examples
    --------
    Gaps T of two phases at one exponential server: E[W] = s/(1 - s), s = .74 the root of s = E[exp(-(1 - s) T)].

    >>> gaps = ([[-1.6, 1.6], [0.0, -1.6]], [[0.0, 0.0], [1.6, 0.0]])
    >>> round(map_k(*gaps, 1, ServiceTime.exponential(1.0)).mean_wait_s, 4)
    2.844
    """
    quiet, arrive = _checked_map(d0, d1)
    k = check_servers(servers)
    rate = float(_phase_law(quiet + arrive) @ arrive.sum(axis=1))
    check_load(rate, k, check_service(service).mean_s)
    if k > MAX_SERVERS:
        raise InputError("servers of the matrix method", k, f"at most {MAX_SERVERS}", "use fewer, larger servers")
    if service.scv < TWO_PHASE_SCV - 1e-9:
        return _regular(quiet, arrive, k, rate, service)
    phases = fit_phase_type(service)
    return _solve(quiet, arrive, k, rate, phases, service.mean_s)


def _checked_map(d0: npt.ArrayLike, d1: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    quiet, arrive = (np.atleast_2d(check_array("MAP matrix", d)) for d in (d0, d1))
    if quiet.shape != arrive.shape or quiet.shape[0] != quiet.shape[1]:
        raise InputError("MAP matrices", f"{quiet.shape} and {arrive.shape}", "square and of one shape")
    if not (np.all(np.isfinite(quiet)) and np.all(np.isfinite(arrive))):
        raise InputError("MAP rates", "not finite", "finite")
    off = quiet - np.diag(np.diag(quiet))
    if off.min() < 0 or arrive.min() < 0:
        raise InputError("MAP rate", float(min(off.min(), arrive.min())), ">= 0 off the diagonal of d0")
    scale = np.abs(np.diag(quiet)).max()
    miss = float(np.abs((quiet + arrive).sum(axis=1)).max())
    if not (scale > 0 and miss <= 1e-9 * scale) or not arrive.sum() > 0:
        raise InputError("row sums of d0 + d1", miss, "zero, with some arrivals in d1")
    return quiet, arrive


def _phase_law(generator: FloatArray) -> FloatArray:
    """Return the stationary law of a generator, by the elimination of Grassmann, Taksar and Heyman."""
    q = generator.copy()
    size = q.shape[0]
    for n in range(size - 1, 0, -1):
        total = q[n, :n].sum()
        if total <= 0:
            raise InputError("arrival phases", "not all reachable from each other", "one communicating class")
        q[:n, n] /= total
        q[:n, :n] += np.outer(q[:n, n], q[n, :n])
    law = np.ones(size)
    for n in range(1, size):
        law[n] = law[:n] @ q[:n, n]
    return np.asarray(law / law.sum())


def _solve(quiet: FloatArray, arrive: FloatArray, k: int, rate: float, phases: PhaseType2, mean: float) -> QueueMetrics:
    """Return MAP/PH/k in time units of the mean service."""
    if phases.name == "M":
        pi, r, missing = _levels_exponential(quiet * mean, arrive * mean, k)
        size, configurations = quiet.shape[0], 1
    else:
        shape = (phases.start1, phases.rate1_per_s * mean, phases.rate2_per_s * mean, phases.go_on)
        pi, r, _, missing = solve_map_ph2(quiet * mean, arrive * mean, k, *shape)
        size, configurations = quiet.shape[0] * (k + 1), k + 1
    if not missing < REDUCTION_TOLERANCE:
        raise ConvergenceError("mass missing after logarithmic reduction", float(missing), "about 0", "lower the load")
    last = pi[-size:]
    above = np.asarray(np.linalg.solve((np.eye(size) - r).T, last), dtype=np.float64)
    queue = np.linalg.solve((np.eye(size) - r).T, r.T @ above)
    per_arrival = np.kron(arrive.sum(axis=1) / rate, np.ones(configurations))
    wait_probability = float(above @ per_arrival)
    law_of_wait = _tail(last, above, r, arrive.sum(axis=1) / rate, k, phases, mean, wait_probability)
    return QueueMetrics(
        arrival_rate_per_s=rate,
        servers=k,
        mean_service_s=mean,
        mean_wait_s=float(queue.sum()) / rate,
        wait_probability=wait_probability,
        wait_law=FunctionTail(function=law_of_wait),
        method=f"exact MAP({quiet.shape[0]})/{phases.name}/{k} (logarithmic reduction)",
        exact=phases.moments_matched == 0,
        error_estimate={} if phases.moments_matched == 0 else _errors(rate * mean / k, k),
    )


def _levels_exponential(quiet: FloatArray, arrive: FloatArray, k: int) -> tuple[FloatArray, FloatArray, float]:
    """Return (pi, R, missing) of MAP/M/k with unit service rate: levels 0..k of arrival phases alone."""
    m = quiet.shape[0]
    eye = np.eye(m)
    g, missing = log_reduction(np.ascontiguousarray(arrive), quiet - k * eye, k * eye)
    r = arrive @ np.linalg.inv(-(quiet - k * eye + arrive @ g))
    steps = []
    inner = quiet - k * eye + r * k
    for n in range(k, 0, -1):
        steps.append(arrive @ np.linalg.inv(-inner))
        inner = quiet - (n - 1) * eye + steps[-1] * n
    rows = [_phase_law(inner - np.diag(inner.sum(axis=1)))]
    for step in reversed(steps):
        rows.append(rows[-1] @ step)
    total = sum(row.sum() for row in rows[:-1]) + np.linalg.solve((eye - r).T, rows[-1]).sum()
    return np.concatenate(rows) / total, r, float(missing)


def _tail(
    last: FloatArray,
    above: FloatArray,
    r: FloatArray,
    seen: FloatArray,
    k: int,
    phases: PhaseType2,
    mean: float,
    wait_probability: float,
) -> _MapTail | _SteppedTail:
    """Return P(W > t) over R's eigenvalues, or in steps where its eigenvectors are ill-conditioned: many servers."""
    try:
        expanded = _MapTail.build(last, r, seen, k, phases, mean)
        if abs(float(expanded(np.zeros(1))[0]) - wait_probability) <= EXPANSION_TOLERANCE * wait_probability:
            return expanded
    except np.linalg.LinAlgError:
        pass  # eigenvectors that depend on each other
    return _SteppedTail.build(above, r, seen, k, phases, mean)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _SteppedTail:
    """P(W > t) = sum_n Poisson(n; events*t) left[n], geometric beyond the last: positive terms, no eigenvectors."""

    left: FloatArray
    ratio: float
    events: float
    mean: float

    @classmethod
    def build(cls, above: FloatArray, r: FloatArray, seen: FloatArray, k: int, phases: PhaseType2, mean: float) -> Self:
        """Uniformise Y' = Y S + R Y C from Y(0) = D1 1 x I / rate: P(W > t) = pi_k (I - R)^-1 Y(t) 1.

        A wait that meets n others lasts n + 1 completions; R^n counts them, so that the sum over n is one matrix.
        """
        if phases.name == "M":
            local, again = np.array([[-float(k)]]), np.array([[float(k)]])
        else:
            shape = (phases.start1, phases.rate1_per_s * mean, phases.rate2_per_s * mean, phases.go_on)
            local, _, again = service_blocks(k, *shape)
        events = float(-local.diagonal().min())
        stay, move = np.eye(len(local)) + local / events, again / events
        y = np.kron(seen[:, None], np.eye(len(local)))
        left = [float(above @ y.sum(axis=1))]
        while len(left) < MOST_STEPS:
            y = y @ stay + r @ (y @ move)
            left.append(float(above @ y.sum(axis=1)))
            if left[-1] <= NOTHING * left[0]:
                break
            if len(left) > 2 * SPAN and len(left) % SPAN == 0:
                late, before = left[-1] / left[-1 - SPAN], left[-1 - SPAN] / left[-1 - 2 * SPAN]
                if abs(late / before - 1) < GEOMETRIC:
                    break
        else:
            raise ConvergenceError("steps of the wait", MOST_STEPS, "enough for its tail", "lower the load")
        ratio = left[-1] / left[-2] if left[-2] > 0 else 0.0
        return cls(left=np.array(left), ratio=min(max(ratio, 1e-300), 1.0), events=events, mean=mean)

    def __call__(self, t: FloatArray) -> FloatArray:
        from scipy.special import gammaln, pdtrc, xlogy

        at = np.ravel(t)
        out = np.empty(at.size)
        last, log_ratio = len(self.left) - 1, math.log(self.ratio)
        for first in range(0, at.size, TIMES):
            x = self.events * at[first : first + TIMES] / self.mean
            # Poisson numbers are within NEAR standard deviations of their mean.
            reach = int(NEAR * (math.sqrt(x.max(initial=0.0)) + 3))
            n = np.floor(x)[:, None] + np.arange(-reach, reach + 1)
            inside = (n >= 0) & (n <= last)
            n = np.where(inside, n, 0.0)
            weight = np.where(inside, np.exp(xlogy(n, x[:, None]) - x[:, None] - gammaln(n + 1)), 0.0)
            with np.errstate(divide="ignore"):
                further = np.log(pdtrc(last, x * self.ratio)) - last * log_ratio - x * (1 - self.ratio)
            beyond = self.left[-1] * np.exp(further)
            out[first : first + TIMES] = (weight * self.left[n.astype(np.intp)]).sum(axis=1) + beyond
        return out.reshape(np.shape(t))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _MapTail:
    """P(W > t) as a sum over R's eigenvalues of polynomials in the survival of one server's service."""

    coefficients: ComplexArray  # (eigenvalue, servers in phase 1)
    eigenvalues: ComplexArray
    servers: int
    phases: PhaseType2
    mean: float

    @classmethod
    def build(
        cls, last: FloatArray, r: FloatArray, seen: FloatArray, k: int, phases: PhaseType2, mean: float
    ) -> _MapTail:
        values, right = np.linalg.eig(r)
        left = np.linalg.inv(right)
        weight = (last @ right) / (1 - values)
        coefficients = weight[:, None] * np.einsum("lac,a->lc", left.reshape(len(values), len(seen), -1), seen)
        size = np.abs(coefficients).max(axis=1)
        keep = size > 1e-18 * size.max()
        return cls(
            coefficients=coefficients[keep].astype(complex),
            eigenvalues=values[keep].astype(complex),
            servers=k,
            phases=phases,
            mean=mean,
        )

    def __call__(self, t: FloatArray) -> FloatArray:
        flat = np.atleast_1d(np.asarray(t, dtype=np.float64)).ravel() / self.mean
        if self.phases.name == "M":
            terms = self.coefficients[:, 0] @ np.exp(-self.servers * np.multiply.outer(1 - self.eigenvalues, flat))
            return np.asarray(terms.real.reshape(np.shape(t)))
        one, two = _survival(self.phases, self.mean, self.eigenvalues, flat)
        # Horner's rule for sum_j c_j one^j two^(k-j), from the larger power of phase 1 down.
        value = np.repeat(self.coefficients[:, -1:], flat.size, axis=1)
        power = np.ones_like(value)
        for j in range(self.coefficients.shape[1] - 2, -1, -1):
            power = power * two
            value = value * one + self.coefficients[:, j : j + 1] * power
        return np.asarray(value.sum(axis=0).real.reshape(np.shape(t)))


def _survival(phases: PhaseType2, mean: float, r: ComplexArray, t: FloatArray) -> tuple[ComplexArray, ComplexArray]:
    """Return exp((T + r t0 alpha) t) 1 of one server by eigenvalue r and time t (in mean services).

    (alpha, T, t0) is its phase-type law; the exponential is e^(h t) (cosh(root t) I + sinh(root t)/root (M - h I)),
    h half the trace, written without overflow.
    """
    a, b = phases.rate1_per_s * mean, phases.rate2_per_s * mean
    p, q = phases.start1, phases.go_on
    first, across = -a + r * a * (1 - q) * p, a * q + r * a * (1 - q) * (1 - p)
    back, second = r * b * p, -b + r * b * (1 - p)
    half, det = ((first + second) / 2)[:, None], (first * second - across * back)[:, None]
    root = np.sqrt(half * half - det + 0j)
    grow, fall = np.exp((half + root) * t), np.exp((half - root) * t)
    cosh = (grow + fall) / 2
    small = np.abs(root) < 1e-8
    sinh = np.where(small, t * np.exp(half * t), (grow - fall) / (2 * np.where(small, 1.0, root)))
    one, two = (first + across)[:, None] - half, (back + second)[:, None] - half
    return cosh + sinh * one, cosh + sinh * two


def _errors(load: float, k: int) -> dict[str, float]:
    """Return relative errors of laws matched by two phases: larger with spare capacity, where hardly anybody waits."""
    return {name: error + spare * (1 - load) * math.sqrt(k) for name, (error, spare) in ERRORS.items()}


def _limiting_index(quiet: FloatArray, arrive: FloatArray) -> float:
    """Return the limit of variance over mean of the arrivals in a long window (Neuts 1989, eq. 5.4.7)."""
    law, one = _phase_law(quiet + arrive), np.ones(len(quiet))
    rate = float(law @ arrive @ one)
    deviation = np.linalg.solve(np.outer(one, law) - quiet - arrive, arrive @ one)
    return max(1 - 2 * rate + 2 * float(law @ arrive @ deviation) / rate, MIN_INDEX)


def _regular(quiet: FloatArray, arrive: FloatArray, k: int, rate: float, service: ServiceTime) -> QueueMetrics:
    """Return MAP/G/k with SCV < 0.5 from exact MAP/E2/k and MAP/M/k: logarithms of tails are extrapolated."""
    mean = service.mean_s
    even = _solve(quiet, arrive, k, rate, fit_phase_type(ServiceTime.erlang(2, mean)), mean)
    wild = _solve(quiet, arrive, k, rate, fit_phase_type(ServiceTime.exponential(mean)), mean)
    # Near saturation waits are as the index of dispersion of arrivals plus the SCV: for Poisson arrivals at one server
    # the mean is exact at any load.
    index = _limiting_index(quiet, arrive)
    power = math.log((index + TWO_PHASE_SCV) / (index + service.scv)) / math.log((index + 1) / (index + TWO_PHASE_SCV))

    delayed = even.wait_probability * min(even.wait_probability / max(wild.wait_probability, 1e-300), 1.0) ** power
    wait = even.mean_wait_s * (even.mean_wait_s / wild.mean_wait_s) ** power
    # The law of the delay keeps its shape; its scale goes with the mean.
    share, pace = delayed / even.wait_probability, even.mean_delay_s * delayed / wait

    def tail(t: FloatArray) -> FloatArray:
        return np.asarray(share * even.wait_law.tail(t * pace))

    return QueueMetrics(
        arrival_rate_per_s=rate,
        servers=k,
        mean_service_s=mean,
        mean_wait_s=wait,
        wait_probability=delayed,
        wait_law=FunctionTail(function=tail),
        method=f"between exact MAP/E2/{k} and MAP/M/{k}, extrapolated to SCV {service.scv:.3g}",
        exact=False,
        error_estimate=_errors(rate * mean / k, k),
    )

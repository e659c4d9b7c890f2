"""Exact matrix-analytic queues: M/PH/k and MAP/PH/k with services of two phases."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_mphk import solve_m_ph2
from qmodel._kernels.queueing_qbd import service_blocks, solve_map_ph2
from qmodel.distributions.phase_type import PhaseType2
from qmodel.errors import ConvergenceError, InputError
from qmodel.queueing.checks import check_load
from qmodel.queueing.metrics import ExponentialSum, FunctionTail, QueueMetrics, WaitLaw

__all__ = ["mean_wait_mphk", "phase_tail", "solve_mphk"]

FloatArray = npt.NDArray[np.float64]

#: Mass that the reduction may leave unaccounted for; how far R by decay rates may miss its equation, relatively.
REDUCTION_TOLERANCE, RESIDUAL_TOLERANCE = 1e-9, 1e-6
#: How far the eigen-expansion may miss the tail at zero before it is given up for uniformisation.
EXPANSION_TOLERANCE = 1e-9
#: Relative difference below which two steps are one: rounding of an even grid.
SAME_STEP = 1e-12
#: Terms of the series of a step of at most one event: 1/20! is left.
TERMS = 20
#: Relative errors over (1 - rho) sqrt(k) where two phases stand for another law: alone, for each unit of SCV below 1
#: and above; they hold in 95 % of cases (bench/approximations.py).
FITTED = {"mean": (0.06, 0.45, 0.10), "p95": (0.15, 0.48, 0.08), "p99": (0.20, 0.15, 0.0)}
#: Servers up to which the exact solver is offered: its cost grows as k^4.
MAX_SERVERS = 128


def solve_mphk(arrival_rate_per_s: float, servers: int, phases: PhaseType2) -> QueueMetrics:
    """Exact: FCFS M/PH/k with two-phase service, by its k + 1 decay rates and the distributional Little law.

    P(W > t) = sum of c_m exp(-theta_m t), theta_m from k + 1 scalar equations (`_kernels.queueing_mphk`). Where those
    are ill-conditioned (phases in series on many lightly loaded servers), by logarithmic reduction:
    P(W > t) = pi_k (I - R)^-1 exp((S + lam*G) t) 1, S the generator of the k services without completions, because
    lam*(R^-1 - I) = -(S + lam*G).

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    servers : int
        Number of servers, at most 128.
    phases : PhaseType2
        Service law.

    Returns
    -------
    QueueMetrics
        Exact metrics.

    Raises
    ------
    UnstableError
        When the load is 1 or more.
    ConvergenceError
        When the reduction does not converge.

    Notes
    -----
    Latouche & Ramaswami, J. Appl. Prob. 30 (1993); Neuts, Matrix-Geometric Solutions (1981), ch. 3.
    """
    lam, k, mean = arrival_rate_per_s, servers, _mean(phases)
    check_load(lam, k, mean)
    if k > MAX_SERVERS:
        raise InputError("servers of the matrix method", k, f"at most {MAX_SERVERS}", "use method='auto'")
    coefficients, rates, good = _expanded(lam, k, phases, mean)
    law: WaitLaw
    if good:
        how, delayed, wait = "decay rates", float(coefficients.sum()), float((coefficients / rates).sum()) * mean
        law = ExponentialSum(coefficients=coefficients.astype(complex), rates=(rates / mean).astype(complex))
    else:
        above, generator, queue = _reduced(lam, k, phases, mean)
        how, delayed, wait = "logarithmic reduction", float(above.sum()), queue / lam
        law = phase_tail(above, generator, mean)
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=k,
        mean_service_s=mean,
        mean_wait_s=max(wait, 0.0),
        wait_probability=max(delayed, 0.0),
        wait_law=law,
        method=f"exact M/{phases.name}/{k} ({how}){_stands_for(phases)}",
        exact=phases.moments_matched == 0,
        error_estimate={} if phases.moments_matched == 0 else _fitted_errors(lam * mean / k, k, phases, mean),
    )


def _stands_for(phases: PhaseType2) -> str:
    return f" with {phases.moments_matched} moments of the law" if phases.moments_matched else ""


def _fitted_errors(load: float, k: int, phases: PhaseType2, mean: float) -> dict[str, float]:
    """Return relative errors of a law that two phases stand for: they grow with |SCV - 1| and (1 - rho) sqrt(k)."""
    p, a, b, on = _shape(phases, mean)
    apart = 2 * (p * (1 / a**2 + on * (1 / (a * b) + 1 / b**2)) + (1 - p) / b**2) - 2
    scale = (1 - load) * math.sqrt(k)
    return {
        name: scale * (alone + (below * -apart if apart < 0 else above * apart))
        for name, (alone, below, above) in FITTED.items()
    }


def mean_wait_mphk(arrival_rate_per_s: float, servers: int, phases: PhaseType2) -> float:
    """Exact: mean wait [s] of M/PH/k alone; errors as `solve_mphk`."""
    lam, k, mean = arrival_rate_per_s, servers, _mean(phases)
    coefficients, rates, good = _expanded(lam, k, phases, mean)
    return float((coefficients / rates).sum()) * mean if good else _reduced(lam, k, phases, mean)[2] / lam


def _expanded(lam: float, k: int, phases: PhaseType2, mean: float) -> tuple[FloatArray, FloatArray, bool]:
    """Return coefficients and rates (times `mean`) of the exponentials in P(W > t), and whether they can be trusted."""
    # Time in units of the mean service keeps the numbers near one.
    try:
        coefficients, rates, residual = solve_m_ph2(lam * mean, k, *_shape(phases, mean))
    except ZeroDivisionError:
        # Phases so far apart that rounding leaves nothing of one of them.
        return np.zeros(1), np.ones(1), False
    size = float(np.abs(coefficients).max())
    good = residual < RESIDUAL_TOLERANCE and size * 1e-16 < EXPANSION_TOLERANCE * coefficients.sum()
    return coefficients, rates, good


def _reduced(lam: float, k: int, phases: PhaseType2, mean: float) -> tuple[FloatArray, FloatArray, float]:
    """Return pi_k (I - R)^-1, S + lam*G in units of the mean service, and the mean number that wait."""
    shape, load = _shape(phases, mean), lam * mean
    pi, r, g, missing = solve_map_ph2(np.array([[-load]]), np.array([[load]]), k, *shape)
    if not missing < REDUCTION_TOLERANCE:
        raise ConvergenceError("mass missing after logarithmic reduction", float(missing), "about 0", "lower the load")
    left = (np.eye(k + 1) - r).T
    above = np.asarray(np.linalg.solve(left, pi[-(k + 1) :]), dtype=np.float64)
    local, _, _ = service_blocks(k, *shape)
    return above, np.asarray(local + load * g), float(np.linalg.solve(left, r.T @ above).sum())


def _shape(phases: PhaseType2, mean: float) -> tuple[float, float, float, float]:
    return phases.start1, phases.rate1_per_s * mean, phases.rate2_per_s * mean, phases.go_on


def _mean(phases: PhaseType2) -> float:
    """Return the mean service time [s] of a two-phase law."""
    p = phases.start1
    return p / phases.rate1_per_s + (1 - p + p * phases.go_on) / phases.rate2_per_s


def phase_tail(start: FloatArray, generator: FloatArray, mean: float) -> ExponentialSum | FunctionTail:
    """Return t -> start exp(generator*t/mean) 1 as a sum of exponentials, or by uniformisation when ill-conditioned."""
    values, right = np.linalg.eig(generator)
    try:
        coefficients = (start @ right) * np.linalg.solve(right, np.ones(len(values), dtype=right.dtype))
    except np.linalg.LinAlgError:
        coefficients = np.array([np.inf])
    good = np.abs(coefficients).max() * 1e-16 < EXPANSION_TOLERANCE * start.sum()
    if good and abs(coefficients.sum() - start.sum()) < EXPANSION_TOLERANCE * start.sum() and values.real.max() < 0:
        keep = np.abs(coefficients) > 1e-17 * np.abs(coefficients).max()
        return ExponentialSum(
            coefficients=coefficients[keep].astype(complex), rates=-values[keep].astype(complex) / mean
        )
    return FunctionTail(function=_Uniformised(start, generator, mean))


def _uniformised(generator: FloatArray) -> FloatArray:
    """Return exp(generator) of a (defective) generator by uniformisation and squaring: positive terms alone."""
    events = float(-generator.diagonal().min())
    halvings = max(math.ceil(math.log2(events)), 0) if events > 0 else 0
    few = events / 2**halvings
    jump = generator / 2**halvings + few * np.eye(len(generator))
    term = total = math.exp(-few) * np.eye(len(generator))
    for n in range(1, TERMS):
        term = term @ jump / n
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total


class _Uniformised:
    """start exp(generator*t/mean) 1 step by step: positive terms, no eigenvectors."""

    def __init__(self, start: FloatArray, generator: FloatArray, mean: float) -> None:
        self.start, self.generator, self.mean = start, generator, mean

    def __call__(self, t: FloatArray) -> FloatArray:
        flat = np.atleast_1d(np.asarray(t, dtype=np.float64)).ravel()
        order = np.argsort(flat)
        row, now, step, move = self.start, 0.0, -1.0, np.empty(0)
        out = np.empty_like(flat)
        for index in order:
            if flat[index] > now:
                if abs(flat[index] - now - step) > SAME_STEP * step:
                    step = flat[index] - now
                    move = _uniformised(self.generator * (step / self.mean))
                row, now = row @ move, flat[index]
            out[index] = row.sum()
        return out.reshape(np.shape(t))

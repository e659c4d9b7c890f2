"""Thresholds with several servers: the virtual wait as a fluid modulated by the services in progress."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from qmodel._kernels.queueing_balking import fluid_density, fluid_return, independent_jumps
from qmodel.distributions.phase_type import fit_h2_transform, h2_of_shape
from qmodel.distributions.service import ServiceTime
from qmodel.queueing.interpolation import H2_SCV, PROBE_SHAPES, matching_frequency

__all__ = ["split_types", "virtual_wait"]

FloatArray = npt.NDArray[np.float64]

#: Grid of the fluid, its growth beyond the thresholds, and the largest rate times cell it may take.
FLUID_CELLS = 500
MAX_FLUID_CELLS = 6000
STIFFNESS = 0.25
#: Grid of the correction for the true services.
JUMP_POINTS = 600
#: Weight of the pooled server for regular services (SCV <= 1), from simulations of uniform ones.
POOLED_SHARE = 1 / 3
#: Passes in which the types are fitted to the work admitted, and the least acceptance that counts then.
PASSES = 3
LEAST_ACCEPT = 1e-3


def virtual_wait(lam: FloatArray, s: FloatArray, theta: FloatArray, k: int) -> tuple[FloatArray, FloatArray, float]:
    """Approximation: the virtual wait of k servers that classes join only within their thresholds.

    Parameters
    ----------
    lam, s, theta : ndarray, shape (classes,)
        Rates [1/s], services [s] and finite thresholds [s].
    k : int
        Number of servers.

    Returns
    -------
    tuple
        Grid [s], P(V <= grid), and the rate at which 1 - CDF falls beyond it [1/s].
    """
    accept = np.ones(len(lam))
    for _ in range(PASSES):
        grid, density, idle, spare, types = _fluid(lam, s, theta, k, accept)
        mass = density * _jump_correction(grid, theta, k, (lam, s, accept), types)
        cdf = np.concatenate([[0.0], np.cumsum(mass)]) / mass.sum()
        # Work that joins equals work done: k less the servers idle, `spare` of them while V = 0.
        delayed = float(lam * s @ np.interp(theta, grid, cdf))
        idle = (k - delayed) / (float(lam @ s) - delayed + spare)
        cdf = idle + (1 - idle) * cdf
        accept = np.interp(theta, grid, cdf)
    return grid, cdf, float((1 / types[2]).min())


def _fluid(
    lam: FloatArray, s: FloatArray, theta: FloatArray, k: int, accept: FloatArray
) -> tuple[FloatArray, FloatArray, float, float, tuple[FloatArray, FloatArray, FloatArray]]:
    """Return (grid, mass of V in its cells, mass at V = 0, idle servers then, (work of types 1, 2 by class, means))."""
    share, means = split_types(lam * np.maximum(accept, LEAST_ACCEPT), s, k)
    # Each type brings its classes' work, in services of the type's mean.
    ones, twos = lam * share * s / means[0], lam * (1 - share) * s / means[1]
    weights = np.array([ones.sum(), twos.sum()])
    rise, drop = _rising(k, means)
    top = float(theta.max())
    edges = _fluid_edges(theta, top, float(rise.max() + lam.sum()))
    middle = 0.5 * (edges[1:] + edges[:-1])
    joins = (theta[None, :] >= middle[:, None]).astype(np.float64)
    flows = np.stack([joins @ ones, joins @ twos], axis=1)
    cells = len(edges) - 1
    psi = np.empty((cells + 1, k + 1, k))
    widths = np.diff(edges)
    fluid_return(rise, widths, drop, flows, psi, cells)
    start, idle, spare = _boundary(k, weights, means, psi[0])
    density = np.empty((cells + 1, k))
    up = np.empty(k + 1)
    fluid_density(rise, widths, flows, psi, start, cells, density, up)
    # Beyond the last threshold nobody joins: the flux of rises dies out at the rates of their ends.
    tail = float(up @ (1 / rise))
    inner = 0.5 * widths * (density[1:] + density[:-1]).sum(axis=1)
    beyond, more = _beyond(top, rise, up, tail)
    mass = np.concatenate([inner, np.diff(np.concatenate([[0.0], more]))])
    return np.concatenate([edges, beyond]), mass, idle, spare, (ones, twos, means)


def _beyond(top: float, rise: FloatArray, up: FloatArray, tail: float) -> tuple[FloatArray, FloatArray]:
    """Return points past `top` and the mass between it and them."""
    steps = np.geomspace(0.02, 16.0, 60) / rise.min()
    if not tail > 0:
        return steps + top, np.zeros(60)
    left = np.exp(-np.multiply.outer(steps, rise)) @ (up / rise)
    return steps + top, np.asarray(tail - left)


def _jump_correction(
    grid: FloatArray,
    theta: FloatArray,
    k: int,
    law: tuple[FloatArray, FloatArray, FloatArray],
    types: tuple[FloatArray, FloatArray, FloatArray],
) -> FloatArray:
    """Return, by cell of `grid`, the ratio of densities when jumps are independent: true services over two types.

    A class-i arrival makes V jump by the least of its service and k - 1 independent residual services of the work
    admitted. What neglecting how jumps depend on each other costs cancels in the ratio.
    """
    lam, s, accept = law
    ones, twos, means = types
    points = np.linspace(0.0, grid[-1], JUMP_POINTS)
    step = points[1]
    last, member = np.unique(np.rint(theta / step).astype(np.int64), return_inverse=True)
    belongs = (np.arange(len(last))[:, None] == member.ravel()[None, :]).astype(np.float64)
    admitted = lam * accept
    residual = np.maximum(s[:, None] - points[None, :], 0.0)
    least = (admitted @ residual / (admitted @ s)) ** (k - 1)
    one, two = np.exp(-points / means[0]), np.exp(-points / means[1])
    brings = np.array([ones @ accept * means[0], twos @ accept * means[1]])
    least_types = ((brings[0] * one + brings[1] * two) / brings.sum()) ** (k - 1)
    start = (lam @ _alive(s, points) * least, (ones.sum() * one + twos.sum() * two) * least_types)
    true = (belongs * lam) @ _alive(s, points) * least
    typed = (np.outer(belongs @ ones, one) + np.outer(belongs @ twos, two)) * least_types
    ratio = _density_ratio((true, typed), start, last, step)
    if means[0] == means[1]:
        # Regular services make jumps depend on each other: part of the way to a pooled server of k-fold speed.
        pooled = ((belongs * lam) @ _alive(s / k, points), np.outer(belongs @ (ones + twos), one**k))
        own = _density_ratio(pooled, start, last, step)
        ratio = ratio ** (1 - POOLED_SHARE) * own**POOLED_SHARE
    middle = 0.5 * (grid[1:] + grid[:-1])
    return np.asarray(np.interp(middle, points, ratio))


def _density_ratio(
    kernels: tuple[FloatArray, FloatArray],
    starts: tuple[FloatArray, FloatArray],
    last: npt.NDArray[np.int64],
    step: float,
) -> FloatArray:
    """Return the ratio of the two densities of V that follow from two kernels and the jumps from V = 0."""
    # Below its threshold a group counts in full, at it by half (the trapezoid's end), above it not at all.
    order = np.arange(JUMP_POINTS)
    below, at = np.searchsorted(last, order, side="left"), np.searchsorted(last, order, side="right")
    which = 2 * below + (at > below)
    found = []
    for kernel, start in zip(kernels, starts, strict=True):
        rest = np.concatenate([np.cumsum(kernel[::-1], axis=0)[::-1], np.zeros((1, JUMP_POINTS))])
        rows = np.empty((2 * len(last) + 1, JUMP_POINTS))
        rows[0::2] = rest
        rows[1::2] = 0.5 * (rest[:-1] + rest[1:])
        density = np.zeros(JUMP_POINTS)
        independent_jumps(rows, which, np.ascontiguousarray(start), step, density)
        found.append(density)
    return np.asarray(found[0] / np.maximum(found[1], 1e-300 + 1e-9 * found[1].max()))


def _alive(s: FloatArray, points: FloatArray) -> FloatArray:
    """Return 1(s > point) by class and point; a service that ends within a cell counts for the part that it covers."""
    step = points[1] - points[0]
    return np.asarray(np.clip((s[:, None] - points[None, :]) / step + 0.5, 0.0, 1.0))


def split_types(rates: FloatArray, services: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """Return (share of each class that is of type 1, the two type means [s]).

    The types are those of the H2 law that `mgk` would solve; the share falls with the service as in Bayes' rule,
    1/(1 + exp(a + b*s)), with a and b such that each type has its rate and its work. Laws without such an H2 law
    (SCV <= 1) are one exponential type.
    """
    total, mean = rates.sum(), float(rates @ services / rates.sum())
    law = ServiceTime.from_samples(services, rates)
    load = min(total * mean / k, 1.0)
    fit = fit_h2_transform(law, matching_frequency(k, load, law.scv) / mean) if law.scv > H2_SCV else None
    if fit is None and law.scv > H2_SCV:
        fit = h2_of_shape(mean, law.moment(2), PROBE_SHAPES[0])
    if fit is None:
        return np.ones_like(rates), np.array([mean, mean])
    means = np.array([1 / fit.rate1_per_s, 1 / fit.rate2_per_s])
    weights = rates / total
    want_count, want_work = fit.start1, fit.start1 * means[0]

    def offset(slope: float) -> float:
        low, high = -60.0 - slope * services.max(), 60.0
        for _ in range(46):
            middle = 0.5 * (low + high)
            count = float(weights @ expit(-(middle + slope * services)))
            low, high = (middle, high) if count > want_count else (low, middle)
        return high

    low, high = 0.0, 200.0 / mean
    for _ in range(36):
        slope = 0.5 * (low + high)
        work = float(weights @ (expit(-(offset(slope) + slope * services)) * services))
        low, high = (slope, high) if work > want_work else (low, slope)
    return np.asarray(expit(-(offset(slope) + slope * services))), means


def _rising(k: int, means: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return (rates, drop): phase a of a rise has a services of type 1 among k; it ends with k - 1 others."""
    one, two = 1 / means
    phases = np.arange(k + 1)
    rise = phases * one + (k - phases) * two
    drop = np.zeros((k + 1, k))
    for a in phases:
        if a > 0:
            drop[a, a - 1] += a * one
        if a < k:
            drop[a, a] += (k - a) * two
    return rise, drop


def _fluid_edges(theta: FloatArray, top: float, stiffest: float) -> FloatArray:
    """Return cell edges of (0, top) that contain every threshold, fine enough for the stiffest rate."""
    width = max(min(top / FLUID_CELLS, STIFFNESS / stiffest), top / MAX_FLUID_CELLS)
    breaks = np.unique(np.concatenate([[0.0], theta[theta > 0]]))
    if len(breaks) < 2:
        return np.array([0.0, 1e-12])
    pieces = [
        np.linspace(a, b, max(math.ceil((b - a) / width), 2), endpoint=False) for a, b in itertools.pairwise(breaks)
    ]
    return np.concatenate([*pieces, [top]])


def _boundary(k: int, weights: FloatArray, means: FloatArray, back: FloatArray) -> tuple[FloatArray, float, float]:
    """Return (rising flux at level 0, mass of V = 0), up to one factor, and the mean idle servers while V = 0."""
    total, rates = weights.sum(), 1 / means
    first = weights[0] / total
    index = {(n, j): n * (n + 1) // 2 + j for n in range(k) for j in range(n + 1)}
    size = len(index)
    q = np.zeros((size, size))
    for (n, j), here in index.items():
        if n + 1 < k:
            q[here, index[n + 1, j + 1]] += total * first
            q[here, index[n + 1, j]] += total * (1 - first)
        else:
            for b in range(k):
                q[here, index[k - 1, b]] += total * (first * back[j + 1, b] + (1 - first) * back[j, b])
        if j > 0:
            q[here, index[n - 1, j - 1]] += j * rates[0]
        if n - j > 0:
            q[here, index[n - 1, j]] += (n - j) * rates[1]
    q -= np.diag(q.sum(axis=1))
    q[:, 0] = 1.0
    law = np.linalg.solve(q.T, np.eye(size)[0])
    start = np.zeros(k + 1)
    for j in range(k):
        flux = law[index[k - 1, j]] * total
        start[j + 1] += flux * first
        start[j] += flux * (1 - first)
    spare = math.fsum((k - n) * law[here] for (n, _), here in index.items()) / law.sum()
    return start, float(law.sum()), float(spare)

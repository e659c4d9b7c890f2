"""Exact M/G/1 when all service times are multiples of a cell: the cells that wait at epochs one cell apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qmodel.distributions.service import ServiceTime
from qmodel.queueing.decay import lundberg_rate
from qmodel.queueing.metrics import refined_quantile

__all__ = ["Lattice", "LatticeLaw", "find_lattice", "lattice_law"]

FloatArray = npt.NDArray[np.float64]

#: Relative error with which service times must be multiples of a cell to count as a lattice.
LATTICE_TOLERANCE = 1e-12
#: Cells (in the longest service time) up to which a law counts as one: a table of more takes over a millisecond. Laws
#: of few atoms, mostly written down and not measured, may take up to 12.
MAX_CELLS, FEW_ATOMS, MAX_CELLS_OF_FEW = 500, 32, 5000
#: Points of the transform per cell of the longest service to begin with, at least, and at most.
POINTS_A_CELL, FEWEST, MOST = 4, 8, 1 << 17
#: Logarithm of what the exponential has fallen to where nothing of it is left in double precision.
NOTHING = 40.0
#: What may be left of the rest of the law at the end of the table, relative to the exponential.
REST = 1e-13
#: Rounding of the transform, for each of its points: a rest below is none.
NOISE = 3e-16
#: Least term of the series over the arrivals within a cell.
LEAST_TERM = 1e-17
#: Newton steps that polish the decay of the tail.
POLISH = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lattice:
    """Service times `sizes`*`cell_s` with probabilities `weights`."""

    cell_s: float
    sizes: npt.NDArray[np.int64]
    weights: FloatArray


@lru_cache(maxsize=8)
def find_lattice(service: ServiceTime) -> Lattice | None:
    """Return a law as a lattice when all its service times are multiples of a cell, else None; kept for a few laws."""
    atoms = service.atoms()
    if atoms is None or atoms[0].size > MAX_CELLS:
        return None
    values, weights = atoms
    most = MAX_CELLS_OF_FEW if values.size <= FEW_ATOMS else MAX_CELLS
    unit = float(values[values > 0][0])
    denominator = 1
    for value in values:
        ratio = Fraction(float(value) / unit).limit_denominator(most)
        denominator = math.lcm(denominator, ratio.denominator)
        if denominator > most:
            return None
    cell = unit / denominator
    sizes = np.rint(values / cell)
    if np.any(np.abs(values - sizes * cell) > LATTICE_TOLERANCE * values[-1]) or sizes[-1] > most:
        return None
    divisor = math.gcd(*(int(size) for size in sizes))
    return Lattice(cell_s=cell * divisor, sizes=(sizes / divisor).astype(np.int64), weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatticeLaw:
    """P(W > t) of M/G/1 on a lattice: an exponential and a rest that dies out sooner.

    Parameters
    ----------
    cell_s : float
        Cell [s].
    load : float
        Arrivals in a cell.
    height, decay_per_s : float
        The exponential is height*exp(-decay*t).
    rest : ndarray, shape (terms, cells)
        What else P(j services and those waiting at an epoch are more than m cells) is, at [j, m].
    """

    cell_s: float
    load: float
    height: float
    decay_per_s: float
    rest: FloatArray

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(W > t): arrivals in the rest v of t's cell are Poisson, so it is a series in load*v."""
        flat = np.minimum(np.atleast_1d(np.asarray(t, dtype=np.float64)).ravel() / self.cell_s, 1e15)
        whole = np.floor(flat)
        mean = self.load * (whole + 1.0 - flat)
        terms, cells = self.rest.shape
        at = np.minimum(whole, cells - 1).astype(np.int64)
        shares = np.cumprod(np.vstack([np.exp(-mean), np.divide.outer(mean, np.arange(1.0, terms)).T]), axis=0)
        total = np.where(whole < cells, np.einsum("ij,ij->j", shares, self.rest[:, at]), 0.0)
        total += self.height * np.exp(-self.decay_per_s * self.cell_s * flat)
        return np.asarray(np.clip(total, 0.0, 1.0).reshape(np.shape(t)))

    def quantile(self, q: float, scale: float) -> float:
        """Return the q quantile [s]; the table says where to look, whatever `scale`."""
        want = 1.0 - q
        if float(self.tail(np.zeros(1))[0]) <= want:
            return 0.0
        ends = (np.arange(self.rest.shape[1]) + 1.0) * self.cell_s
        inside = self.rest[0] + self.height * np.exp(-self.decay_per_s * ends) <= want
        if not inside.any():
            return math.log(self.height / want) / self.decay_per_s if self.height > 0 else float(ends[-1])
        high = float(ends[int(inside.argmax())])
        return refined_quantile(self, want, high - self.cell_s, high)


def lattice_law(arrival_rate_per_s: float, service: ServiceTime, lattice: Lattice) -> LatticeLaw | None:
    """Return the law of the wait in M/G/1, None when its table would be too long.

    The cells that wait at epochs one cell apart have generating function Q(z) = (1 - rho)(1 - z)/(A(z) - z),
    A(z) = exp(load*(P(z) - 1)) that of the cells that arrive in between, P that of a service. Those of P(more than m)
    have a simple pole at z0 = exp(eta*cell), eta Lundberg's rate: it is taken off and kept as an exponential, and what
    is left dies out within a few services, so that its transform is short even close to saturation.
    """
    cell, sizes, weights = lattice.cell_s, lattice.sizes, lattice.weights
    load, idle = arrival_rate_per_s * cell, 1.0 - arrival_rate_per_s * service.mean_s
    eta = _polished(lundberg_rate(arrival_rate_per_s, 1, service) * cell, load, lattice)
    points = 1 << max(POINTS_A_CELL * int(sizes[-1]) + FEWEST - 1, 1).bit_length()
    pole = eta * points < NOTHING
    # Residue of Q(z)/(z - 1) at z0; a service then multiplies it by P(z0) = 1 + eta/load.
    slope = load * float((weights * sizes) @ np.exp(eta * sizes)) - 1.0
    height = idle / slope * math.exp(-eta) if pole else 0.0
    growth = 1.0 + eta / load if pole else 1.0
    heights = np.asarray(height * growth ** np.arange(_terms(load * growth)), dtype=np.float64)
    while points <= MOST:
        rest = _rest(points, load, idle, lattice, heights, eta)
        if rest is not None:
            return LatticeLaw(
                cell_s=cell, load=load, height=height * math.exp(eta), decay_per_s=eta / cell, rest=rest
            )  # fmt: skip
        points *= 2
    return None


def _terms(mean: float) -> int:
    """Return how many terms mean^j/j! matter."""
    terms, last = 1, mean
    while last > LEAST_TERM:
        terms += 1
        last *= mean / terms
    return terms


def _rest(
    points: int, load: float, idle: float, lattice: Lattice, heights: FloatArray, eta: float
) -> FloatArray | None:
    """Return P(j services and those waiting are more than m cells) less heights_j*exp(-eta*m), as far as there is any.

    None when it has not died out at the end of the transform.
    """
    # Points half a step off 1, where numerator and denominator both vanish; the other half are their conjugates.
    turn = np.exp(1j * np.pi / points * np.arange(points))
    z = np.exp(1j * np.pi / points * (2 * np.arange(points // 2) + 1))
    pmf = np.zeros(points)
    pmf[lattice.sizes] = lattice.weights
    served = np.fft.ifft(pmf * turn)[: points // 2] * points
    waiting = idle * (1.0 - z) / (np.exp(load * (served - 1.0)) - z)
    noise, rest, share = NOISE * points, np.empty((len(heights), points)), 1.0
    most = np.zeros(points)
    for j, height in enumerate(heights):
        beyond = (1.0 - waiting) / (1.0 - z) - height / (1.0 - z * math.exp(-eta))
        rest[j] = (np.fft.fft(beyond, points) / turn).real * (2.0 / points)
        end = np.abs(rest[j, -(points // 8) :]).max()
        if j == 0 and end > max(REST * height * math.exp(-eta * points), noise):
            return None
        np.maximum(most, np.abs(rest[j]) * share, out=most)
        share *= load / (j + 1)
        waiting = waiting * served
    some = np.nonzero(most > noise)[0]
    return np.ascontiguousarray(rest[:, : int(some[-1]) + 1 if some.size else 1])


def _polished(eta: float, load: float, lattice: Lattice) -> float:
    """Return the root of load*(P(exp(eta)) - 1) = eta, eta per cell, to rounding."""
    sizes, weights = lattice.sizes, lattice.weights
    for _ in range(POLISH):
        growth = np.expm1(eta * sizes)
        eta -= (load * float(weights @ growth) - eta) / (load * float((weights * sizes) @ (growth + 1.0)) - 1.0)
    return eta

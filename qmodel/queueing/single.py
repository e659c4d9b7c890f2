"""Exact M/G/1: on a lattice of service times by positive sums, off it by the renewal equation of the wait."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_waits import lattice_tails
from qmodel.distributions.service import ServiceTime
from qmodel.queueing.checks import check_load
from qmodel.queueing.decay import lundberg_rate
from qmodel.queueing.metrics import QueueMetrics, WaitLaw, search_quantile
from qmodel.queueing.renewal import renewal_tail

__all__ = ["solve_mg1"]

FloatArray = npt.NDArray[np.float64]

#: Relative error with which service times must be multiples of a cell to count as a lattice.
LATTICE_TOLERANCE = 1e-12
#: Cells (in the longest service time) up to which the lattice sums are used: their cost grows with its square.
MAX_CELLS = 2000
#: Mass that may wrap around the discrete Fourier transform.
WRAP_TOLERANCE = 1e-18
#: Points of the renewal equation for laws off the lattice.
POINTS = 1 << 13


def solve_mg1(arrival_rate_per_s: float, service: ServiceTime) -> QueueMetrics:
    """Exact: FCFS M/G/1.

    The mean is lam*E[S^2]/(2(1 - rho)) (Pollaczek-Khinchine). When all service times are multiples of a cell, the
    cells that wait at epochs one cell apart have generating function (1 - rho)(1 - z)/(A(z) - z), A the compound
    Poisson law of the cells that arrive in between, and P(W > t) is a sum of positive terms; otherwise the renewal
    equation of the wait is solved on a grid (relative error of the tail about 1e-4).

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate [1/s].
    service : ServiceTime
        Law of a service time.

    Returns
    -------
    QueueMetrics
        The law of the wait.

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Notes
    -----
    Franx, Oper. Res. Lett. 29 (2001), with batches for cells; Panjer, ASTIN Bull. 12 (1981).
    """
    lam = arrival_rate_per_s
    rho = check_load(lam, 1, service.mean_s)
    mean = lam * service.moment(2) / (2 * (1 - rho))
    law: WaitLaw | None = None
    lattice = find_lattice(service)
    if lattice is not None:
        law = _lattice_law(lam, service, *lattice)
    how = "lattice"
    if law is None:
        table = renewal_tail(lam, 1, service, reach_s=_reach(lam, service, mean), points=POINTS)
        law, how = table.scaled(rho), "renewal equation"
    return QueueMetrics(
        arrival_rate_per_s=lam,
        servers=1,
        mean_service_s=service.mean_s,
        mean_wait_s=mean,
        wait_probability=rho,
        wait_law=law,
        method=f"exact M/G/1 (Pollaczek-Khinchine, {how})",
    )


def _reach(lam: float, service: ServiceTime, mean: float) -> float:
    """Return a time beyond which the wait's tail is about 1e-5 (or exponential)."""
    if service.mgf_limit_per_s > 0:
        return 12.0 / lundberg_rate(lam, 1, service) + 2 * min(service.upper_s, 20 * service.mean_s)
    return 100 * mean + 100 * service.mean_s


def find_lattice(service: ServiceTime) -> tuple[float, npt.NDArray[np.int64], FloatArray] | None:
    """Return (cell [s], sizes in cells, weights) when all service times are multiples of a cell, else None."""
    atoms = service.atoms()
    if atoms is None or atoms[0].size > MAX_CELLS:
        return None
    values, weights = atoms
    unit = float(values[values > 0][0])
    denominator = 1
    for value in values:
        ratio = Fraction(float(value) / unit).limit_denominator(MAX_CELLS)
        denominator = math.lcm(denominator, ratio.denominator)
        if denominator > MAX_CELLS:
            return None
    cell = unit / denominator
    sizes = np.rint(values / cell)
    if np.any(np.abs(values - sizes * cell) > LATTICE_TOLERANCE * values[-1]) or sizes[-1] > MAX_CELLS:
        return None
    divisor = math.gcd(*(int(size) for size in sizes))
    return cell * divisor, (sizes / divisor).astype(np.int64), weights


def _lattice_law(
    lam: float, service: ServiceTime, cell: float, sizes: npt.NDArray[np.int64], weights: FloatArray
) -> _LatticeLaw | None:
    """Return the law of the wait from the cells that wait, or None when they are too many."""
    eta = lundberg_rate(lam, 1, service)
    need = -math.log(WRAP_TOLERANCE) / (eta * cell) + 4 * int(sizes[-1]) + 64
    points = 1 << math.ceil(math.log2(need))
    if points > 1 << 20:
        return None
    pmf = np.zeros(points)
    pmf[sizes] = weights
    # Points half a step off 1, where numerator and denominator both vanish.
    turn = np.exp(1j * np.pi * np.arange(points) / points)
    z = np.exp(1j * np.pi * (2 * np.arange(points) + 1) / points)
    arriving = np.exp(lam * cell * (np.fft.ifft(pmf * turn) * points - 1))
    waiting = (1 - lam * service.mean_s) * (1 - z) / (arriving - z)
    law = (np.fft.fft(waiting) / points / turn).real
    law = np.where(law > WRAP_TOLERANCE, law, 0.0)
    beyond = np.concatenate([np.cumsum(law[::-1])[::-1][1:], [0.0]])
    positive = sizes > 0
    return _LatticeLaw(
        rate=lam * float(weights[positive].sum()),
        cell=cell,
        sizes=sizes[positive],
        weights=weights[positive] / weights[positive].sum(),
        beyond=beyond,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LatticeLaw:
    """P(W > t) of M/G/1 from `beyond[i]` = P(more than i cells wait)."""

    rate: float
    cell: float
    sizes: npt.NDArray[np.int64]
    weights: FloatArray
    beyond: FloatArray

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(W > t)."""
        flat = np.ascontiguousarray(np.atleast_1d(t), dtype=np.float64).ravel()
        out = np.empty_like(flat)
        lattice_tails(flat, self.rate, self.cell, self.sizes, self.weights, self.beyond, out)
        return np.asarray(np.clip(out, 0.0, 1.0).reshape(np.shape(t)))

    def quantile(self, q: float, scale: float) -> float:
        """Return the q quantile [s]."""
        return search_quantile(self, q, scale)

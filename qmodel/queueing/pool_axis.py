"""One pool's backlog on a lattice in time: it falls by exactly one cell a step, jumps keep their mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PoolAxis", "ResidualLaw"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResidualLaw:
    """Least residual work of `others` servers, each with the residual law of the same admitted work.

    P(least > u) = (1 - B_e(u))^others, and 1 - B_e is linear between the atoms of the work, so that the integral of
    this power is exact.

    Parameters
    ----------
    others : int
        Number of servers whose residual work counts; with none the least is infinite.
    knots_s : ndarray, shape (atoms + 1,)
        0 and the atoms of the work [s], increasing.
    beyond : ndarray, shape (atoms + 1,)
        1 - B_e at the knots.
    integral_s : ndarray, shape (atoms + 1,)
        Integral of the power from 0 to the knots [s].
    """

    others: int
    knots_s: FloatArray
    beyond: FloatArray
    integral_s: FloatArray

    @classmethod
    def of(cls, work_s: FloatArray, weights: FloatArray, others: int) -> ResidualLaw:
        """Return the law for work `work_s` admitted at rates `weights`."""
        used = (weights > 0) & (work_s > 0)
        knots = np.concatenate([[0.0], np.unique(work_s[used])])
        left = np.maximum(work_s[used][:, None] - knots, 0.0)
        total = float(weights[used] @ work_s[used])
        beyond = weights[used] @ left / total if total > 0 else np.zeros(knots.size)
        pieces = np.diff(knots) * _mean_power(beyond[:-1], beyond[1:], others)
        return cls(others=others, knots_s=knots, beyond=beyond, integral_s=np.concatenate([[0.0], np.cumsum(pieces)]))

    def integral(self, u: FloatArray) -> FloatArray:
        """Return the integral [s] of P(least > x) over 0 < x < u."""
        if self.others == 0:
            return u
        at = np.clip(u, 0.0, self.knots_s[-1])
        i = np.clip(np.searchsorted(self.knots_s, at, side="right") - 1, 0, max(self.knots_s.size - 2, 0))
        here = np.interp(at, self.knots_s, self.beyond)
        part = (at - self.knots_s[i]) * _mean_power(self.beyond[i], here, self.others)
        return np.asarray(self.integral_s[i] + part)


def _mean_power(one: FloatArray, two: FloatArray, power: int) -> FloatArray:
    """Return the mean of y^power for y uniform between `one` and `two`."""
    terms = [one**i * two ** (power - i) for i in range(power + 1)]
    return np.asarray(sum(terms) / (power + 1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolAxis:
    """Backlog of a pool of equal servers with least-work routing, as seen by the wait of an arrival.

    The first states have wait 0 and 0 .. servers - 1 busy servers; the others have all servers busy and wait
    step, 2*step, ... An arrival of work s raises the wait by the least of s and the residual work of the other servers
    (independent, of the residual law of the admitted work): exact for one server and for exponential work.

    Parameters
    ----------
    step_s : float
        Length of a step in time, and of a cell of backlog [s].
    cells : int
        Cells of backlog; jumps beyond end in the last.
    servers : int
        Servers of the pool.
    mean_work_s : float
        Mean admitted work [s], for departures while a server is idle.
    residual : ResidualLaw
        Least residual work of the other servers.
    """

    step_s: float
    cells: int
    servers: int
    mean_work_s: float
    residual: ResidualLaw

    @property
    def size(self) -> int:
        """Number of states."""
        return self.servers + self.cells

    @property
    def wait_s(self) -> FloatArray:
        """Wait of an arrival in each state [s]."""
        return np.concatenate([np.zeros(self.servers - 1), np.arange(self.cells + 1) * self.step_s])

    @property
    def busy(self) -> FloatArray:
        """Busy servers in each state."""
        return np.minimum(np.arange(self.size), self.servers).astype(np.float64)

    def fall(self) -> FloatArray:
        """Return the law after one step without arrivals, from each state (rows)."""
        k, size = self.servers, self.size
        out = np.zeros((size, size))
        out[np.arange(k, size), np.arange(k - 1, size - 1)] = 1.0
        out[0, 0] = 1.0
        if k > 1 and self.mean_work_s > 0:
            leave = -np.expm1(-self.step_s / self.mean_work_s)
            # Each of j busy servers ends within the step with probability `leave`.
            survive = np.zeros((k, k))
            survive[0, 0] = 1.0
            for j in range(1, k):
                survive[j, : j + 1] = survive[j - 1, : j + 1] * leave
                survive[j, 1 : j + 1] += survive[j - 1, :j] * (1 - leave)
            out[:k, :k] = survive
            # Having fallen to wait 0, one server is idle and the others are as busy as before.
        elif k > 1:
            out[:k, :k] = np.eye(k)
        return out

    def rise(self, work_s: float, shift: float = 0.0) -> FloatArray:
        """Return P(the wait rises by m cells), m = 0 .. cells, for an arrival of `work_s`, split to keep the mean.

        `shift` cells are added to the rise: half a cell when the server was idle, as it works from mid-step only.
        """
        at = (np.arange(-1, self.cells + 2) - shift) * self.step_s
        whole = float(self.residual.integral(np.array([work_s]))[0])
        left = np.where(at < work_s, whole - self.residual.integral(np.maximum(at, 0.0)), 0.0)
        left = np.maximum(left, 0.0) + np.maximum(-at, 0.0)
        weights = (left[:-2] - 2 * left[1:-1] + left[2:]) / self.step_s
        # What lies beyond the last cell.
        weights[-1] += max(1.0 - weights.sum(), 0.0)
        return np.asarray(np.maximum(weights, 0.0))

    def onto(self, other: PoolAxis) -> FloatArray:
        """Return weights (states of this axis, states of another) that split each state, its mean wait kept."""
        k, size = self.servers, other.size
        out = np.zeros((self.size, size))
        out[np.arange(k), np.arange(k)] = 1.0
        at = np.minimum(self.wait_s[k:] / other.step_s, other.cells)
        below = np.minimum(at.astype(int), other.cells - 1)
        rows = np.arange(k, self.size)
        out[rows, k - 1 + below] = 1 - (at - below)
        out[rows, k + below] += at - below
        return out

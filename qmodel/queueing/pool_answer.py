"""What arrivals meet at two coupled pools: means, shares and quantiles of a chain's law or of a path's counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_pools import mixture_cdf
from qmodel.errors import InputError
from qmodel.queueing.checks import check_number
from qmodel.queueing.metrics import brief, checked_times
from qmodel.queueing.pool_chain import PoolChain
from qmodel.queueing.pool_grid import PoolInputs, Refined
from qmodel.queueing.pool_path import CountedPools

__all__ = ["TwoPools", "counted", "described", "extrapolated", "lattice_heights"]

FloatArray = npt.NDArray[np.float64]

#: Relative width at which the search for a quantile stops.
QUANTILE_TOLERANCE = 1e-9
#: What independent residuals add to the errors of the chain with several servers. Mean: the most seen of heavy-tailed
#: prompts (work SCV 3.3, docs/decisions/0026). Percentiles: rounded up from 37 %. The share deflected: the tolerance of
#: the simulated test. Other laws and loads may err by more.
SEVERAL_SERVERS = {"mean": 0.23, "p95": 0.4, "p99": 0.4, "deflected": 0.02}
#: What thresholds within the first cell add: rounded up from what idle-only thresholds at a load of .6 showed.
WITHIN_A_CELL = {"mean": 0.1, "p95": 0.12, "p99": 0.06, "deflected": 0.07}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoPools:
    """What arrivals meet at two coupled pools.

    Parameters
    ----------
    rates_per_s, work_s, host_s, transfer_s : ndarray, shape (classes,)
        Arrival rate [1/s], prefill work, host time on decode and transfer [s] of each class.
    prefill_wait_s, decode_wait_s : ndarray, shape (prefill cells,), (decode cells,)
        Waits [s]: lattices one step apart, or 0 and the mean waits of cells that were counted.
    law : ndarray, shape (prefill cells, decode cells)
        Joint law of the waits that an arrival would meet at either pool.
    kept, moved : ndarray, shape (classes, prefill cells), (classes, decode cells)
        P(an arrival of the class is kept, waiting so long), and deflected likewise; a class sums to 1 over both.
    chain : PoolChain
        The transitions it was computed from; beside a path, those of a lattice as wide as the path went.
    method : str
        How it was computed.
    exact : bool
        Whether exact up to the grid: one server in each pool, or exponential work.
    error_estimate : dict of str to float
        Relative errors of ``mean``, ``p95`` and ``p99`` of the time to the end of prefill, and the absolute one of
        ``deflected``. A path: 2.5 standard errors and what its cells add. A chain: what extrapolation from a grid twice
        as coarse changed, and with several servers in a pool the most that independent residuals were seen to miss.
    coarse : TwoPools, optional
        The chain's result on that grid: means, shares and distribution functions are extrapolated from both.
    edges_s : tuple of ndarray, optional
        Edges of the cells of prefill and decode waits in which a path was counted [s]; absent for a chain.
    """

    rates_per_s: FloatArray
    work_s: FloatArray
    host_s: FloatArray
    transfer_s: FloatArray
    prefill_wait_s: FloatArray
    decode_wait_s: FloatArray
    law: FloatArray
    kept: FloatArray
    moved: FloatArray
    chain: PoolChain
    method: str
    exact: bool
    error_estimate: dict[str, float]
    coarse: TwoPools | None = None
    edges_s: tuple[FloatArray, FloatArray] | None = None

    def __repr__(self) -> str:
        return brief(self, "deflected", "mean_wait_s", "mean_time_s", "exact", "method")

    @property
    def deflected_share(self) -> FloatArray:
        """Share of each class that is deflected."""
        return np.clip(self._finest(lambda pools: pools.moved.sum(axis=1)), 0.0, 1.0)

    @property
    def deflected(self) -> float:
        """Share of all arrivals that are deflected."""
        return float(self._mix @ self.deflected_share)

    @property
    def prefill_utilisation(self) -> float:
        """Load of the kept work, per prefill server."""
        share = 1 - self.deflected_share
        return float(self.rates_per_s * share @ self.work_s) / self.chain.prefill.servers

    @property
    def decode_utilisation(self) -> float:
        """Load of the deflected work, per decode server."""
        return float(self.rates_per_s * self.deflected_share @ self.host_s) / self.chain.decode.servers

    @property
    def class_mean_wait_s(self) -> FloatArray:
        """Mean wait before prefill starts, by class [s]."""
        waits = self._finest(lambda pools: pools.kept @ pools.prefill_wait_s + pools.moved @ pools.decode_wait_s)
        return np.maximum(waits, 0.0)

    @property
    def class_mean_time_s(self) -> FloatArray:
        """Mean time from arrival to the end of prefill, transfer included, by class [s]."""
        share = self.deflected_share
        return np.asarray(self.class_mean_wait_s + (1 - share) * (self.work_s + self.transfer_s) + share * self.host_s)

    @property
    def mean_wait_s(self) -> float:
        """Mean wait of all arrivals before their prefill starts [s]."""
        return float(self._mix @ self.class_mean_wait_s)

    @property
    def mean_time_s(self) -> float:
        """Mean time from arrival to the end of prefill, transfer included [s]."""
        return float(self._mix @ self.class_mean_time_s)

    def wait_cdf(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(wait <= t) of all arrivals, t in seconds."""
        return self._cdf(checked_times(t), np.zeros(self._mix.size), np.zeros(self._mix.size))

    def time_cdf(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(time to the end of prefill, transfer included, <= t) of all arrivals, t in seconds."""
        return self._cdf(checked_times(t), self.work_s + self.transfer_s, self.host_s)

    def wait_quantile_s(self, q: float) -> float:
        """Return the q quantile of the wait of all arrivals [s], 0 <= q < 1."""
        return self._quantile(q, self.wait_cdf)

    def time_quantile_s(self, q: float) -> float:
        """Return the q quantile of the time to the end of prefill, transfer included [s], 0 <= q < 1."""
        return self._quantile(q, self.time_cdf)

    @property
    def _mix(self) -> FloatArray:
        return np.asarray(self.rates_per_s / self.rates_per_s.sum())

    def _finest(self, read: Callable[[TwoPools], FloatArray]) -> FloatArray:
        """Return what is read from this lattice, its error of second order removed by that of the coarser one."""
        return read(self) if self.coarse is None else (4 * read(self) - read(self.coarse)) / 3

    def _cdf(self, t: FloatArray, kept_after: FloatArray, moved_after: FloatArray) -> FloatArray:
        order = np.argsort(t, axis=None)
        rising, found = t.ravel()[order], np.empty(t.size)

        def read(pools: TwoPools) -> FloatArray:
            total = np.zeros(t.size)
            for of_pool, mass, after in ((0, pools.kept, kept_after), (1, pools.moved, moved_after)):
                mixture_cdf(rising, after, pools._mix, *pools._heights(of_pool, mass), total)
            return total

        found[order] = np.clip(self._finest(read), 0.0, 1.0)
        return found.reshape(t.shape)

    def _heights(self, of_pool: int, mass: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return points and the distribution functions there, linear between, of masses by class and wait."""
        if self.edges_s is not None:
            return self.edges_s[of_pool], np.cumsum(mass, axis=1)
        return lattice_heights((self.prefill_wait_s, self.decode_wait_s)[of_pool], mass)

    def _quantile(self, q: float, cdf: Callable[[FloatArray], FloatArray]) -> float:
        if not 0.0 <= check_number("quantile level", q) < 1.0:
            raise InputError("quantile level", q, "at least 0 and below 1")
        low, high = 0.0, max(float(self.prefill_wait_s[-1]), float(self.decode_wait_s[-1]))
        high += float(max((self.work_s + self.transfer_s).max(), self.host_s.max()))
        while high - low > QUANTILE_TOLERANCE * high:
            grid = np.linspace(low, high, 65)
            values = np.maximum.accumulate(cdf(grid))
            i = int(np.argmax(values >= q)) if values[-1] >= q else grid.size - 1
            if i == 0:
                return float(grid[0])
            low, high = float(grid[i - 1]), float(grid[i])
        return high


def lattice_heights(grid: FloatArray, mass: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return points and the distribution functions there of laws split linearly between neighbouring lattice points.

    At the middles between points it is the sum of the masses below; at 0 the half of the next mass that belongs to
    positive waits is taken off.
    """
    step = grid[1] - grid[0]
    first = np.maximum(mass[:, :1] - 0.5 * mass[:, 1:2], 0.0)
    at = np.concatenate([[0.0], grid + 0.5 * step])
    return at, np.concatenate([first, np.cumsum(mass, axis=1)], axis=1)


def counted(inputs: PoolInputs, found: CountedPools, chain: PoolChain) -> TwoPools:
    """Return the result of a path, with a chain beside it."""
    k, d = inputs.prefill_servers, inputs.decode_servers
    edges = found.prefill_edges_s, found.decode_edges_s
    return TwoPools(
        rates_per_s=inputs.rates_per_s,
        work_s=inputs.work_s,
        host_s=inputs.host_s,
        transfer_s=inputs.transfer_s,
        prefill_wait_s=found.prefill_wait_s,
        decode_wait_s=found.decode_wait_s,
        law=found.law,
        kept=found.kept,
        moved=found.moved,
        chain=chain,
        method=f"path of {found.arrivals:,} arrivals, {k} and {d} servers",
        exact=False,
        error_estimate=found.error_estimate,
        edges_s=edges,
    )


def described(inputs: PoolInputs, solved: Refined) -> TwoPools:
    """Return the result of one lattice, without its error."""
    kept, moved = solved.by_class()
    k, d = inputs.prefill_servers, inputs.decode_servers
    law = solved.lattice_law()
    exact = k == 1 and d == 1
    how = "exact falls and mean-preserving jumps" if exact else "residual work of other servers independent"
    return TwoPools(
        rates_per_s=inputs.rates_per_s,
        work_s=inputs.work_s,
        host_s=inputs.host_s,
        transfer_s=inputs.transfer_s,
        prefill_wait_s=np.arange(law.shape[0], dtype=np.float64) * solved.chain.step_s,
        decode_wait_s=np.arange(law.shape[1], dtype=np.float64) * solved.chain.step_s,
        law=law,
        kept=kept,
        moved=moved,
        chain=solved.chain,
        method=f"chain of two backlogs, {k} and {d} servers, {law.shape[0]} x {law.shape[1]} cells; {how}",
        exact=exact,
        error_estimate={},
    )


def extrapolated(fine: TwoPools, coarse: TwoPools, *, resolved: bool = True) -> TwoPools:
    """Return `fine` with what is read from it extrapolated, and by how much that changed it.

    Not `resolved`: some threshold lies within the first cell.
    """
    result = replace(fine, coarse=coarse)

    def apart(now: float, before: float) -> float:
        return abs(now - before) / now if now > 0 else 0.0

    errors = {"mean": apart(result.mean_time_s, fine.mean_time_s)}
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        errors[name] = apart(result.time_quantile_s(q), fine.time_quantile_s(q))
    errors["deflected"] = abs(result.deflected - fine.deflected)
    if not fine.exact:
        errors = {name: error + SEVERAL_SERVERS[name] for name, error in errors.items()}
    if not resolved:
        errors = {name: error + WITHIN_A_CELL[name] for name, error in errors.items()}
    return replace(result, error_estimate=errors)

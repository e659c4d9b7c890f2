"""Workload-dependent balking: a class joins only when the wait it would meet is within its threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from qmodel.distributions.service import ServiceTime
from qmodel.errors import ConvergenceError, InputError, UnstableError
from qmodel.queueing.balking_march import common_cell, first_cells, marched, read_off, romberg
from qmodel.queueing.balking_path import count_virtual_wait
from qmodel.queueing.checks import check_array, check_number, check_servers, check_together
from qmodel.queueing.fluid import virtual_wait
from qmodel.queueing.metrics import brief, checked_times, tabulated
from qmodel.queueing.mgk import mgk

__all__ = ["BalkingMethod", "BalkingMetrics", "mgk_balking"]

FloatArray = npt.NDArray[np.float64]
BalkingMethod = Literal["auto", "path", "fluid"]

#: Cells times classes, at most; what the last step of Romberg's rule may change before the grid is refined, and may
#: change in the end.
MOST_STEPS, GOOD_ERROR, WORST_ERROR = 1 << 21, 1e-6, 0.01
#: Servers up to which the fluid is solved.
MAX_SERVERS = 32
#: Errors of the fluid seen against simulation: prompt lengths and uniform services, k = 2..8, loads .7 to 1.2.
FLUID_ERRORS = {"mean": 0.09, "p95": 0.09, "accept": 0.02}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BalkingMetrics:
    """What classes meet in a queue that they join only when the wait is within their threshold.

    Parameters
    ----------
    rates_per_s, services_s, thetas_s : ndarray, shape (classes,)
        Arrival rate [1/s], service [s] and threshold [s] of each class.
    servers : int
        Number of servers.
    accept : ndarray, shape (classes,)
        Probability that an arrival of the class joins, P(V <= theta).
    mean_wait_s : ndarray, shape (classes,)
        Mean wait of those of the class who join [s]; 0 for a class that never does.
    grid_s, virtual_cdf : ndarray, shape (points,)
        P(V <= grid) of the virtual wait.
    decay_per_s : float
        Rate at which 1 - CDF falls beyond the grid [1/s]; infinity when nothing is there.
    method : str
        How it was computed.
    exact : bool
        Whether exact up to rounding and discretisation.
    error_estimate : dict of str to float
        Relative half-widths.
    """

    rates_per_s: FloatArray
    services_s: FloatArray
    thetas_s: FloatArray
    servers: int
    accept: FloatArray
    mean_wait_s: FloatArray
    grid_s: FloatArray
    virtual_cdf: FloatArray
    decay_per_s: float
    method: str
    exact: bool
    error_estimate: dict[str, float]

    def __post_init__(self) -> None:
        bad = ~(np.isfinite(self.accept) & (self.accept >= -1e-9) & (self.accept <= 1 + 1e-9))
        if bad.any() or not np.all(np.isfinite(self.mean_wait_s)):
            raise ConvergenceError("acceptance under thresholds", float(self.accept[bad][0]) if bad.any() else math.nan)

    def __repr__(self) -> str:
        return brief(self, "servers", "utilisation", "rejected", "mean_wait_all_s", "exact", "method")

    def virtual_wait_cdf(self, x: npt.ArrayLike) -> FloatArray:
        """Return P(V <= x) of the virtual wait (the wait an arrival would meet), x in seconds."""
        at = checked_times(x)
        inside = np.interp(at, self.grid_s, self.virtual_cdf)
        top = 1 - self.virtual_cdf[-1]
        with np.errstate(invalid="ignore"):
            beyond = 1 - top * np.exp(-self.decay_per_s * np.maximum(at - self.grid_s[-1], 0.0))
        inside = np.where(at > self.grid_s[-1], np.where(top > 0, beyond, 1.0), inside)
        return np.asarray(np.where(at < 0, 0.0, inside))

    def virtual_wait_quantile_s(self, q: float) -> float:
        """Return the q quantile of the virtual wait [s], 0 <= q < 1."""
        return self._quantile(q, np.ones(1), np.array([math.inf]))

    def wait_quantile_s(self, q: float) -> float:
        """Return the q quantile of the wait of all who join [s], 0 <= q < 1."""
        return self._quantile(q, self.rates_per_s, self.thetas_s)

    def wait_cdf(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(W <= t) of all who join, t in seconds."""
        at = checked_times(t)
        capped = np.minimum(at[..., None], self.thetas_s)
        joined = self.rates_per_s @ self.virtual_wait_cdf(self.thetas_s)
        if not joined > 0:
            raise InputError("share that joins", float(joined), "above 0 for a law of its wait")
        return np.asarray(self.virtual_wait_cdf(capped) @ self.rates_per_s / joined)

    def wait_tail(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(W > t) of all who join, t in seconds."""
        return np.asarray(1 - self.wait_cdf(t))

    def _quantile(self, q: float, rates: FloatArray, thetas: FloatArray) -> float:
        if not 0.0 <= check_number("quantile level", q) < 1.0:
            raise InputError("quantile level", q, "at least 0 and below 1")
        whole = float(rates @ self.virtual_wait_cdf(thetas))

        def share(x: float) -> float:
            return float(rates @ self.virtual_wait_cdf(np.minimum(x, thetas))) / whole

        if whole == 0 or share(0.0) >= q:
            return 0.0
        low, high = 0.0, max(float(self.grid_s[-1]), 1e-300)
        while share(high) < q and high < 1e6 * float(self.grid_s[-1]):
            high *= 2
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if share(middle) < q else (low, middle)
        return high

    @property
    def wait_probability(self) -> float:
        """P(V > 0)."""
        return float(1 - self.virtual_cdf[0])

    @property
    def mean_wait_all_s(self) -> float:
        """Mean wait of all who join [s]."""
        joined = self.rates_per_s * self.accept
        return float(joined @ self.mean_wait_s / joined.sum()) if joined.sum() > 0 else 0.0

    @property
    def rejected(self) -> float:
        """Share of arrivals that do not join."""
        return float(1 - self.rates_per_s @ self.accept / self.rates_per_s.sum())

    @property
    def rejected_work(self) -> float:
        """Share of the offered work that does not join."""
        work = self.rates_per_s * self.services_s
        return float(1 - work @ self.accept / work.sum())

    @property
    def utilisation(self) -> float:
        """Load of those who join, per server."""
        return float(self.rates_per_s * self.services_s @ self.accept / self.servers)


def mgk_balking(
    rates_per_s: npt.ArrayLike,
    services_s: npt.ArrayLike,
    thetas_s: npt.ArrayLike,
    servers: int,
    method: BalkingMethod = "auto",
) -> BalkingMetrics:
    """Exact for one server, approximation for more: Poisson classes that join iff the virtual wait is <= theta.

    One server: F' = sum_i lam_i [F(min(x, theta_i)) - F(x - s_i)]^+, F the law of the virtual wait V including its mass
    at 0. More servers: waits counted along a path of the queue, always the same one, until their standard errors are
    small (docs/decisions/0024). ``fluid`` is smooth in its arguments, and rougher: classes are grouped into two
    exponential types with the mean and second moment of the services, and V with the types in the other servers is a
    modulated fluid, solved by its Riccati equation, then corrected for the true services (docs/decisions/0021).

    Parameters
    ----------
    rates_per_s : array_like, shape (classes,)
        Arrival rate of each class [1/s].
    services_s : array_like, shape (classes,)
        Service time of each class [s].
    thetas_s : array_like, shape (classes,) or number
        Longest wait with which each class still joins [s]; infinity: always; negative: never.
    servers : int
        Number of servers.
    method : {"auto", "path", "fluid"}
        How several servers are solved: ``auto`` is the path. One server is always solved exactly.

    Returns
    -------
    BalkingMetrics
        Acceptance and mean wait by class, and the law of the virtual wait.

    Raises
    ------
    UnstableError
        When the classes that always join fill the servers.
    InputError
        When rates or services are not finite and positive, or the fluid is asked for more than 32 servers.

    Notes
    -----
    Liu & Kulkarni, Balking and reneging in M/G/s systems, Probab. Eng. Inf. Sci. 22 (2008).

    Examples
    --------
    >>> queue = mgk_balking([0.5, 0.2, 0.02], [1.0, 2.0, 10.0], 4.0, 1)
    >>> round(float(queue.accept[0]), 8)
    0.77793748
    """
    k = check_servers(servers)
    rates, services, thetas = _checked_classes(rates_per_s, services_s, thetas_s, k)
    if method not in get_args(BalkingMethod):
        raise InputError("method", repr(method), "one of " + ", ".join(get_args(BalkingMethod)))
    if k > MAX_SERVERS and method == "fluid":
        raise InputError("servers of the fluid method", k, f"at most {MAX_SERVERS}", "use method='auto'")
    keep = (rates > 0) & (services > 0) & (thetas >= 0)
    if not keep.any():
        return _metrics(rates, services, thetas, k, np.array([0.0, 1.0]), np.ones(2), math.inf, "empty")
    finite = _within_reach(rates, services, thetas, k)
    if k == 1:
        return _one_server(rates, services, thetas, finite, keep)
    # A threshold that no wait comes near is none.
    within = np.where(finite < thetas, math.inf, thetas)
    return replace(_several_servers(rates, services, within, finite, keep, k, method), thetas_s=thetas)


def _several_servers(
    rates: FloatArray,
    services: FloatArray,
    thetas: FloatArray,
    finite: FloatArray,
    keep: npt.NDArray[np.bool_],
    k: int,
    method: BalkingMethod,
) -> BalkingMetrics:
    """Return the metrics of an M/G/k queue, of the fluid or of a path."""
    if np.isinf(thetas[keep]).all():
        plain = mgk(float(rates[keep].sum()), k, ServiceTime.from_samples(services[keep], rates[keep]))
        table = tabulated(plain)
        cdf = -np.expm1(table.log_tail)
        return _metrics(
            rates, services, thetas, k, table.grid, cdf, table.decay, plain.method, errors=plain.error_estimate
        )
    if method == "fluid":
        grid, cdf, decay = virtual_wait(rates[keep], services[keep], finite[keep], k)
        name = f"two-type modulated fluid, {k} servers"
        return _metrics(rates, services, thetas, k, grid, cdf, decay, name, errors=FLUID_ERRORS)
    found = count_virtual_wait(rates[keep], services[keep], thetas[keep], k)
    name = f"path of {found.arrivals} arrivals at {k} servers"
    return _metrics(rates, services, thetas, k, found.grid_s, found.cdf, math.inf, name, errors=found.error_estimate)


def _checked_classes(
    rates_per_s: npt.ArrayLike, services_s: npt.ArrayLike, thetas_s: npt.ArrayLike, k: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return rates, services and thresholds by class when they make sense."""
    rates = np.atleast_1d(check_array("rates of classes", rates_per_s))
    services, thetas = check_together(rates.shape, services=services_s, thresholds=thetas_s)
    for what, array in (("rate of a class", rates), ("service of a class", services)):
        if array.ndim != 1 or not np.all(np.isfinite(array) & (array >= 0)) or not array.sum() > 0:
            raise InputError(what, "negative, zero or not finite", "finite, >= 0, and not all zero")
    if np.any(np.isnan(thetas)):
        raise InputError("threshold", math.nan, "a number, infinity for 'always'")
    always = np.isinf(thetas) & (thetas > 0)
    load = float(rates[always] @ services[always]) / k
    if load >= 1:
        raise UnstableError("load of the classes that always join", load, "below 1", "give them a threshold")
    return rates, services, thetas


def _within_reach(rates: FloatArray, services: FloatArray, thetas: FloatArray, k: int) -> FloatArray:
    """Return thresholds, where the waits of those who join beyond some level stay far below the next one lowered to it.

    Beyond a level only classes with longer thresholds join. When they leave capacity, waits die out over it: such
    thresholds, infinity first of all, become the wait that is exceeded with a probability of about 1e-9.
    """
    for level in np.unique(np.append(thetas[(thetas > 0) & np.isfinite(thetas)], 0.0)):
        beyond = (thetas > level) & (rates > 0)
        if not beyond.any():
            break
        work, square = float(rates[beyond] @ services[beyond]), float(rates[beyond] @ services[beyond] ** 2)
        if not 0 < work < k:
            continue
        reach = float(level + 3 * services[rates > 0].max() + 21 * square / (2 * work * (k - work)))
        if reach < thetas[beyond].min():
            return np.minimum(thetas, reach)
    return np.where(
        np.isinf(thetas) & (thetas > 0), float(np.max(thetas, where=np.isfinite(thetas), initial=0)), thetas
    )


def _one_server(
    rates: FloatArray, services: FloatArray, thetas: FloatArray, finite: FloatArray, keep: npt.NDArray[np.bool_]
) -> BalkingMetrics:
    """March the level-crossing equation on three grids and extrapolate; finer until that changes little."""
    lam, s = (np.ascontiguousarray(array[keep]) for array in (rates, services))
    cell = common_cell(np.concatenate([s, finite[keep & (finite == thetas)]]))
    if cell is not None:
        # Those that stand for "always" may lie a little higher.
        finite = np.where(finite < thetas, np.ceil(finite / cell) * cell, finite)
    theta = np.ascontiguousarray(finite[keep])
    top = float((theta + s).max())
    most = MOST_STEPS // len(lam)
    cells = first_cells(top, float(lam.sum()), cell, most)
    while True:
        table = marched(lam, s, theta, top, cells)
        accept, mean, error = read_off(table, top, np.clip(finite, 0.0, top))
        if error <= GOOD_ERROR or 2 * cells > most:
            break
        cells *= 2
    if not error <= WORST_ERROR:
        remedy = "shorten the longest threshold, or drop classes that hardly bring any work"
        raise ConvergenceError("error of waits under thresholds", error, f"below {WORST_ERROR:g}", remedy)
    accept = np.where(thetas >= 0, accept, 0.0)
    cdf = romberg([f[:: (len(f) - 1) // cells] for f, _ in table])
    return BalkingMetrics(
        rates_per_s=rates,
        services_s=services,
        thetas_s=thetas,
        servers=1,
        accept=accept,
        mean_wait_s=np.where(accept > 0, mean, 0.0),
        grid_s=np.linspace(0.0, top, cells + 1),
        virtual_cdf=np.clip(cdf, 0.0, 1.0),
        decay_per_s=math.inf,
        method="exact M/G/1 with thresholds (level crossing)",
        exact=True,
        error_estimate={} if error <= GOOD_ERROR else {"accept": error, "mean": error, "p95": error},
    )


def _metrics(
    rates: FloatArray,
    services: FloatArray,
    thetas: FloatArray,
    k: int,
    grid: FloatArray,
    cdf: FloatArray,
    decay: float,
    method: str,
    *,
    errors: dict[str, float] | None = None,
) -> BalkingMetrics:
    """Return the metrics that follow from a table of the virtual wait's CDF."""
    area = np.concatenate([[0.0], np.cumsum(0.5 * np.diff(grid) * (cdf[1:] + cdf[:-1]))])
    at = np.clip(thetas, 0.0, grid[-1])
    found = np.where(thetas >= 0, np.interp(at, grid, cdf), 0.0)
    accept = np.where(np.isinf(thetas) & (thetas > 0), 1.0, found)
    mean = np.maximum(at - np.interp(at, grid, area) / np.maximum(found, 1e-300), 0.0)
    return BalkingMetrics(
        rates_per_s=rates,
        services_s=services,
        thetas_s=thetas,
        servers=k,
        accept=accept,
        mean_wait_s=np.where(accept > 0, mean, 0.0),
        grid_s=grid,
        virtual_cdf=cdf,
        decay_per_s=decay,
        method=method,
        exact=errors is None,
        error_estimate=errors or {},
    )

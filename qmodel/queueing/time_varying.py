"""M_t/G_t/k: the law of the wait when rates and services change from window to window, backlog carried over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_march import march_window
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.checks import check_array, check_number, check_servers, check_service
from qmodel.queueing.controls import service_table
from qmodel.queueing.decay import lundberg_rate
from qmodel.queueing.metrics import QueueMetrics, TabulatedTail, brief, checked_times, tabulated
from qmodel.queueing.mgk import mgk
from qmodel.queueing.time_varying_cells import LOADS, backlog_cells, log_measure, rates_between
from qmodel.queueing.time_varying_path import count_waits_by_window

__all__ = ["TimeVaryingWaits", "mtgk"]

FloatArray = npt.NDArray[np.float64]

#: Standard deviations above the mean up to which a bound of services is near, and the stationary tail taken whole;
#: e-folds that are kept of others.
FAR_BOUND, KEPT_FOLDS = 15.0, 3.0
#: Relative error of mean and P95 over windows of many services, and what is added over the services that a window lasts
#: (bench/time_varying.py: 95 % of 216 cases).
LONG_ERROR, SHORT_ERROR = 0.03, 1.0
#: Mean services that a window lasts below which the profile is replayed, arrivals in all replays, values of a service
#: time there, and up to where waits are told apart finely: twice this level, or this share of the largest.
SHORT_WINDOWS, SHORT_ARRIVALS, VALUES, FINE_UP_TO, FINE_SHARE = 20.0, 700_000, 512, 0.97, 1e-3
#: Windows that are replayed, at most (each has its table of counts), and error from which replays met too few waits.
MOST_REPLAYED, TOO_FEW = 240, 0.5
#: Error of the stationary mean wait that does not matter beside that of the diffusion.
GOOD_ENOUGH = 0.03
#: Implicit steps per window.
STEPS = 12
#: Least rate, over the highest, that a window's diffusion is taken at: none at all would leave cells apart.
IDLE_RATE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimeVaryingWaits:
    """Waits of the arrivals of each window and of all.

    Parameters
    ----------
    edges_s : ndarray, shape (windows + 1,)
        Window edges [s].
    arrivals : ndarray, shape (windows,)
        Expected arrivals per window.
    waits_s : ndarray, shape (cells + 1,)
        Grid of waits [s]; the first is 0.
    cdfs : ndarray, shape (windows, cells + 1)
        P(V <= wait) of the virtual wait that arrivals of each window meet.
    accept : ndarray, shape (windows,) or (windows, classes)
        Probability that an arrival of the window (of the class) joins.
    joined_cdfs : ndarray, shape (windows, cells + 1)
        P(W <= wait) of those who join.
    joined : ndarray, shape (windows,)
        Expected arrivals per window who join.
    method : str
        How it was computed.
    error_estimate : dict of str to float
        Relative half-widths; with classes also of the share that joins.
    """

    edges_s: FloatArray
    arrivals: FloatArray
    waits_s: FloatArray
    cdfs: FloatArray
    accept: FloatArray
    joined_cdfs: FloatArray
    joined: FloatArray
    method: str
    error_estimate: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return brief(self, "windows", "mean_wait_s", "wait_probability", "method")

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.edges_s) - 1

    @property
    def window_mean_s(self) -> FloatArray:
        """Mean wait of those who join, by window [s]."""
        beyond = 1 - self.joined_cdfs
        return np.asarray((0.5 * (beyond[:, 1:] + beyond[:, :-1]) * np.diff(self.waits_s)).sum(axis=1))

    @property
    def cdf(self) -> FloatArray:
        """P(W <= waits_s) of all who join."""
        return np.asarray(self.joined @ self.joined_cdfs / self.joined.sum())

    @property
    def mean_wait_s(self) -> float:
        """Mean wait of all who join [s]."""
        return float(self.joined @ self.window_mean_s / self.joined.sum())

    @property
    def wait_probability(self) -> float:
        """P(W > 0) of all who join."""
        return float(1 - self.cdf[0])

    def wait_cdf(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(W <= t) of all who join, t in seconds."""
        at = checked_times(t)
        return np.asarray(np.where(at < 0, 0.0, np.interp(at, self.waits_s, self.cdf)))

    def wait_tail(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(W > t) of all who join, t in seconds."""
        return np.asarray(1 - self.wait_cdf(t))

    def wait_quantile_s(self, q: float) -> float:
        """Return the q quantile of the wait of all who join [s]."""
        return _quantile(self.waits_s, self.cdf, q)

    def window_quantile_s(self, q: float) -> FloatArray:
        """Return the q quantile of the wait of those who join, by window [s]."""
        return np.array([_quantile(self.waits_s, row, q) for row in self.joined_cdfs])


def _quantile(grid: FloatArray, cdf: FloatArray, q: float) -> float:
    if not 0.0 <= check_number("quantile level", q) < 1.0:
        raise InputError("quantile level", q, "at least 0 and below 1")
    if cdf[0] >= q:
        return 0.0
    i = int(np.searchsorted(cdf, q))
    if i >= len(cdf):
        return float(grid[-1])
    part = (q - cdf[i - 1]) / (cdf[i] - cdf[i - 1])
    return float(grid[i - 1] + part * (grid[i] - grid[i - 1]))


def mtgk(
    edges_s: npt.ArrayLike,
    rates_per_s: npt.ArrayLike,
    services: ServiceTime | Sequence[ServiceTime],
    servers: int,
    *,
    classes: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike] | None = None,
) -> TimeVaryingWaits:
    """Approximation: FCFS queue with Poisson arrivals whose rate and services are constant within windows.

    Backlog is a birth-death chain on cells whose stationary law at the window's load is that of `mgk`, and whose drift
    and variance are those of the work that arrives (Scharfetter-Gummel): exact in steady state, and in the diffusion
    limit when the load is near or above 1. Any load is allowed; backlog carries over from window to window. Where
    up to 240 windows last less than 20 mean services (of one law) the profile is replayed along sample paths instead.

    Parameters
    ----------
    edges_s : array_like, shape (windows + 1,)
        Window edges [s], increasing; empty at the first.
    rates_per_s : array_like, shape (windows,)
        Arrival rate in each window [1/s].
    services : ServiceTime or sequence of ServiceTime
        Service law, one for all windows or one each.
    servers : int
        Number of servers.
    classes : tuple of array_like, optional
        (shares, services [s], thresholds [s]) of classes: an arrival is of class i with probability shares[i], needs
        services[i] (times the window's mean over the classes' mean) and joins iff the wait is within thresholds[i].
        The profile is then replayed along sample paths, always the same (docs/decisions/0025).

    Returns
    -------
    TimeVaryingWaits
        Waits by window and of all.

    Raises
    ------
    InputError
        When edges do not increase or rates are negative.

    Notes
    -----
    Scharfetter & Gummel, IEEE Trans. Electron Devices 16 (1969); Newell, Applications of Queueing Theory (1982), ch. 2.

    Examples
    --------
    >>> waits = mtgk([0.0, 600.0, 1200.0], [1.5, 2.2], ServiceTime.exponential(1.0), 2)
    >>> bool(waits.window_mean_s[1] > 10 * waits.window_mean_s[0])
    True
    """
    k = check_servers(servers)
    edges, rates, laws = _checked_windows(edges_s, rates_per_s, services)
    means = np.array([law.mean_s for law in laws])
    if classes is not None:
        return _along_paths(edges, rates, means, _checked_classes(classes), k)
    arrivals = rates * np.diff(edges)
    lasting = float(arrivals @ (np.diff(edges) / means) / arrivals.sum())
    grid, averages = _marched(edges, rates, laws, _typical(laws, arrivals), k)
    cdfs = np.cumsum(averages, axis=1)
    cdfs /= cdfs[:, -1:]
    if lasting < SHORT_WINDOWS and rates.size <= MOST_REPLAYED and all(law is laws[0] for law in laws):
        replayed = _replayed(edges, rates, laws[0], k, (grid, arrivals @ cdfs / arrivals.sum()))
        if replayed is not None:
            return replayed
    how = f"diffusion of the backlog with the exact stationary law, {rates.size} windows"
    return _all_join(edges, arrivals, (grid, cdfs), f"M_t/G_t/{k}: {how}", LONG_ERROR + SHORT_ERROR / lasting)


def _all_join(
    edges: FloatArray, arrivals: FloatArray, law: tuple[FloatArray, FloatArray], method: str, error: float
) -> TimeVaryingWaits:
    """Return the waits where everybody joins, from a grid and the CDF of each window."""
    grid, cdfs = law
    return TimeVaryingWaits(
        edges_s=edges,
        arrivals=arrivals,
        waits_s=grid,
        cdfs=cdfs,
        accept=np.ones(len(arrivals)),
        joined_cdfs=cdfs,
        joined=arrivals,
        method=method,
        error_estimate=dict.fromkeys(("mean", "p95"), error),
    )


def _checked_windows(
    edges_s: npt.ArrayLike, rates_per_s: npt.ArrayLike, services: ServiceTime | Sequence[ServiceTime]
) -> tuple[FloatArray, FloatArray, list[ServiceTime]]:
    """Return window edges, rates and a service law for each window, when they go together."""
    edges, rates = check_array("window edges", edges_s), check_array("rates of windows", rates_per_s)
    if edges.ndim != 1 or edges.shape != (rates.size + 1,) or rates.size == 0 or not np.all(np.diff(edges) > 0):
        raise InputError("window edges", f"of shape {edges.shape}", "increasing, one more than the rates")
    if not np.all(np.isfinite(rates) & (rates >= 0)) or not rates.sum() > 0 or not np.all(np.isfinite(edges)):
        raise InputError("rate of a window", float(rates.min()), "finite and >= 0, not all zero")
    given = services if isinstance(services, Iterable) else [services] * rates.size
    laws = [check_service(law) for law in given]
    if len(laws) != rates.size:
        raise InputError("service laws", len(laws), f"one, or one for each of {rates.size} windows")
    return edges, rates, laws


def _marched(
    edges: FloatArray, rates: FloatArray, laws: list[ServiceTime], typical: ServiceTime, k: int
) -> tuple[FloatArray, FloatArray]:
    """Return cells of backlog and their mean occupation in each window."""
    widths, means = np.diff(edges), np.array([law.mean_s for law in laws])
    seconds, loads = np.array([law.moment(2) for law in laws]), rates * means / k
    # Jumps of the wait are services over k; D is half the variance of their sum per second.
    diffusion = np.maximum(rates, IDLE_RATE * rates.max()) * seconds / (2 * k * k)
    grid = backlog_cells(loads, widths, diffusion)
    stretch = (seconds / means) / (typical.moment(2) / typical.mean_s)
    tables = [_table(load * k / typical.mean_s, k, typical) for load in LOADS]
    law, averages = np.zeros(len(grid)), np.empty((rates.size, len(grid)))
    law[0] = 1.0
    for w in range(rates.size):
        levels = log_measure(tables, grid, float(stretch[w]))
        up, down = rates_between(levels, grid, float(loads[w]), float(diffusion[w]), k)
        march_window(law, up, down, float(widths[w]), STEPS, averages[w])
    return grid, averages


def _table(rate: float, k: int, law: ServiceTime) -> TabulatedTail:
    """Return the stationary tail, without the part far out where single long services rule.

    That part (of laws without exponential moments, or bounded far out) tells nothing of how backlog moves: the tail
    goes on as that of a gamma law with the same two moments.
    """
    table = tabulated(_stationary(rate, k, law))
    near = math.isinf(law.upper_s) or law.upper_s <= law.mean_s + FAR_BOUND * law.std_s
    if law.mgf_limit_per_s > 0 and near:
        return table
    kept = max(int(np.argmax(table.log_tail <= table.log_tail[0] - KEPT_FOLDS)), 1)
    decay = lundberg_rate(rate, k, ServiceTime.gamma(law.mean_s, law.scv))
    return TabulatedTail(grid=table.grid[: kept + 1], log_tail=table.log_tail[: kept + 1], decay=decay)


def _stationary(rate: float, k: int, law: ServiceTime) -> QueueMetrics:
    """Return M/G/k within a millisecond where that is good enough beside the diffusion's own error."""
    quick = mgk(rate, k, law, "analytic")
    return quick if quick.error_estimate.get("mean", 0.0) <= GOOD_ENOUGH else mgk(rate, k, law)


def _along_paths(
    edges: FloatArray, rates: FloatArray, means: FloatArray, theta: tuple[FloatArray, ...], k: int
) -> TimeVaryingWaits:
    """Return the waits when classes join within thresholds, counted along replays of the profile."""
    share, services, limits = theta
    scales = means / float(share @ services)
    # Past the last threshold only those who always join do, and the longest service is the most that others can add.
    always = np.isinf(limits)
    top = float(limits[~always].max(initial=0.0)) + float(services.max() * scales.max())
    if always.any():
        work, square = float(share[always] @ services[always]), float(share[always] @ services[always] ** 2)
        spread = np.maximum(rates, IDLE_RATE * rates.max()) * square * scales**2 / (2 * k * k)
        top += float(backlog_cells(rates * work * scales / k, np.diff(edges), spread)[-1])
    finite = limits[~always]
    split = max(float(finite.max()), 0.0) if finite.size else top / 2
    grid, cdfs, errors = count_waits_by_window(edges, rates, scales, (share, services, limits), k, (split, top))
    accept, joined_cdfs = _joined(cdfs, grid, theta)
    arrivals = rates * np.diff(edges)
    return TimeVaryingWaits(
        edges_s=edges,
        arrivals=arrivals,
        waits_s=grid,
        cdfs=cdfs,
        accept=accept,
        joined_cdfs=joined_cdfs,
        joined=arrivals * (accept @ share),
        method=f"M_t/G_t/{k} with thresholds: replays of the profile, {rates.size} windows",
        error_estimate=errors,
    )


def _replayed(
    edges: FloatArray, rates: FloatArray, law: ServiceTime, k: int, roughly: tuple[FloatArray, FloatArray]
) -> TimeVaryingWaits | None:
    """Return the waits counted along replays of the profile, None where they met too few to say how good they are.

    `roughly` is a grid and the CDF of all waits.
    """
    values = service_table(law).reshape(VALUES, -1).mean(axis=1)
    classes = np.full(VALUES, 1 / VALUES), values, np.full(VALUES, np.inf)
    top = float(roughly[0][-1]) + float(values[-1])
    split = min(max(2 * _quantile(*roughly, FINE_UP_TO), FINE_SHARE * top), top / 2)
    scales = np.ones(rates.size)
    grid, cdfs, errors = count_waits_by_window(edges, rates, scales, classes, k, (split, top), SHORT_ARRIVALS)
    if not 0 < errors["mean"] < TOO_FEW:
        return None
    how = f"replays of the profile, whose {rates.size} windows last a few services"
    return _all_join(edges, rates * np.diff(edges), (grid, cdfs), f"M_t/G_t/{k}: {how}", errors["mean"])


def _typical(laws: list[ServiceTime], arrivals: FloatArray) -> ServiceTime:
    """Return the law of the window with the median ratio of second moment to mean: the shape for all windows."""
    ratio = np.array([law.moment(2) / law.mean_s for law in laws])
    order = np.argsort(ratio)
    middle = np.searchsorted(np.cumsum(arrivals[order]), arrivals.sum() / 2)
    return laws[int(order[min(int(middle), len(order) - 1)])]


def _checked_classes(classes: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]) -> tuple[FloatArray, ...]:
    share, service, theta = (np.atleast_1d(np.asarray(part, dtype=np.float64)) for part in classes)
    theta = np.broadcast_to(theta, share.shape)
    if share.shape != service.shape or not np.all(share >= 0) or not share.sum() > 0 or np.any(np.isnan(theta)):
        raise InputError(
            "classes", f"shapes {share.shape}, {service.shape}", "shares >= 0, services, thresholds of one shape"
        )
    return share / share.sum(), service, theta


def _joined(cdfs: FloatArray, grid: FloatArray, theta: tuple[FloatArray, ...]) -> tuple[FloatArray, FloatArray]:
    """Return acceptance by window and class and the CDF of the wait of those who join."""
    share, _, limit = theta
    accept = np.array([np.interp(np.clip(limit, 0, None), grid, row) * (limit >= 0) for row in cdfs])
    joined = np.zeros_like(cdfs)
    for p, bound, column in zip(share, limit, accept.T, strict=True):
        joined += p * np.minimum(cdfs, column[:, None]) if bound >= 0 else 0.0
    return accept, joined / np.maximum(joined[:, -1:], 1e-300)

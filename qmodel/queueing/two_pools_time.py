"""Two coupled pools over time: rates that change from window to window, both backlogs carried over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError, UnstableError
from qmodel.queueing.checks import check_array
from qmodel.queueing.pool_answer import TwoPools, counted, described, extrapolated
from qmodel.queueing.pool_grid import (
    PoolInputs,
    Refined,
    border_mass,
    chain_on,
    chain_within,
    checked_inputs,
    keep_share,
    resolves_thresholds,
    trimmed_reach,
)
from qmodel.queueing.pool_replays import count_pools_by_window
from qmodel.queueing.two_pools import Thresholds

__all__ = ["TwoPoolsOverTime", "two_pools_over_time"]

FloatArray = npt.NDArray[np.float64]

#: States of the finest lattice unless the user says otherwise, and cells of the longer backlog while reach is sought.
USUAL_STATES, SCOUT_CELLS = 16_000, 24
#: Mass in the last eighth of an axis, at the worst moment, with which its reach counts as enough; how often it doubles.
BORDER_MASS, DOUBLINGS = 1e-4, 10
#: Margin over the reach that coarse marches show, how often it is trimmed, and states of the lattice that says so.
MARGIN, TRIMS, TRIM_STATES = 1.2, 3, 1_500
#: Part of a step that is rounding.
SLIVER = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoPoolsOverTime:
    """What the arrivals of each window meet, and all of them.

    Parameters
    ----------
    edges_s : ndarray, shape (windows + 1,)
        Window edges [s].
    windows : tuple of TwoPools or None
        Result of each window, averaged over its time; None for a window without arrivals.
    overall : TwoPools
        Result of all arrivals.
    """

    edges_s: FloatArray
    windows: tuple[TwoPools | None, ...]
    overall: TwoPools

    def __repr__(self) -> str:
        return f"TwoPoolsOverTime(windows={len(self.windows)}, overall={self.overall!r})"

    @property
    def window_mean_wait_s(self) -> FloatArray:
        """Mean wait before prefill by window [s]; 0 without arrivals."""
        return np.array([0.0 if pools is None else pools.mean_wait_s for pools in self.windows])

    @property
    def window_deflected(self) -> FloatArray:
        """Deflected share by window; 0 without arrivals."""
        return np.array([0.0 if pools is None else pools.deflected for pools in self.windows])


def two_pools_over_time(
    edges_s: npt.ArrayLike,
    rates_per_s: npt.ArrayLike,
    work_s: npt.ArrayLike,
    host_s: npt.ArrayLike,
    thetas_s: npt.ArrayLike | Thresholds,
    *,
    transfer_s: npt.ArrayLike = 0.0,
    prefill_servers: int = 1,
    decode_servers: int = 1,
    cells: int | None = None,
    reach_s: tuple[float, float] | None = None,
) -> TwoPoolsOverTime:
    """Exact up to the grid (one server a pool) or to sampling noise that is stated: `two_pools` with rates by window.

    From empty backlogs, at any load. One server a pool: the chain of `two_pools` is marched; cost: horizon over step
    times about a millisecond. More servers, or thresholds within a cell of its lattice: the windows are replayed along
    paths, always the same ones, of 2 million arrivals in all and at least 24 replays.

    Parameters
    ----------
    edges_s : array_like, shape (windows + 1,)
        Window edges [s], increasing.
    rates_per_s : array_like, shape (windows, classes)
        Poisson rate of each class in each window [1/s].
    work_s, host_s, thetas_s, transfer_s, prefill_servers, decode_servers
        As in `two_pools`.
    cells : int, optional
        Cells of the longer backlog; by default so many that the lattice has about 16,000 states.
    reach_s : tuple of float, optional
        Longest prefill and decode wait on the lattice [s]; found by coarse marches when absent.

    Returns
    -------
    TwoPoolsOverTime
        Results by window and of all arrivals.

    Raises
    ------
    InputError
        When edges, rates, times or thresholds are not what they should be.
    UnstableError
        When backlogs outgrow any sensible lattice.

    Examples
    --------
    >>> out = two_pools_over_time([0.0, 30.0, 60.0], [[1.0], [6.0]], [0.2], [0.3], 0.5, cells=32)
    >>> bool(out.window_deflected[1] > 2 * out.window_deflected[0])
    True
    """
    edges, rates = check_array("window edges", edges_s), check_array("rates of windows", rates_per_s)
    if edges.ndim != 1 or edges.size < 2 or not (np.all(np.isfinite(edges)) and np.all(np.diff(edges) > 0)):
        raise InputError("window edges", f"of shape {edges.shape}", "finite, increasing, two or more")
    if rates.ndim != 2 or rates.shape[0] != edges.size - 1:
        raise InputError("rates by window and class", f"of shape {rates.shape}", f"({edges.size - 1}, classes)")
    if not np.all(np.isfinite(rates) & (rates >= 0)) or not rates.sum() > 0:
        raise InputError("rate of a window", "negative, not finite or all zero", "finite, >= 0, not all zero")
    widths = np.diff(edges)
    mean = widths @ rates / widths.sum()
    options = (transfer_s, prefill_servers, decode_servers, cells, reach_s)
    inputs = checked_inputs(mean, work_s, host_s, thetas_s, *options, stable=False)
    if max(inputs.prefill_servers, inputs.decode_servers) > 1:
        return _replayed(inputs, edges, rates, cells, reach_s)
    reach = _reach(inputs, edges, rates) if reach_s is None else reach_s
    step = max(reach) / cells if cells else math.sqrt(reach[0] * reach[1] / USUAL_STATES)
    resolved = resolves_thresholds(inputs, step)
    if cells is None and reach_s is None and not resolved:
        return _replayed(inputs, edges, rates, cells, reach_s)
    fine, coarse = (_results(inputs, rates, _march(inputs, edges, rates, reach, s)) for s in (step, 2 * step))
    both = (_together(found, rates, widths, mean) for found in (fine, coarse))
    overall = extrapolated(*both, resolved=resolved)
    windows = tuple(
        None if one is None or two is None else extrapolated(one, two, resolved=resolved)
        for one, two in zip(fine, coarse, strict=True)
    )
    return TwoPoolsOverTime(edges_s=edges, windows=windows, overall=overall)


def _replayed(
    inputs: PoolInputs,
    edges: FloatArray,
    rates: FloatArray,
    cells: int | None,
    reach_s: tuple[float, float] | None,
) -> TwoPoolsOverTime:
    """Return what arrivals meet along sample paths."""
    laws, errors = count_pools_by_window(inputs, edges, rates)
    reach = reach_s or (float(laws[0].prefill_edges_s[-1]), float(laws[0].decode_edges_s[-1]))
    chain = chain_within(inputs, cells, reach, np.full(inputs.rates_per_s.size, 0.5))
    windows = [
        counted(replace(inputs, rates_per_s=rate), law, chain) if rate.sum() > 0 else None
        for rate, law in zip(rates, laws, strict=True)
    ]
    overall = _together(windows, rates, np.diff(edges), inputs.rates_per_s)
    return TwoPoolsOverTime(edges_s=edges, windows=tuple(windows), overall=replace(overall, error_estimate=errors))


def _results(inputs: PoolInputs, rates: FloatArray, laws: list[Refined]) -> list[TwoPools | None]:
    """Return the result of each window, None for those without arrivals."""
    found: list[TwoPools | None] = []
    for rate, solved in zip(rates, laws, strict=True):
        here = replace(inputs, rates_per_s=rate)
        found.append(described(here, replace(solved, inputs=here)) if rate.sum() > 0 else None)
    return found


def _march(
    inputs: PoolInputs, edges: FloatArray, rates: FloatArray, reach: tuple[float, float], step: float
) -> list[Refined]:
    """Return the law of each window, averaged over its steps."""
    sizes = (max(math.ceil(reach[0] / step), 8), max(math.ceil(reach[1] / step), 8))
    chain = chain_on(inputs, step, sizes, np.full(inputs.rates_per_s.size, 0.5))
    share = keep_share(inputs, chain)
    law = np.zeros(chain.states)
    law[0] = 1.0
    bounds = (edges - edges[0]) / step
    totals = [np.zeros(chain.states) for _ in rates]
    known: dict[int, Callable[[FloatArray], FloatArray]] = {}
    for n in range(math.ceil(bounds[-1] * (1 - 1e-12))):
        # A step that several windows share has their mean rate, so that no arrival is lost.
        parts = np.clip(np.minimum(bounds[1:], n + 1) - np.maximum(bounds[:-1], n), 0.0, 1.0)
        some = np.flatnonzero(parts > SLIVER)
        if some.size == 1 and parts[some[0]] > 1 - SLIVER:
            only = int(some[0])
            if only not in known:
                known = {only: chain.step(share, rates[only])}
            carried = known[only]
        else:
            carried = chain.step(share, parts @ rates)
        before, law = law, carried(law)
        for w in some:
            totals[w] += 0.5 * parts[w] * (before + law)
    return [Refined(inputs=inputs, chain=chain, law=(total / total.sum()).reshape(chain.shape)) for total in totals]


def _reach(inputs: PoolInputs, edges: FloatArray, rates: FloatArray) -> tuple[float, float]:
    """Return how far the lattice must reach for every window [s], by coarse marches."""
    used = inputs.rates_per_s > 0
    work, host = float(inputs.work_s[used].max()), float(inputs.host_s[used].max())
    reach = (2 * work, 2 * max(host, work / SCOUT_CELLS))
    for _ in range(DOUBLINGS):
        least = max(reach) / 3
        reach = (max(reach[0], least), max(reach[1], least))
        laws = _march(inputs, edges, rates, reach, max(reach) / SCOUT_CELLS)
        borders = [border_mass(solved.lattice_law()) for solved in laws]
        worst = (max(one for one, _ in borders), max(two for _, two in borders))
        if max(worst) <= BORDER_MASS:
            for _ in range(TRIMS):
                reach = _trimmed(reach, laws)
                laws = _march(inputs, edges, rates, reach, math.sqrt(reach[0] * reach[1] / TRIM_STATES))
            return _trimmed(reach, laws)
        reach = (reach[0] * (1 + (worst[0] > BORDER_MASS)), reach[1] * (1 + (worst[1] > BORDER_MASS)))
    raise UnstableError(
        f"probability of a backlog near {max(reach):.3g} s", max(worst), f"below {BORDER_MASS:g}", "give reach_s"
    )


def _trimmed(reach: tuple[float, float], laws: list[Refined]) -> tuple[float, float]:
    """Return the part of a reach that some window needs, with a margin."""
    one = max(trimmed_reach(solved.lattice_law().sum(axis=1), reach[0]) for solved in laws)
    two = max(trimmed_reach(solved.lattice_law().sum(axis=0), reach[1]) for solved in laws)
    return min(MARGIN * one, reach[0]), min(MARGIN * two, reach[1])


def _together(results: list[TwoPools | None], rates: FloatArray, widths: FloatArray, mean: FloatArray) -> TwoPools:
    """Return the result of all arrivals: each class's laws weighted by its arrivals in each window."""
    some = [(pools, rate * width) for pools, rate, width in zip(results, rates, widths, strict=True) if pools]
    arrivals = np.array([count for _, count in some])
    share = arrivals / np.maximum(arrivals.sum(axis=0), 1e-300)
    total = arrivals.sum(axis=1) / arrivals.sum()
    first = some[0][0]
    return replace(
        first,
        rates_per_s=mean,
        law=np.asarray(np.tensordot(total, np.array([pools.law for pools, _ in some]), axes=1)),
        kept=np.einsum("wb,wbi->bi", share, np.array([pools.kept for pools, _ in some])),
        moved=np.einsum("wb,wbi->bi", share, np.array([pools.moved for pools, _ in some])),
        method=f"{first.method}, marched over {len(results)} windows",
    )

"""Lattices for two coupled pools: how far they reach, their policy, and the fixed point of the admitted work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError, UnstableError
from qmodel.queueing.checks import check_array, check_servers, check_whole
from qmodel.queueing.pool_axis import PoolAxis, ResidualLaw
from qmodel.queueing.pool_chain import DIRECT_STATES, PoolChain

__all__ = [
    "PoolInputs",
    "Refined",
    "border_mass",
    "chain_on",
    "chain_within",
    "checked_inputs",
    "keep_share",
    "resolves_thresholds",
    "solve_refined",
    "step_within",
    "trimmed_reach",
]

FloatArray = npt.NDArray[np.float64]

#: Cells per axis while the reach is sought, and how often it may double.
SCOUT_CELLS, DOUBLINGS = 20, 12
#: Arrivals a cell beyond which a reach that still has to grow is taken for a backlog without bound.
GROWN_ARRIVALS = 60.0
#: Mass in the last eighth of an axis with which its reach counts as enough.
BORDER_MASS = 1e-4
#: Mass beyond the reach of the finest lattice, as far as the scout sees it; cells of an axis at least, and at most.
TRIMMED_MASS, LEAST_CELLS, MOST_CELLS = 2e-6, 8, 1024
#: States of the finest lattice unless the user says otherwise: as many as keep to one arrival a step between these
#: two; and the most there may be.
LEAST_STATES, ENOUGH_STATES, MOST_STATES = 5_000, 9_000, 250_000
#: Iterations and tolerance of the share of classes in the admitted work.
MIX_STEPS, MIX_TOLERANCE = 30, 1e-2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolInputs:
    """Checked arguments of `two_pools`; `thetas` is always a function of the decode wait."""

    rates_per_s: FloatArray
    work_s: FloatArray
    host_s: FloatArray
    transfer_s: FloatArray
    thetas: Callable[[FloatArray], npt.ArrayLike]
    prefill_servers: int
    decode_servers: int

    def theta_s(self, decode_wait_s: FloatArray) -> FloatArray:
        """Return thresholds [s], shape (classes, waits)."""
        found = np.asarray(self.thetas(decode_wait_s), dtype=np.float64)
        if found.shape != (self.rates_per_s.size, decode_wait_s.size) or np.isnan(found).any():
            raise InputError(
                "thresholds by decode wait",
                f"of shape {found.shape}" if not np.isnan(found).any() else math.nan,
                f"numbers of shape ({self.rates_per_s.size}, {decode_wait_s.size}): classes, waits",
            )
        return found


def checked_inputs(
    rates_per_s: npt.ArrayLike,
    work_s: npt.ArrayLike,
    host_s: npt.ArrayLike,
    thetas_s: npt.ArrayLike | Callable[[FloatArray], npt.ArrayLike],
    transfer_s: npt.ArrayLike,
    prefill_servers: int,
    decode_servers: int,
    cells: int | None,
    reach_s: tuple[float, float] | None,
    *,
    stable: bool = True,
) -> PoolInputs:
    """Return the arguments of `two_pools` when they make sense (and can be `stable`), else raise a QModelError."""
    rates = np.atleast_1d(check_array("rates of classes", rates_per_s))
    if rates.ndim != 1 or not np.all(np.isfinite(rates) & (rates >= 0)) or not rates.sum() > 0:
        raise InputError("rates of classes", "negative, not finite or all zero", "finite, >= 0, one per class")
    thetas = thetas_s if callable(thetas_s) else _constant(thetas_s, rates.size)
    work, transfer = (
        _times(name, a, rates.size) for name, a in (("prefill work", work_s), ("transfer time", transfer_s))
    )
    always = np.all(check_array("thresholds", thetas(np.zeros(1))) == math.inf, axis=-1)
    host = check_array("host time", host_s)
    if host.shape in ((), (1,), rates.shape):
        # A class that is never deflected needs no host time.
        host = np.where(always & np.isinf(host), 0.0, host)
    host = _times("host time", host, rates.size)
    if not (rates * work).sum() > 0:
        raise InputError("prefill work", "zero for every class", "> 0 for some class that arrives")
    if cells is not None and not check_whole("cells", cells, 2 * LEAST_CELLS) <= MOST_CELLS:
        raise InputError("cells", cells, f"a whole number from {2 * LEAST_CELLS} to {MOST_CELLS}")
    if reach_s is not None:
        reach = check_array("reach_s", reach_s)
        if reach.shape != (2,) or not np.all(np.isfinite(reach) & (reach > 0)):
            raise InputError("reach_s", str(reach_s), "two finite times > 0")
    inputs = PoolInputs(
        rates_per_s=rates,
        work_s=work,
        host_s=host,
        transfer_s=transfer,
        thetas=thetas,
        prefill_servers=check_servers(prefill_servers),
        decode_servers=check_servers(decode_servers),
    )
    if stable:
        _check_stability(inputs)
    return inputs


def _constant(thetas_s: npt.ArrayLike, classes: int) -> Callable[[FloatArray], FloatArray]:
    thetas = check_array("thresholds", thetas_s)
    if np.isnan(thetas).any() or thetas.shape not in ((), (1,), (classes,)):
        raise InputError("thresholds", f"of shape {thetas.shape}", f"numbers, one or one for each of {classes} classes")
    column = np.broadcast_to(thetas, (classes,))[:, None]
    return lambda waits: np.broadcast_to(column, (classes, waits.size))


def _times(name: str, value: npt.ArrayLike, classes: int) -> FloatArray:
    times = check_array(name, value)
    if times.shape not in ((), (1,), (classes,)) or not np.all(np.isfinite(times) & (times >= 0)):
        bad = times[~(np.isfinite(times) & (times >= 0))]
        shown = float(bad.ravel()[0]) if bad.size else f"of shape {times.shape}"
        raise InputError(name, shown, f"finite and >= 0, one or one for each of {classes} classes")
    return np.array(np.broadcast_to(times, (classes,)))


def _check_stability(inputs: PoolInputs) -> None:
    """Raise UnstableError when classes that thresholds never move overload a pool by themselves."""
    far = inputs.theta_s(np.array([0.0, 1e9]))
    for stuck, work, servers, pool in (
        (np.all(far == math.inf, axis=1), inputs.work_s, inputs.prefill_servers, "classes that prefill always keeps"),
        (np.all(far < 0, axis=1), inputs.host_s, inputs.decode_servers, "classes that are always deflected"),
    ):
        load = float(inputs.rates_per_s[stuck] @ work[stuck]) / servers
        if load >= 1:
            raise UnstableError(f"load of the {pool}", load, "below 1", "give them thresholds, or more servers")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Refined:
    """A chain, the policy on its states and its law."""

    inputs: PoolInputs
    chain: PoolChain
    law: FloatArray

    def by_class(self) -> tuple[FloatArray, FloatArray]:
        """Return P(kept, waiting so long at prefill) and P(deflected, waiting so long at decode), by class."""
        share = keep_share(self.inputs, self.chain, seen=True)
        kept = (self.law * share).sum(axis=2)
        moved = (self.law * (1 - share)).sum(axis=1)
        return _merged(kept, self.chain.prefill.servers), _merged(moved, self.chain.decode.servers)

    def lattice_law(self) -> FloatArray:
        """Return the joint law of the waits, states without a wait taken together."""
        return _merged(_merged(self.law, self.chain.decode.servers).T, self.chain.prefill.servers).T


def _merged(mass: FloatArray, servers: int) -> FloatArray:
    """Return mass by wait: the first `servers` states of the last axis, which have none, taken together."""
    return np.asarray(np.concatenate([mass[..., :servers].sum(axis=-1, keepdims=True), mass[..., servers:]], axis=-1))


def keep_share(inputs: PoolInputs, chain: PoolChain, *, seen: bool = False) -> FloatArray:
    """Return the probability that an arrival of each class is kept, by state.

    An arrival within a step finds both waits fallen by half a step on average. With `seen` the states stand for the
    waits around them instead, as laws of what arrivals see are read.
    """
    step, k = chain.step_s, chain.prefill.servers
    wait, beside = chain.prefill.wait_s, chain.decode.wait_s
    if seen:
        theta = inputs.theta_s(beside)[:, None, :]
        gap = np.clip((theta - wait[:, None]) / step, -1.0, 1.0)
        share = np.where(gap < 0, (1 + gap) ** 2 / 2, 1 - (1 - gap) ** 2 / 2)
    else:
        theta = inputs.theta_s(np.maximum(beside - step / 2, 0.0))[:, None, :]
        share = np.clip((theta - wait[:, None]) / step + 1, 0.0, 1.0)
    share[:, :k] = theta >= 0
    return np.asarray(share)


def chain_on(inputs: PoolInputs, step: float, cells: tuple[int, int], admitted: FloatArray) -> PoolChain:
    """Return the chain on a lattice when the share `admitted` of each class is kept."""
    rates = inputs.rates_per_s
    axes = []
    for servers, size, work, flow in (
        (inputs.prefill_servers, cells[0], inputs.work_s, rates * admitted),
        (inputs.decode_servers, cells[1], inputs.host_s, rates * (1 - admitted)),
    ):
        total = float(flow.sum())
        if not float(flow @ work) > 0:
            # Nothing is admitted: the law of what might be hardly matters.
            flow, total = rates, float(rates.sum())
        residual = ResidualLaw.of(work, flow, servers - 1)
        mean = float(flow @ work) / total
        axes.append(PoolAxis(step_s=step, cells=size, servers=servers, mean_work_s=mean, residual=residual))
    return PoolChain(
        step_s=step,
        prefill=axes[0],
        decode=axes[1],
        rates_per_s=rates,
        work_s=inputs.work_s,
        host_s=inputs.host_s,
        transfer_s=inputs.transfer_s,
    )


def _solved(
    inputs: PoolInputs, step: float, cells: tuple[int, int], admitted: FloatArray, start: FloatArray | None
) -> Refined:
    chain = chain_on(inputs, step, cells, admitted)
    coarse, ratio = None, 1
    while chain.states > DIRECT_STATES and (coarse is None or coarse.states > DIRECT_STATES):
        ratio += 1
        coarse = chain_on(inputs, step * ratio, (math.ceil(cells[0] / ratio), math.ceil(cells[1] / ratio)), admitted)
    beside = None if coarse is None else (coarse, keep_share(inputs, coarse))
    return Refined(inputs=inputs, chain=chain, law=chain.stationary(keep_share(inputs, chain), start, beside))


def _fixed_mix(
    inputs: PoolInputs, step: float, cells: tuple[int, int], admitted: FloatArray, start: FloatArray | None
) -> tuple[Refined, FloatArray]:
    """Return the law for which the admitted work is the one that it admits."""
    for _ in range(MIX_STEPS):
        found = _solved(inputs, step, cells, admitted, start)
        now = found.by_class()[0].sum(axis=1)
        if inputs.prefill_servers == inputs.decode_servers == 1 or np.abs(now - admitted).max() < MIX_TOLERANCE:
            break
        # Halfway: the full step may swing between two mixes.
        admitted, start = (admitted + now) / 2, found.law
    return found, now


def solve_refined(
    inputs: PoolInputs, cells: int | None, reach_s: tuple[float, float] | None
) -> tuple[Refined, Refined]:
    """Return the laws on the finest lattice and on one twice as coarse."""
    if reach_s is not None:
        return _two_levels(inputs, cells, reach_s, None, np.full(inputs.rates_per_s.size, 0.5))
    reach, scout, admitted = _scouted(inputs)
    for _ in range(DOUBLINGS):
        fine, coarse = _two_levels(inputs, cells, reach, scout, admitted)
        border = border_mass(fine.lattice_law())
        if max(border) <= BORDER_MASS:
            return fine, coarse
        # The scout's coarse cells saw too little: reach further where mass is left.
        reach = (reach[0] * (1.5 if border[0] > BORDER_MASS else 1), reach[1] * (1.5 if border[1] > BORDER_MASS else 1))
    raise _unbounded(reach, max(border))


def _two_levels(
    inputs: PoolInputs, cells: int | None, reach: tuple[float, float], scout: Refined | None, admitted: FloatArray
) -> tuple[Refined, Refined]:
    step = 2 * (max(reach) / cells if cells else step_within(inputs, reach))
    sizes = _sizes(inputs, reach, step)
    begin = None if scout is None else _carried(scout, step, sizes)
    coarse, admitted = _fixed_mix(inputs, step, sizes, admitted, begin)
    fine_sizes = (2 * sizes[0], 2 * sizes[1])
    fine = _solved(inputs, step / 2, fine_sizes, admitted, _carried(coarse, step / 2, fine_sizes))
    return fine, coarse


def step_within(inputs: PoolInputs, reach: tuple[float, float]) -> float:
    """Return the step of the finest lattice of the usual size [s]."""
    area, rate = reach[0] * reach[1], float(inputs.rates_per_s.sum())
    return math.sqrt(area / min(max(area * rate**2, LEAST_STATES), ENOUGH_STATES))


def resolves_thresholds(inputs: PoolInputs, step: float) -> bool:
    """Return whether no threshold of a class that arrives lies within a step: there waits are not told apart."""
    theta = inputs.theta_s(np.zeros(1))[inputs.rates_per_s > 0]
    return not bool(np.any((theta >= 0) & (theta < step)))


def _sizes(inputs: PoolInputs, reach: tuple[float, float], step: float) -> tuple[int, int]:
    """Return the cells of either axis when the lattice may be refined once."""
    sizes = (max(math.ceil(reach[0] / step), LEAST_CELLS), max(math.ceil(reach[1] / step), LEAST_CELLS))
    size = 4 * (sizes[0] + inputs.prefill_servers) * (sizes[1] + inputs.decode_servers)
    if size > MOST_STATES:
        raise InputError("states of the lattice", size, f"at most {MOST_STATES:,}", "use fewer cells or servers")
    return sizes


def chain_within(inputs: PoolInputs, cells: int | None, reach: tuple[float, float], admitted: FloatArray) -> PoolChain:
    """Return the chain on the finest lattice that reaches so far, when the share `admitted` of each class is kept."""
    step = 2 * (max(reach) / cells if cells else step_within(inputs, reach))
    sizes = _sizes(inputs, reach, step)
    return chain_on(inputs, step / 2, (2 * sizes[0], 2 * sizes[1]), admitted)


def border_mass(law: FloatArray) -> tuple[float, float]:
    """Return the mass in the last eighth of either axis."""
    one, two = (max(size // 8, 1) for size in law.shape)
    return float(law[-one:].sum()), float(law[:, -two:].sum())


def _unbounded(reach: tuple[float, float], mass: float) -> UnstableError:
    return UnstableError(
        f"probability of a backlog near {max(reach):.3g} s under these thresholds",
        mass,
        f"below {BORDER_MASS:g}",
        "backlogs seem to grow without bound: deflect earlier or less, or add servers",
    )


def _scouted(inputs: PoolInputs) -> tuple[tuple[float, float], Refined, FloatArray]:
    """Return how far the lattice must reach on either axis [s], and the coarse law that says so."""
    used = inputs.rates_per_s > 0
    largest = [float(a[used].max()) for a in (inputs.work_s, inputs.host_s)]
    reach = (2 * largest[0], 2 * max(largest[1], largest[0] / SCOUT_CELLS))
    admitted, start = np.full(used.size, 0.5), None
    for _ in range(DOUBLINGS):
        least = max(reach) * LEAST_CELLS / SCOUT_CELLS
        reach = (max(reach[0], least), max(reach[1], least))
        step = max(reach) / SCOUT_CELLS
        sizes = (math.ceil(reach[0] / step), math.ceil(reach[1] / step))
        found, admitted = _fixed_mix(inputs, step, sizes, admitted, start)
        law = found.lattice_law()
        border = border_mass(law)
        if max(border) <= BORDER_MASS:
            return (trimmed_reach(law.sum(axis=1), reach[0]), trimmed_reach(law.sum(axis=0), reach[1])), found, admitted
        if found.chain.arrivals_per_step > GROWN_ARRIVALS:
            break
        reach = (reach[0] * (1 + (border[0] > BORDER_MASS)), reach[1] * (1 + (border[1] > BORDER_MASS)))
    raise _unbounded(reach, max(border))


def trimmed_reach(mass: FloatArray, reach: float) -> float:
    """Return the part of a reach that matters, with a margin of two cells."""
    beyond = np.cumsum(mass[::-1])[::-1]
    cell = reach / (mass.size - 1)
    return float(min(reach, cell * (1.15 * np.count_nonzero(beyond > TRIMMED_MASS) + 2)))


def _carried(found: Refined, step: float, cells: tuple[int, int]) -> FloatArray:
    """Return the law of another lattice as a start on this one."""
    law = found.law
    for axis, (pool, size) in enumerate(((found.chain.prefill, cells[0]), (found.chain.decode, cells[1]))):
        k, ratio = pool.servers, step / pool.step_s
        at = np.minimum(np.arange(1, size + 1) * ratio, pool.cells)
        below = np.minimum(at.astype(int), pool.cells - 1)
        part = np.expand_dims(at - below, 1 - axis)
        # Density between the points of the other lattice, linear; its first cell holds no mass at 0.
        waits = np.take(law, np.arange(k - 1, k + pool.cells), axis)
        inner = np.concatenate([np.take(waits, [1], axis), np.take(waits, np.arange(1, pool.cells + 1), axis)], axis)
        spread = ratio * ((1 - part) * np.take(inner, below, axis) + part * np.take(inner, below + 1, axis))
        law = np.concatenate([np.take(law, np.arange(k), axis), spread], axis)
    return np.asarray(law / law.sum())

"""Stage 1 with several pools: the static split over GPU types and SLO classes, with a share for each pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qmodel.laws import Calibration
from qmodel.optimization.bins import WorkloadLike, binned, transfer_part_s
from qmodel.optimization.chunks import NO_SCHEDULE_S, chunk_schedule
from qmodel.optimization.decode_state import DecodeState, decode_state
from qmodel.optimization.problem import MAX_LOAD, MOST_HOSTED, NO_TARGET_S
from qmodel.scenario import SLO, Cluster

__all__ = [
    "ClassLoad",
    "Pool",
    "PoolProblem",
    "decode_rates",
    "pool_problem",
]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassLoad:
    """The requests of one SLO class.

    Parameters
    ----------
    workload : WorkloadLike
        Rate and lengths.
    slo : SLO
        Its objectives and weight.
    """

    workload: WorkloadLike
    slo: SLO


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Equal instances of one kind; arrays have one entry per bin.

    Parameters
    ----------
    name : str
        E.g. ``decode h100``.
    decode : bool
        Whether it decodes, so that what it takes is deflected.
    count : float
        Instances; may be fractional, for shadow prices.
    service_s, service2_s2 : ndarray
        Mean and mean square of the time that a prompt of a bin keeps an instance [s], [s^2].
    after_s : ndarray
        What follows it before the first step: the transfer of a kept prompt [s].
    steps : ndarray
        Steps of its chunk schedule; 0 at prefill.
    kv_tokens : ndarray
        Cache it holds meanwhile [tokens].
    usable : ndarray of bool
        Whether a TBT-safe chunk schedule exists.
    room_tokens : float
        Cache for such prompts on an instance [tokens].
    state : DecodeState, optional
        Mean state of a decode instance.
    """

    name: str
    decode: bool
    count: float
    service_s: FloatArray
    service2_s2: FloatArray
    after_s: FloatArray
    steps: FloatArray
    kv_tokens: FloatArray
    usable: npt.NDArray[np.bool_]
    room_tokens: float
    state: DecodeState | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PoolProblem:
    """Data of the linear program over pools.

    Parameters
    ----------
    rate_per_s, weights, tokens, upper_tokens : ndarray, shape (n_bins,)
        Arrivals [1/s], what a second of TTFT is worth, mean tokens to prefill and longest prompt of each bin [tokens].
    of_class : ndarray of int
        SLO class of each bin.
    pools : tuple of Pool
        Prefill pools, then decode pools.
    tbt_s : float
        Strictest TBT SLO [s].
    """

    rate_per_s: FloatArray
    weights: FloatArray
    tokens: FloatArray
    upper_tokens: FloatArray
    of_class: npt.NDArray[np.intp]
    pools: tuple[Pool, ...]
    tbt_s: float

    @cached_property
    def row_names(self) -> tuple[str, ...]:
        """Names of the constraints, in order."""
        names: list[str] = []
        for pool in self.pools:
            kinds = ("wait", "load", "mean step", "KV cache") if pool.decode else ("wait", "load", "KV cache")
            names += [f"{kind} of {pool.name}" for kind in kinds]
        return tuple(names)

    def rows(self, waits_s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return rows and limits on the shares, flattened pool by pool, at target waits.

        Parameters
        ----------
        waits_s : ndarray
            Target mean wait of each pool [s].
        """
        n, lam = len(self.rate_per_s), self.rate_per_s
        rows, limits = [], []
        for g, (pool, w) in enumerate(zip(self.pools, waits_s, strict=True)):
            s, per = np.where(pool.usable, pool.service_s, 0.0), lam / pool.count
            mine = [(per * (np.where(pool.usable, pool.service2_s2, 0.0) + 2 * w * s), 2 * w), (per * s, MAX_LOAD)]
            if pool.state is not None:
                T = pool.state.step_s
                mine.append((per * (s / T - pool.steps), 1 / T - 1 / self.tbt_s))
            held = s if pool.decode else s + pool.after_s
            mine.append((per * held * pool.kv_tokens, pool.room_tokens))
            for row, limit in mine:
                wide = np.zeros((len(self.pools), n))
                wide[g] = row
                rows.append(wide.ravel())
                limits.append(limit)
        return np.array(rows), np.array(limits, dtype=float)

    def cost_of(self, waits_s: FloatArray) -> FloatArray:
        """Return the cost of each share at target waits, flattened pool by pool."""
        worth = self.rate_per_s * self.weights
        parts = [
            worth * (np.where(pool.usable, pool.service_s, 0.0) + pool.after_s + w)
            for pool, w in zip(self.pools, waits_s, strict=True)
        ]
        return np.concatenate(parts)

    def waits_s(self, shares: FloatArray) -> FloatArray:
        """Return the Pollaczek-Khinchine wait of each pool at shares of shape (n_pools, n_bins) [s]."""
        found = []
        for pool, x in zip(self.pools, shares, strict=True):
            per = self.rate_per_s / pool.count * np.where(pool.usable, x, 0.0)
            load = float(per @ pool.service_s)
            found.append(float(per @ pool.service2_s2) / (2 * (1 - load)) if load < 1 else NO_TARGET_S)
        return np.clip(found, 1e-6, NO_TARGET_S)

    def loads(self, shares: FloatArray) -> FloatArray:
        """Return the load of each pool at shares of shape (n_pools, n_bins)."""
        return np.array([
            float((self.rate_per_s / pool.count * np.where(pool.usable, x, 0.0)) @ pool.service_s)
            for pool, x in zip(self.pools, shares, strict=True)
        ])  # fmt: skip

    def cost(self, shares: FloatArray) -> FloatArray:
        """Return the weighted mean number of requests in or before their prefill at shares (..., n_pools, n_bins)."""
        worth = self.rate_per_s * self.weights
        total = np.zeros(shares.shape[:-2])
        for g, pool in enumerate(self.pools):
            x, s = shares[..., g, :], np.where(pool.usable, pool.service_s, 0.0)
            load = x @ (self.rate_per_s * s) / pool.count
            squares = np.where(pool.usable, pool.service2_s2, 0.0)
            wait = x @ (self.rate_per_s * squares) / pool.count / (2 * np.maximum(1 - load, 1e-12))
            wait = np.where(load <= MAX_LOAD, wait, NO_TARGET_S * load)
            total += x @ (worth * (s + pool.after_s)) + (x @ worth) * wait
        return total

    def spread(self, kept: FloatArray) -> FloatArray:
        """Return shares (..., n_pools, n_bins) of kept shares of the bins, pools of a kind being loaded alike."""
        n = len(self.rate_per_s)
        speed = np.array([np.where(p.usable, p.count / np.maximum(p.service_s, 1e-12), 0.0) for p in self.pools])
        out = np.empty((*kept.shape[:-1], len(self.pools), n))
        for decode in (False, True):
            of_kind = np.array([pool.decode == decode for pool in self.pools])
            total = speed[of_kind].sum(axis=0)
            part = speed[of_kind] / np.where(total > 0, total, 1.0)
            out[..., of_kind, :] = ((1 - kept) if decode else kept)[..., None, :] * part
        return out

    def slowdowns(self, shares: FloatArray) -> dict[str, float]:
        """Return each decode pool's mean step over the step without chunks, from the time that hosted chunks add."""
        found = {}
        for pool, x in zip(self.pools, shares, strict=True):
            if pool.state is not None:
                s = np.where(pool.usable, pool.service_s, 0.0)
                added = float(x @ (self.rate_per_s * (s - pool.steps * pool.state.step_s))) / pool.count
                found[pool.name] = 1.0 / (1.0 - min(max(added, 0.0), MOST_HOSTED))
        return found

    @property
    def free(self) -> npt.NDArray[np.intp]:
        """Bins that some decode pool can host."""
        usable = np.any([pool.usable for pool in self.pools if pool.decode], axis=0)
        return np.flatnonzero(usable)


def decode_rates(calibrations: Sequence[Calibration], rate_per_s: float, workload: WorkloadLike) -> FloatArray:
    """Return how a rate divides over decode instances that hold equally many requests; *approximation* of that routing.

    With B residents each, instance q ends B/(E[O]*T_q(B)) requests a second; B is where these add up to the rate.

    Parameters
    ----------
    calibrations : sequence of Calibration
        One per instance.
    rate_per_s : float
        All requests [1/s].
    workload : WorkloadLike
        Lengths.

    Returns
    -------
    ndarray
        Requests per second of each instance [1/s].
    """
    prompt, output, _, weights = (np.asarray(x, dtype=float) for x in workload.lengths())
    outputs = float(weights @ output)
    context = float(weights @ (output * (prompt + output / 2))) / outputs

    def rates(batch: float) -> FloatArray:
        steps = np.array([float(c.decode_step_s(max(batch, 1.0), max(batch, 1.0) * context)) for c in calibrations])
        return batch / (outputs * steps)

    low, high = 0.0, 1.0
    while rates(high).sum() < rate_per_s and high < 1e5:
        high *= 2
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rates(middle).sum() < rate_per_s else (low, middle)
    found = rates(high)
    return np.asarray(rate_per_s * found / found.sum())


def pool_problem(
    cluster: Cluster,
    classes: Sequence[ClassLoad],
    mixed: WorkloadLike,
    chunks: tuple[int, ...],
    bins: int = 20,
    counts: Mapping[str, float] | None = None,
    slowdowns: Mapping[str, float] | None = None,
) -> PoolProblem:
    """Return the data of the linear program for the groups of a cluster and the classes of a workload.

    Parameters
    ----------
    cluster : Cluster
        Groups of instances.
    classes : sequence of ClassLoad
        Requests by SLO class.
    mixed : WorkloadLike
        All of them together, for the decode state.
    chunks : tuple of int
        Candidate chunks [tokens], largest first.
    bins : int
        Prompt bins of each class.
    counts : mapping, optional
        Instances of some pools by name, instead of the cluster's.
    slowdowns : mapping, optional
        Mean decode step of some pools over the step without hosted chunks, by name; 1 by default.

    Returns
    -------
    PoolProblem
        Host times at the mean state of each decode pool.
    """
    tbt = min(c.slo.tbt_s for c in classes)
    parts = [binned(cluster, c.workload, bins) for c in classes]
    sizes = [int(p[3].max()) + 1 for p in parts]
    offset = np.concatenate([[0], np.cumsum(sizes)])
    fresh, held, mass = (np.concatenate([p[i] for p in parts]) for i in range(3))
    bin_of = np.concatenate([p[3] + offset[i] for i, p in enumerate(parts)])
    total = np.bincount(bin_of, weights=mass)
    rate = np.concatenate([np.full(size, c.workload.rate_per_s) for size, c in zip(sizes, classes, strict=True)])

    def mean(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(bin_of, weights=mass * values) / total)

    upper = np.zeros(len(total))
    np.maximum.at(upper, bin_of, fresh + held)
    tokens, kv, everything = mean(fresh), mean(fresh + held), np.ones(len(total), dtype=bool)
    pools = []
    for name, count, calibration in _groups("prefill", cluster.prefill_calibrations):
        alone = replace(cluster, prefill=max(1, round(count)), calibration=calibration)
        work = np.asarray(alone.work_s(fresh + held, held))
        pools.append(Pool(
            name=name, decode=False, count=(counts or {}).get(name, count), service_s=mean(work),
            service2_s2=mean(work**2), after_s=mean(transfer_part_s(alone, fresh + held, held)),
            steps=np.zeros(len(total)), kv_tokens=kv, usable=everything,
            room_tokens=float(calibration.kv_capacity_tokens),
        ))  # fmt: skip
    grouped = _groups("decode", cluster.decode_calibrations)
    wanted = [(counts or {}).get(name, count) for name, count, _ in grouped]
    each = _rates_by_group(grouped, wanted, mixed)
    for (name, _, calibration), count, own in zip(grouped, wanted, each, strict=True):
        slowdown = (slowdowns or {}).get(name, 1.0)
        state = decode_state(calibration, own, mixed.lengths(), cluster.max_num_seqs, slowdown)
        schedule = chunk_schedule(calibration, tokens, [state.batch], [state.context_tokens], tbt, chunks)
        host, usable = schedule.host_s[:, 0], schedule.host_s[:, 0] < NO_SCHEDULE_S
        pools.append(Pool(
            name=name, decode=True, count=count, service_s=host, service2_s2=host**2, after_s=np.zeros(len(total)),
            steps=np.where(usable, schedule.steps[:, 0], 0.0), kv_tokens=kv, usable=usable,
            room_tokens=float(calibration.kv_capacity_tokens) - state.context_tokens, state=state,
        ))  # fmt: skip
    return PoolProblem(
        rate_per_s=rate * total,
        weights=np.concatenate([np.full(size, c.slo.weight) for size, c in zip(sizes, classes, strict=True)]),
        tokens=tokens,
        upper_tokens=upper,
        of_class=np.repeat(np.arange(len(classes)), sizes),
        pools=tuple(pools),
        tbt_s=tbt,
    )


def _groups(kind: str, calibrations: Sequence[Calibration]) -> list[tuple[str, float, Calibration]]:
    """Return name, instances and calibration of each kind of instance, in order of first appearance."""
    found: dict[str, tuple[Calibration, int]] = {}
    for calibration in calibrations:
        key = calibration.fingerprint
        found[key] = calibration, found.get(key, (calibration, 0))[1] + 1
    names = [f"{kind} {c.gpu}" + (f" tp{c.tp}" if c.tp > 1 else "") for c, _ in found.values()]
    unique = [name if names.count(name) == 1 else f"{name} #{i}" for i, name in enumerate(names)]
    return [(name, float(n), c) for name, (c, n) in zip(unique, found.values(), strict=True)]


def _rates_by_group(
    grouped: Sequence[tuple[str, float, Calibration]], counts: Sequence[float], mixed: WorkloadLike
) -> list[float]:
    """Return requests per second of one instance of each decode group; counts may be fractional."""
    one = decode_rates([c for _, _, c in grouped], mixed.rate_per_s, mixed)
    # Equal batches: the rates' ratios hold for any number of instances of each group.
    total = float(sum(n * r for n, r in zip(counts, one, strict=True)))
    return [mixed.rate_per_s * float(r) / total for r in one]

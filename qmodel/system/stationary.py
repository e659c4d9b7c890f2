"""Poisson arrivals in steady state, no deflection: an exact wait law, corrected for packing by a coupled path.

The wait in *work* is that of M/G/k with saturated work (below), whose law is known. What packing adds to it (the
step in progress, shared steps, small steps that cost more than their share) depends on that wait only weakly, so a
short path of exact packed steps, run beside the plain FCFS recursion on the same requests, measures it well: each
request of the path keeps its excess over the plain wait, and its plain wait is replaced by the quantile of the
exact law at the same rank. docs/decisions/0060 has the measurements.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel.distributions import ServiceTime
from qmodel.errors import UnstableError
from qmodel.policies import Disaggregated
from qmodel.policies.state import KernelSpec
from qmodel.queueing import mgk
from qmodel.queueing.metrics import QueueMetrics
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.system.accuracy import kind_of, method_errors, path_noise, with_drift, with_noise, with_spread
from qmodel.system.decode import DecodePool, decode_pool, light_joins
from qmodel.system.prediction import Prediction
from qmodel.system.prefill import PrefillPath, prefill_path
from qmodel.system.recursion import WARMUP, Trajectory, run_recursion
from qmodel.system.streams import StreamPath, lengths_of, path_of, stream
from qmodel.system.trace import from_trajectories

__all__ = [
    "COUPLED",
    "coupled",
    "predict_stationary",
    "predict_stationary_with_policy",
    "quantiles_of",
    "saturated_work_s",
    "service_of",
]

FloatArray = npt.NDArray[np.float64]
_RANKS = (np.arange(2048) + 0.5) / 2048  # of the exact wait; P99 has twenty of them above it
_ATOMS = 1024  # values of the law of work: merging to so many moves percentiles by a hundred-thousandth
_OVERFULL = 0.01  # beyond this share of tokens preemption costs more than the product form knows
_LIGHT_BATCH = 8.0  # below it the atoms of single batches show in percentiles
# Requests of the coupled path, of a stream with a policy, and spans that overload is averaged over. The balanced ones
# keep a prediction within 5 ms and, with a policy, 200 ms.
COUPLED = {"fast": 4_096, "balanced": 9_216, "exact": 131_072}
_STREAMED = {"fast": 20_000, "balanced": 60_000, "exact": 600_000}
_TURNS = {"fast": 2, "balanced": 4, "exact": 30}
_LEAST_GROWTH = 2e-3  # seconds of TTFT per second; a steady state at load 0.99 drifts by less over a stream
_SLOW = 1.3  # a stream three times as long whose P95 is so much higher has not settled
_GRID_SPAN = (0.005, 40.0)  # of the tail, in mean waits of those who wait: beyond it lies less than the last rank
_GRID_POINTS = 160  # of the tail, 6 % apart
_NEARLY_ONE = 0.9999  # closer to 1 a steady state takes weeks to form, and queue lengths lose their digits


def saturated_work_s(cluster: Cluster, prompt_tokens: npt.ArrayLike, cached_tokens: npt.ArrayLike) -> FloatArray:
    """Return the work of a prompt whose steps are all full, its own place in them uniform [s]; *exact* there.

    W_sat(L) = L*step(b)/b + ca*L^2/2 + cx*L^2/(2b): like W(L), but a prompt in a packed stream meets step ends at
    uniform offsets, so the tokens it reloads average L^2/(2b) (points at distance b, uniformly placed on [0, L]).

    Parameters
    ----------
    cluster : Cluster
        Its prefill instances; unequal ones give the harmonic mean, which keeps the pool's capacity.
    prompt_tokens, cached_tokens : array_like
        Lengths and cached prefixes [tokens].

    Returns
    -------
    ndarray
        Work [s].
    """
    h = np.asarray(cached_tokens, dtype=float)
    n = np.asarray(prompt_tokens, dtype=float) - h
    b = float(cluster.max_num_batched_tokens)
    speed = np.zeros(np.shape(n))
    works: dict[int, FloatArray] = {}
    for cal in cluster.prefill_calibrations:
        if id(cal) not in works:
            law = cal.prefill
            if cluster.packing:
                full = float(np.asarray(law.step_time_s(0.0, 0.0, b, 0.0, 0.0)))
                one = float(np.asarray(law.step_time_s(0.0, 0.0, b, 1.0, 0.0))) - full
                again = float(np.asarray(law.step_time_s(0.0, 0.0, b, 0.0, 1.0))) - full
                reloads = n * n / (2 * b) + h * (n / b + 1.0)
                works[id(cal)] = n * full / b + one * n * (h + n / 2) + again * reloads
            else:
                works[id(cal)] = np.asarray(cal.lone_prefill_s(n + h, h))
        speed = speed + 1.0 / works[id(cal)]
    return cluster.prefill_count / speed


def quantiles_of(law: QueueMetrics) -> FloatArray:
    """Return quantiles of a wait [s] at 2,048 even ranks, by its tail on a grid, log-linear between."""
    waiting = max(law.wait_probability, 1e-300)
    scale = law.mean_wait_s / waiting
    grid = scale * np.concatenate([[0.0], np.geomspace(*_GRID_SPAN, _GRID_POINTS)])
    log_tail = np.log(np.maximum(law.wait_tail(grid), 1e-300))
    log_tail[0] = np.log(waiting)
    falling = np.minimum.accumulate(log_tail)
    found = np.interp(-np.log1p(-_RANKS), -falling, grid)
    return np.where(waiting <= 1.0 - _RANKS, 0.0, found)


def service_of(work_s: FloatArray, weights: FloatArray) -> ServiceTime:
    """Return the law of work, merged to at most 1,024 values with the same mean; `work_s` increases.

    Bins hold equal parts of the mass and of the second moment, on which waits depend: the longest stay apart.
    """
    if len(work_s) <= _ATOMS:
        return ServiceTime.from_samples(work_s, weights)
    square = weights * work_s**2
    measure = 0.5 * (weights + square / square.sum())
    middle = np.cumsum(measure) - measure / 2
    bins = np.minimum(middle * _ATOMS, _ATOMS - 1).astype(np.int64)
    mass, total = np.bincount(bins, weights), np.bincount(bins, weights * work_s)
    return ServiceTime.from_samples(total[mass > 0] / mass[mass > 0], mass[mass > 0])


def predict_stationary(
    cluster: Cluster, workload: Workload, slo: SLO, fidelity: Literal["fast", "balanced", "exact"] = "balanced"
) -> Prediction:
    """Return the steady state under Poisson arrivals without deflection; see the module docstring.

    A request's prefill routing is by least outstanding work, its decode instance the one with the fewest requests.
    Where decode caches overflow, requests are preempted and computed again: a recursion over a stream is taken instead.

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    workload : Workload
        Rate and lengths; its arrivals are taken as Poisson.
    slo : SLO
        Limits for attainment.
    fidelity : {"fast", "balanced", "exact"}
        Length of the coupled path.

    Returns
    -------
    Prediction
        Laws of TTFT and TBT.

    Raises
    ------
    UnstableError
        When a pool is asked for more than it can do.
    """
    rate, requests = workload.rate_per_s, COUPLED[fidelity]
    lengths, drawn = lengths_of(workload.source), path_of(workload.source, requests)
    work = saturated_work_s(cluster, lengths.prompt, lengths.cached)
    load = rate * float(lengths.weights @ work) / cluster.prefill_count
    if load >= _NEARLY_ONE:
        raise UnstableError(
            "prefill load", load, "below 1 for a steady state", "add prefill instances, lower the rate, or deflect"
        )
    pool = decode_pool(cluster, rate, lengths.residence)
    if pool.overfull > _OVERFULL:
        return predict_stationary_with_policy(cluster, workload, slo, Disaggregated().kernel_spec(), fidelity)
    waits = quantiles_of(mgk(rate, cluster.prefill_count, service_of(work, lengths.weights), "analytic"))
    method = f"stationary: M/G/{cluster.prefill_count} in work, packed steps by a coupled path, decode product form"
    arrival, light = drawn.arrival / rate, pool.mean_batch < _LIGHT_BATCH
    path = prefill_path(cluster, arrival, drawn.prompt, drawn.cached, pool.decode_s(drawn.output))
    _check_links(path, float(arrival[-1]))
    found = coupled(
        cluster, slo, drawn, path, arrival, work, waits, pool, light=light, method=method,
        errors=method_errors("stationary"),
    )  # fmt: skip
    requests = workload.source.default_count
    noise = path_noise(load, _scv(work, lengths.weights), requests)
    return with_noise(found, requests, rate * pool.mean_steps * pool.mean_step_s, noise)


def _check_links(path: PrefillPath, span_s: float) -> None:
    """Raise where caches queue up before their links; a transfer needs both ends at once, which costs capacity."""
    slope = _growth(path.placed_s - path.finish_s, span_s)
    if slope > 0.0:
        raise UnstableError(
            "growth of transfer times [s/s]", slope, "0 for a steady state", "raise the bandwidth or add instances"
        )


def _scv(work_s: FloatArray, weights: FloatArray) -> float:
    mean = float(weights @ work_s)
    return float(weights @ work_s**2) / mean**2 - 1.0


def coupled(
    cluster: Cluster,
    slo: SLO,
    drawn: StreamPath,
    path: PrefillPath,
    arrival_s: FloatArray,
    work_s: FloatArray,
    waits_s: FloatArray,
    pool: DecodePool,
    *,
    light: bool,
    method: str,
    errors: dict[str, float],
) -> Prediction:
    """Return the prediction that gives a path's requests the waits of a known law, and keeps what packing adds.

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    slo : SLO
        Limits for attainment.
    drawn : StreamPath
        Lengths of the path.
    path : PrefillPath
        Its packed steps and transfers.
    arrival_s : ndarray, shape (n,)
        Its arrivals [s].
    work_s : ndarray
        Saturated work of each length of the law [s].
    waits_s : ndarray
        The wait in work at even ranks, as `quantiles_of` returns it [s].
    pool : DecodePool
        Decode in steady state.
    light : bool
        Whether decode batches follow the path rather than the product form.
    method : str
        For the reader.
    errors : dict
        Half-widths by metric.

    Returns
    -------
    Prediction
        Laws of TTFT and TBT.
    """
    n, rate = len(arrival_s), len(arrival_s) / float(arrival_s[-1])
    kept = slice(int(WARMUP * n), None)
    steps = np.maximum(drawn.output - 1, 1)
    if light:
        pool, joins = light_joins(pool, drawn.prompt, steps, path.placed_s, kept.start)
    else:
        joins = pool.joins(drawn.prompt, *stream(n)[3:])
    after = path.placed_s - path.finish_s, joins.admission_s, joins.first_step_s
    parts = np.stack([path.start_s - arrival_s, path.finish_s - path.start_s, *after])[:, kept]
    shift = _exact_minus_path(waits_s, cluster.prefill_count, arrival_s, work_s[drawn.pick], kept)
    parts[0] = np.maximum(parts[0] + shift, 0.0)
    grid, output = pool.tbt_grid_s(), drawn.output[kept]
    cdf, met = pool.tbt_cdf(grid), 1.0 - pool.violation_probability(steps[kept].astype(float), slo.tbt_s, rate)
    met = np.where(output > 2, met, 1.0)
    if cluster.first_token == "prefill":  # the second token comes after transfer, admission and first step
        gap, parts[2:] = parts[2:].sum(axis=0), 0.0
        met *= (output == 1) | (gap <= slo.tbt_s)
        grid, cdf = _beside(grid, cdf, gap[output > 1], float(np.maximum(output - 2, 0).sum()))
    return Prediction(
        method=method,
        slo=slo,
        parts_s=parts,
        prompt_tokens=drawn.prompt[kept],
        deflected=np.zeros(parts.shape[1], dtype=bool),
        tbt_met=met,
        tbt_grid_s=grid,
        tbt_cdf=cdf,
        mean_tbt_s=np.where(output > 2, joins.step_s[kept], np.nan),
        utilisation={"prefill": float(np.mean(path.busy_s)) / float(path.finish_s[-1]), "decode": pool.busy_share},
        error_estimate=errors,
        warnings=(),
    )


def _beside(grid: FloatArray, cdf: FloatArray, gap_s: FloatArray, tokens: float) -> tuple[FloatArray, FloatArray]:
    """Return the law of the gaps of `tokens` tokens, given by its cdf on a grid, and of others one by one [s]."""
    found = np.sort(gap_s)
    wider = np.union1d(grid, found)
    share = len(found) / max(len(found) + tokens, 1.0)
    one_by_one = np.searchsorted(found, wider, side="right") / max(len(found), 1)
    return wider, (1.0 - share) * np.interp(wider, grid, cdf, 0.0, 1.0) + share * one_by_one


def _exact_minus_path(
    exact: FloatArray, servers: int, arrival: FloatArray, work: FloatArray, kept: slice
) -> FloatArray:
    """Return, for each request kept, the exact wait at its rank minus its wait on the path [s]."""
    from qmodel._kernels.system import fcfs_waits

    plain = fcfs_waits(arrival, work, servers)[kept]
    order = np.argsort(plain, kind="stable")
    shift = np.empty(len(plain))
    shift[order] = np.interp((np.arange(len(plain)) + 0.5) / len(plain), _RANKS, exact) - plain[order]
    return shift


def predict_stationary_with_policy(
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    spec: KernelSpec,
    fidelity: Literal["fast", "balanced", "exact"] = "balanced",
) -> Prediction:
    """Return the steady state under Poisson arrivals with deflection, by one long recursion over both pools.

    Gaps and lengths are spread evenly over their laws and shuffled, which leaves less noise than free draws.

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    workload : Workload
        Rate and lengths; its arrivals are taken as Poisson.
    slo : SLO
        Limits for attainment and chunks.
    spec : KernelSpec
        Policy as data.
    fidelity : {"fast", "balanced", "exact"}
        Length of the stream.

    Returns
    -------
    Prediction
        Laws of TTFT and TBT.
    """
    count = _STREAMED[fidelity]

    def run(length: int, seed: int) -> Trajectory:
        drawn = path_of(workload.source, length, seed)
        arrival = drawn.arrival / workload.rate_per_s
        requests = Requests.from_arrays(arrival, drawn.prompt, drawn.output, drawn.cached)
        return run_recursion(cluster, requests, slo, spec)

    lengths = lengths_of(workload.source)
    work = saturated_work_s(cluster, lengths.prompt, lengths.cached)
    mean = float(lengths.weights @ work)
    span, turns = workload.source.default_count, _TURNS[fidelity]
    overloaded = workload.rate_per_s * mean / cluster.prefill_count >= 1.0
    tried = run(span if overloaded else count, 0)
    slope = _growth(tried.parts_s.sum(axis=0), (span if overloaded else count) / workload.rate_per_s)
    whole = run(count, 0) if overloaded and slope == 0.0 else tried
    if slope > 0.0 or _p95(whole) > _SLOW * _p95(tried):
        method = f"no steady state: recursion over {turns} x {span:,} Poisson requests, from empty pools"
        why = (
            f"the pools cannot keep up: TTFT grows by some {60 * slope:.2g} s a minute"
            if slope > 0.0
            else "the pools only just keep up: a steady state takes far longer to form"
        )
        warning = f"{why}; numbers are over a span of {span:,} requests"
        errors = method_errors("no steady state")
        spans = [tried] if overloaded else []
        spans += [run(span, seed) for seed in range(len(spans), turns)]
        found = from_trajectories(spans, method, slo, errors, (warning,))
        found = with_spread(found, [from_trajectories([one], method, slo, errors) for one in spans])
        return with_drift(found, span, span / workload.rate_per_s, _scv(work, lengths.weights))
    method = f"stationary: recursion over {count:,} Poisson requests through both pools"
    found = from_trajectories([whole], method, slo, method_errors(kind_of("stationary", spec)))
    steps = whole.mean_tbt_s[np.isfinite(whole.mean_tbt_s)]
    residents = workload.rate_per_s * lengths.residence.mean_steps * (float(steps.mean()) if len(steps) else 0.0)
    return with_noise(found, span, residents)


def _p95(run: Trajectory) -> float:
    return float(np.quantile(run.parts_s.sum(axis=0), 0.95))


def _growth(time_s: FloatArray, span_s: float) -> float:
    """Return the growth of a time per second of a stream that overloads what serves it; 0.0 in a steady state."""
    early, middle, late = (float(part.mean()) for part in np.array_split(time_s, 3))
    lasting = late > 1.3 * middle > 1.3 * 1.3 * early
    slope = (late - early) / ((1.0 - WARMUP) * span_s * 2 / 3)
    return slope if lasting and slope > _LEAST_GROWTH else 0.0

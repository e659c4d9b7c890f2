"""Poisson arrivals in steady state, no deflection: an exact wait law, corrected for packing by a coupled path.

The wait in *work* is that of M/G/k with saturated work (below), whose law is known. What packing adds to it (the
step in progress, shared steps, small steps that cost more than their share) depends on that wait only weakly, so a
short path of exact packed steps, run beside the plain FCFS recursion on the same requests, measures it well: each
request of the path keeps its excess over the plain wait, and its plain wait is replaced by the quantile of the
exact law at the same rank. docs/decisions/0060 has the measurements.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qmodel.errors import UnstableError
from qmodel.policies.state import KernelSpec
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.scenario.sources import PoissonSource
from qmodel.system.decode import DecodePool, Residence, decode_pool
from qmodel.system.errors import path_noise, recursion_errors, stationary_errors
from qmodel.system.prediction import Prediction
from qmodel.system.prefill import IntArray, prefill_path
from qmodel.system.recursion import run_recursion
from qmodel.system.trace import from_trajectories

__all__ = ["predict_stationary", "predict_stationary_with_policy", "saturated_work_s"]

FloatArray = npt.NDArray[np.float64]
_SEED = 20260702
_WARMUP = 0.1
_QUANTILES = 2048
_COUPLED = {"fast": 4_096, "balanced": 9_216, "exact": 131_072}
_STREAMED = {"fast": 20_000, "balanced": 60_000, "exact": 600_000}
_GRID_SPAN = (0.005, 40.0)  # in mean waits of those who wait
_GRID_POINTS = 160


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


@lru_cache(maxsize=8)
def _stream(count: int) -> tuple[FloatArray, ...]:
    """Return unit gaps, ranks of prompts and of outputs, and two uniforms for decode, spread evenly and shuffled."""
    rng = np.random.default_rng(_SEED)
    even = (np.arange(count) + 0.5) / count
    gaps = -np.log1p(-rng.permutation(even))
    return (gaps / gaps.mean(), *(rng.permutation(even) for _ in range(4)))


class _Lengths(NamedTuple):
    """Lengths by increasing prompt, with cumulative weights; independent outputs apart where they are."""

    prompt: IntArray
    cached: IntArray
    cumulative: FloatArray
    output: IntArray
    output_cumulative: FloatArray | None
    residence: Residence

    @property
    def weights(self) -> FloatArray:
        """Weights of the prompts."""
        return np.diff(self.cumulative, prepend=0.0)

    def draw(self, ranks: FloatArray, others: FloatArray) -> tuple[IntArray, IntArray, IntArray]:
        """Return prompt, output and cached tokens at evenly spread ranks in [0, 1)."""
        picks = _at_ranks(self.cumulative, ranks)
        output = picks if self.output_cumulative is None else _at_ranks(self.output_cumulative, others)
        return self.prompt[picks], self.output[output], self.cached[picks]


def _at_ranks(cumulative: FloatArray, ranks: FloatArray) -> IntArray:
    """Return the entries at evenly spread, shuffled ranks (i + 1/2)/n; sorting first keeps the search local."""
    n = len(ranks)
    found = np.minimum(np.searchsorted(cumulative, (np.arange(n) + 0.5) / n), len(cumulative) - 1)
    return np.asarray(found[(ranks * n).astype(np.int64)])


def _lengths_of(workload: Workload) -> _Lengths:
    source = workload.source
    if isinstance(source, PoissonSource):
        prompt, output = source.prompt, source.output
        order, other = np.argsort(prompt.values, kind="stable"), np.argsort(output.values, kind="stable")
        return _Lengths(
            prompt.values[order].astype(np.int64),
            np.zeros(len(order), np.int64),
            np.cumsum(prompt.weights[order]),
            output.values[other].astype(np.int64),
            np.cumsum(output.weights[other]),
            Residence.of_product((prompt.values, prompt.weights), (output.values, output.weights)),
        )
    tokens, made, cached, weights = workload.lengths()
    order = np.argsort(tokens, kind="stable")
    residence = Residence.of_joint(tokens, made, weights)
    return _Lengths(tokens[order], cached[order], np.cumsum(weights[order]), made[order], None, residence)


def _wait_quantiles(
    rate_per_s: float, servers: int, work_s: FloatArray, weights: FloatArray, ranks: FloatArray
) -> FloatArray:
    """Return quantiles of the M/G/k wait [s] at increasing `ranks`, by its tail on a grid, log-linear between."""
    from qmodel.queueing import ServiceTime, mgk

    law = mgk(rate_per_s, servers, ServiceTime.from_samples(work_s, weights), "analytic")
    waiting = max(law.wait_probability, 1e-300)
    scale = law.mean_wait_s / waiting
    grid = scale * np.concatenate([[0.0], np.geomspace(*_GRID_SPAN, _GRID_POINTS)])
    log_tail = np.log(np.maximum(law.wait_tail(grid), 1e-300))
    log_tail[0] = np.log(waiting)
    falling = np.minimum.accumulate(log_tail)
    found = np.interp(-np.log1p(-ranks), -falling, grid)
    return np.where(1.0 - ranks >= waiting, 0.0, found)


def predict_stationary(
    cluster: Cluster, workload: Workload, slo: SLO, fidelity: Literal["fast", "balanced", "exact"] = "balanced"
) -> Prediction:
    """Return the steady state under Poisson arrivals without deflection; see the module docstring.

    A request's prefill routing is by least outstanding work, its decode instance the one with the fewest requests.

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
    rate, requests = workload.rate_per_s, _COUPLED[fidelity]
    lengths = _lengths_of(workload)
    weights = lengths.weights
    work_of = saturated_work_s(cluster, lengths.prompt, lengths.cached)
    load = rate * float(weights @ work_of) / cluster.prefill_count
    if load >= 1:
        raise UnstableError(
            "prefill load", load, "below 1 for a steady state", "add prefill instances, lower the rate, or deflect"
        )
    gaps, ranks, others, state, phase = _stream(requests)
    arrival = np.cumsum(gaps) / rate
    prompt, output, cached = lengths.draw(ranks, others)
    path = prefill_path(cluster, arrival, prompt, cached)
    kept = slice(int(_WARMUP * requests), None)
    shift = _exact_minus_path(
        rate, cluster.prefill_count, work_of, weights, arrival, saturated_work_s(cluster, prompt, cached), kept
    )
    pool = decode_pool(cluster, rate, lengths.residence)
    admission, first = pool.first_token(prompt.astype(float), state, phase)
    if cluster.first_token == "prefill":
        admission, first = np.zeros(requests), np.zeros(requests)
    parts = np.stack(
        [path.start_s - arrival, path.finish_s - path.start_s, path.placed_s - path.finish_s, admission, first]
    )[:, kept]
    parts[0] = np.maximum(parts[0] + shift, 0.0)
    steps = np.maximum(output[kept].astype(float) - 1.0, 1.0)
    grid = pool.tbt_grid_s()
    missed = pool.violation_probability(steps, slo.tbt_s, rate)
    return Prediction(
        method=f"stationary: M/G/{cluster.prefill_count} in work, packed steps by a coupled path, decode product form",
        slo=slo,
        parts_s=parts,
        prompt_tokens=prompt[kept],
        deflected=np.zeros(parts.shape[1], dtype=bool),
        tbt_met=1.0 - np.where(output[kept] > 2, missed, 0.0),
        tbt_grid_s=grid,
        tbt_cdf=pool.tbt_cdf(grid),
        mean_tbt_s=_mean_tbt(pool, state, output)[kept],
        utilisation={"prefill": float(np.mean(path.busy_s)) / float(path.finish_s[-1]), "decode": pool.busy_share},
        error_estimate=stationary_errors(requests),
        warnings=(),
    )


def _mean_tbt(pool: DecodePool, state: FloatArray, output: IntArray) -> FloatArray:
    """Return the step time at the batch each request meets [s]; NaN for requests without a second step."""
    beside = np.minimum(np.searchsorted(pool.residents_cdf, state) // pool.instances, pool.cap - 1)
    return np.where(output > 2, pool.step_s[beside], np.nan)


def _exact_minus_path(
    rate: float,
    servers: int,
    work_of: FloatArray,
    weights: FloatArray,
    arrival: FloatArray,
    work: FloatArray,
    kept: slice,
) -> FloatArray:
    """Return, for each request kept, the exact wait at its rank minus its wait on the path [s]."""
    from qmodel._kernels.system import fcfs_waits

    plain = fcfs_waits(arrival, work, servers)[kept]
    ranks = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    exact = _wait_quantiles(rate, servers, work_of, weights, ranks)
    order = np.argsort(plain, kind="stable")
    shift = np.empty(len(plain))
    shift[order] = np.interp((np.arange(len(plain)) + 0.5) / len(plain), ranks, exact) - plain[order]
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
    lengths = _lengths_of(workload)
    gaps, ranks, others, _, _ = _stream(count)
    requests = Requests.from_arrays(np.cumsum(gaps) / workload.rate_per_s, *lengths.draw(ranks, others))
    run = run_recursion(cluster, requests, slo, spec)
    work = saturated_work_s(cluster, lengths.prompt, lengths.cached)
    mean = float(lengths.weights @ work)
    scv = float(lengths.weights @ work**2) / mean**2 - 1.0
    noise = path_noise(min(run.utilisation["prefill"], 0.9), scv, count)
    method = f"stationary: recursion over {count:,} Poisson requests through both pools"
    return from_trajectories([run], method, slo, recursion_errors(spec, noise))

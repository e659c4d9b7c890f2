"""Predictions from a sequence of requests: the recursion of `_kernels.system_pools` over both pools."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.policies.arrays import policy_arrays
from qmodel.policies.state import KernelSpec
from qmodel.scenario import SLO, Cluster, Requests

__all__ = ["WARMUP", "Trajectory", "run_recursion"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
WARMUP = 0.1  # share of a path that does not count, as in the simulator
_LOG0, _STEP, _BINS = float(np.log(1e-4)), 0.002, 7_000  # steps of 0.2 % from 0.1 ms to 120 s
_NO_CONTENTION = 2  # links: 0 books transfers one after the other, also in place of fair shares
_STEPS = [0, 1, 3, 4]  # parts of TTFT that are made of step times
_HALF_STEP = 0.5  # a fluid batch slower than the limit for less than half a step may have met it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """What became of each request that counts (the first tenth is warm-up).

    Parameters
    ----------
    parts_s : ndarray, shape (5, n)
        Parts of TTFT as `Prediction.parts_s` [s].
    prompt_tokens : ndarray, shape (n,)
        Lengths [tokens].
    deflected, tbt_met : ndarray of bool, shape (n,)
        Whether it was deflected, and met its TBT SLO.
    mean_tbt_s : ndarray, shape (n,)
        Mean time between its tokens [s]; NaN for those without.
    tbt_grid_s, tbt_cdf : ndarray
        Law of the time between tokens by token [s].
    utilisation : dict
        Busy share of both pools.
    """

    parts_s: FloatArray
    prompt_tokens: IntArray
    deflected: npt.NDArray[np.bool_]
    tbt_met: npt.NDArray[np.bool_]
    mean_tbt_s: FloatArray
    tbt_grid_s: FloatArray
    tbt_cdf: FloatArray
    utilisation: dict[str, float]


@lru_cache(maxsize=1)
def _tbt_grid() -> FloatArray:
    return np.asarray(np.exp(_LOG0 + _STEP * np.arange(_BINS + 1)))


def run_recursion(cluster: Cluster, requests: Requests, slo: SLO, spec: KernelSpec, nudge: float = 1.0) -> Trajectory:
    """Return what becomes of a sequence of requests under a policy.

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    requests : Requests
        Arrivals and lengths.
    slo : SLO
        Limits; the TBT limit also sizes chunks.
    spec : KernelSpec
        Policy as data.
    nudge : float
        Factor on the step times of all instances, to see what turns on trifles; parts of TTFT are divided by it again.

    Returns
    -------
    Trajectory
        Times and shares.

    Raises
    ------
    InputError
        When the policy is not covered, or a request cannot fit an instance's KV cache.
    """
    if spec.kind in ("colocated", "external", "compiled"):
        raise InputError("policy of predict", spec.kind, "one with separate pools", "simulate it instead")
    if spec.order == "due" and spec.kind != "late":
        raise InputError("order of predict", "due", "late binding's shared queue", "simulate it instead")
    _check_room(cluster, requests)
    n, k, d = len(requests), cluster.prefill_count, cluster.decode_count
    largest = max(cluster.max_num_batched_tokens, spec.host_budget, *spec.chunks)
    if not cluster.packing:
        largest = max(largest, int(requests.prompt_tokens.max()))
    laws = cluster.instance_laws(largest + cluster.max_num_seqs + 3)
    calibrations = cluster.prefill_calibrations + cluster.decode_calibrations
    rates = np.array([cluster.transfer_law(c).bytes_per_s for c in calibrations])
    capacity = np.array([float(c.kv_capacity_tokens) for c in calibrations])
    warm = int(WARMUP * n)
    layers = cluster.calibration.layers if cluster.pipelined_transfer else 0
    sharing = _NO_CONTENTION if cluster.link_sharing == "none" else 0
    ends = cluster.first_token == "prefill"
    # Without packing a step takes one prompt whole (budget 0); routers estimate with the token budget all the same.
    budgets = cluster.packed_budget, cluster.max_num_batched_tokens
    settings = np.array(
        [k, d, budgets[0], cluster.max_num_seqs, warm, layers, sharing, ends, budgets[1]], dtype=np.int64
    )
    link = cluster.transfer_law()
    numbers = np.array(
        [link.fixed_s, link.kv_bytes_per_token, link.block_tokens, slo.ttft_s, slo.tbt_s, _LOG0, _STEP], dtype=float
    )
    columns = (requests.arrival_s, requests.prompt_tokens, requests.output_tokens, requests.cached_tokens)
    coef = laws.coef if nudge == 1.0 else _slowed(laws.coef, nudge)
    tables = (*policy_arrays(spec), coef, laws.base, laws.work, rates, capacity)
    if spec.kind == "late":
        from qmodel._kernels.system_late import late_pools

        found = late_pools(*columns, *tables, settings, numbers, _BINS)
    else:
        from qmodel._kernels.system_pools import two_pools

        limits = np.array([[slo.ttft_s, slo.tbt_s]])
        found = two_pools(*columns, *tables, limits, settings, numbers, _BINS)
    F, deflected, hist, busy = found
    run = _trajectory(cluster, requests, slo, F, deflected, hist, busy, warm)
    run.parts_s[_STEPS] /= nudge
    return run


def _slowed(coef: FloatArray, factor: float) -> FloatArray:
    from qmodel._kernels.laws import C_SCALE

    slower = coef.copy()
    slower[:, C_SCALE] *= factor
    return slower


def _trajectory(
    cluster: Cluster,
    requests: Requests,
    slo: SLO,
    F: FloatArray,
    deflected: npt.NDArray[np.bool_],
    hist: FloatArray,
    busy: FloatArray,
    warm: int,
) -> Trajectory:
    from qmodel._kernels import system_state as kernels

    times = F[warm:].T
    moved, output = deflected[warm:], requests.output_tokens[warm:]
    start, finish, landed = times[kernels.START], times[kernels.FINISH], times[kernels.LANDED]
    admitted, first = times[kernels.ADMITTED], times[kernels.FIRST]
    parts = np.stack(
        [start - times[kernels.ARRIVAL], finish - start, landed - finish, admitted - landed, first - admitted]
    )
    at_prefill = cluster.first_token == "prefill"
    if at_prefill:
        parts[2:] = 0.0
    gaps = np.where(moved | at_prefill, output - 1, np.maximum(output - 2, 0))
    slow, gap = times[kernels.SLOW], first - finish
    if at_prefill:  # the second token comes from the decode instance, after the transfer
        apart = ~moved & (output > 1)
        slow = slow + (apart & (gap > slo.tbt_s))
        hist = hist + np.bincount(_bins(gap[apart]), minlength=_BINS)
    met = (gaps == 0) | (slow <= np.floor((1.0 - slo.tbt_quantile) * gaps + 1e-9) + _HALF_STEP)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_gap = np.where(gaps > 0, (times[kernels.END] - (finish if at_prefill else first)) / gaps, np.nan)
    total = float(hist.sum())
    cdf = np.concatenate([[0.0], np.cumsum(hist)]) / total if total > 0 else np.linspace(0.0, 1.0, _BINS + 1)
    k, span = cluster.prefill_count, float(F[:, kernels.END].max())
    return Trajectory(
        parts_s=parts,
        prompt_tokens=requests.prompt_tokens[warm:],
        deflected=moved,
        tbt_met=met,
        mean_tbt_s=mean_gap,
        tbt_grid_s=_tbt_grid(),
        tbt_cdf=cdf,
        utilisation={"prefill": float(busy[:k].mean() / span), "decode": float(busy[k:].mean() / span)},
    )


def _bins(time_s: FloatArray) -> IntArray:
    found = (np.log(np.maximum(time_s, 1e-300)) - _LOG0) / _STEP
    return np.asarray(np.clip(found, 0, _BINS - 1).astype(np.int64))


def _check_room(cluster: Cluster, requests: Requests) -> None:
    total = requests.prompt_tokens + requests.output_tokens
    room = min(c.kv_capacity_tokens for c in cluster.decode_calibrations)
    if int(total.max()) > room:
        worst = int(total.argmax())
        what = f"prompt + output tokens of request {worst}"
        raise InputError(what, int(total[worst]), f"<= {room}, the KV capacity", "drop longer requests")

"""Run the kernel: inputs to arrays, external policies asked in between, arrays to a result."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel._kernels import policies as kp
from qmodel._kernels import sim
from qmodel._kernels import sim_state as ks
from qmodel._kernels import user as ku
from qmodel._kernels.laws import whole_blocks
from qmodel.errors import InputError, QModelError
from qmodel.policies import ClusterState, KernelSpec, RequestView, as_policy
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.simulation import encode
from qmodel.simulation.conditions import Fault, Signals
from qmodel.simulation.encode import Arrays, Scene
from qmodel.simulation.result import SimulationResult

__all__ = ["simulate", "simulate_requests"]


def simulate(
    cluster: Cluster,
    workload: Workload | Requests,
    slo: SLO | Sequence[SLO],
    policy: Any = None,
    seed: int = 0,
    requests: int | None = None,
    warmup: float = 0.1,
    signals: Signals | None = None,
    faults: Sequence[Fault] = (),
) -> SimulationResult:
    """Simulate a cluster on a workload, request by request.

    Parameters
    ----------
    cluster : Cluster
        Instances, engine limits and network.
    workload : Workload or Requests
        Where requests come from, or the requests themselves.
    slo : SLO or sequence of SLO
        Objectives; with several, one per SLO class.
    policy : Policy, Plan or None, optional
        Who prefills where; None never deflects.
    seed : int, optional
        Replication of the workload: 0 replays a trace as it is, n its n-th circular shift.
    requests : int, optional
        Number of requests; the workload's own by default.
    warmup : float, optional
        Share of the first requests that metrics leave out.
    signals : Signals, optional
        How late and how wrongly the router sees the cluster; perfectly by default.
    faults : sequence of Fault, optional
        Instances and links that stop or slow for a while.

    Returns
    -------
    SimulationResult
        Per-request times and their summaries.

    Raises
    ------
    InputError
        When the scenario cannot be simulated, e.g. a prompt over the KV capacity.
    """
    if not isinstance(workload, (Requests, Workload)):
        raise InputError("workload", type(workload).__name__, "a Workload or Requests", "e.g. Workload.builtin")
    if isinstance(workload, Requests):
        drawn = workload if requests is None else _first(workload, requests)
    else:
        drawn = workload.requests(seed=seed, count=requests)
    return simulate_requests(cluster, drawn, slo, policy, warmup, signals, faults)


def _first(requests: Requests, count: int) -> Requests:
    if not 1 <= count <= len(requests):
        raise InputError("requests", count, f"in 1..{len(requests)} for a fixed set of requests")
    return requests.take(slice(count))


def simulate_requests(
    cluster: Cluster,
    requests: Requests,
    slo: SLO | Sequence[SLO],
    policy: Any = None,
    warmup: float = 0.1,
    signals: Signals | None = None,
    faults: Sequence[Fault] = (),
) -> SimulationResult:
    """Simulate a cluster on given requests; parameters as in `simulate`.

    Parameters
    ----------
    cluster : Cluster
        Instances, engine limits and network.
    requests : Requests
        What arrives.
    slo : SLO or sequence of SLO
        Objectives, one per SLO class.
    policy : Policy, Plan or None, optional
        Who prefills where.
    warmup : float, optional
        Share of the first requests that metrics leave out, in [0, 1).
    signals : Signals, optional
        What the router knows.
    faults : sequence of Fault, optional
        What fails when.

    Returns
    -------
    SimulationResult
        Per-request times and their summaries.
    """
    if not 0 <= warmup < 1:
        raise InputError("warmup", warmup, "in [0, 1)", "give e.g. 0.1")
    if not isinstance(cluster, Cluster):
        raise InputError("cluster", type(cluster).__name__, "a Cluster", "e.g. Cluster.parse")
    slos = (slo,) if isinstance(slo, SLO) else tuple(slo) if isinstance(slo, Sequence) else ()
    if not slos or not all(isinstance(each, SLO) for each in slos):
        raise InputError("slo", repr(slo), "an SLO, or one for each class")
    if not all(isinstance(fault, Fault) for fault in faults):
        raise InputError("faults", repr(faults), "a sequence of Fault")
    chosen = as_policy(policy)
    spec = chosen.kernel_spec() if hasattr(chosen, "kernel_spec") else KernelSpec(kind="external")
    scene = encode.scene_of(cluster, spec)
    encode.check(scene, requests, slos)
    warm_from = int(warmup * len(requests))
    arrays = encode.arrays_of(scene, requests, slos, spec, warm_from, signals, faults)
    called = _register(spec, arrays)
    status = sim.run(*arrays)
    del called
    while status == sim.ASK:
        _ask(chosen, scene, arrays, slos)
        status = sim.run(*arrays)
    if status == sim.REFUSED:
        raise _refused(chosen.name, scene, arrays)
    if status != sim.DONE:
        left = len(requests) - int(arrays.loop[ks.LOOP_FINISHED])
        raise QModelError("simulation", f"stuck with {left} unfinished requests", "able to finish", "report this")
    return _result(chosen.name, scene, arrays, requests, slos, warm_from)


def _register(spec: KernelSpec, arrays: Arrays) -> Any:
    """Tell the kernel where a user's compiled decision and its numbers are; return what must stay alive meanwhile."""
    if spec.kind != "compiled" or spec.parameters is None:
        return None
    try:
        callback = _callback(spec.decide)
    except ValueError as error:
        limit = "compilable for (state, request, parameters), giving (pool, instance, host_s)"
        raise InputError("compiled decision", str(error)[:200], limit) from error
    at, count = spec.parameters.ctypes.data, len(spec.parameters)
    arrays.XI[[ks.X_USER, ks.X_PARAMETERS, ks.X_PARAMETER_COUNT]] = callback.address, at, count
    return callback, spec.parameters


@functools.lru_cache(maxsize=64)
def _callback(decide: Any) -> Any:
    return ku.callback(decide)


def _refused(name: str, scene: Scene, arrays: Arrays) -> InputError:
    r, (pool, instance, host) = int(arrays.loop[ks.LOOP_ASKED]), arrays.scratch[1, :3]
    said = f"({pool:g}, {instance:g}, {host:g}) for request {r}"
    limit = f"PREFILL and 0..{len(scene.prefill) - 1} or DECODE and 0..{len(scene.decode) - 1}, host_s finite and >= 0"
    return InputError(f"answer of {name}", said, limit, "(-1, -1, 0) means that it raised")


def _ask(policy: Any, scene: Scene, arrays: Arrays, slos: Sequence[SLO]) -> None:
    """Let an external policy place the request that has just arrived."""
    r = int(arrays.loop[ks.LOOP_ASKED])
    row, k, d = arrays.R[r], len(scene.prefill), len(scene.decode)
    slo = slos[row[ks.R_CLASS]]
    request = RequestView(
        arrival_s=float(arrays.F[r, ks.F_ARRIVAL]),
        prompt_tokens=int(row[ks.R_PROMPT]),
        cached_tokens=int(row[ks.R_CACHED]),
        ttft_slo_s=slo.ttft_s,
        tbt_slo_s=slo.tbt_s,
    )
    route = policy.decide(_state(scene, arrays, request), request)
    size = k if route.pool == "prefill" else d
    if route.pool not in ("prefill", "decode") or not 0 <= route.instance < size:
        raise InputError("route", f"{route.pool} {route.instance}", f"one of {k} prefill or {d} decode instances")
    if route.decode_instance is not None:
        if route.pool == "decode" or not 0 <= route.decode_instance < d:
            limit = f"with pool prefill, one of {d} decode instances"
            raise InputError("decode_instance of a route", f"{route.decode_instance} with pool {route.pool}", limit)
        row[ks.R_DECODE] = k + route.decode_instance
    unit = route.instance + (0 if route.pool == "prefill" else k)
    a = arrays
    sim.answer(
        r, unit, float(route.host_s), a.clock, a.loop, a.R, a.F, a.UF, a.UI, a.lists, a.times, a.winners, a.dirty,
        a.PK, a.EC, a.EB, a.EW, a.XI,
    )  # fmt: skip


def _state(scene: Scene, arrays: Arrays, request: RequestView) -> ClusterState:
    k = len(scene.prefill)
    prefill, decode = arrays.seen[:k], arrays.seen[k:]
    moved = whole_blocks(request.prompt_tokens - request.cached_tokens, scene.cluster.transfer_block_tokens)
    return ClusterState(
        time_s=float(arrays.clock[ks.CLOCK_NOW]),
        prefill_work_s=prefill[:, kp.OB_WORK].copy(),
        prefill_tokens=prefill[:, kp.OB_TOKENS].copy(),
        prefill_requests=prefill[:, kp.OB_REQUESTS].copy(),
        link_free_s=prefill[:, kp.OB_LINK].copy(),
        deflected_work_s=decode[:, kp.OB_HOST].copy(),
        batch=decode[:, kp.OB_BATCH].copy(),
        context_tokens=decode[:, kp.OB_CONTEXT].copy(),
        hosting=decode[:, kp.OB_HOSTING] > 0,
        decode_requests=decode[:, kp.OB_LOAD].copy(),
        step_rest_s=decode[:, kp.OB_REST].copy(),
        strictest_tbt_s=decode[:, kp.OB_STRICTEST].copy(),
        kv_share=decode[:, kp.OB_KV].copy(),
        slowdown=decode[:, kp.OB_SLOW].copy(),
        prefill_laws=[c.prefill for c in scene.prefill],
        decode_laws=[c.step for c in scene.decode],
        budget=scene.cluster.max_num_batched_tokens,
        transfer_s=scene.cluster.transfer_fixed_s
        + scene.cluster.calibration.kv_bytes_per_token * moved / arrays.UF[:k, ks.U_LINK_RATE],
    )


def _result(
    name: str, scene: Scene, arrays: Arrays, requests: Requests, slos: Sequence[SLO], warm_from: int
) -> SimulationResult:
    k, classes = len(scene.prefill), requests.slo_class
    columns = _request_columns(scene, arrays, requests)
    makespan = float(columns["finish_s"].max())
    units = _unit_columns(scene, arrays, makespan)
    busy = units["utilisation"]
    return SimulationResult(
        policy=name,
        columns=columns,
        warm_from=warm_from,
        tbt_edges_s=np.exp(encode.HISTOGRAM_LOG0 + encode.HISTOGRAM_STEP * np.arange(encode.HISTOGRAM_BINS + 1)),
        tbt_tokens=arrays.hist,
        ttft_slo_s=np.array([s.ttft_s for s in slos])[classes],
        tbt_slo_s=np.array([s.tbt_s for s in slos])[classes],
        tbt_quantile=np.array([s.tbt_quantile for s in slos])[classes],
        units=units,
        utilisation={"prefill": float(busy[:k].mean()) if k else 0.0, "decode": float(busy[k:].mean())},
        makespan_s=makespan,
        events=int(arrays.loop[ks.LOOP_EVENTS]),
    )


def _request_columns(scene: Scene, arrays: Arrays, requests: Requests) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of `SimulationResult.requests`."""
    F, R, k = arrays.F, arrays.R, len(scene.prefill)
    deflected = R[:, ks.R_DEFLECTED] > 0
    arrival, start, prefilled = F[:, ks.F_ARRIVAL], F[:, ks.F_START], F[:, ks.F_PREFILLED]
    landed = np.where(deflected, prefilled, F[:, ks.F_LANDED])
    admitted, first, finish = F[:, ks.F_ADMITTED], F[:, ks.F_FIRST], F[:, ks.F_FINISH]
    at_prefill = scene.cluster.first_token == "prefill"
    ended = prefilled if at_prefill else first
    # Tokens after the one that ended the TTFT; each has a gap to its forerunner.
    gaps = np.where(deflected | at_prefill, requests.output_tokens - 1, np.maximum(requests.output_tokens - 2, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_gap = np.where(gaps > 0, (finish - ended) / gaps, np.nan)
    none = np.zeros(len(requests))
    return {
        "arrival_s": arrival,
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": requests.output_tokens,
        "cached_tokens": requests.cached_tokens,
        "slo_class": requests.slo_class,
        "queue_s": start - arrival,
        "prefill_s": prefilled - start,
        "transfer_s": none if at_prefill else landed - prefilled,
        "admission_s": none if at_prefill else admitted - landed,
        "first_step_s": none if at_prefill else first - admitted,
        "ttft_s": ended - arrival,
        "finish_s": finish,
        "e2e_s": finish - arrival,
        "tbt_max_s": np.where(gaps > 0, F[:, ks.F_TBT_MAX], np.nan),
        "tbt_mean_s": mean_gap,
        "tbt_count": gaps,
        "tbt_violations": R[:, ks.R_VIOLATIONS],
        "prefill_instance": R[:, ks.R_PREFILL],
        "decode_instance": np.where(R[:, ks.R_DECODE] < 0, -1, R[:, ks.R_DECODE] - k),
        "deflected": deflected,
        "preemptions": R[:, ks.R_PREEMPTED],
        "restarts": R[:, ks.R_RESTARTS],
    }


def _unit_columns(scene: Scene, arrays: Arrays, makespan_s: float) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of `SimulationResult.instances`."""
    k, d, UF, UI = len(scene.prefill), len(scene.decode), arrays.UF, arrays.UI
    with np.errstate(invalid="ignore", divide="ignore"):
        batch = np.nan_to_num(UF[k:, ks.U_BATCH_TIME] / UF[k:, ks.U_BUSY])
    return {
        "pool": np.array(["prefill"] * k + ["decode"] * d),
        "instance": np.r_[np.arange(k), np.arange(d)],
        "utilisation": UF[:, ks.U_BUSY] / makespan_s if makespan_s > 0 else UF[:, ks.U_BUSY],
        "steps": UI[:, ks.I_STEPS],
        "mean_batch": np.r_[np.zeros(k), batch],
        "hosting_s": UF[:, ks.U_HOST_TIME],
        "preemptions": UI[:, ks.I_PREEMPTIONS],
    }

"""From frozen inputs to the arrays that the kernel reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qmodel._kernels import laws as kl
from qmodel._kernels import policies as kp
from qmodel._kernels import sim_state as ks
from qmodel._kernels import user as ku
from qmodel._kernels.law_tables import canonical
from qmodel.errors import InputError
from qmodel.laws import Calibration
from qmodel.policies.arrays import policy_arrays
from qmodel.policies.state import KernelSpec
from qmodel.scenario import SLO, Cluster, Requests
from qmodel.simulation.conditions import Fault, Signals, fault_events

__all__ = ["HISTOGRAM_BINS", "HISTOGRAM_LOG0", "HISTOGRAM_STEP", "Arrays", "Scene", "arrays_of", "scene_of"]

FloatArray = npt.NDArray[np.float64]

HISTOGRAM_LOG0, HISTOGRAM_STEP, HISTOGRAM_BINS = float(np.log(1e-5)), 0.001, 18_500  # up to 1e3 s in steps of 0.1 %

# More prompts than a step can hold, more steps than a run can make.
_NO_LIMIT = 1 << 62
_SHARING = {"fcfs": 0, "fair": 1, "none": 2}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Instances as the simulator numbers them: prefill first, then decode.

    Parameters
    ----------
    prefill, decode : tuple of Calibration
        One per instance.
    cluster : Cluster
        Limits and network.
    """

    prefill: tuple[Calibration, ...]
    decode: tuple[Calibration, ...]
    cluster: Cluster


def scene_of(cluster: Cluster, spec: KernelSpec) -> Scene:
    """Return the instances that take part: without disaggregation all of them decode."""
    if spec.kind == "colocated":
        return Scene(prefill=(), decode=cluster.prefill_calibrations + cluster.decode_calibrations, cluster=cluster)
    return Scene(prefill=cluster.prefill_calibrations, decode=cluster.decode_calibrations, cluster=cluster)


class Arrays(NamedTuple):
    """Arguments of the kernel `sim.run`, in its order."""

    clock: Any
    loop: Any
    R: Any
    F: Any
    UF: Any
    UI: Any
    lists: Any
    times: Any
    winners: Any
    dirty: Any
    slots: Any
    longest: Any
    classes: Any
    violations: Any
    hist: Any
    seen: Any
    scratch: Any
    slo: Any
    PK: Any
    PF: Any
    chunks: Any
    lengths: Any
    batches: Any
    contexts: Any
    curves: Any
    tables: Any
    LC: Any
    LB: Any
    EC: Any
    EB: Any
    EW: Any
    XI: Any
    XF: Any
    faults: Any
    noise: Any


def _laws(scene: Scene, size: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return coefficients and work constants per unit, and the distinct base tables."""
    laws = [c.prefill for c in scene.prefill] + [c.step for c in scene.decode]
    coef, work = np.zeros((len(laws), kl.COEF_WIDTH)), np.zeros((len(laws), kl.WORK_WIDTH))
    tables: list[tuple[FloatArray, FloatArray]] = []
    known: dict[bytes, int] = {}
    budget = scene.cluster.max_num_batched_tokens if scene.cluster.packing else 0
    for u, law in enumerate(laws):
        params = np.asarray(law.kernel_params(), dtype=float)
        index = known.setdefault(params.tobytes(), len(tables))
        if index == len(tables):
            tables.append(canonical(params, size))
        coef[u] = tables[index][0]
        coef[u, kl.C_TABLE] = index
        if u < len(scene.prefill) and budget:
            full = float(np.asarray(law.step_time_s(0.0, 0.0, float(budget), 0.0, 0.0)))
            work[u, kl.W_TOKEN] = full / budget
            work[u, kl.W_QUADRATIC] = float(np.asarray(law.step_time_s(0.0, 0.0, float(budget), 1.0, 0.0))) - full
            work[u, kl.W_RELOAD] = float(np.asarray(law.step_time_s(0.0, 0.0, float(budget), 0.0, 1.0))) - full
            work[u, kl.W_BUDGET] = budget
    base = np.ascontiguousarray([table for _, table in tables])
    return coef, base, work


def arrays_of(
    scene: Scene,
    requests: Requests,
    slos: Sequence[SLO],
    spec: KernelSpec,
    warm_from: int,
    signals: Signals | None = None,
    faults: Sequence[Fault] = (),
) -> Arrays:
    """Return the kernel's arguments for requests that `checks.check` has accepted."""
    cluster, n, k, d = scene.cluster, len(requests), len(scene.prefill), len(scene.decode)
    units = k + d
    largest = max(cluster.max_num_batched_tokens, spec.host_budget, *spec.chunks)
    if not cluster.packing:
        largest = max(largest, int(requests.prompt_tokens.max()))
    coef, base, work = _laws(scene, largest + cluster.max_num_seqs + 2)
    signals = signals or Signals()
    guess, guess_base = coef.copy(), base
    if signals.estimates is not None:
        seen_as = scene_of(signals.estimates, spec)
        if (len(seen_as.prefill), len(seen_as.decode)) != (k, d):
            raise InputError("cluster to estimate with", signals.estimates.name, f"{cluster.name}, as simulated")
        guess, guess_base, work = _laws(seen_as, largest + cluster.max_num_seqs + 2)
    R, F = np.zeros((n, ks.REQUEST_INTS), np.int32), np.full((n, ks.REQUEST_FLOATS), np.nan)
    F[:, ks.F_ARRIVAL] = requests.arrival_s
    F[:, [ks.F_TBT_MAX, ks.F_HOST, ks.F_KEY]] = 0.0
    for column, values in (
        (ks.R_PROMPT, requests.prompt_tokens), (ks.R_OUTPUT, requests.output_tokens),
        (ks.R_CACHED, requests.cached_tokens), (ks.R_CLASS, requests.slo_class), (ks.R_DONE, requests.cached_tokens),
        (ks.R_NEED, requests.prompt_tokens), (ks.R_LEFT, np.maximum(requests.output_tokens - 1, 1)),
    ):  # fmt: skip
        R[:, column] = values
    R[:, [ks.R_PREFILL, ks.R_DECODE, ks.R_NEXT, ks.R_PREV]] = -1
    UF, UI = np.zeros((units, ks.UNIT_FLOATS)), np.zeros((units, ks.UNIT_INTS), np.int64)
    UF[:, ks.U_END] = np.inf
    UF[:, ks.U_SLOWDOWN] = 1.0
    UI[:, ks.I_PART], UI[:, ks.I_NEXT_LEAVE] = -1, _NO_LIMIT
    for u, cal in enumerate(scene.prefill + scene.decode):
        UF[u, ks.U_CAPACITY] = cal.kv_capacity_tokens
        UF[u, ks.U_LINK_RATE] = cluster.transfer_law(cal).bytes_per_s
    size = 1 << int(np.ceil(np.log2(max(2, units + d))))
    winners = np.zeros(2 * size, np.int64)
    winners[size:] = np.arange(size)
    for node in range(size - 1, 0, -1):
        winners[node] = winners[2 * node]
    lists = np.zeros((2 * k + 4 * d + 1, 3), np.int64)
    lists[:, :2] = -1
    XI, XF = np.zeros(ks.SETTING_INTS, np.int64), np.zeros(ks.SETTING_FLOATS)
    XI[[ks.X_PREFILL, ks.X_DECODE, ks.X_BUDGET, ks.X_MAX_SEQS]] = (
        k, d, cluster.max_num_batched_tokens, cluster.max_num_seqs,
    )  # fmt: skip
    XI[[ks.X_PACKING, ks.X_FIRST_PREFILL, ks.X_WARM, ks.X_TREE]] = (
        cluster.packing, cluster.first_token == "prefill", warm_from, size,
    )  # fmt: skip
    XI[ks.X_MEASURED] = bool(faults) or signals.estimates is not None  # else steps take what the router expects
    XI[ks.X_SHARING] = _SHARING[cluster.link_sharing]
    XI[ks.X_PREFILL_SEQS] = cluster.max_prefill_seqs or _NO_LIMIT
    XI[ks.X_LAYERS] = cluster.calibration.layers if cluster.pipelined_transfer else 0
    XF[[ks.Y_FIXED, ks.Y_KV_BYTES, ks.Y_BLOCK, ks.Y_HIST_LOG0, ks.Y_HIST_STEP, ks.Y_TICKS]] = (
        cluster.transfer_fixed_s, cluster.calibration.kv_bytes_per_token, cluster.transfer_block_tokens, HISTOGRAM_LOG0,
        HISTOGRAM_STEP, cluster.ticks_per_s,
    )  # fmt: skip
    seats = min(cluster.max_num_seqs, n)
    slots = np.zeros((d, seats, 4), np.int64)
    policy, interval = policy_arrays(spec), signals.observation_interval_s
    return Arrays._make((
        np.array([0.0, 0.0 if interval > 0 else np.inf, interval]), np.zeros(ks.LOOP_INTS, np.int64),
        R, F, UF, UI, lists, np.full(size, np.inf), winners,
        np.zeros(units, np.int64), slots, np.zeros((d, seats)),
        np.zeros((d, len(slos)), np.int64), np.zeros((d, len(slos)), np.int64), np.zeros(HISTOGRAM_BINS),
        np.zeros((units, kp.OBSERVED)), np.zeros((2, max(ku.ASK_WIDTH, len(policy[3])))),
        np.array([[s.ttft_s, s.tbt_s] for s in slos]), *policy, coef, base, guess, guess_base, work, XI, XF,
        # Instances are numbered alike with and without disaggregation.
        fault_events(faults, cluster.prefill_count, cluster.decode_count), signals.noise(n),
    ))  # fmt: skip


def check(scene: Scene, requests: Requests, slos: Sequence[SLO]) -> None:
    """Refuse what cannot be simulated, before the kernel starts.

    Raises
    ------
    InputError
        When instances hold different models, a request cannot fit an instance's KV cache, or its SLO class is
        missing.
    """
    models = sorted({c.model for c in scene.prefill + scene.decode})
    if len(models) > 1:
        raise InputError("models of a cluster", ", ".join(models), "one", "caches of another model cannot be read")
    room = min(c.kv_capacity_tokens for c in scene.decode)
    total = requests.prompt_tokens + requests.output_tokens
    if int(total.max()) > room:
        worst = int(total.argmax())
        what = f"prompt + output tokens of request {worst}"
        raise InputError(what, int(total[worst]), f"<= {room}, the KV capacity", "drop longer requests")
    room = min((c.kv_capacity_tokens for c in scene.prefill), default=room)
    if int(requests.prompt_tokens.max()) > room:
        raise InputError("longest prompt [tokens]", int(requests.prompt_tokens.max()), f"<= {room}, the KV capacity")
    classes = int(requests.slo_class.max()) + 1
    if classes > len(slos) or int(requests.slo_class.min()) < 0:
        raise InputError("SLO classes", classes, f"<= {len(slos)}, the number of SLOs given", "give one SLO a class")
    if int(total.max()) >= 2**31 or len(requests) >= 2**31:
        raise InputError("tokens or requests", int(total.max()), "< 2^31", "simulate a part")

"""From frozen inputs to the arrays that the kernel reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qmodel._kernels import policies as kp
from qmodel._kernels import sim_state as ks
from qmodel._kernels import user as ku
from qmodel.errors import InputError
from qmodel.laws import Calibration
from qmodel.laws.tables import InstanceLaws, instance_laws
from qmodel.policies.arrays import policy_arrays
from qmodel.policies.state import KernelSpec
from qmodel.scenario import SLO, Cluster, Requests
from qmodel.simulation.conditions import Fault, Signals, fault_events

__all__ = ["HISTOGRAM_BINS", "HISTOGRAM_LOG0", "HISTOGRAM_STEP", "Arrays", "Scene", "arrays_of", "scene_of"]

FloatArray = npt.NDArray[np.float64]

# Bins of the times between tokens: 0.1 % wide, from 10 us to 1,000 s.
HISTOGRAM_LOG0, HISTOGRAM_STEP, HISTOGRAM_BINS = float(np.log(1e-5)), 0.001, 18_500

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


def arrays_of(
    scene: Scene,
    requests: Requests,
    slos: Sequence[SLO],
    spec: KernelSpec,
    warm_from: int,
    signals: Signals | None = None,
    faults: Sequence[Fault] = (),
) -> Arrays:
    """Return the kernel's arguments for requests that `check` has accepted."""
    cluster, n, k, d = scene.cluster, len(requests), len(scene.prefill), len(scene.decode)
    signals, seats = signals or Signals(), min(cluster.max_num_seqs, n)
    longest = 0 if cluster.packing else int(requests.prompt_tokens.max())
    largest = max(longest, cluster.max_num_batched_tokens, spec.host_budget, *spec.chunks)
    laws, guess = _laws(scene, spec, signals, largest + cluster.max_num_seqs + 2)
    R, F = _request_arrays(requests)
    UF, UI = _unit_arrays(scene)
    times, winners = _event_tree(k + 2 * d)
    lists = np.zeros((2 * k + 4 * d + 1, 3), np.int64)
    lists[:, :2] = -1
    XI, XF = _settings(scene, warm_from, len(times))
    XI[ks.X_MEASURED] = bool(faults) or signals.estimates is not None  # else steps take what the router expects
    policy, interval = policy_arrays(spec), signals.observation_interval_s
    return Arrays._make((
        np.array([0.0, 0.0 if interval > 0 else np.inf, interval]), np.zeros(ks.LOOP_INTS, np.int64),
        R, F, UF, UI, lists, times, winners,
        np.zeros(k + d, np.int64), np.zeros((d, seats, 4), np.int64), np.zeros((d, seats)),
        np.zeros((d, len(slos)), np.int64), np.zeros((d, len(slos)), np.int64), np.zeros(HISTOGRAM_BINS),
        np.zeros((k + d, kp.OBSERVED)), np.zeros((2, max(ku.ASK_WIDTH, len(policy.lengths)))),
        np.array([[s.ttft_s, s.tbt_s] for s in slos]), *policy, laws.coef, laws.base, guess.coef, guess.base,
        guess.work, XI, XF,
        # Instances are numbered alike with and without disaggregation.
        fault_events(faults, cluster.prefill_count, cluster.decode_count), signals.noise(n),
    ))  # fmt: skip


def _laws(scene: Scene, spec: KernelSpec, signals: Signals, size: int) -> tuple[InstanceLaws, InstanceLaws]:
    """Return the laws that steps follow, and those that the router estimates with; neither shares coefficients."""
    k, d = len(scene.prefill), len(scene.decode)
    believed = scene if signals.estimates is None else scene_of(signals.estimates, spec)
    if (len(believed.prefill), len(believed.decode)) != (k, d):
        limit = f"{scene.cluster.name}, as simulated"
        raise InputError("cluster to estimate with", believed.cluster.name, limit)
    laws, guess = (
        instance_laws([c.prefill for c in s.prefill], [c.step for c in s.decode], s.cluster.packed_budget, size)
        for s in (scene, believed)
    )
    return laws, guess


def _request_arrays(requests: Requests) -> tuple[npt.NDArray[np.int32], FloatArray]:
    n = len(requests)
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
    return R, F


def _unit_arrays(scene: Scene) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    units = scene.prefill + scene.decode
    UF, UI = np.zeros((len(units), ks.UNIT_FLOATS)), np.zeros((len(units), ks.UNIT_INTS), np.int64)
    UF[:, ks.U_END], UF[:, ks.U_SLOWDOWN] = np.inf, 1.0
    UI[:, ks.I_PART], UI[:, ks.I_NEXT_LEAVE] = -1, _NO_LIMIT
    UF[:, ks.U_CAPACITY] = [calibration.kv_capacity_tokens for calibration in units]
    UF[:, ks.U_LINK_RATE] = [scene.cluster.transfer_law(calibration).bytes_per_s for calibration in units]
    return UF, UI


def _event_tree(leaves: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return the times of events, none of which is due, and the winner tree above them; a power of two of leaves."""
    size = 1 << int(np.ceil(np.log2(max(2, leaves))))
    winners = np.zeros(2 * size, np.int64)
    winners[size:] = np.arange(size)
    for node in range(size - 1, 0, -1):
        winners[node] = winners[2 * node]
    return np.full(size, np.inf), winners


def _settings(scene: Scene, warm_from: int, tree_size: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    cluster = scene.cluster
    XI, XF = np.zeros(ks.SETTING_INTS, np.int64), np.zeros(ks.SETTING_FLOATS)
    for column, value in (
        (ks.X_PREFILL, len(scene.prefill)), (ks.X_DECODE, len(scene.decode)),
        (ks.X_BUDGET, cluster.max_num_batched_tokens), (ks.X_MAX_SEQS, cluster.max_num_seqs),
        (ks.X_PREFILL_SEQS, cluster.max_prefill_seqs or _NO_LIMIT), (ks.X_PACKING, cluster.packing),
        (ks.X_FIRST_PREFILL, cluster.first_token == "prefill"), (ks.X_SHARING, _SHARING[cluster.link_sharing]),
        (ks.X_LAYERS, cluster.calibration.layers if cluster.pipelined_transfer else 0),
        (ks.X_WARM, warm_from), (ks.X_TREE, tree_size),
    ):  # fmt: skip
        XI[column] = value
    for column, number in (
        (ks.Y_FIXED, cluster.transfer_fixed_s), (ks.Y_KV_BYTES, cluster.calibration.kv_bytes_per_token),
        (ks.Y_BLOCK, cluster.transfer_block_tokens), (ks.Y_TICKS, cluster.ticks_per_s),
        (ks.Y_HIST_LOG0, HISTOGRAM_LOG0), (ks.Y_HIST_STEP, HISTOGRAM_STEP),
    ):  # fmt: skip
        XF[column] = number
    return XI, XF


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

"""`predict`: one entry point that picks the method a cluster, workload and policy need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from qmodel.errors import InputError
from qmodel.policies import as_policy
from qmodel.policies.state import KernelSpec
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.scenario.ranges import range_warnings
from qmodel.system.draws import with_interval
from qmodel.system.prediction import Prediction

__all__ = ["Fidelity", "Method", "predict"]

Method = Literal["auto", "stationary", "bursty", "trace", "windows"]
Fidelity = Literal["fast", "balanced", "exact"]
_METHODS = ("auto", "stationary", "bursty", "trace", "windows")
_FIDELITIES = ("fast", "balanced", "exact")


def predict(
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    policy: Any = None,
    method: Method = "auto",
    *,
    fidelity: Fidelity = "balanced",
    draws: int = 0,
    seed: int = 0,
) -> Prediction:
    """Predict TTFT, TBT and attainment of a cluster without simulating it.

    Parameters
    ----------
    cluster : Cluster
        Prefill and decode pools and the network between them.
    workload : Workload
        Where requests come from; Poisson streams are predicted in steady state, others over their span.
    slo : SLO
        Limits that attainment refers to.
    policy : policy, plan or None
        Who prefills where; None never deflects.
    method : {"auto", "stationary", "bursty", "trace", "windows"}
        "stationary" is the steady state under Poisson arrivals; "bursty" that under arrivals whose rate changes for
        ever as it does from window to window (without deflection); "trace" the recursion over the workload's own
        requests; "windows" the same over requests redrawn from sums per window. "auto" takes the first for Poisson
        streams and "trace" otherwise; `Prediction.method` says which.
    fidelity : {"fast", "balanced", "exact"}
        How long the paths are that the numbers rest on.
    draws, seed : int
        Calibrations to draw from the uncertainty of their fit, 0 for none, and the seed of the draws; each takes as
        long as the prediction itself.

    Returns
    -------
    Prediction
        Laws of TTFT and TBT, their parts, attainment, and how far they may be off; with `draws` also the
        `calibration_interval`, which widens the error estimate. Rules of the simulator that it does not know are in its
        `warnings`.

    Raises
    ------
    InputError
        When the method or policy is not covered, or draws are asked of a calibration without standard errors.
    UnstableError
        When a steady state is asked for and a pool is overloaded.

    Examples
    --------
    >>> from qmodel.io.calibrations import load_calibration
    >>> cluster = Cluster.parse("2P2D", load_calibration("deepseek-v2-lite"))
    >>> workload = Workload.poisson(10.0, prompt_tokens=1000, output_tokens=200)
    >>> prediction = predict(cluster, workload, SLO(ttft_s=1.0, tbt_s=0.060))
    >>> 0.05 < prediction.ttft_s(0.95) < 0.5
    True
    """
    prediction = _predicted(cluster, workload, slo, policy, method, fidelity)
    if draws:
        prediction = with_interval(
            prediction, cluster, lambda drawn: _predicted(drawn, workload, slo, policy, method, fidelity), draws, seed
        )
    lines = (*_left_out(cluster, workload, _spec_of(policy)), *range_warnings(cluster, workload))
    return replace(prediction, warnings=(*prediction.warnings, *lines)) if lines else prediction


def _predicted(
    cluster: Cluster, workload: Workload, slo: SLO, policy: Any, method: Method, fidelity: Fidelity
) -> Prediction:
    if fidelity not in _FIDELITIES:
        raise InputError("fidelity", repr(fidelity), f"one of {', '.join(_FIDELITIES)}")
    if method not in _METHODS:
        raise InputError("method of predict", repr(method), f"one of {', '.join(_METHODS)}")
    spec = _spec_of(policy)
    chosen = method if method != "auto" else ("stationary" if workload.kind == "poisson" else "trace")
    if chosen == "stationary":
        from qmodel.system.stationary import predict_stationary, predict_stationary_with_policy

        if _is_plain(spec):
            return predict_stationary(cluster, workload, slo, fidelity)
        return predict_stationary_with_policy(cluster, workload, slo, spec, fidelity)
    if chosen == "bursty":
        from qmodel.system.bursty import predict_bursty

        if not _is_plain(spec):
            limit = "none, in order of arrival, routed by work, decode chosen after prefill"
            raise InputError("policy of method bursty", spec.kind, limit, "use method='trace'")
        return predict_bursty(cluster, workload, slo, fidelity)
    from qmodel.system.trace import predict_trace, predict_windows

    if chosen == "windows":
        return predict_windows(cluster, workload, slo, spec, fidelity)
    return predict_trace(cluster, workload, slo, spec)


def _is_plain(spec: KernelSpec) -> bool:
    """Return whether prompts wait in order of arrival for the least work, as the queues of steady state do."""
    ordered = spec.order == "fcfs" and spec.decode_choice == "prefilled"
    return spec.kind == "none" and ordered and not spec.route_by_requests


def _left_out(cluster: Cluster, workload: Workload, spec: KernelSpec) -> tuple[str, ...]:
    """Return a line for each rule of the simulator that predictions do not know and that may matter here."""
    lines = []
    if cluster.max_prefill_seqs is not None:
        prompt, _, cached, weights = workload.lengths()
        filled = float(weights @ (prompt - cached)) * cluster.max_prefill_seqs
        if cluster.packing and filled < cluster.max_num_batched_tokens:
            limit = f"max_prefill_seqs={cluster.max_prefill_seqs}"
            lines.append(f"{limit} limits prefill steps more than their token budget and is not predicted: simulate it")
    if spec.count_until != "finished":
        lines.append(f"count_until={spec.count_until!r} is not predicted: loads count to the end of a request")
    if spec.decode_choice == "arrival_landed":
        lines.append("decode_choice='arrival_landed' is predicted as 'arrival_sent': loads count from the transfer on")
    return tuple(lines)


def _spec_of(policy: Any) -> KernelSpec:
    chosen = as_policy(policy)
    if not hasattr(chosen, "kernel_spec"):
        raise InputError(
            "policy of predict", type(chosen).__name__, "a built-in policy or a plan", "simulate it instead"
        )
    spec = chosen.kernel_spec()
    if not isinstance(spec, KernelSpec):
        raise InputError("kernel_spec() of the policy", type(spec).__name__, "a KernelSpec")
    return spec

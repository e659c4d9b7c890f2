"""`predict`: one entry point that picks the method a cluster, workload and policy need."""

from __future__ import annotations

from typing import Literal

from qmodel.errors import InputError
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.system.prediction import Prediction

__all__ = ["Fidelity", "Method", "predict"]

Method = Literal["auto", "stationary", "trace", "windows"]
Fidelity = Literal["fast", "balanced", "exact"]
_PATH_LENGTH = {"fast": 4_096, "balanced": 8_192, "exact": 131_072}


def predict(
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    policy: object | None = None,
    method: Method = "auto",
    *,
    fidelity: Fidelity = "balanced",
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
    policy : object, optional
        A policy or a plan; None never deflects.
    method : {"auto", "stationary", "trace", "windows"}
        "auto" takes the steady state for Poisson streams and the recursion over requests otherwise.
    fidelity : {"fast", "balanced", "exact"}
        How long the paths are that the numbers rest on.

    Returns
    -------
    Prediction
        Laws of TTFT and TBT, their parts, attainment, and how far they may be off.

    Raises
    ------
    InputError
        When the method or policy is not covered.
    UnstableError
        When a steady state is asked for and a pool is overloaded.
    """
    if fidelity not in _PATH_LENGTH:
        raise InputError("fidelity", repr(fidelity), f"one of {', '.join(_PATH_LENGTH)}")
    if method not in ("auto", "stationary", "trace", "windows"):
        raise InputError("method of predict", repr(method), "one of auto, stationary, trace, windows")
    if policy is not None and type(policy).__name__ != "Disaggregated":
        raise InputError("policy of predict", type(policy).__name__, "None or Disaggregated", "simulate it instead")
    chosen = method if method != "auto" else ("stationary" if workload.kind == "poisson" else "trace")
    if chosen == "stationary":
        from qmodel.system.stationary import predict_stationary

        return predict_stationary(cluster, workload, slo, _PATH_LENGTH[fidelity])
    raise InputError("method of predict", chosen, "stationary", "simulate it instead")

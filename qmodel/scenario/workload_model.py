"""Workloads as plain values and as a line of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InputError
from qmodel.scenario.sources import LengthLaw, PoissonSource, Source
from qmodel.scenario.windowed import WindowedSource

if TYPE_CHECKING:
    from qmodel.scenario.cluster import Cluster
    from qmodel.scenario.workload import Workload

__all__ = ["MODEL_VERSION", "described", "source_from_model"]

MODEL_VERSION = 1
_KINDS = {"trace": "trace", "windows": "windowed model", "poisson": "Poisson"}


def described(workload: Workload, cluster: Cluster) -> str:
    """Return a workload in a line, for people.

    Parameters
    ----------
    workload : Workload
        What to describe.
    cluster : Cluster
        Gives W and k for load and peak.
    """
    prompt, output, _, weights = workload.lengths()
    order = np.argsort(prompt)
    p99 = int(prompt[order][np.searchsorted(np.cumsum(weights[order]), 0.99)])
    means = [float(np.dot(weights, tokens)) for tokens in (prompt, output)]
    peak = float(np.max(workload.windows(cluster)[2])) / cluster.prefill_count
    rate, load = workload.rate_per_s, workload.load(cluster)
    return (
        f"{workload.name} ({_KINDS[workload.kind]}): {rate:.3g} requests/s, load {load:.3g}"
        f" (busiest minute {peak:.3g}), prompts of {means[0]:,.0f} tokens (P99 {p99:,}), outputs of {means[1]:,.0f}"
    )


def source_from_model(model: Mapping[str, Any]) -> Source:
    """Return the source that `Workload.model` described.

    Parameters
    ----------
    model : mapping
        Plain values.

    Raises
    ------
    InputError
        When its version or kind is unknown; broken entries raise what Python does.
    """
    if model.get("version", MODEL_VERSION) != MODEL_VERSION:
        raise InputError("workload model version", model["version"], str(MODEL_VERSION), "use a matching qmodel")
    if model["kind"] == "windows":
        return WindowedSource.from_model(model)
    if model["kind"] == "poisson":
        laws = {
            key: LengthLaw(
                values=np.array(law["values"], dtype=np.int64), weights=np.array(law["weights"], dtype=float)
            )
            for key, law in (("prompt", model["prompt_tokens"]), ("output", model["output_tokens"]))
        }
        return PoissonSource(rate_per_s=float(model["rate_per_s"]), **laws)
    raise InputError("kind of workload model", repr(model["kind"]), "windows or poisson")

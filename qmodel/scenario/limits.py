"""Whether a workload fits a cluster at all."""

from __future__ import annotations

import numpy as np

from qmodel.errors import InputError
from qmodel.scenario.cluster import Cluster
from qmodel.scenario.workload import Workload

__all__ = ["check_kv_capacity"]


def check_kv_capacity(cluster: Cluster, workload: Workload) -> None:
    """Refuse a workload with a request that no instance can hold.

    Parameters
    ----------
    cluster : Cluster
        Its smallest KV capacity counts: prompt on a prefill instance, prompt and output on a decode instance.
    workload : Workload
        Its longest requests count.

    Raises
    ------
    InputError
        Naming the tokens of the longest request and the capacity.
    """
    prompt, output, _, _ = workload.lengths()
    for what, tokens, calibrations in (
        ("prompt + output tokens of the longest request", prompt + output, cluster.decode_calibrations),
        ("longest prompt [tokens]", prompt, cluster.prefill_calibrations),
    ):
        room = min(c.kv_capacity_tokens for c in calibrations)
        longest = int(np.max(tokens))
        if longest > room:
            raise InputError(what, longest, f"<= {room}, the KV capacity of an instance", "drop longer requests")

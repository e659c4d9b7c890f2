"""Prefill pool as a path: packed steps of a sequence of requests, then their transfers to decode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.scenario import Cluster

__all__ = ["PrefillPath", "prefill_path"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillPath:
    """Times of each request on the default path up to the decode instance; shape (n,) [s].

    Parameters
    ----------
    start_s, finish_s : ndarray
        First step that carries it begins, last step ends.
    placed_s : ndarray
        Its cache is in place at the decode instance.
    busy_s : ndarray, shape (k,)
        Time that each prefill instance spends in steps.
    """

    start_s: FloatArray
    finish_s: FloatArray
    placed_s: FloatArray
    busy_s: FloatArray


def prefill_path(
    cluster: Cluster,
    arrival_s: FloatArray,
    prompt_tokens: IntArray,
    cached_tokens: IntArray,
    decode_s: FloatArray,
) -> PrefillPath:
    """Return when each request is prefilled and moved, without deflection; *exact* for the prefill pool.

    A cache goes to the decode instance with the fewest requests on their way or resident for `decode_s`.

    Parameters
    ----------
    cluster : Cluster
        Prefill instances, token budget and network.
    arrival_s : ndarray, shape (n,)
        Arrival times, increasing [s].
    prompt_tokens, cached_tokens : ndarray of int, shape (n,)
        Lengths and cached prefixes [tokens].
    decode_s : ndarray, shape (n,)
        About how long each is decoded [s].

    Returns
    -------
    PrefillPath
        Times of each request.
    """
    from qmodel._kernels import system as kernels

    k = cluster.prefill_count
    laws = cluster.instance_laws((cluster.packed_budget or int(np.max(prompt_tokens))) + 1)
    instance, start, finish, busy = kernels.packed_prefill(
        arrival_s, prompt_tokens, cached_tokens, laws.coef, laws.base, laws.work, k, cluster.packed_budget
    )
    moved = (prompt_tokens - cached_tokens).astype(float)
    law = cluster.transfer_law()
    link = np.asarray(law.exposed_s(moved, finish - start)) - law.fixed_s
    begin = finish
    if cluster.link_sharing != "none":
        order = np.argsort(finish, kind="stable")
        stay = link + law.fixed_s + decode_s
        begin = kernels.fcfs_transfers(order, finish, instance, link, stay, k, cluster.decode_count)
    return PrefillPath(start_s=start, finish_s=finish, placed_s=begin + link + law.fixed_s, busy_s=busy)

"""Prefill pool as a path: packed steps of a sequence of requests, then their transfers to decode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.laws import Calibration
from qmodel.scenario import Cluster
from qmodel.system.tables import tabulate

__all__ = ["PrefillInputs", "PrefillPath", "prefill_inputs", "prefill_path"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillInputs:
    """What the recursions read about the prefill pool.

    Parameters
    ----------
    work_s, lone_s : ndarray, shape (laws, n)
        Work of each request, and its time in one unpacked step (0 when steps are packed) [s].
    base : ndarray, shape (laws, budget + 1)
        Step time by tokens [s].
    coef : ndarray, shape (laws, 6)
        Linear terms beside it.
    law_of : ndarray, shape (k,)
        Row of the tables of each instance.
    budget : int
        Tokens of a full step.
    """

    work_s: FloatArray
    lone_s: FloatArray
    base: FloatArray
    coef: FloatArray
    law_of: IntArray
    budget: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillPath:
    """Times of each request on the default path up to the decode instance; shape (n,) [s].

    Parameters
    ----------
    start_s, finish_s : ndarray
        First step that carries it begins, last step ends.
    placed_s : ndarray
        Its cache is in place at the decode instance.
    """

    start_s: FloatArray
    finish_s: FloatArray
    placed_s: FloatArray


def distinct(calibrations: tuple[Calibration, ...]) -> tuple[list[Calibration], IntArray]:
    """Return the different calibrations and, for each instance, which of them it has."""
    found: list[Calibration] = []
    rows = np.zeros(len(calibrations), dtype=np.int64)
    for i, cal in enumerate(calibrations):
        if not any(cal is seen for seen in found):
            found.append(cal)
        rows[i] = next(j for j, seen in enumerate(found) if cal is seen)
    return found, rows


def prefill_inputs(cluster: Cluster, prompt_tokens: IntArray, cached_tokens: IntArray) -> PrefillInputs:
    """Return work and step tables of a cluster's prefill pool for given requests.

    Parameters
    ----------
    cluster : Cluster
        Prefill instances and token budget.
    prompt_tokens, cached_tokens : ndarray of int, shape (n,)
        Lengths and cached prefixes [tokens].

    Returns
    -------
    PrefillInputs
        Arrays for `_kernels.system`.
    """
    budget = int(cluster.max_num_batched_tokens)
    laws, law_of = distinct(cluster.prefill_calibrations)
    tables = [tabulate(cal.prefill, budget) for cal in laws]
    prompt, cached = prompt_tokens.astype(float), cached_tokens.astype(float)
    lone = np.zeros((len(laws), len(prompt)))
    if cluster.packing:
        work = np.stack([np.asarray(cal.work_s(prompt, budget, cached)) for cal in laws])
    else:
        lone = np.stack([np.asarray(cal.lone_prefill_s(prompt, cached)) for cal in laws])
        work = lone
    return PrefillInputs(
        work_s=work,
        lone_s=lone,
        base=np.stack([base for base, _ in tables]),
        coef=np.stack([coef for _, coef in tables]),
        law_of=law_of,
        budget=budget,
    )


def prefill_path(
    cluster: Cluster, arrival_s: FloatArray, prompt_tokens: IntArray, cached_tokens: IntArray, inputs: PrefillInputs
) -> PrefillPath:
    """Return when each request is prefilled and moved, without deflection; *exact* for the prefill pool.

    Receivers take turns; their own choice by residents differs little, links being far from busy.
    """
    from qmodel._kernels import system as kernels

    instance, start, finish = kernels.packed_prefill(
        arrival_s, prompt_tokens, cached_tokens, inputs.work_s, inputs.lone_s, inputs.base, inputs.coef,
        inputs.law_of, inputs.budget,
    )  # fmt: skip
    if cluster.first_token == "prefill":
        return PrefillPath(start_s=start, finish_s=finish, placed_s=finish)
    moved = (prompt_tokens - cached_tokens).astype(float)
    law = cluster.transfer_law()
    link = np.asarray(law.exposed_s(moved, finish - start)) - law.fixed_s
    order = np.argsort(finish, kind="stable")
    begin = kernels.fcfs_transfers(order, finish, instance, link, cluster.prefill_count, cluster.decode_count)
    return PrefillPath(start_s=start, finish_s=finish, placed_s=begin + link + law.fixed_s)

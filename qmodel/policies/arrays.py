"""A policy's `KernelSpec` as the arrays that compiled decisions read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qmodel.policies.state import KernelSpec

__all__ = ["PolicyArrays", "policy_arrays"]


class PolicyArrays(NamedTuple):
    """Arguments of `_kernels.policies.decide`, in its order."""

    PK: Any
    PF: Any
    chunks: Any
    lengths: Any
    batches: Any
    contexts: Any
    curves: Any
    tables: Any


def policy_arrays(spec: KernelSpec) -> PolicyArrays:
    """Return a policy's parameters and tables for the kernels.

    Parameters
    ----------
    spec : KernelSpec
        Policy as data.

    Returns
    -------
    PolicyArrays
        Integers, floats, chunk sizes and the tables of a threshold rule (of size 1 without one).
    """
    from qmodel._kernels import policies as kp

    kinds = {
        "none": kp.NONE,
        "static": kp.STATIC,
        "kairos": kp.KAIROS,
        "earliest": kp.EARLIEST,
        "thresholds": kp.THRESHOLDS,
        "late": kp.LATE,
        "colocated": kp.COLOCATED,
        "external": kp.EXTERNAL,
        "compiled": kp.COMPILED,
    }
    PK, PF = np.zeros(kp.POLICY_INTS, np.int64), np.zeros(kp.POLICY_FLOATS)
    PK[kp.K_KIND] = kinds[spec.kind]
    PK[kp.K_ORDER] = {"fcfs": kp.FCFS, "spf": kp.SPF, "aged": kp.AGED, "due": kp.DUE}[spec.order]
    PK[kp.K_WAIT] = {"steps": 0, "exact": 1, "short": 2}[spec.wait]
    PK[[kp.K_HOST_BUDGET, kp.K_HOST_PACKING]] = spec.host_budget, spec.host_packing
    PK[kp.K_ROUTE_REQUESTS], PK[kp.K_SCATTER] = spec.route_by_requests, spec.tie_seed
    PK[kp.K_DECODE_EARLY] = {
        "prefilled": kp.AT_PREFILLED,
        "arrival": kp.AT_ARRIVAL,
        "arrival_sent": kp.AT_ARRIVAL_COUNT_SENT,
        "arrival_landed": kp.AT_ARRIVAL_COUNT_LANDED,
    }[spec.decode_choice]
    PK[kp.K_COMMIT] = spec.count_until == "last_step_starts"
    PK[kp.K_INCLUSIVE] = spec.static_inclusive
    PF[[kp.P_LIMIT, kp.P_ALPHA, kp.P_BETA, kp.P_AGEING]] = spec.limit_s, spec.alpha, spec.beta, spec.ageing_per_s
    PF[[kp.P_TOKENS, kp.P_RATIO, kp.P_PROMPT_TOKENS]] = (
        spec.static_tokens,
        spec.static_ratio,
        spec.static_prompt_tokens,
    )
    PF[[kp.P_PREFILL_BUSY, kp.P_DECODE_BUSY]] = spec.static_prefill_busy, spec.static_decode_busy
    chunks = np.array(sorted(spec.chunks, reverse=True), np.int64)
    rule = spec.rule
    if rule is None:
        one = np.zeros(1)
        return PolicyArrays(PK, PF, chunks, one, one, np.zeros((1, 1)), np.zeros((2, 1)), np.zeros((2, 1, 1, 1, 1)))
    PF[[kp.P_PRICE_PREFILL, kp.P_PRICE_DECODE]] = rule.price_prefill_per_s, rule.price_decode_per_s
    PF[kp.P_HARM] = rule.harm_weight
    PK[[kp.K_ROOM, kp.K_MAX_BATCH]] = rule.max_waiting_tokens, rule.max_batch
    PF[kp.P_RELIEF], PF[kp.P_DEADLINE] = rule.relief_weight, rule.deadline_s
    PF[[kp.P_FAULT_HARM, kp.P_PATIENCE, kp.P_SLOW]] = rule.fault_harm, rule.patience_s, rule.slow_factor
    PK = np.concatenate([PK, np.array(rule.kind_of, np.int64)])
    each = rule.kinds or (rule.tables_of(0),)
    lengths, batches = (np.ascontiguousarray(grid, dtype=float) for grid in (rule.lengths, rule.batches))
    curves = np.ascontiguousarray([rule.work_s, rule.transfer_s], dtype=float)
    contexts = np.ascontiguousarray([kind.contexts for kind in each], dtype=float)
    tables = np.ascontiguousarray([[kind.host_s for kind in each], [kind.harm_s for kind in each]], dtype=float)
    return PolicyArrays(PK, PF, chunks, lengths, batches, contexts, curves, tables)

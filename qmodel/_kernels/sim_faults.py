"""Faults: instances that stop or slow for a while, links that slow; requests that were there start again."""

import numpy as np
from qmodel._kernels import kernel

# ruff: noqa: I001 - columns are imported many to a line
from qmodel._kernels.laws import C_SCALE
from qmodel._kernels.policies import AT_ARRIVAL, AT_ARRIVAL_COUNT_LANDED, K_DECODE_EARLY
from qmodel._kernels.sim_decode import leave, next_leave
from qmodel._kernels.sim_links import FAIR, share_links
from qmodel._kernels.sim_prefill import wake
from qmodel._kernels.sim_state import (
    F_HOST, F_LANDED, F_START, F_TBT_MAX, I_BATCH, I_DOWN, I_FORGOTTEN, I_HOST_TOKENS, I_HOSTING, I_PART, I_REQUESTS,
    L_HEAD, L_TAIL, NOT_ARRIVED, R_CACHED, R_DECODE, R_DEFLECTED, R_DONE, R_LEFT, R_NEED, R_NEXT, R_OUTPUT, R_PREEMPTED,
    R_PREFILL, R_PREV, R_PROMPT, R_RESTARTS, R_STATE, R_VIOLATIONS, U_BATCH_TIME, U_BUSY, U_END, U_HOST_KV, U_HOST_PART,
    U_HOST_TIME, U_HOST_WAIT, U_KV, U_LINK_RATE, U_PART_WORK, U_SINCE, U_SLOWDOWN, U_TOKENS, U_WORK, X_DECODE,
    X_PREFILL, X_SHARING, X_TREE, mark, push_behind, remove, schedule,
)  # fmt: skip

# Columns of a fault event and its actions.
E_TIME, E_UNIT, E_ACTION, E_VALUE = range(4)
STOP, START, SPEED, LINK = range(4)


@kernel
def _push_by_id(lists, R, row, r):
    """Insert request r behind all that arrived before it, searching from the tail."""
    at = lists[row, L_TAIL]
    while at > r:
        at = R[at, R_PREV]
    push_behind(lists, R, row, at, r)


@kernel
def _again(r, R, F, lists, row):
    """Forget what was done for request r and let it arrive once more."""
    R[r, R_DONE], R[r, R_NEED] = R[r, R_CACHED], R[r, R_PROMPT]
    R[r, R_LEFT] = max(1, R[r, R_OUTPUT] - 1)
    R[r, R_PREEMPTED], R[r, R_VIOLATIONS], R[r, R_DEFLECTED] = 0, 0, 0
    R[r, R_PREFILL], R[r, R_DECODE], R[r, R_STATE] = -1, -1, NOT_ARRIVED
    R[r, R_RESTARTS] += 1
    F[r, F_TBT_MAX], F[r, F_HOST], F[r, F_START] = 0.0, 0.0, np.nan
    _push_by_id(lists, R, row, r)


@kernel
def _drop_list(R, F, lists, row, again):
    """Empty a list; return how many requests start again."""
    dropped = 0
    r = lists[row, L_HEAD]
    while r >= 0:
        remove(lists, R, row, r)
        _again(r, R, F, lists, again)
        dropped += 1
        r = lists[row, L_HEAD]
    return dropped


@kernel
def _release_early(R, UI, lists, row):
    """Take back the load that waiting requests already put on the decode instances chosen at their arrival."""
    r = lists[row, L_HEAD]
    while r >= 0:
        if R[r, R_DECODE] >= 0:
            UI[R[r, R_DECODE], I_REQUESTS] -= 1
        r = R[r, R_NEXT]


@kernel
def _stop_prefill(u, R, F, UF, UI, lists, times, winners, PK, XI):
    k, d = XI[X_PREFILL], XI[X_DECODE]
    again = 2 * k + 4 * d
    part = UI[u, I_PART]
    if PK[K_DECODE_EARLY] == AT_ARRIVAL:
        _release_early(R, UI, lists, u)
        _release_early(R, UI, lists, k + u)
        if part >= 0:
            UI[R[part, R_DECODE], I_REQUESTS] -= 1
    _drop_list(R, F, lists, k + u, again)
    if part >= 0:
        UI[u, I_PART] = -1
        _again(part, R, F, lists, again)
    for j in range(d):  # caches on their way are lost with their source
        row, v = 2 * k + 3 * d + j, k + j
        r = lists[row, L_HEAD]
        while r >= 0:
            behind = R[r, R_NEXT]
            if R[r, R_PREFILL] == u:
                remove(lists, R, row, r)
                UI[v, I_REQUESTS] -= 0 if PK[K_DECODE_EARLY] == AT_ARRIVAL_COUNT_LANDED else 1
                _again(r, R, F, lists, again)
            r = behind
        head = lists[row, L_HEAD]
        schedule(times, winners, XI[X_TREE], v, F[head, F_LANDED] if head >= 0 else np.inf)
    UF[u, U_PART_WORK], UF[u, U_KV] = 0.0, 0.0


@kernel
def _stop_decode(u, R, F, UF, UI, lists, slots, longest, classes, violations, times, winners, PK, XI):
    k, d = XI[X_PREFILL], XI[X_DECODE]
    j, again, gone = u - k, 2 * k + 4 * d, -UI[u, I_FORGOTTEN]
    while UI[u, I_BATCH] > 0:
        r, _ = leave(0, u, j, R, F, UF, UI, slots, longest, classes, violations, XI)
        gone += 1
        _again(r, R, F, lists, again)
    next_leave(u, j, UI, slots)
    gone += _drop_list(R, F, lists, 2 * k + d + j, again)
    if UI[u, I_PART] >= 0:
        _again(UI[u, I_PART], R, F, lists, again)
        UI[u, I_PART] = -1
        gone += 1
    gone += _drop_list(R, F, lists, 2 * k + j, again)
    gone += _drop_list(R, F, lists, 2 * k + 2 * d + j, again)
    transit = 2 * k + 3 * d + j
    r = lists[transit, L_HEAD]
    while r >= 0:
        UF[R[r, R_PREFILL], U_KV] -= R[r, R_NEED]
        r = R[r, R_NEXT]
    moving = _drop_list(R, F, lists, transit, again)
    gone += 0 if PK[K_DECODE_EARLY] == AT_ARRIVAL_COUNT_LANDED else moving
    schedule(times, winners, XI[X_TREE], u, np.inf)
    UI[u, I_REQUESTS] -= gone
    UI[u, I_HOST_TOKENS], UI[u, I_HOSTING], UI[u, I_FORGOTTEN] = 0, 0, 0
    UF[u, U_HOST_WAIT], UF[u, U_HOST_PART], UF[u, U_HOST_KV] = 0.0, 0.0, 0.0


@kernel
def apply_fault(
    t, event, late, R, F, UF, UI, lists, times, winners, loop, dirty, slots, longest, classes, violations, PK, LC, XI
):  # fmt: skip
    """Apply one fault event at time t."""
    k, d, u, action = XI[X_PREFILL], XI[X_DECODE], int(event[E_UNIT]), int(event[E_ACTION])
    if action == SPEED:
        LC[u, C_SCALE] *= event[E_VALUE]
        if u >= k:
            wake(t, u, UF, UI, times, winners, loop, dirty, XI)
    elif action == LINK:
        UF[u, U_LINK_RATE] *= event[E_VALUE]
        if XI[X_SHARING] == FAIR:
            share_links(t, R, F, UF, lists, times, winners, XI)
    elif action == START:
        UI[u, I_DOWN], UF[u, U_SLOWDOWN] = 0, 1.0
        mark(UI, loop, dirty, u)
    else:
        UI[u, I_DOWN] = 1
        if UF[u, U_END] < np.inf:
            UF[u, U_BUSY] += t - UF[u, U_SINCE]
            if u >= k:
                UF[u, U_BATCH_TIME] += UI[u, I_BATCH] * (t - UF[u, U_SINCE])
                UF[u, U_HOST_TIME] += t - UF[u, U_SINCE] if UI[u, I_HOSTING] > 0 else 0.0
            UF[u, U_END] = np.inf
        if u < k:
            _stop_prefill(u, R, F, UF, UI, lists, times, winners, PK, XI)
            if not late:
                _drop_list(R, F, lists, u, 2 * k + 4 * d)
                UF[u, U_WORK] = 0.0
            UF[u, U_TOKENS], UI[u, I_REQUESTS] = 0.0, 0
            schedule(times, winners, XI[X_TREE], u, np.inf)
        else:
            _stop_decode(u, R, F, UF, UI, lists, slots, longest, classes, violations, times, winners, PK, XI)
            schedule(times, winners, XI[X_TREE], d + u, np.inf)
        if XI[X_SHARING] == FAIR:
            share_links(t, R, F, UF, lists, times, winners, XI)
        for i in range(k):
            if UF[i, U_END] == np.inf:
                mark(UI, loop, dirty, i)  # caches freed elsewhere may let a blocked instance start

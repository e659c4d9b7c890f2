"""The network: transfers booked one after the other, shared fairly, or without contention.

Every instance has one outgoing and one incoming link of its own rate. "fcfs" books both ends of a transfer when
the prefill ends; "fair" gives each of n transfers on a link an n-th of its rate, the slower end counting; "none"
lets every transfer use the full rate. The fixed hand-over time follows the bytes and occupies no link.
"""

import numpy as np
from qmodel._kernels import inlined, kernel

# ruff: noqa: I001 - columns are imported many to a line
from qmodel._kernels.sim_state import (
    F_BYTES, F_LANDED, F_LAST, F_RATE, HANDING_OVER, L_COUNT, L_HEAD, L_TAIL, MOVING, R_NEXT, R_PREFILL, R_PREV,
    R_STATE, U_LINK_FREE, U_LINK_RATE, X_DECODE, X_PREFILL, X_SHARING, X_TREE, Y_FIXED, Y_TICKS,
    end_of_transfer, push, push_behind, remove, schedule,
)  # fmt: skip

FCFS, FAIR, NONE = range(3)


@kernel
def push_by_landing(lists, R, F, row, r):
    """Insert request r behind all that land no later, searching from the tail."""
    at = lists[row, L_TAIL]
    while at >= 0 and F[at, F_LANDED] > F[r, F_LANDED]:
        at = R[at, R_PREV]
    push_behind(lists, R, row, at, r)


@inlined
def send(t, r, i, u, size, busy, R, F, UF, lists, times, winners, XI, XF):
    """Start moving request r from prefill instance i to decode instance u: `size` bytes, `busy` [s] at full rate."""
    k, d = XI[X_PREFILL], XI[X_DECODE]
    row = 2 * k + 3 * d + (u - k)
    if XI[X_SHARING] == FAIR:
        F[r, F_BYTES], F[r, F_RATE], F[r, F_LAST] = size, 0.0, t
        push(lists, R, row, r)
        share_links(t, R, F, UF, lists, times, winners, XI)
        return
    begin = t
    if XI[X_SHARING] == FCFS:
        begin = max(t, max(UF[i, U_LINK_FREE], UF[u, U_LINK_FREE]))
        UF[i, U_LINK_FREE] = begin + busy
        UF[u, U_LINK_FREE] = begin + busy
    F[r, F_LANDED] = end_of_transfer(begin, busy, XF[Y_FIXED], XF[Y_TICKS])
    push_by_landing(lists, R, F, row, r)
    if lists[row, L_HEAD] == r:
        schedule(times, winners, XI[X_TREE], u, F[r, F_LANDED])


@kernel
def share_links(t, R, F, UF, lists, times, winners, XI):
    """Advance all transfers to time t, share the links anew and put each list in order of its next events."""
    k, d = XI[X_PREFILL], XI[X_DECODE]
    out, into = np.zeros(k, np.int64), np.zeros(d, np.int64)
    for j in range(d):
        r = lists[2 * k + 3 * d + j, L_HEAD]
        while r >= 0:
            if R[r, R_STATE] == MOVING:
                F[r, F_BYTES] = max(0.0, F[r, F_BYTES] - F[r, F_RATE] * (t - F[r, F_LAST]))
                F[r, F_LAST] = t
                out[R[r, R_PREFILL]] += 1
                into[j] += 1
            r = R[r, R_NEXT]
    for j in range(d):
        row = 2 * k + 3 * d + j
        r = lists[row, L_HEAD]
        lists[row, L_HEAD], lists[row, L_TAIL], lists[row, L_COUNT] = -1, -1, 0
        while r >= 0:
            behind = R[r, R_NEXT]
            if R[r, R_STATE] == MOVING:
                i = R[r, R_PREFILL]
                F[r, F_RATE] = min(UF[i, U_LINK_RATE] / out[i], UF[k + j, U_LINK_RATE] / into[j])
                F[r, F_LANDED] = t + F[r, F_BYTES] / F[r, F_RATE]
            push_by_landing(lists, R, F, row, r)
            r = behind
        head = lists[row, L_HEAD]
        schedule(times, winners, XI[X_TREE], k + j, F[head, F_LANDED] if head >= 0 else np.inf)


@kernel
def bytes_sent(t, r, row, R, F, UF, lists, times, winners, XI, XF):
    """Fair sharing: the bytes of the head of a list are sent; return whether the hand-over is still to come."""
    if XI[X_SHARING] != FAIR or R[r, R_STATE] == HANDING_OVER:
        return False
    R[r, R_STATE] = HANDING_OVER
    F[r, F_LANDED] = end_of_transfer(t, 0.0, XF[Y_FIXED], XF[Y_TICKS])
    remove(lists, R, row, r)
    push(lists, R, row, r)  # behind others that were handed over at the same instant
    share_links(t, R, F, UF, lists, times, winners, XI)
    return True

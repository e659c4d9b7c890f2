"""The shared queue of late binding in the recursion, kept in the order in which prefill instances take from it.

Shelves of about equal keys make insertion short. In the order of due times, which changes as time passes, only prompts
on whose fate the last look and this one differ are moved.
"""

# ruff: noqa: I001 - columns are imported many to a line

import math

from qmodel._kernels import kernel

from qmodel._kernels.heap import heap_pop, heap_push
from qmodel._kernels.policies_order import DUE_SHARE
from qmodel._kernels.sim_state import F_KEY, L_HEAD, L_TAIL, R_NEXT, R_PREV, push_behind, push_front, remove
from qmodel._kernels.system_state import ARRIVAL

SHELVES, _PER_E = 128, 12.0  # shelves of keys: so many to a factor of e, from 0.1 ms

# Rows of what the order of due times keeps by request: its work [s], the key that it should have, and a heap of works;
# its neighbours in order of arrival, and whose works those on the heap are.
Q_WORK, Q_VERDICT, Q_HEAP = range(3)
Q_EARLIER, Q_LATER, Q_IDS = range(3)
QUEUE_ROWS = 3
LATEST, OPEN = range(2)  # the last to arrive of those who wait, and the first of them that may still be in time


@kernel
def _shelf(key):
    return min(SHELVES - 1, max(0, int(_PER_E * math.log(max(key, 1e-4) / 1e-4))))


@kernel
def _before(K, r, other):
    """Return whether request r goes before another: the smaller key, the lower id."""
    return K[r, F_KEY] < K[other, F_KEY] or (K[r, F_KEY] == K[other, F_KEY] and r < other)


@kernel
def put(r, lists, R, K, shelves):
    """Insert request r by (key, id), searching from another of about the same key."""
    shelf = _shelf(K[r, F_KEY])
    b, at = shelf, lists[0, L_TAIL]
    while b >= 0:
        if shelves[b] >= 0:
            at = shelves[b]
            break
        b -= 1
    shelves[shelf] = r
    if b < 0:
        at = -1 if at < 0 else lists[0, L_HEAD]
    while at >= 0 and _before(K, r, at):
        at = R[at, R_PREV]
    if at < 0:
        push_front(lists, R, 0, r)
        return
    while R[at, R_NEXT] >= 0 and not _before(K, r, R[at, R_NEXT]):
        at = R[at, R_NEXT]
    push_behind(lists, R, 0, at, r)


@kernel
def take(r, lists, R, K, shelves):
    """Take request r out of a queue that `put` fills."""
    shelf, before = _shelf(K[r, F_KEY]), R[r, R_PREV]
    if shelves[shelf] == r:
        shelves[shelf] = before if before >= 0 and _shelf(K[before, F_KEY]) == shelf else -1
    remove(lists, R, 0, r)


@kernel
def join_due(r, work, lists, R, K, shelves, floats, ints, ends):
    """Let request r, the last to arrive, wait in a queue in order of due times, as if in time until `order_due`."""
    floats[Q_WORK, r] = work
    ints[Q_EARLIER, r], ints[Q_LATER, r] = ends[LATEST], -1
    if ends[LATEST] >= 0:
        ints[Q_LATER, ends[LATEST]] = r
    ends[LATEST] = r
    if ends[OPEN] < 0:
        ends[OPEN] = r
    K[r, F_KEY] = float(r - ints.shape[1])
    put(r, lists, R, K, shelves)


@kernel
def leave_due(r, ints, ends):
    """Forget request r, which has been taken out of a queue in order of due times."""
    before, after = ints[Q_EARLIER, r], ints[Q_LATER, r]
    if before >= 0:
        ints[Q_LATER, before] = after
    if after >= 0:
        ints[Q_EARLIER, after] = before
    else:
        ends[LATEST] = before
    if ends[OPEN] == r:
        ends[OPEN] = after


@kernel
def _judge(r, key, lists, R, K, shelves):
    """Move request r to the place of its key, unless it has that already."""
    if K[r, F_KEY] != key:
        take(r, lists, R, K, shelves)
        K[r, F_KEY] = key
        put(r, lists, R, K, shelves)


@kernel
def order_due(t, k, ahead, limit, lists, R, K, F, shelves, floats, ints, ends):
    """Bring the queue into the order of `policies_order.sort_due` for one TTFT limit [s], `ahead` [s] of begun work.

    Whoever has arrived so long ago that it would be late even at the head is given up, and so are all before it: they
    are at the front in order of arrival, where nobody is ahead of them. Moore's rule is run over the others only. Keys
    are negative for those in time, in order of arrival; their work for those given up.
    """
    r, free, within = ends[OPEN], t + ahead / k, DUE_SHARE * limit
    before = ints[Q_EARLIER, r] if r >= 0 else ends[LATEST]
    while before >= 0 and F[before, ARRIVAL] + within >= free:
        r, before = before, ints[Q_EARLIER, before]
    while r >= 0 and F[r, ARRIVAL] + within < free:
        _judge(r, floats[Q_WORK, r], lists, R, K, shelves)
        r = ints[Q_LATER, r]
    ends[OPEN] = r
    size = 0
    while r >= 0:
        work = floats[Q_WORK, r]
        floats[Q_VERDICT, r] = float(r - ints.shape[1])
        heap_push(floats[Q_HEAP], ints[Q_IDS], size, -work, r)
        size += 1
        ahead += work
        if t + (ahead - work) / k + work > F[r, ARRIVAL] + within:
            longest = heap_pop(floats[Q_HEAP], ints[Q_IDS], size)
            size -= 1
            ahead -= floats[Q_WORK, longest]
            floats[Q_VERDICT, longest] = floats[Q_WORK, longest]
        r = ints[Q_LATER, r]
    r = ends[OPEN]
    while r >= 0:
        _judge(r, floats[Q_VERDICT, r], lists, R, K, shelves)
        r = ints[Q_LATER, r]

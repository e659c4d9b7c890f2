"""Orders of prefill queues, compiled: keys, due times, and who goes first while a fault lasts."""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import kernel

from qmodel._kernels.heap import heap_pop, heap_push
from qmodel._kernels.laws import work_time
from qmodel._kernels.policies import DUE, FCFS, K_MAX_BATCH, K_ORDER, P_AGEING, P_PATIENCE, SPF, any_fault, kind_of
from qmodel._kernels.sim_state import (
    F_ARRIVAL, I_BATCH, I_DOWN, L_COUNT, L_HEAD, L_TAIL, LOOP_OVERDUE, R_CLASS, R_DONE, R_NEED, R_NEXT, R_PREV,
    U_CONTEXT,
)  # fmt: skip

# Order DUE: the share of the TTFT SLO in which a prefill should end, so that transfer and first step fit in the rest.
DUE_SHARE = 0.85
# Share of its cache from which on a decode instance counts as full.
CACHE_FULL = 0.9
# Keys of those given up and of those who go first; others have 0.
_LOST, _FIRST = 1e9, -1.0


@kernel
def queue_key(t, r, R, PK, PF, EW, EC, EB):
    """Return the key by which request r waits: arrival, work, or work plus ageing*arrival."""
    if PK[K_ORDER] == FCFS or PK[K_ORDER] == DUE:
        return t
    work = work_time(EW, EC, EB, 0, R[r, R_NEED], R[r, R_DONE])
    return work if PK[K_ORDER] == SPF else work + PF[P_AGEING] * t


@kernel
def sort_due(now, k, ahead, row, patience, lists, R, F, slo, EW, EC, EB):
    """Put a list in the order that lets most of its prompts be prefilled in time (Moore, Management Sci. 15, 1968).

    In order of arrival each prompt takes its place; where one would then end later than `DUE_SHARE` of its TTFT SLO
    after its arrival, the longest so far is given up. k instances with `ahead` [s] of begun work serve the list. Those
    given up follow, shortest first. Whoever has waited longer than `patience` [s] goes before all others. A request's
    number grows with its arrival.
    """
    n = lists[row, L_COUNT]
    ids, work, key = np.empty(n, np.int64), np.empty(n), np.zeros(n)
    r = lists[row, L_HEAD]
    for m in range(n):
        ids[m] = r
        r = R[r, R_NEXT]
    ids.sort()
    heap, at, size = np.empty(n), np.empty(n, np.int64), 0
    for m in range(n):
        r = ids[m]
        work[m] = work_time(EW, EC, EB, 0, R[r, R_NEED], R[r, R_DONE])
        if now - F[r, F_ARRIVAL] > patience:
            key[m] = _FIRST
            ahead += work[m]
            continue
        heap_push(heap, at, size, -work[m], m)
        size += 1
        ahead += work[m]
        ends = now + (ahead - work[m]) / k + work[m]
        if ends > F[r, F_ARRIVAL] + DUE_SHARE * slo[R[r, R_CLASS], 0]:
            longest = heap_pop(heap, at, size)
            size -= 1
            ahead -= work[longest]
            key[longest] = _LOST + work[longest]
    before = -1
    for m in np.argsort(key, kind="mergesort"):
        r = ids[m]
        R[r, R_PREV] = before
        if before < 0:
            lists[row, L_HEAD] = r
        else:
            R[before, R_NEXT] = r
        before = r
    R[before, R_NEXT] = -1
    lists[row, L_TAIL] = before


@kernel
def _no_room(k, d, UF, UI, PK, contexts):
    """Return whether every decode instance that is up has a full batch or a full cache."""
    for j in range(d):
        u, grid = k + j, contexts[kind_of(PK, j)]
        busy = 0 < PK[K_MAX_BATCH] <= UI[u, I_BATCH] or UF[u, U_CONTEXT] >= CACHE_FULL * grid[len(grid) - 1]
        if UI[u, I_DOWN] == 0 and not busy:
            return False
    return True


@kernel
def watch_overdue(now, k, d, R, F, UF, UI, lists, loop, PK, PF, contexts):
    """Note in loop[LOOP_OVERDUE] whether those who have waited too long go first in the shared queue.

    They do from when a decode instance is down or slow and no other has room, until nobody waits for so long.
    """
    if any_fault(k, d, UF, UI, PF) and _no_room(k, d, UF, UI, PK, contexts):
        loop[LOOP_OVERDUE] = 1
    elif loop[LOOP_OVERDUE] > 0:
        r = lists[0, L_HEAD]
        while r >= 0:
            if now - F[r, F_ARRIVAL] > PF[P_PATIENCE]:
                return
            r = R[r, R_NEXT]
        loop[LOOP_OVERDUE] = 0

"""The recursion over requests when deflection is bound late: one shared queue from which both pools take."""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import kernel

from qmodel._kernels.laws import law_time, work_time
from qmodel._kernels.policies import DUE, FCFS, K_ORDER, K_ROOM, queue_key, sort_due
from qmodel._kernels.policies_late import late_pull, late_queue
from qmodel._kernels.sim_state import (
    F_KEY, L_COUNT, L_HEAD, R_CACHED, R_DONE, R_NEED, R_NEXT, R_PREV, R_PROMPT, REQUEST_FLOATS, REQUEST_INTS,
    U_END, U_PART_WORK, UNIT_FLOATS, UNIT_INTS, push, push_sorted, remove,
)  # fmt: skip
from qmodel._kernels.system import BUSY, FREE, HEAD, PREFILL_COLUMNS
from qmodel._kernels.system_pools import (
    ARRIVAL, D_BUSY, D_CLOCK, D_CONTEXT, D_END, D_FROM, D_NOW, DECODE_FLOATS, DECODE_INTS, E_BATCH, E_HOSTING,
    E_REQUESTS, E_TOKENS, FINISH, G_TBT, G_TTFT, REQUEST_COLUMNS, S_BUDGET, S_DECODE, S_PREFILL, S_SEQS, START, advance,
    least_requests, observe, place_hosted, transfer,
)  # fmt: skip


@kernel
def _fill(t, i, unit, part, F, R, lists, UF, running, ended, done, need, cached, LC, LB, EW, budget):
    """Fill a step of idle prefill instance i from its begun prompt and the shared queue; start it if not empty."""
    r = part[i]
    part[i] = -1
    n, quadratic, reloaded, room = 0, 0.0, 0.0, budget if budget > 0 else 1
    ended[i] = 0
    while room > 0:
        if r < 0:
            r = lists[0, L_HEAD]
            if r < 0:
                break
            remove(lists, R, 0, r)
            F[r, START] = t
        left = need[r] - done[r]
        chi = min(room, left) if budget > 0 else left
        quadratic += chi * (done[r] + 0.5 * chi)
        reloaded += done[r]
        done[r] += chi
        n += chi
        room = room - chi if budget > 0 else 0
        if chi == left:
            running[i, ended[i]] = r
            ended[i] += 1
        else:
            part[i] = r
        r = -1
    UF[i, U_PART_WORK] = work_time(EW, LC, LB, i, need[part[i]], done[part[i]]) if part[i] >= 0 else 0.0
    if n == 0:
        return False
    duration = law_time(LC, LB, i, 0, 0.0, n, quadratic, reloaded)
    unit[FREE] = t + duration
    unit[BUSY] += duration
    UF[i, U_END] = unit[FREE]
    return True


@kernel
def _sort(t, k, d, pull, E, PK, R, F, lists, UF, slo, LC, LB, EW):
    """Bring the shared queue into the order of due times where somebody may take from it."""
    ahead, wanted = 0.0, False
    for i in range(k):
        ahead += UF[i, U_PART_WORK] + (max(0.0, UF[i, U_END] - t) if UF[i, U_END] < np.inf else 0.0)
        wanted = wanted or UF[i, U_END] == np.inf
    if pull:
        for j in range(d):
            wanted = wanted or E[j, E_TOKENS] < PK[K_ROOM]
    if wanted:
        sort_due(t, k, ahead, 0, lists, R, F, slo, EW, LC, LB)


@kernel
def _next_hosted(j, D, E, hosted, LC, LB, S):
    """Return when the hosted step of instance j ends, or the next one can begin [s]."""
    if E[j, E_HOSTING] > 0:
        return D[j, D_END]
    if hosted[j, HEAD] < 0:
        return np.inf
    if E[j, E_BATCH] == 0:
        return D[j, D_NOW]
    step = law_time(LC, LB, S[S_PREFILL] + j, E[j, E_BATCH], D[j, D_CONTEXT], 0, 0.0, 0.0)
    return D[j, D_NOW] + max(D[j, D_FROM] - D[j, D_CLOCK], 0.01) * step


@kernel
def late_pools(
    arrival, need, output, cached, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EW, rates,
    capacity, S, G, bins,
):  # fmt: skip
    """Run the recursion with a shared queue; decode instances with room pull what gains most.

    Returns what `system_pools.two_pools` returns.
    """
    n, k, d = arrival.shape[0], S[S_PREFILL], S[S_DECODE]
    F = np.zeros((n, REQUEST_COLUMNS))
    deflected = np.zeros(n, np.bool_)
    done = cached.copy()
    nxt = np.full(n, -1, np.int64)
    R, K = np.zeros((n, REQUEST_INTS), np.int32), np.zeros((n, REQUEST_FLOATS))
    for r in range(n):
        R[r, R_PROMPT], R[r, R_NEED], R[r, R_CACHED], R[r, R_DONE] = need[r], need[r], cached[r], cached[r]
        R[r, R_NEXT], R[r, R_PREV] = -1, -1
    lists = np.zeros((1, 3), np.int64)
    lists[0, 0], lists[0, 1] = -1, -1
    UF = np.zeros((k + d, UNIT_FLOATS))
    UF[:, U_END] = np.inf
    UI, exact = np.zeros((k + d, UNIT_INTS), np.int64), np.ones((1, 2))
    units, part = np.zeros((k, PREFILL_COLUMNS)), np.full(k, -1, np.int64)
    running, ended = np.zeros((k, max(S[S_BUDGET], 1) + 1), np.int64), np.zeros(k, np.int64)
    D, E = np.zeros((d, DECODE_FLOATS)), np.zeros((d, DECODE_INTS), np.int64)
    keys, ids = np.zeros((d, S[S_SEQS] + 2)), np.zeros((d, S[S_SEQS] + 2), np.int64)
    fresh = np.zeros((d, S[S_SEQS] + 2), np.int64)
    landing, hosted = np.full((d, 2), -1, np.int64), np.full((d, 2), -1, np.int64)
    slo = np.array([[G[G_TTFT], G[G_TBT]]])
    hist, seen, scratch = np.zeros(bins), np.zeros((k + d, 8)), np.zeros((2, len(lengths)))
    coming, pull, last = 0, False, -1.0
    while True:
        t = arrival[coming] if coming < n else np.inf
        for i in range(k):
            t = min(t, UF[i, U_END])
        for j in range(d):
            t = min(t, _next_hosted(j, D, E, hosted, LC, LB, S))
        if t <= last:  # an empty instance hosts only once the clock has passed its own
            t = np.nextafter(last, np.inf)
        last = t
        for j in range(d):
            pull = pull or (E[j, E_HOSTING] > 0 and D[j, D_END] <= t)
            advance(
                j, t, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, output, hist,
                PK, PF, chunks, LC, LB, capacity, S, G,
            )  # fmt: skip
        if t == np.inf:
            break
        for i in range(k):
            if UF[i, U_END] > t:
                continue
            pull = True
            UF[i, U_END] = np.inf
            for b in range(ended[i]):
                r = running[i, b]
                F[r, FINISH] = t
                j = least_requests(E, d)
                E[j, E_REQUESTS] += 1
                transfer(r, i, j, t, F, D, units[i], landing, nxt, need, cached, rates, S, G)
        while coming < n and arrival[coming] <= t:
            r = coming
            coming += 1
            pull = True
            F[r, ARRIVAL] = t
            if PK[K_ORDER] == FCFS or PK[K_ORDER] == DUE:
                push(lists, R, 0, r)
            else:
                K[r, F_KEY] = queue_key(t, r, R, PK, PF, EW, LC, LB)
                push_sorted(lists, R, K, 0, r)
        if PK[K_ORDER] == DUE and lists[0, L_COUNT] > 1:
            _sort(t, k, d, pull, E, PK, R, F, lists, UF, slo, LC, LB, EW)
        for i in range(k):
            if UF[i, U_END] == np.inf:
                _fill(
                    t, i, units[i], part, F, R, lists, UF, running, ended, done, need, cached, LC, LB, EW, S[S_BUDGET]
                )
        if not pull:
            continue
        pull = False
        for j in range(d):
            while lists[0, L_COUNT] > 0 and E[j, E_TOKENS] < PK[K_ROOM]:
                observe(t, units, D, E, LC, LB, capacity, seen, S)
                rows = late_queue(t, k, R, UF, UI, lists, lengths, curves, exact)
                r, host = late_pull(k + j, rows, seen, PK, PF, batches, contexts, tables, scratch)
                if r < 0:
                    break
                remove(lists, R, 0, r)
                deflected[r] = True
                place_hosted(r, j, host, F, D, E, hosted, nxt, need, cached)
    return F, deflected, hist, np.concatenate((units[:, BUSY], D[:, D_BUSY]))

"""The recursion over requests when deflection is bound late: one shared queue from which both pools take."""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import kernel

from qmodel._kernels.laws import law_time, work_time
from qmodel._kernels.policies import (
    DUE, FCFS, K_MAX_BATCH, K_ORDER, K_ROOM, OB_BATCH, OB_CONTEXT, OB_HOST, OBSERVED, P_HARM, P_RELIEF, SPF, kind_of,
)  # fmt: skip
from qmodel._kernels.policies_tables import at, bracket, interpolate3, locate
from qmodel._kernels.policies_late import WAITING_FLOATS, fill_rows, late_pull, work_begun
from qmodel._kernels.policies_order import queue_key
from qmodel._kernels.sim_state import (
    F_KEY, L_COUNT, L_HEAD, R_CACHED, R_DONE, R_NEED, R_NEXT, R_PREV, R_PROMPT, REQUEST_FLOATS, REQUEST_INTS, U_END,
    U_PART_WORK, UNIT_FLOATS, UNIT_INTS, push, push_sorted, remove,
)  # fmt: skip
from qmodel._kernels.system import BUSY, FREE, HEAD, HELD, PREFILL_COLUMNS, enqueue
from qmodel._kernels.system_batch import advance
from qmodel._kernels.system_pools import ends_at_prefill, fits, freed, observe_decode, place_hosted, transfer
from qmodel._kernels.system_queue import QUEUE_ROWS, SHELVES, join_due, leave_due, order_due, put, take
from qmodel._kernels.system_state import (
    ARRIVAL, D_BUSY, D_END, D_NOW, D_WAKE, DECODE_FLOATS, DECODE_INTS, E_BATCH, E_HOSTING, E_REQUESTS, E_TOKENS, FINISH,
    G_TTFT, REQUEST_COLUMNS, S_BUDGET, S_DECODE, S_PREFILL, S_SEQS, START, least_requests,
)  # fmt: skip

_BLOCK = 32  # waiting prompts looked at in one go

# What bounds the gain of any prompt: largest work and transfer [s], and the lengths that occur.
M_WORK, M_TRANSFER, M_SHORTEST, M_LONGEST = range(4)


@kernel
def _take(r, lists, R, K, shelves, order, ints, ends):
    """Take request r out of the shared queue."""
    if order in (SPF, DUE):
        take(r, lists, R, K, shelves)
        if order == DUE:
            leave_due(r, ints, ends)
    else:
        remove(lists, R, 0, r)


@kernel
def _fill(
    t, i, unit, part, F, R, K, lists, shelves, order, ints, ends, UF, running, ended, stall, kept, behind, room_kv,
    done, need, LC, LB, EW, budget,
):  # fmt: skip
    """Fill a step of idle prefill instance i from its begun prompt and the shared queue; start it if not empty."""
    r = part[i]
    part[i] = -1
    n, quadratic, reloaded, room = 0, 0.0, 0.0, budget if budget > 0 else 1
    ended[i] = 0
    stall[i] = np.inf
    while room > 0:
        if r < 0:
            r = lists[0, L_HEAD]
            if r < 0:
                break
            if not fits(unit, need[r], room_kv):
                soonest = freed(kept, behind, unit, t, F, need)
                if not fits(unit, need[r], room_kv):
                    stall[i] = soonest
                    break
            _take(r, lists, R, K, shelves, order, ints, ends)
            unit[HELD] += need[r]
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
    stall[i] = np.inf
    duration = law_time(LC, LB, i, 0, 0.0, n, quadratic, reloaded)
    unit[FREE] = t + duration
    unit[BUSY] += duration
    UF[i, U_END] = unit[FREE]
    return True


@kernel
def _next_hosted(j, D, E, hosted):
    """Return when the hosted step of instance j ends, or the next one may begin [s]."""
    if E[j, E_HOSTING] > 0:
        return D[j, D_END]
    return max(D[j, D_WAKE], D[j, D_NOW]) if hosted[j, HEAD] >= 0 else np.inf


@kernel
def _most_of(need, cached, lengths, curves, most):
    """Write the largest work and transfer [s], and the shortest and longest length, of all requests."""
    most[M_SHORTEST], most[M_LONGEST] = np.inf, 0.0
    for r in range(len(need)):
        most[M_SHORTEST] = min(most[M_SHORTEST], need[r] - cached[r])
        most[M_LONGEST] = max(most[M_LONGEST], need[r] - cached[r])
    for which in range(2):
        most[which] = 0.0
        for m in range(len(lengths) + 2):
            length = lengths[m - 2] if m > 1 else most[M_SHORTEST + m]
            if most[M_SHORTEST] <= length <= most[M_LONGEST]:
                i, f = bracket(lengths, length)
                most[which] = max(most[which], at(curves[which], i, f))


@kernel
def _none_gains(u, kind, waiting, ahead, k, most, seen, PF, lengths, batches, contexts, tables):
    """Return whether no prompt can gain at decode unit u, however long those who wait are and in whatever order.

    Where no chunk is safe beside the batch, hosting takes longer than any queue. Tables are linear between lengths, so
    that their smallest value over all lengths that occur is at one of the table or at an end.
    """
    gain = (ahead + waiting * most[M_WORK] * (1.0 + PF[P_RELIEF])) / k + most[M_WORK] + most[M_TRANSFER]
    cell = locate(batches, contexts[kind], seen[u, OB_BATCH], seen[u, OB_CONTEXT])
    for m in range(len(lengths) + 2):
        length = lengths[m - 2] if m > 1 else most[M_SHORTEST + m]
        if most[M_SHORTEST] <= length <= most[M_LONGEST]:
            i, f = bracket(lengths, length)
            if seen[u, OB_HOST] + interpolate3(tables[0, kind], i, f, cell) <= gain:
                return False
    return True


@kernel
def _pull(
    unit, kind, ahead, k, R, lists, lengths, curves, exact, rows, seen, PK, PF, batches, contexts, tables, scratch
):  # fmt: skip
    """Return (request, host time) that a decode unit pulls, or (-1, 0); looks no further than needed."""
    r, waiting = lists[0, L_HEAD], lists[0, L_COUNT]
    while r >= 0:
        m, r, ahead = fill_rows(r, ahead, waiting, k, R, lengths, curves, exact, rows)
        found, host = late_pull(unit, kind, rows[:m], seen, PK, PF, PF[P_HARM], batches, contexts, tables, scratch)
        if found >= 0:
            return found, host
        waiting -= m
    return -1, 0.0


@kernel
def _next_event(t, k, d, UF, stall, D, E, hosted):
    """Return when something happens that concerns the shared queue, at t at the latest [s]."""
    for i in range(k):
        t = min(t, min(UF[i, U_END], stall[i]))
    for j in range(d):
        t = min(t, _next_hosted(j, D, E, hosted))
    return t


@kernel
def _hand_over(i, t, running, ended, F, D, E, units, kept, behind, landing, nxt, need, cached, left, rates, S, G):
    """Send the prompts that end with the step of prefill instance i at t to decode instances."""
    for b in range(ended[i]):
        r = running[i, b]
        F[r, FINISH] = t
        if ends_at_prefill(r, t, left, F, S):
            units[i, HELD] -= need[r]
            continue
        j = least_requests(E, S[S_DECODE])
        E[j, E_REQUESTS] += 1
        transfer(r, i, j, t, F, D, units[i], landing, nxt, need, cached, rates, S, G)
        enqueue(kept[i], behind, r)


@kernel
def _arrive(r, t, lists, R, K, F, shelves, floats, ints, ends, need, cached, PK, PF, LC, LB, EW):
    """Put request r, which arrives at t, into the shared queue."""
    F[r, ARRIVAL] = t
    if PK[K_ORDER] == FCFS:
        push(lists, R, 0, r)
    elif PK[K_ORDER] == DUE:
        join_due(r, work_time(EW, LC, LB, 0, need[r], cached[r]), lists, R, K, shelves, floats, ints, ends)
    else:
        K[r, F_KEY] = queue_key(t, r, R, PK, PF, EW, LC, LB)
        if PK[K_ORDER] == SPF:
            put(r, lists, R, K, shelves)
        else:
            push_sorted(lists, R, K, 0, r)


@kernel
def _run(
    arrival, deflected, R, K, lists, shelves, floats, ints, ends, UF, UI, stall, exact, units, part, kept, behind, room,
    running, ended, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, hist, seen,
    scratch, rows, most, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EW, rates, capacity, S, G,
):  # fmt: skip
    """Let all requests arrive and finish."""
    n, k, d, order = arrival.shape[0], S[S_PREFILL], S[S_DECODE], PK[K_ORDER]
    coming, pull, last = 0, False, -1.0
    while True:
        t = _next_event(arrival[coming] if coming < n else np.inf, k, d, UF, stall, D, E, hosted)
        if t <= last:  # an empty instance hosts only once the clock has passed its own
            t = np.nextafter(last, np.inf)
        last = t
        for j in range(d):
            pull = pull or (E[j, E_HOSTING] > 0 and D[j, D_END] <= t)
            if D[j, D_WAKE] <= t:
                advance(
                    j, t, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, hist,
                    PK, PF, chunks, LC, LB, capacity, S, G,
                )  # fmt: skip
        if t == np.inf:
            return
        for i in range(k):
            if UF[i, U_END] > t:
                continue
            pull = True
            UF[i, U_END] = np.inf
            _hand_over(
                i, t, running, ended, F, D, E, units, kept, behind, landing, nxt, need, cached, left, rates, S, G
            )
        while coming < n and arrival[coming] <= t:
            _arrive(coming, t, lists, R, K, F, shelves, floats, ints, ends, need, cached, PK, PF, LC, LB, EW)
            coming, pull = coming + 1, True
        ahead, _ = work_begun(t, k, UF, UI)
        looked = order != DUE or lists[0, L_COUNT] < 2
        for i in range(k):
            if UF[i, U_END] == np.inf:
                if not looked:
                    order_due(t, k, ahead, G[G_TTFT], lists, R, K, F, shelves, floats, ints, ends)
                    looked = True
                _fill(
                    t, i, units[i], part, F, R, K, lists, shelves, order, ints, ends, UF, running, ended, stall,
                    kept[i], behind, room[i], done, need, LC, LB, EW, S[S_BUDGET],
                )  # fmt: skip
        if not pull:
            continue
        pull = False
        for j in range(d):
            while lists[0, L_COUNT] > 0 and E[j, E_TOKENS] < PK[K_ROOM]:
                advance(
                    j, t, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, hist,
                    PK, PF, chunks, LC, LB, capacity, S, G,
                )  # fmt: skip
                if 0 < PK[K_MAX_BATCH] <= E[j, E_BATCH]:
                    break
                observe_decode(t, j, D, E, LC, LB, capacity, seen, S)
                begun, _ = work_begun(t, k, UF, UI)
                if lists[0, L_COUNT] > _BLOCK and _none_gains(
                    k + j, kind_of(PK, j), lists[0, L_COUNT], begun, k, most, seen, PF, lengths, batches, contexts,
                    tables,
                ):  # fmt: skip
                    break
                if not looked:
                    order_due(t, k, ahead, G[G_TTFT], lists, R, K, F, shelves, floats, ints, ends)
                    looked = True
                r, host = _pull(
                    k + j, kind_of(PK, j), begun, k, R, lists, lengths, curves, exact, rows, seen, PK, PF, batches,
                    contexts, tables, scratch,
                )  # fmt: skip
                if r < 0:
                    break
                _take(r, lists, R, K, shelves, order, ints, ends)
                deflected[r] = True
                place_hosted(r, j, host, F, D, E, hosted, nxt, need, cached)


@kernel
def late_pools(
    arrival, prompt, output, cached_before, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EW,
    rates, capacity, S, G, bins,
):  # fmt: skip
    """Run the recursion with a shared queue; decode instances with room pull what gains most.

    Returns what `system_pools.two_pools` returns.
    """
    n, k, d = arrival.shape[0], S[S_PREFILL], S[S_DECODE]
    F = np.zeros((n, REQUEST_COLUMNS))
    deflected = np.zeros(n, np.bool_)
    need, left, cached, done = prompt.copy(), output.copy(), cached_before.copy(), cached_before.copy()
    nxt, behind, again = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.zeros(n, np.int64)
    R, K = np.zeros((n, REQUEST_INTS), np.int32), np.zeros((n, REQUEST_FLOATS))
    for r in range(n):
        R[r, R_PROMPT], R[r, R_NEED], R[r, R_CACHED], R[r, R_DONE] = need[r], need[r], cached[r], cached[r]
        R[r, R_NEXT], R[r, R_PREV] = -1, -1
    lists, shelves = np.zeros((1, 3), np.int64), np.full(SHELVES, -1, np.int64)
    lists[0, 0], lists[0, 1] = -1, -1
    UF, stall = np.zeros((k + d, UNIT_FLOATS)), np.full(k, np.inf)
    UF[:, U_END] = np.inf
    UI, exact = np.zeros((k + d, UNIT_INTS), np.int64), np.ones((1, 2))
    units, part = np.zeros((k, PREFILL_COLUMNS)), np.full(k, -1, np.int64)
    kept = np.full((k, 2), -1, np.int64)
    running, ended = np.zeros((k, max(S[S_BUDGET], 1) + 1), np.int64), np.zeros(k, np.int64)
    D, E = np.zeros((d, DECODE_FLOATS)), np.zeros((d, DECODE_INTS), np.int64)
    keys, ids = np.zeros((d, S[S_SEQS] + 2)), np.zeros((d, S[S_SEQS] + 2), np.int64)
    fresh = np.zeros((d, S[S_SEQS] + 2), np.int64)
    landing, hosted = np.full((d, 2), -1, np.int64), np.full((d, 2), -1, np.int64)
    asked = n if PK[K_ORDER] == DUE else 0
    floats, ints = np.zeros((QUEUE_ROWS, asked)), np.zeros((QUEUE_ROWS, asked), np.int64)
    ends, most = np.full(2, -1, np.int64), np.zeros(4)
    _most_of(need, cached, lengths, curves, most)
    hist, seen, scratch = np.zeros(bins), np.zeros((k + d, OBSERVED)), np.zeros((2, len(lengths)))
    rows = np.empty((n if PK[K_ORDER] == FCFS else _BLOCK, WAITING_FLOATS))
    _run(
        arrival, deflected, R, K, lists, shelves, floats, ints, ends, UF, UI, stall, exact, units, part, kept, behind,
        capacity[:k], running, ended, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again,
        hist, seen, scratch, rows, most, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EW, rates,
        capacity[k:], S, G,
    )  # fmt: skip
    return F, deflected, hist, np.concatenate((units[:, BUSY], D[:, D_BUSY]))

"""Both pools of a cluster as one recursion over requests, with deflection.

Prefill instances run packed steps, hosted prompts their chunks and decode batches flow, all as the laws say; see
`system_state` and `system_batch`.
"""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import kernel

from qmodel._kernels.heap import heap_pop, heap_push
from qmodel._kernels.laws import law_time, whole_blocks, work_time
from qmodel._kernels.policies import (
    AT_ARRIVAL, FCFS, K_DECODE_EARLY, K_KIND, K_ORDER, NONE, OB_BATCH, OB_CONTEXT, OB_HOST,
    OB_HOSTING, OB_KV, OB_LINK, OB_LOAD, OB_REQUESTS, OB_REST, OB_STRICTEST, OB_TOKENS, OB_WORK, OBSERVED, decide,
)  # fmt: skip
from qmodel._kernels.policies_order import queue_key
from qmodel._kernels.sim_state import (
    R_CACHED, R_DONE, R_NEED, R_PROMPT, REQUEST_INTS, U_LINK_RATE, UNIT_FLOATS, X_BUDGET, X_DECODE, X_PREFILL,
)  # fmt: skip
from qmodel._kernels.system import (
    BUSY, FREE, GATE, HEAD, HELD, LINK, PART, PREFILL_COLUMNS, REQUESTS, STEP_TOKENS, TAIL, TOKENS, WAITING, enqueue,
    prefill_step,
)  # fmt: skip
from qmodel._kernels.system_batch import advance
from qmodel._kernels.system_state import (
    ARRIVAL, D_CLOCK, D_CONTEXT, D_END, D_FROM, D_KV, D_LINK, D_PART, D_WAIT, D_WAKE, D_BUSY, DECODE_FLOATS,
    DECODE_INTS, E_BATCH, E_HOSTING, E_REQUESTS, E_TOKENS, END, FINISH, FIRST, G_BLOCK, G_FIXED, G_KV_BYTES, HOST,
    LANDED,
    ADMITTED, NO_CONTENTION, REQUEST_COLUMNS, S_BUDGET, S_DECODE, S_ENDS, S_LAYERS, S_PREFILL, S_ROUTED_BUDGET,
    S_SEQS, S_SHARING, START, enqueue_by_landing, least_requests, next_boundary,
)  # fmt: skip


@kernel
def observe_prefill(t, units, seen, k):
    """Write what a router sees of the prefill instances at time t."""
    for i in range(k):
        unit = units[i]
        seen[i, OB_WORK] = unit[WAITING] + unit[PART] + max(unit[FREE] - t, 0.0)
        seen[i, OB_TOKENS] = unit[TOKENS] - (unit[STEP_TOKENS] if unit[FREE] <= t else 0.0)
        seen[i, OB_REQUESTS] = unit[REQUESTS]
        seen[i, OB_LINK] = unit[LINK]


@kernel
def observe_decode(t, j, D, E, LC, LB, capacity, seen, S):
    """Write what a router sees of decode instance j, which has been advanced to time t; its step ends by its clock."""
    u, rest, part = S[S_PREFILL] + j, 0.0, 0.0
    if E[j, E_HOSTING] > 0:
        rest = max(D[j, D_END] - t, 0.0)
        part = rest
    elif E[j, E_BATCH] > 0:
        step = law_time(LC, LB, u, E[j, E_BATCH], D[j, D_CONTEXT], 0, 0.0, 0.0)
        rest = (next_boundary(j, D, E) - D[j, D_CLOCK]) * step
    seen[u, OB_HOST] = D[j, D_WAIT] + D[j, D_PART] + part
    seen[u, OB_BATCH] = E[j, E_BATCH]
    seen[u, OB_CONTEXT] = D[j, D_CONTEXT]
    seen[u, OB_HOSTING] = 1.0 if E[j, E_TOKENS] > 0 else 0.0
    seen[u, OB_LOAD] = E[j, E_REQUESTS]
    seen[u, OB_REST] = rest
    seen[u, OB_STRICTEST] = np.inf
    seen[u, OB_KV] = (D[j, D_CONTEXT] + D[j, D_KV]) / capacity[j]


@kernel
def place_hosted(r, j, host, F, D, E, hosted, nxt, need, cached):
    """Queue request r for prefill at decode instance j; its first chunk waits for the step in progress."""
    if hosted[j, HEAD] < 0 and E[j, E_HOSTING] == 0:
        D[j, D_FROM] = next_boundary(j, D, E)
    enqueue(hosted[j], nxt, r)
    F[r, HOST] = host
    D[j, D_WAIT] += host
    D[j, D_WAKE] = 0.0
    E[j, E_TOKENS] += need[r] - cached[r]
    E[j, E_REQUESTS] += 1


@kernel
def transfer(r, i, j, t, F, D, unit, landing, nxt, need, cached, rates, S, G):
    """Send the cache of request r from prefill instance i to decode instance j, first come first served."""
    size = G[G_KV_BYTES] * whole_blocks(need[r] - cached[r], G[G_BLOCK])
    busy = size / min(rates[i], rates[S[S_PREFILL] + j])
    layers = S[S_LAYERS]
    if layers > 0:
        busy = max(busy / layers, busy - (t - F[r, START]) * (layers - 1) / layers)
    begin = t
    if S[S_SHARING] != NO_CONTENTION:
        begin = max(t, max(unit[LINK], D[j, D_LINK]))
        unit[LINK] = begin + busy
        D[j, D_LINK] = begin + busy
    F[r, LANDED] = begin + busy + G[G_FIXED]
    D[j, D_WAKE] = min(D[j, D_WAKE], F[r, LANDED])
    enqueue_by_landing(landing[j], nxt, F, r)


@kernel
def ends_at_prefill(r, t, left, F, S):
    """Let a request end with its prefill if its only token is made there; return whether it does."""
    if S[S_ENDS] == 0 or left[r] > 1:
        return False
    F[r, LANDED], F[r, ADMITTED], F[r, FIRST], F[r, END] = t, t, t, t
    return True


@kernel
def enqueue_by_key(queue, nxt, key, r, begun):
    """Put request r behind all whose key is not larger; a prompt already begun stays at the head."""
    before, at = -1, queue[HEAD]
    if at >= 0 and begun:
        before, at = at, nxt[at]
    while at >= 0 and key[at] <= key[r]:
        before, at = at, nxt[at]
    nxt[r] = at
    if before < 0:
        queue[HEAD] = r
    else:
        nxt[before] = r
    if at < 0:
        queue[TAIL] = r


@kernel
def fits(unit, tokens, room):
    """Return whether a prefill instance has cache for a prompt beside those it holds; an empty one takes any."""
    return unit[HELD] <= 0.0 or unit[HELD] + tokens <= room


@kernel
def freed(kept, behind, unit, now, F, need):
    """Give back the cache of prompts that have been handed over by now; return when the next one will be [s]."""
    soonest, before, at = np.inf, -1, kept[HEAD]
    while at >= 0:
        after = behind[at]
        if F[at, LANDED] <= now:
            unit[HELD] -= need[at]
            if before < 0:
                kept[HEAD] = after
            else:
                behind[before] = after
            if after < 0:
                kept[TAIL] = before
        else:
            soonest = min(soonest, F[at, LANDED])
            before = at
        at = after
    return soonest


@kernel
def first_to_run(queue, units, k):
    """Return the prefill instance whose next step begins first, and when [s]; those without prompts never do."""
    best, at = -1, np.inf
    for i in range(k):
        begin = max(units[i, FREE], units[i, GATE])
        if queue[i, HEAD] >= 0 and begin < at:
            best, at = i, begin
    return best, at


@kernel
def _handed_over(
    q, now, instance, target, start, kept, behind, F, D, E, units, keys, ids, fresh, landing, hosted, nxt, need, cached,
    done, left, again, hist, PK, PF, chunks, LC, LB, rates, capacity, S, G,
):  # fmt: skip
    """Send request q, whose prefill ends now, to a decode instance."""
    i, d, j = instance[q], S[S_DECODE], target[q]
    units[i, REQUESTS] -= 1.0
    F[q, START], F[q, FINISH] = start[q], now
    if ends_at_prefill(q, now, left, F, S):
        units[i, HELD] -= need[q]
        if j >= 0 and PK[K_DECODE_EARLY] == AT_ARRIVAL:
            E[j, E_REQUESTS] -= 1
        return
    if j < 0:
        for o in range(d):
            if D[o, D_WAKE] <= now:
                advance(
                    o, now, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, hist, PK,
                    PF, chunks, LC, LB, capacity, S, G,
                )  # fmt: skip
        j = least_requests(E, d)
    if target[q] < 0 or PK[K_DECODE_EARLY] != AT_ARRIVAL:
        E[j, E_REQUESTS] += 1
    transfer(q, i, j, now, F, D, units[i], landing, nxt, need, cached, rates, S, G)
    enqueue(kept[i], behind, q)


@kernel
def _run_until(
    t, events, event_keys, event_ids, largest, room, queue, instance, target, start, finish, kept, behind, EW, F, D, E,
    units, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, hist, PK, PF, chunks, LC, LB, rates,
    capacity, S, G,
):  # fmt: skip
    """Begin all prefill steps and end all prefills before t, in order of time; return how many are still to end."""
    k, blind = S[S_PREFILL], PK[K_KIND] == NONE
    while True:
        i, begin = first_to_run(queue, units, k)
        if events > 0 and event_keys[0] <= begin and event_keys[0] < t:
            now = event_keys[0]
            q = heap_pop(event_keys, event_ids, events)
            events -= 1
            _handed_over(
                q, now, instance, target, start, kept, behind, F, D, E, units, keys, ids, fresh, landing, hosted, nxt,
                need, cached, done, left, again, hist, PK, PF, chunks, LC, LB, rates, capacity, S, G,
            )  # fmt: skip
            continue
        if begin >= t:
            return events
        unit, head = units[i], queue[i, HEAD]
        if unit[HELD] + largest + S[S_BUDGET] > room[i]:
            soonest = freed(kept[i], behind, unit, begin, F, need)
            if done[head] == cached[head] and not fits(unit, need[head], room[i]) and soonest < np.inf:
                unit[GATE] = soonest
                continue
        unit[FREE] = begin
        q = prefill_step(
            i, unit, queue[i], LC, LB, EW, S[S_BUDGET], room[i], blind, need, cached, done, nxt, start, finish
        )
        while q != queue[i, HEAD]:
            heap_push(event_keys, event_ids, events, unit[FREE], q)
            events += 1
            q = nxt[q]


@kernel
def _place(
    r, u, host, t, view, deflected, instance, target, order_key, queue, units, done, F, D, E, hosted, nxt, need, cached,
    PK, PF, LC, LB, EW, S,
):  # fmt: skip
    """Put request r where the policy sends it: the queue of a prefill instance or of a decode instance."""
    if u >= S[S_PREFILL]:
        deflected[r] = True
        place_hosted(r, u - S[S_PREFILL], host, F, D, E, hosted, nxt, need, cached)
        return
    instance[r] = u
    if PK[K_ORDER] == FCFS:
        enqueue(queue[u], nxt, r)
    else:
        order_key[r] = queue_key(t, 0, view, PK, PF, EW, LC, LB)
        h = queue[u, HEAD]
        enqueue_by_key(queue[u], nxt, order_key, r, h >= 0 and done[h] > cached[h])
    units[u, WAITING] += work_time(EW, LC, LB, u, need[r], cached[r])
    units[u, TOKENS] += need[r] - cached[r]
    units[u, REQUESTS] += 1.0
    units[u, FREE] = max(units[u, FREE], t)
    if PK[K_DECODE_EARLY] > 0:
        target[r] = least_requests(E, S[S_DECODE])
        if PK[K_DECODE_EARLY] == AT_ARRIVAL:
            E[target[r], E_REQUESTS] += 1


@kernel
def _run(
    arrival, largest, deflected, start, finish, instance, target, behind, order_key, queue, kept, event_keys, event_ids,
    seen, view, UF, XI, room, F, D, E, units, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again,
    hist, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EW, rates, capacity, slo, S, G,
):  # fmt: skip
    """Let all requests arrive and finish."""
    n, k, d, events, blind = arrival.shape[0], S[S_PREFILL], S[S_DECODE], 0, PK[K_KIND] == NONE
    XF = G[:3]
    for r in range(n + 1):
        t = arrival[r] if r < n else np.inf
        events = _run_until(
            t, events, event_keys, event_ids, largest, room, queue, instance, target, start, finish, kept, behind, EW,
            F, D, E, units, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, hist, PK, PF,
            chunks, LC, LB, rates, capacity, S, G,
        )  # fmt: skip
        if not blind or r == n or PK[K_DECODE_EARLY] > 0:
            for o in range(d):
                if not blind or D[o, D_WAKE] <= t:
                    advance(
                        o, t, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, hist,
                        PK, PF, chunks, LC, LB, capacity, S, G,
                    )  # fmt: skip
        if r == n:
            return
        F[r, ARRIVAL] = t
        observe_prefill(t, units, seen, k)
        if not blind:
            for j in range(d):
                observe_decode(t, j, D, E, LC, LB, capacity, seen, S)
        view[0, R_PROMPT], view[0, R_NEED] = need[r], need[r]
        view[0, R_CACHED], view[0, R_DONE] = cached[r], cached[r]
        u, host = decide(
            t, 0, view, UF, seen, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, XI, XF
        )
        _place(
            r, u, host, t, view, deflected, instance, target, order_key, queue, units, done, F, D, E, hosted, nxt, need,
            cached, PK, PF, LC, LB, EW, S,
        )  # fmt: skip


@kernel
def two_pools(
    arrival, prompt, output, cached_before, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EW,
    rates, capacity, slo, S, G, bins,
):  # fmt: skip
    """Run the recursion with a policy that decides when a request arrives.

    Returns times per request (columns of `system_state`), whether deflected, tokens by step time, and busy times of all
    units.
    """
    n, k, d = arrival.shape[0], S[S_PREFILL], S[S_DECODE]
    F, deflected, hist = np.zeros((n, REQUEST_COLUMNS)), np.zeros(n, np.bool_), np.zeros(bins)
    start, finish, order_key, event_keys = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    need, left, cached, done = prompt.copy(), output.copy(), cached_before.copy(), cached_before.copy()
    nxt, behind, target = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    again, instance, event_ids = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    queue, kept = np.full((k, 2), -1, np.int64), np.full((k, 2), -1, np.int64)
    landing, hosted = np.full((d, 2), -1, np.int64), np.full((d, 2), -1, np.int64)
    units, D, E = np.zeros((k, PREFILL_COLUMNS)), np.zeros((d, DECODE_FLOATS)), np.zeros((d, DECODE_INTS), np.int64)
    most = S[S_SEQS] + 2
    keys, ids, fresh = np.zeros((d, most)), np.zeros((d, most), np.int64), np.zeros((d, most), np.int64)
    seen, view, XI = np.zeros((k + d, OBSERVED)), np.zeros((1, REQUEST_INTS), np.int32), np.zeros(3, np.int64)
    UF = np.zeros((k + d, UNIT_FLOATS))
    UF[:, U_LINK_RATE] = rates
    XI[X_PREFILL], XI[X_DECODE], XI[X_BUDGET] = k, d, S[S_ROUTED_BUDGET]
    _run(
        arrival, float(need.max()), deflected, start, finish, instance, target, behind, order_key, queue, kept,
        event_keys, event_ids, seen, view, UF, XI, capacity[:k], F, D, E, units, keys, ids, fresh, landing, hosted, nxt,
        need, cached, done, left, again, hist, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EW,
        rates, capacity[k:], slo, S, G,
    )  # fmt: skip
    return F, deflected, hist, np.concatenate((units[:, BUSY], D[:, D_BUSY]))

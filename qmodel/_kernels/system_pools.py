"""Both pools of a cluster as one recursion over requests, with deflection.

Prefill instances run packed steps, and hosted prompts run in their chunks, as the laws say. A decode batch between
its joins and leaves is a fluid: n residents with K tokens of context all receive tokens at the rate 1/T(n, K), so an
interval has a closed form and no decode step is taken one by one. The token clock of an instance counts its steps; it
is whole at step boundaries, where those who wait join, leave or begin a hosted chunk.
"""

# ruff: noqa: I001 - columns are imported many to a line

import math

import numpy as np
from qmodel._kernels import kernel

from qmodel._kernels.heap import heap_pop, heap_push
from qmodel._kernels.laws import law_time, safe_chunk_beside, work_time
from qmodel._kernels.policies import (
    AT_ARRIVAL, FCFS, K_DECODE_EARLY, K_HOST_BUDGET, K_HOST_PACKING, K_KIND, K_ORDER, NONE, OB_BATCH, OB_CONTEXT,
    OB_HOST, OB_HOSTING, OB_KV, OB_LINK, OB_LOAD, OB_REQUESTS, OB_REST, OB_STRICTEST, OB_TOKENS, OB_WORK,
    chunk_limit, decide, queue_key,
)  # fmt: skip
from qmodel._kernels.sim_state import R_CACHED, R_DONE, R_NEED, R_PROMPT, U_LINK_RATE
from qmodel._kernels.system import (
    BUSY, FREE, HEAD, LINK, PART, PREFILL_COLUMNS, REQUESTS, STEP_TOKENS, TAIL, TOKENS, WAITING, enqueue, prefill_step,
)  # fmt: skip

# Float columns of a request [s]; JOINED is the token clock at which it joined, SLOW and HOST see below.
ARRIVAL, START, FINISH, LANDED, ADMITTED, FIRST, END, SLOW, HOST, JOINED = range(10)
REQUEST_COLUMNS = 10

# Float columns of a decode instance: now [s], token clock [steps], context [tokens], end and length of the hosted step
# [s], host time of the prompts that wait and of the one begun [s], KV of hosted prompts [tokens], clock at which the
# next hosted step may begin and at which the latest joined, steps above the TBT limit so far, busy time [s], residents
# that count, and when the link is free [s].
(
    D_NOW, D_CLOCK, D_CONTEXT, D_END, D_STEP, D_WAIT, D_PART, D_KV, D_FROM, D_NEXT, D_SLOW, D_BUSY, D_COUNTED, D_LINK,
) = range(14)  # fmt: skip
DECODE_FLOATS = 14

# Integer columns: residents, residents and those on their way, prompt tokens hosted, prompts in the step in progress,
# its prompt tokens, residents whose first step it is, and those of them that count.
E_BATCH, E_REQUESTS, E_TOKENS, E_HOSTING, E_STEP_TOKENS, E_FRESH, E_FRESH_COUNTED = range(7)
DECODE_INTS = 7
_ROUNDING = 1e-9

# Settings.
S_PREFILL, S_DECODE, S_BUDGET, S_SEQS, S_WARM, S_LAYERS, S_SHARING = range(7)
_NO_CONTENTION = 2
G_FIXED, G_KV_BYTES, G_TTFT, G_TBT, G_LOG0, G_STEP = range(6)


@kernel
def _count(hist, G, time, weight):
    bin_ = int((math.log(time) - G[G_LOG0]) / G[G_STEP])
    hist[min(max(bin_, 0), len(hist) - 1)] += weight


@kernel
def _leave(j, F, D, E, keys, ids, need, S):
    """Let the resident with the smallest key leave."""
    r = heap_pop(keys[j], ids[j], E[j, E_BATCH])
    E[j, E_BATCH] -= 1
    E[j, E_REQUESTS] -= 1
    D[j, D_CONTEXT] -= need[r] + D[j, D_CLOCK] - F[r, JOINED]
    if r >= S[S_WARM]:
        D[j, D_COUNTED] -= 1.0
    if E[j, E_BATCH] == 0:
        D[j, D_CONTEXT] = 0.0
    F[r, SLOW] = D[j, D_SLOW] - F[r, SLOW]
    F[r, END] = D[j, D_NOW]


@kernel
def next_boundary(j, D, E):
    """Return the clock of the next step boundary of instance j; an idle one is at a boundary."""
    if E[j, E_BATCH] == 0:
        return math.floor(D[j, D_CLOCK] + 0.5)
    return math.ceil(D[j, D_CLOCK] - _ROUNDING)


@kernel
def _join(r, j, steps, boundary, F, D, E, keys, ids, need, S):
    """Make request r resident; it leaves `steps` steps after the clock shows `boundary`."""
    F[r, JOINED] = D[j, D_CLOCK]
    heap_push(keys[j], ids[j], E[j, E_BATCH], boundary + steps, r)
    E[j, E_BATCH] += 1
    D[j, D_CONTEXT] += need[r]
    if r >= S[S_WARM]:
        D[j, D_COUNTED] += 1.0


@kernel
def _admit(r, j, hosting, F, D, E, keys, ids, fresh, need, output, LC, LB, S, G):
    """Admit a landed request at the instance's present: it waits for the step in progress, then takes its first."""
    u, now, batch = S[S_PREFILL] + j, D[j, D_NOW], E[j, E_BATCH]
    boundary = next_boundary(j, D, E)
    running = 0.0
    if batch == 0:
        D[j, D_CLOCK] = boundary
    else:
        running = law_time(LC, LB, u, batch, D[j, D_CONTEXT], 0, 0.0, 0.0)
    offset = max(boundary - D[j, D_CLOCK], 0.0)
    if D[j, D_NEXT] != boundary:
        D[j, D_NEXT] = boundary
        E[j, E_FRESH] = 0
    _join(r, j, float(max(output[r] - 1, 1)), boundary, F, D, E, keys, ids, need, S)
    fresh[j, E[j, E_FRESH]] = r
    E[j, E_FRESH] += 1
    F[r, ADMITTED] = now + offset * running
    F[r, SLOW] = D[j, D_SLOW] + (offset if running > G[G_TBT] else 0.0)
    if hosting:
        return
    step = law_time(LC, LB, u, batch + 1, D[j, D_CONTEXT], 0, 0.0, 0.0)
    F[r, FIRST] = F[r, ADMITTED] + step
    if step > G[G_TBT]:
        F[r, SLOW] += 1.0  # its first step ends the TTFT and is no TBT


@kernel
def _settle(j, F, D, E, fresh, LC, LB, S, G):
    """Give those who joined for a hosted step that may not begin a plain first step."""
    for b in range(E[j, E_FRESH]):
        r = fresh[j, b]
        if F[r, FIRST] == 0.0:
            step = law_time(LC, LB, S[S_PREFILL] + j, E[j, E_BATCH], D[j, D_CONTEXT], 0, 0.0, 0.0)
            F[r, FIRST] = D[j, D_NOW] + step
            if step > G[G_TBT]:
                F[r, SLOW] += 1.0


@kernel
def _begin_host(
    j, F, D, E, fresh, hosted, nxt, need, cached, done, PK, PF, chunks, LC, LB, capacity, S, G
):  # fmt: skip
    """Begin a step that carries prompt tokens beside the batch; return False when none may begin."""
    u, B, K = S[S_PREFILL] + j, E[j, E_BATCH], D[j, D_CONTEXT]
    packed = PK[K_HOST_BUDGET] > 0
    room = PK[K_HOST_BUDGET] - B if packed else 1
    n, q, reloaded, hosting = 0, 0.0, 0.0, 0
    r = hosted[j, HEAD]
    while r >= 0 and room > 0:
        limit = chunk_limit(PF, G[G_TBT] if B > 0 else np.inf, G[G_TBT])
        left = need[r] - done[r]
        chi = 0
        if not packed:
            chi = safe_chunk_beside(LC, LB, u, B, K, n, q, reloaded, done[r], left, chunks, limit)
            if chi == 0 and hosting > 0:
                break
        if done[r] == cached[r]:
            held = K + D[j, D_KV]
            if B + hosting >= S[S_SEQS] or (held > 0.0 and held + need[r] + B + hosting + 1 > capacity[j]):
                break
            D[j, D_KV] += need[r]
            D[j, D_WAIT] -= F[r, HOST]
            F[r, START] = D[j, D_NOW]
        if packed:
            chi = min(room, left)
            room -= chi
        else:
            if chi == 0:
                chi = min(chunks[len(chunks) - 1], left)
            room = 1 if PK[K_HOST_PACKING] and chi == left else 0
        hosting += 1
        n += chi
        q += chi * (done[r] + 0.5 * chi)
        reloaded += done[r]
        done[r] += chi
        D[j, D_PART] = F[r, HOST] * (need[r] - done[r]) / (need[r] - cached[r])
        if done[r] < need[r]:
            break
        r = nxt[r]
    if n == 0:
        return False
    step = law_time(LC, LB, u, B, K, n, q, reloaded)
    D[j, D_STEP] = step
    D[j, D_END] = D[j, D_NOW] + step
    E[j, E_HOSTING] = hosting
    E[j, E_STEP_TOKENS] = n
    E[j, E_FRESH_COUNTED] = 0
    if D[j, D_NEXT] != D[j, D_CLOCK]:
        E[j, E_FRESH] = 0
    for b in range(E[j, E_FRESH]):
        r = fresh[j, b]
        if step > G[G_TBT] and (F[r, FIRST] == 0.0 or F[r, FIRST] - D[j, D_NOW] <= G[G_TBT]):
            F[r, SLOW] += 1.0
        F[r, FIRST] = D[j, D_END]
        if r >= S[S_WARM]:
            E[j, E_FRESH_COUNTED] += 1
    E[j, E_FRESH] = 0
    return True


@kernel
def _end_host(j, F, D, E, keys, ids, hosted, nxt, need, done, output, hist, S, G):
    """End the hosted step: residents have made a token each, finished prompts become residents."""
    step = D[j, D_STEP]
    D[j, D_NOW] = D[j, D_END]
    D[j, D_BUSY] += step
    if E[j, E_BATCH] > 0:
        if D[j, D_COUNTED] > E[j, E_FRESH_COUNTED]:
            _count(hist, G, step, D[j, D_COUNTED] - E[j, E_FRESH_COUNTED])
        D[j, D_CLOCK] += 1.0
        D[j, D_CONTEXT] += E[j, E_BATCH]
        if step > G[G_TBT]:
            D[j, D_SLOW] += 1.0
        while E[j, E_BATCH] > 0 and keys[j, 0] <= D[j, D_CLOCK]:
            _leave(j, F, D, E, keys, ids, need, S)
    E[j, E_TOKENS] -= E[j, E_STEP_TOKENS]
    E[j, E_HOSTING] = 0
    r = hosted[j, HEAD]
    while r >= 0 and done[r] == need[r]:
        hosted[j, HEAD] = nxt[r]
        D[j, D_KV] -= need[r]
        F[r, FINISH], F[r, LANDED], F[r, ADMITTED], F[r, FIRST] = D[j, D_NOW], D[j, D_NOW], D[j, D_NOW], D[j, D_NOW]
        F[r, SLOW] = D[j, D_SLOW]
        if output[r] > 1:
            _join(r, j, float(output[r] - 1), D[j, D_CLOCK], F, D, E, keys, ids, need, S)
        else:
            F[r, END] = D[j, D_NOW]
            F[r, SLOW] = 0.0
            E[j, E_REQUESTS] -= 1
        r = hosted[j, HEAD]
    if r < 0:
        D[j, D_PART], D[j, D_WAIT] = 0.0, 0.0


@kernel
def _flow(j, horizon, clock, F, D, E, keys, ids, need, hist, LC, LB, S, G):
    """Let the batch make tokens until `horizon` [s], until its clock shows `clock`, or until a resident leaves."""
    u, B, K = S[S_PREFILL] + j, E[j, E_BATCH], D[j, D_CONTEXT]
    step = law_time(LC, LB, u, B, K, 0, 0.0, 0.0)
    slope = law_time(LC, LB, u, B, K + B, 0, 0.0, 0.0) - step
    until = min(clock, keys[j, 0])
    m = max(until - D[j, D_CLOCK], 0.0)
    dt = m * (step + 0.5 * slope * m)
    reached = D[j, D_NOW] + dt <= horizon
    if not reached:
        dt = horizon - D[j, D_NOW]
        m = 2.0 * dt / (step + math.sqrt(step * step + 2.0 * slope * dt))
    if m > 0.0:
        mean = dt / m
        if D[j, D_COUNTED] > 0.0:
            _count(hist, G, mean, D[j, D_COUNTED] * m)
        if mean > G[G_TBT]:
            D[j, D_SLOW] += m
        D[j, D_CONTEXT] += B * m
        D[j, D_BUSY] += dt
    D[j, D_CLOCK] = until if reached else min(D[j, D_CLOCK] + m, until)
    D[j, D_NOW] = D[j, D_NOW] + dt if reached else horizon
    if reached:
        while E[j, E_BATCH] > 0 and keys[j, 0] <= D[j, D_CLOCK]:
            _leave(j, F, D, E, keys, ids, need, S)


@kernel
def advance(
    j, t, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, output, hist, PK, PF, chunks, LC, LB,
    capacity, S, G,
):  # fmt: skip
    """Advance decode instance j to time t; a hosted step in progress at t stays in progress."""
    while True:
        if E[j, E_HOSTING] > 0:
            if D[j, D_END] > t:
                return
            _end_host(j, F, D, E, keys, ids, hosted, nxt, need, done, output, hist, S, G)
            continue
        now, B, h = D[j, D_NOW], E[j, E_BATCH], hosted[j, HEAD]
        hosting = h >= 0 and (B == 0 or D[j, D_FROM] <= D[j, D_CLOCK])
        begun = 1 if h >= 0 and done[h] > cached[h] else 0
        horizon = t
        r = landing[j, HEAD]
        if r >= 0 and (B == 0 or (
            B + begun < S[S_SEQS] and D[j, D_CONTEXT] + D[j, D_KV] + need[r] + B + 1 <= capacity[j]
        )):  # fmt: skip
            if F[r, LANDED] <= now:
                landing[j, HEAD] = nxt[r]
                _admit(r, j, hosting, F, D, E, keys, ids, fresh, need, output, LC, LB, S, G)
                continue
            horizon = min(horizon, F[r, LANDED])
        if now >= t:
            return
        clock = np.inf
        if hosting:
            if _begin_host(j, F, D, E, fresh, hosted, nxt, need, cached, done, PK, PF, chunks, LC, LB, capacity, S, G):
                continue
            _settle(j, F, D, E, fresh, LC, LB, S, G)
        elif h >= 0:
            clock = D[j, D_FROM]
        if B == 0:
            if horizon == np.inf:
                return
            D[j, D_NOW] = horizon
        else:
            _flow(j, horizon, clock, F, D, E, keys, ids, need, hist, LC, LB, S, G)


@kernel
def observe(t, units, D, E, LC, LB, capacity, seen, S):
    """Write what a router sees of all instances at time t."""
    k, d = S[S_PREFILL], S[S_DECODE]
    for i in range(k):
        unit = units[i]
        seen[i, OB_WORK] = unit[WAITING] + unit[PART] + max(unit[FREE] - t, 0.0)
        seen[i, OB_TOKENS] = unit[TOKENS] - (unit[STEP_TOKENS] if unit[FREE] <= t else 0.0)
        seen[i, OB_REQUESTS] = unit[REQUESTS]
        seen[i, OB_LINK] = unit[LINK]
    for j in range(d):
        u = k + j
        rest, part = 0.0, 0.0
        if E[j, E_HOSTING] > 0:
            rest = max(D[j, D_END] - t, 0.0)
            part = rest
        elif E[j, E_BATCH] > 0:
            rest = 0.5 * law_time(LC, LB, u, E[j, E_BATCH], D[j, D_CONTEXT], 0, 0.0, 0.0)
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
    E[j, E_TOKENS] += need[r] - cached[r]
    E[j, E_REQUESTS] += 1


@kernel
def transfer(r, i, j, t, F, D, unit, landing, nxt, need, cached, rates, S, G):
    """Send the cache of request r from prefill instance i to decode instance j, first come first served."""
    busy = G[G_KV_BYTES] * (need[r] - cached[r]) / min(rates[i], rates[S[S_PREFILL] + j])
    layers = S[S_LAYERS]
    if layers > 0:
        busy = max(busy / layers, busy - (t - F[r, START]) * (layers - 1) / layers)
    begin = t
    if S[S_SHARING] != _NO_CONTENTION:
        begin = max(t, max(unit[LINK], D[j, D_LINK]))
        unit[LINK] = begin + busy
        D[j, D_LINK] = begin + busy
    F[r, LANDED] = begin + busy + G[G_FIXED]
    enqueue(landing[j], nxt, r)
    nxt[r] = -1


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
def least_requests(E, d):
    """Return the decode instance with the fewest requests, ties to the lowest id."""
    best = 0
    for j in range(1, d):
        if E[j, E_REQUESTS] < E[best, E_REQUESTS]:
            best = j
    return best


@kernel
def two_pools(
    arrival, need, output, cached, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EW,
    rates, capacity, slo, S, G, bins,
):  # fmt: skip
    """Run the recursion with a policy that decides when a request arrives.

    Returns times per request (columns above), whether deflected, tokens by step time, and busy times of all units.
    """
    n, k, d = arrival.shape[0], S[S_PREFILL], S[S_DECODE]
    F = np.zeros((n, REQUEST_COLUMNS))
    start, finish = np.zeros(n), np.zeros(n)
    deflected = np.zeros(n, np.bool_)
    done = cached.copy()
    nxt = np.full(n, -1, np.int64)
    instance, target = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    queue = np.full((k, 2), -1, np.int64)
    units = np.zeros((k, PREFILL_COLUMNS))
    D, E = np.zeros((d, DECODE_FLOATS)), np.zeros((d, DECODE_INTS), np.int64)
    keys, ids = np.zeros((d, S[S_SEQS] + 2)), np.zeros((d, S[S_SEQS] + 2), np.int64)
    fresh = np.zeros((d, S[S_SEQS] + 2), np.int64)
    landing, hosted = np.full((d, 2), -1, np.int64), np.full((d, 2), -1, np.int64)
    hist = np.zeros(bins)
    order_key = np.zeros(n)
    event_keys, event_ids, events = np.zeros(n), np.zeros(n, np.int64), 0
    seen = np.zeros((k + d, 8))
    view = np.zeros((1, 16), np.int32)
    UF = np.zeros((k + d, 20))
    UF[:, U_LINK_RATE] = rates
    XI = np.zeros(11, np.int64)
    XI[0], XI[1], XI[2] = k, d, S[S_BUDGET]
    XF = G[:2]
    blind = PK[K_KIND] == NONE
    for r in range(n + 1):
        t = arrival[r] if r < n else np.inf
        for i in range(k):
            unit = units[i]
            while queue[i, HEAD] >= 0 and unit[FREE] < t:
                q = prefill_step(
                    i, unit, queue[i], LC, LB, EW, S[S_BUDGET], blind, need, cached, done, nxt, start, finish
                )
                while q != queue[i, HEAD]:
                    heap_push(event_keys, event_ids, events, unit[FREE], q)
                    events += 1
                    q = nxt[q]
        while events > 0 and event_keys[0] < t:
            now = event_keys[0]
            q = heap_pop(event_keys, event_ids, events)
            events -= 1
            i = instance[q]
            units[i, REQUESTS] -= 1.0
            F[q, START], F[q, FINISH] = start[q], now
            j = target[q]
            if j < 0:
                for o in range(d):
                    advance(
                        o, now, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, output, hist,
                        PK, PF, chunks, LC, LB, capacity, S, G,
                    )  # fmt: skip
                j = least_requests(E, d)
            if target[q] < 0 or PK[K_DECODE_EARLY] != AT_ARRIVAL:
                E[j, E_REQUESTS] += 1
            transfer(q, i, j, now, F, D, units[i], landing, nxt, need, cached, rates, S, G)
        if not blind or r == n or PK[K_DECODE_EARLY] > 0:
            for o in range(d):
                advance(
                    o, t, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, output, hist,
                    PK, PF, chunks, LC, LB, capacity, S, G,
                )  # fmt: skip
        if r == n:
            break
        F[r, ARRIVAL] = t
        observe(t, units, D, E, LC, LB, capacity, seen, S)
        view[0, R_PROMPT], view[0, R_NEED] = need[r], need[r]
        view[0, R_CACHED], view[0, R_DONE] = cached[r], cached[r]
        u, host = decide(
            t, 0, view, UF, seen, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, XI, XF
        )
        if u < k:
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
                target[r] = least_requests(E, d)
                if PK[K_DECODE_EARLY] == AT_ARRIVAL:
                    E[target[r], E_REQUESTS] += 1
        else:
            deflected[r] = True
            place_hosted(r, u - k, host, F, D, E, hosted, nxt, need, cached)
    busy = np.concatenate((units[:, BUSY], D[:, D_BUSY]))
    return F, deflected, hist, busy

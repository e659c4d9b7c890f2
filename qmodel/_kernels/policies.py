"""Routing decisions of the built-in policies, compiled; `qmodel.policies` holds the same rules in plain Python."""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import inlined, kernel

from qmodel._kernels.laws import chunked_time, law_time, schedule_time, span_steps, span_time, whole_blocks
from qmodel._kernels.policies_tables import bracket, at, locate, interpolate3
from qmodel._kernels.sim_state import (
    I_BATCH, I_DOWN, I_HOSTING, I_HOST_TOKENS, I_REQUESTS, I_SPAN, R_CLASS, R_DONE, R_NEED, R_PROMPT, U_CAPACITY,
    U_CONTEXT, U_END, U_HOST_KV, U_HOST_PART, U_HOST_WAIT, U_LINK_FREE, U_LINK_RATE, U_PART_WORK, U_S, U_SINCE,
    U_SLOWDOWN, U_TOKENS, U_WORK, U_X, U_Y, U_Z, X_BUDGET, X_DECODE, X_PREFILL, Y_BLOCK, Y_FIXED, Y_KV_BYTES,
)  # fmt: skip

NONE, STATIC, KAIROS, EARLIEST, THRESHOLDS, LATE, COLOCATED, EXTERNAL, COMPILED = range(9)
FCFS, SPF, AGED, DUE = range(4)

# Integer parameters of a policy; behind them the kind of each decode instance, where there are several.
(
    K_KIND, K_ORDER, K_HOST_BUDGET, K_ROUTE_REQUESTS, K_DECODE_EARLY, K_WAIT, K_ROOM, K_INCLUSIVE, K_COMMIT, K_SCATTER,
    K_HOST_PACKING, K_MAX_BATCH,
) = range(12)  # fmt: skip
POLICY_INTS = 12

# Values of K_DECODE_EARLY: decode instance chosen when a request arrives, and when it counts as load there.
AT_PREFILLED, AT_ARRIVAL, AT_ARRIVAL_COUNT_SENT, AT_ARRIVAL_COUNT_LANDED = range(4)

# Float parameters of a policy.
(
    P_PRICE_PREFILL, P_PRICE_DECODE, P_HARM, P_LIMIT, P_ALPHA, P_BETA, P_AGEING, P_TOKENS, P_RATIO, P_PROMPT_TOKENS,
    P_PREFILL_BUSY, P_DECODE_BUSY, P_RELIEF, P_DEADLINE, P_FAULT_HARM, P_PATIENCE, P_SLOW,
) = range(17)  # fmt: skip
POLICY_FLOATS = 17

# Columns of what a router sees of a unit; the first of a prefill, then of a decode instance.
OB_WORK, OB_TOKENS, OB_REQUESTS, OB_LINK = range(4)
OB_HOST, OB_BATCH, OB_CONTEXT, OB_HOSTING, OB_LOAD, OB_REST, OB_STRICTEST, OB_KV, OB_SLOW = range(9)
OBSERVED = 9

#: Load of an instance that is down, and its mark among the hosting ones.
UNAVAILABLE, DOWN = 1e15, 2.0


@kernel
def observe_stops(k, d, UI, seen):
    """Write which instances are down: a router that sees late learns that much at once, from refused connections."""
    for i in range(k):
        if UI[i, I_DOWN]:
            seen[i, OB_WORK], seen[i, OB_TOKENS], seen[i, OB_REQUESTS] = UNAVAILABLE, UNAVAILABLE, UNAVAILABLE
    for u in range(k, k + d):
        if UI[u, I_DOWN]:
            seen[u, OB_HOSTING], seen[u, OB_HOST], seen[u, OB_LOAD] = DOWN, UNAVAILABLE, UNAVAILABLE


@kernel
def strictest_tbt(j, classes, slo, own):
    """Return the strictest TBT SLO [s] among an instance's residents, `own` if there are none."""
    best = np.inf
    for c in range(classes.shape[1]):
        if classes[j, c] > 0 and slo[c, 1] < best:
            best = slo[c, 1]
    return own if best == np.inf else best


@inlined
def observe_prefill(t, k, UF, UI, seen):
    """Write what a router sees of the prefill instances at time t."""
    for i in range(k):
        if UI[i, I_DOWN]:
            seen[i, OB_WORK], seen[i, OB_TOKENS], seen[i, OB_REQUESTS] = UNAVAILABLE, UNAVAILABLE, UNAVAILABLE
            continue
        seen[i, OB_WORK] = (
            UF[i, U_WORK] + UF[i, U_PART_WORK] + max(0.0, UF[i, U_END] - t if UF[i, U_END] < np.inf else 0.0)
        )
        seen[i, OB_TOKENS] = UF[i, U_TOKENS]
        seen[i, OB_REQUESTS] = UI[i, I_REQUESTS]
        seen[i, OB_LINK] = UF[i, U_LINK_FREE]


@inlined
def observe_decode(t, k, d, UF, UI, classes, slo, seen):
    """Write what a router sees of the decode instances at time t; K is that of the last finished step."""
    for j in range(d):
        observe_hosting(t, k + j, j, UF, UI, classes, slo, seen)


@inlined
def observe_hosting(t, u, j, UF, UI, classes, slo, seen):
    """Write what a router sees at time t of unit u, decode instance j."""
    seen[u, OB_HOSTING] = 1.0 if UI[u, I_HOST_TOKENS] > 0 else 0.0
    if UI[u, I_DOWN]:
        seen[u, OB_HOSTING], seen[u, OB_HOST], seen[u, OB_LOAD] = DOWN, UNAVAILABLE, UNAVAILABLE
        return
    context, rest, part = UF[u, U_CONTEXT], 0.0, 0.0
    if UF[u, U_END] < np.inf:
        rest = UF[u, U_END] - t
        if UI[u, I_SPAN] > 1:
            x, s, y, z, m = UF[u, U_X], UF[u, U_S], UF[u, U_Y], UF[u, U_Z], UI[u, I_SPAN]
            elapsed = t - UF[u, U_SINCE]
            if elapsed > 0.0:
                now = span_steps(x, s, y, z, m, elapsed)
                context += (now - 1) * UI[u, I_BATCH]
                rest = span_time(x, s, y, z, now) - elapsed
            else:
                rest = span_time(x, s, y, z, 1)
        if UI[u, I_HOSTING] > 0:
            part = rest
    seen[u, OB_HOST] = UF[u, U_HOST_WAIT] + UF[u, U_HOST_PART] + part
    seen[u, OB_BATCH] = UI[u, I_BATCH]
    seen[u, OB_CONTEXT] = context
    seen[u, OB_LOAD] = UI[u, I_REQUESTS]
    seen[u, OB_REST] = rest
    seen[u, OB_STRICTEST] = strictest_tbt(j, classes, slo, np.inf)
    seen[u, OB_KV] = (context + UF[u, U_HOST_KV]) / UF[u, U_CAPACITY]
    seen[u, OB_SLOW] = UF[u, U_SLOWDOWN]


@kernel
def least(seen, start, stop, column):
    """Return the unit with the smallest value of a column, ties to the lowest id."""
    best = start
    for u in range(start + 1, stop):
        if seen[u, column] < seen[best, column]:
            best = u
    return best


@kernel
def mixed(number):
    """Return a hash of a number in 0..2^32-1: the finalizer of MurmurHash3, whose bits all depend on all.

    One without its shifts would be linear in the request's number, and ties more even than at random.
    """
    h = number & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


@kernel
def scattered(seen, start, stop, column, r, seed):
    """Return a unit with the smallest value of a column; among ties one that a hash of the request picks."""
    best, ties = least(seen, start, stop, column), 0
    for u in range(start, stop):
        ties += 1 if seen[u, column] == seen[best, column] else 0
    pick = mixed(r + mixed(seed + mixed(start))) % ties
    for u in range(start, stop):
        if seen[u, column] == seen[best, column]:
            if pick == 0:
                return u
            pick -= 1
    return best


@kernel
def fewest(seen, start, stop, column, r, PK):
    """Return the least loaded unit; ties to the lowest id, or scattered."""
    return scattered(seen, start, stop, column, r, PK[K_SCATTER]) if PK[K_SCATTER] else least(seen, start, stop, column)


@kernel
def available(start, stop, r, UI, PK):
    """Return the decode instance with the fewest requests among those that are up; any if none is."""
    best = fewest(UI, start, stop, I_REQUESTS, r, PK)
    if UI[best, I_DOWN] == 0:
        return best
    for u in range(start, stop):
        if UI[u, I_DOWN] == 0 and (UI[best, I_DOWN] or UI[u, I_REQUESTS] < UI[best, I_REQUESTS]):
            best = u
    return best


@kernel
def kairos_prefill(i, need, done, seen, mode, EC, EB, budget):
    """Return the prefill estimate [s] of Kairos at instance i: queue wait + execution (DESIGN 4)."""
    ahead = seen[i, OB_TOKENS]
    if mode == 1:
        wait = seen[i, OB_WORK]
    else:
        chunk = min(budget, need - done) if mode == 2 else budget
        half = 0.5 * ahead
        wait = ahead / chunk * law_time(EC, EB, i, 0, 0.0, chunk, chunk * (half + 0.5 * chunk), half)
    return wait + chunked_time(EC, EB, i, need, done, budget)


@kernel
def chunk_limit(PF, strictest, own):
    """Return the longest step [s] that a hosted chunk may cause: fixed, or beta times the strictest TBT SLO."""
    if PF[P_LIMIT] > 0.0:
        return PF[P_LIMIT]
    return PF[P_BETA] * (own if strictest == np.inf else strictest)


@kernel
def decide_kairos(r, k, d, R, seen, slo, PK, PF, chunks, EC, EB, budget, e, g):
    """Return (unit, host time) of Kairos' decision."""
    need, done, c = R[r, R_NEED], R[r, R_DONE], R[r, R_CLASS]
    best, at_prefill = 0, np.inf
    for i in range(k):
        estimate = e * kairos_prefill(i, need, done, seen, PK[K_WAIT], EC, EB, budget)
        if estimate < at_prefill:
            best, at_prefill = i, estimate
    host, at_decode = -1, np.inf
    for u in range(k, k + d):
        if seen[u, OB_HOSTING] > 0:
            continue
        limit = chunk_limit(PF, seen[u, OB_STRICTEST], slo[c, 1])
        B, K = int(seen[u, OB_BATCH]), seen[u, OB_CONTEXT]
        estimate = g * schedule_time(EC, EB, u, B, K, need, done, chunks, limit)
        if 0.0 <= estimate < at_decode:
            host, at_decode = u, estimate
    if host >= 0 and at_decode <= PF[P_ALPHA] * at_prefill and at_decode <= slo[c, 0]:
        return host, at_decode
    return best, 0.0


@kernel
def decide_earliest(t, r, k, d, R, UF, seen, slo, PF, chunks, EC, EB, XI, XF, e, g):
    """Return (unit, host time) of the earliest completion, complete estimates on both sides, with a margin."""
    need, done, c, budget = R[r, R_NEED], R[r, R_DONE], R[r, R_CLASS], XI[X_BUDGET]
    best, at_prefill = 0, np.inf
    for i in range(k):
        ready = e * (seen[i, OB_WORK] + chunked_time(EC, EB, i, need, done, budget))
        link = max(ready, seen[i, OB_LINK] - t)
        moved = XF[Y_FIXED] + XF[Y_KV_BYTES] * whole_blocks(R[r, R_PROMPT] - done, XF[Y_BLOCK]) / UF[i, U_LINK_RATE]
        if link + moved < at_prefill:
            best, at_prefill = i, link + moved
    host, at_decode, own = -1, np.inf, 0.0
    for u in range(k, k + d):
        limit = chunk_limit(PF, seen[u, OB_STRICTEST], slo[c, 1])
        B, K = int(seen[u, OB_BATCH]), seen[u, OB_CONTEXT]
        estimate = g * schedule_time(EC, EB, u, B, K, need, done, chunks, limit)
        if estimate < 0.0 or seen[u, OB_HOSTING] == DOWN:
            continue
        ready = estimate + g * (seen[u, OB_HOST] if seen[u, OB_HOSTING] > 0 else seen[u, OB_REST])
        if ready < at_decode:
            host, at_decode, own = u, ready, estimate
    if host >= 0 and PF[P_ALPHA] * at_decode < at_prefill:
        return host, own
    return best, 0.0


@kernel
def full(B, K, tokens, PK, contexts):
    """Return whether an instance with B residents of K tokens has no slot, or too little cache, to host so many more.

    A prompt that waits there for a slot or for cache would only wait longer than in the prefill queue. The last
    context of the tables is the cache's capacity.
    """
    return 0 < PK[K_MAX_BATCH] <= B or K + tokens > contexts[len(contexts) - 1]


@kernel
def kind_of(PK, j):
    """Return whose tables hold for decode instance j: those of its kind, the only ones where there is one kind."""
    return PK[POLICY_INTS + j] if POLICY_INTS + j < len(PK) else 0


@kernel
def too_slow(slowdown, PF):
    """Return whether an instance whose steps take `slowdown` times what its law says is to host nothing."""
    return 0.0 < PF[P_SLOW] < slowdown


@kernel
def any_fault(k, d, UF, UI, PF):
    """Return whether a decode instance is down or slow now."""
    found = False
    for u in range(k, k + d):
        found = found or UI[u, I_DOWN] > 0 or too_slow(UF[u, U_SLOWDOWN], PF)
    return found


@kernel
def harm_price(faulty, PF):
    """Return c_R, what a second of a resident's delay is worth, with or without a fault among decode instances."""
    return PF[P_HARM] * PF[P_FAULT_HARM] if faulty else PF[P_HARM]


@inlined
def hosting_cost(v, i, f, cell, PF, host, harm, price, g):
    """Return (a_D(v, h) + harm, v + h, h) of a prompt at a cell of batch and context, behind v [s] of hosted work."""
    gd = PF[P_PRICE_DECODE]
    h = g * interpolate3(host, i, f, cell)
    cost = v + h + gd * ((v + h) * (v + h) - v * v)
    if price > 0.0:
        cost += price * interpolate3(harm, i, f, cell)
    return cost, v + h, h


@inlined
def prefill_cost(i, f, k, seen, PF, curves, e):
    """Return (instance, a_P(w, s) + x) of the prefill instance with the least work."""
    s, x = e * max(0.0, at(curves[0], i, f)), max(0.0, at(curves[1], i, f))
    best = least(seen, 0, k, OB_WORK)
    w, gp = e * seen[best, OB_WORK], PF[P_PRICE_PREFILL]
    return best, w + s + gp * ((w + s) * (w + s) - w * w) + x


@inlined
def decide_thresholds(r, k, d, R, seen, PK, PF, lengths, batches, contexts, curves, tables, e, g):
    """Return (unit, host time): deflect iff a_P(w, s) + x > a_D(v, h) + harm at the best decode instance."""
    i, f = bracket(lengths, R[r, R_NEED] - R[r, R_DONE])
    best, at_prefill = prefill_cost(i, f, k, seen, PF, curves, e)
    host, at_decode, own, faulty = -1, np.inf, 0.0, False
    for u in range(k, k + d):
        faulty = faulty or seen[u, OB_HOSTING] == DOWN or too_slow(seen[u, OB_SLOW], PF)
    price = harm_price(faulty, PF)
    for u in range(k, k + d):
        B, K, kind = seen[u, OB_BATCH], seen[u, OB_CONTEXT], kind_of(PK, u - k)
        grid = contexts[kind]
        if seen[u, OB_HOSTING] == DOWN or too_slow(seen[u, OB_SLOW], PF) or full(B, K, R[r, R_NEED], PK, grid):
            continue
        v, cell = g * seen[u, OB_HOST], locate(batches, grid, B, K)
        cost, wait, h = hosting_cost(v, i, f, cell, PF, tables[0, kind], tables[1, kind], price, g)
        if cost < at_decode and not 0.0 < PF[P_DEADLINE] < wait:
            host, at_decode, own = u, cost, h
    if host >= 0 and at_prefill > at_decode:
        return host, own
    return best, 0.0


@kernel
def decide_static(r, k, d, R, seen, PK, PF, chunks, slo, EC, EB, budget):
    """Return (unit, host time) of a static length rule; see `qmodel.policies.StaticLength` for the vendors'."""
    need, done, c = R[r, R_NEED], R[r, R_DONE], R[r, R_CLASS]
    n = need - done
    best = fewest(seen, 0, k, OB_REQUESTS if PK[K_ROUTE_REQUESTS] else OB_WORK, r, PK)
    short = n <= PF[P_TOKENS] if PK[K_INCLUSIVE] else n < PF[P_TOKENS]
    local = short and n < PF[P_RATIO] * need if PF[P_RATIO] < np.inf else short
    local = local or R[r, R_PROMPT] < PF[P_PROMPT_TOKENS]
    local = local or seen[best, OB_TOKENS] > PF[P_PREFILL_BUSY] * budget
    host = fewest(seen, k, k + d, OB_LOAD, r, PK)
    if not local or seen[host, OB_KV] > PF[P_DECODE_BUSY] or seen[host, OB_HOSTING] == DOWN:
        return best, 0.0
    limit = chunk_limit(PF, seen[host, OB_STRICTEST], slo[c, 1])
    B, K = int(seen[host, OB_BATCH]), seen[host, OB_CONTEXT]
    return host, max(0.0, schedule_time(EC, EB, host, B, K, need, done, chunks, limit))


@kernel
def decide_noisy(
    t, r, R, UF, seen, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, EC, EB, XI, XF, e, g
):  # fmt: skip
    """Return `decide` when estimates are e times too high on the prefill and g times on the decode side."""
    k, d, kind = XI[X_PREFILL], XI[X_DECODE], PK[K_KIND]
    if kind == COLOCATED:
        return fewest(seen, k, k + d, OB_LOAD, r, PK), 0.0
    if kind == KAIROS:
        return decide_kairos(r, k, d, R, seen, slo, PK, PF, chunks, EC, EB, XI[X_BUDGET], e, g)
    if kind == EARLIEST:
        return decide_earliest(t, r, k, d, R, UF, seen, slo, PF, chunks, EC, EB, XI, XF, e, g)
    if kind == THRESHOLDS:
        return decide_thresholds(r, k, d, R, seen, PK, PF, lengths, batches, contexts, curves, tables, e, g)
    if kind == STATIC:
        return decide_static(r, k, d, R, seen, PK, PF, chunks, slo, EC, EB, XI[X_BUDGET])
    return fewest(seen, 0, k, OB_REQUESTS if PK[K_ROUTE_REQUESTS] else OB_WORK, r, PK), 0.0


@kernel
def decide(
    t, r, R, UF, seen, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, EC, EB, XI, XF
):  # fmt: skip
    """Return (unit, host time of a deflected prompt there) of the policy of kind PK[K_KIND]."""
    return decide_noisy(
        t, r, R, UF, seen, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, EC, EB, XI, XF, 1.0, 1.0
    )

"""A decode instance of the recursion: a fluid batch beside hosted prompts that run in their chunks.

An interval without joins and leaves has a closed form, so that no decode step is taken one by one. Preemption works as
in the engine: when the cache cannot take another step, whoever joined last loses his and is computed again.
"""

# ruff: noqa: I001 - columns are imported many to a line

import math

import numpy as np
from qmodel._kernels import kernel

from qmodel._kernels.laws import law_time, safe_chunk_beside
from qmodel._kernels.policies import K_HOST_BUDGET, K_HOST_PACKING, chunk_limit
from qmodel._kernels.system import HEAD
from qmodel._kernels.system_state import (
    ADMITTED, D_BUSY, D_CLOCK, D_CONTEXT, D_COUNTED, D_END, D_FROM, D_KV, D_NEW, D_NEXT, D_NOW, D_OLD, D_PART, D_SLOW,
    D_STEP, D_WAIT, D_WAKE, E_BATCH, E_FRESH, E_FRESH_COUNTED, E_HOSTING, E_REQUESTS, E_STEP_TOKENS, E_TOKENS, END,
    FINISH, FIRST, G_TBT, HOST, LANDED, LAST, ROUNDING, S_PREFILL, S_SEQS, S_WARM, SLOW, START, bring_first, count,
    join, leave, leave_for_good, newest, next_boundary, push_second,
)  # fmt: skip

_SPREAD, _PARTS = 0.004, 8  # an interval whose steps grow by more is counted in so many parts at most


@kernel
def _admit(r, j, hosting, F, D, E, keys, ids, fresh, need, left, LC, LB, S, G):
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
        D[j, D_OLD] = D[j, D_NEW] if D[j, D_NEXT] == boundary - 1.0 else 0.0
        D[j, D_NEW] = 0.0
        D[j, D_NEXT] = boundary
        E[j, E_FRESH] = 0
    join(r, j, float(max(left[r] - 1, 1)), boundary, F, D, E, keys, ids, need, S)
    fresh[j, E[j, E_FRESH]] = r
    E[j, E_FRESH] += 1
    if r >= S[S_WARM]:
        D[j, D_NEW] += 1.0
    F[r, ADMITTED] = now + offset * running
    F[r, SLOW] = D[j, D_SLOW] + (offset if running > G[G_TBT] else 0.0)
    if hosting:
        F[r, FIRST] = 0.0
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
def _crash(j, D, E, capacity):
    """Return the clock of the first boundary, not before now, at which the batch cannot take another step."""
    B = E[j, E_BATCH]
    steps = (capacity[j] - D[j, D_KV] - B - D[j, D_CONTEXT]) / B
    if steps >= 0.0:
        return math.floor(D[j, D_CLOCK] + steps) + 1.0
    return math.ceil(D[j, D_CLOCK] - ROUNDING)


@kernel
def _preempt(j, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, S):
    """Drop the newest resident: back to those who wait to join if it has made no step, else to be computed again."""
    at = newest(j, E, ids, F)
    key, clock = keys[j, at], D[j, D_CLOCK]
    bring_first(j, at, keys, ids, -1.0)
    r = leave(j, F, D, E, keys, ids, need, S)
    rest = int(key - clock + 0.5)
    steps = max(left[r] - 1, 1)
    if again[r] == 0 and rest == steps and F[r, LANDED] > F[r, FINISH]:
        push_second(landing[j], nxt, r, False)
        if r >= S[S_WARM]:
            D[j, D_NEW] -= 1.0
        kept = 0
        for b in range(E[j, E_FRESH]):
            if fresh[j, b] != r:
                fresh[j, kept] = fresh[j, b]
                kept += 1
        E[j, E_FRESH] = kept
        return
    need[r] += steps - rest + 1
    left[r] = rest
    done[r], cached[r] = 0, 0
    again[r] += 1
    F[r, SLOW] = -F[r, SLOW]
    F[r, LAST] = D[j, D_NOW]
    F[r, HOST] = 0.0
    E[j, E_TOKENS] += need[r]
    h = hosted[j, HEAD]
    push_second(hosted[j], nxt, r, h >= 0 and done[h] > cached[h])
    D[j, D_FROM] = clock


@kernel
def _begin_host(
    j, F, D, E, fresh, hosted, nxt, need, cached, done, again, PK, PF, chunks, LC, LB, capacity, S, G
):  # fmt: skip
    """Begin a step that carries prompt tokens beside the batch; return False when none may begin."""
    u, B, K = S[S_PREFILL] + j, E[j, E_BATCH], D[j, D_CONTEXT]
    packed = PK[K_HOST_BUDGET] > 0
    room = PK[K_HOST_BUDGET] - B if packed else 1
    n, q, reloaded, hosting = 0, 0.0, 0.0, 0
    r = hosted[j, HEAD]
    while r >= 0 and room > 0:
        limit = chunk_limit(PF, G[G_TBT] if B > 0 else np.inf, G[G_TBT])
        rest = need[r] - done[r]
        chi = 0
        if not packed:
            chi = safe_chunk_beside(LC, LB, u, B, K, n, q, reloaded, done[r], rest, chunks, limit)
            if chi == 0 and hosting > 0:
                break
        if done[r] == cached[r]:
            held = K + D[j, D_KV]
            if B + hosting >= S[S_SEQS] or (held > 0.0 and held + need[r] + B + hosting + 1 > capacity[j]):
                break
            D[j, D_KV] += need[r]
            D[j, D_WAIT] -= F[r, HOST]
            if again[r] == 0:
                F[r, START] = D[j, D_NOW]
        if packed:
            chi = min(room, rest)
            room -= chi
        else:
            if chi == 0:
                chi = min(chunks[len(chunks) - 1], rest)
            room = 1 if PK[K_HOST_PACKING] and chi == rest else 0
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
    D[j, D_NEW], D[j, D_OLD] = 0.0, 0.0
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
def _end_host(j, F, D, E, keys, ids, hosted, nxt, need, done, left, again, hist, S, G):
    """End the hosted step: residents have made a token each, finished prompts become residents."""
    step = D[j, D_STEP]
    D[j, D_NOW] = D[j, D_END]
    D[j, D_BUSY] += step
    if E[j, E_BATCH] > 0:
        if D[j, D_COUNTED] > E[j, E_FRESH_COUNTED]:
            count(hist, G, step, D[j, D_COUNTED] - E[j, E_FRESH_COUNTED])
        D[j, D_CLOCK] += 1.0
        D[j, D_CONTEXT] += E[j, E_BATCH]
        if step > G[G_TBT]:
            D[j, D_SLOW] += 1.0
        leave_for_good(j, F, D, E, keys, ids, need, S)
    E[j, E_TOKENS] -= E[j, E_STEP_TOKENS]
    E[j, E_HOSTING] = 0
    now = D[j, D_NOW]
    r = hosted[j, HEAD]
    while r >= 0 and done[r] == need[r]:
        hosted[j, HEAD] = nxt[r]
        D[j, D_KV] -= need[r]
        so_far = 0.0  # minus the slow steps that a preempted request has made, and its long gap
        if again[r] > 0:
            gap = now - F[r, LAST]
            so_far = F[r, SLOW] - (1.0 if gap > G[G_TBT] else 0.0)
            if r >= S[S_WARM]:
                count(hist, G, gap, 1.0)
        else:
            F[r, FINISH], F[r, LANDED], F[r, ADMITTED], F[r, FIRST] = now, now, now, now
        left[r] -= 1
        if left[r] > 0:
            F[r, SLOW] = D[j, D_SLOW] + so_far
            join(r, j, float(left[r]), D[j, D_CLOCK], F, D, E, keys, ids, need, S)
            left[r] += 1  # the form of those who come from a prefill instance: one token more than steps
        else:
            F[r, END] = now
            F[r, SLOW] = -so_far
            E[j, E_REQUESTS] -= 1
        r = hosted[j, HEAD]
    if r < 0:
        D[j, D_PART], D[j, D_WAIT] = 0.0, 0.0


@kernel
def _count_flow(j, m, step, slope, D, hist, G):
    """Count the tokens of m steps that last step + slope*i; those who joined have none before their first step."""
    clock, total = D[j, D_CLOCK], D[j, D_COUNTED] * m
    first = D[j, D_NEXT]
    if clock < first + 1.0:
        total -= D[j, D_NEW] * min(m, first + 1.0 - clock)
        if clock < first:
            total -= D[j, D_OLD] * min(m, first - clock)
    if total > 0.0:
        parts = min(_PARTS, 1 + int(slope * m / (_SPREAD * step)))
        for part in range(parts):
            count(hist, G, step + slope * m * (part + 0.5) / parts, total / parts)
    last, limit = step + slope * m, G[G_TBT]
    if last > limit:
        mean = step + 0.5 * slope * m
        if slope * m <= _SPREAD * step:
            D[j, D_SLOW] += m if mean > limit else 0.0
        else:
            D[j, D_SLOW] += m * min(1.0, (last - limit) / (slope * m))


@kernel
def _flow(j, horizon, clock, F, D, E, keys, ids, need, hist, LC, LB, capacity, S, G):
    """Let the batch make tokens until `horizon` [s], until its clock shows `clock`, or until a resident leaves."""
    u, B, K = S[S_PREFILL] + j, E[j, E_BATCH], D[j, D_CONTEXT]
    step = law_time(LC, LB, u, B, K, 0, 0.0, 0.0)
    slope = law_time(LC, LB, u, B, K + B, 0, 0.0, 0.0) - step
    until = min(clock, keys[j, 0])
    if K + D[j, D_KV] + B * (until - D[j, D_CLOCK] + 1.0) > capacity[j]:
        until = min(until, max(_crash(j, D, E, capacity), D[j, D_CLOCK]))
    m = max(until - D[j, D_CLOCK], 0.0)
    dt = m * (step + 0.5 * slope * m)
    end = D[j, D_NOW] + dt
    if m <= ROUNDING:
        end = min(end, horizon)
    reached = end <= horizon
    if not reached:
        dt = horizon - D[j, D_NOW]
        m = 2.0 * dt / (step + math.sqrt(step * step + 2.0 * slope * dt))
    if m > 0.0:
        _count_flow(j, m, step, slope, D, hist, G)
        D[j, D_CONTEXT] += B * m
        D[j, D_BUSY] += dt
    D[j, D_CLOCK] = until if reached else min(D[j, D_CLOCK] + m, until)
    D[j, D_NOW] = end if reached else horizon
    D[j, D_WAKE] = 0.0 if reached else end
    if reached:
        leave_for_good(j, F, D, E, keys, ids, need, S)


@kernel
def advance(
    j, t, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, hist, PK, PF, chunks, LC,
    LB, capacity, S, G,
):  # fmt: skip
    """Advance decode instance j to time t; a hosted step in progress at t stays in progress."""
    while True:
        if E[j, E_HOSTING] > 0:
            D[j, D_WAKE] = D[j, D_END]
            if D[j, D_END] > t:
                return
            _end_host(j, F, D, E, keys, ids, hosted, nxt, need, done, left, again, hist, S, G)
            D[j, D_WAKE] = 0.0
            continue
        now, B, h = D[j, D_NOW], E[j, E_BATCH], hosted[j, HEAD]
        if B > 0 and D[j, D_CONTEXT] + D[j, D_KV] + B > capacity[j] and _crash(j, D, E, capacity) <= D[j, D_CLOCK]:
            _preempt(j, F, D, E, keys, ids, fresh, landing, hosted, nxt, need, cached, done, left, again, S)
            continue
        hosting = h >= 0 and (B == 0 or D[j, D_FROM] <= D[j, D_CLOCK])
        begun = 1 if h >= 0 and done[h] > cached[h] else 0
        waits = nxt[h] if begun else h  # a preempted prompt comes back before anybody else joins
        lands, r = np.inf, landing[j, HEAD]
        if r >= 0 and (waits < 0 or again[waits] == 0) and (B == 0 or (
            B + begun < S[S_SEQS] and D[j, D_CONTEXT] + D[j, D_KV] + need[r] + B + 1 <= capacity[j]
        )):  # fmt: skip
            if F[r, LANDED] <= now:
                landing[j, HEAD] = nxt[r]
                _admit(r, j, hosting, F, D, E, keys, ids, fresh, need, left, LC, LB, S, G)
                D[j, D_WAKE] = 0.0
                continue
            lands = F[r, LANDED]
        if now >= t:
            return
        horizon = min(t, lands)
        clock = np.inf
        if hosting:
            if _begin_host(
                j, F, D, E, fresh, hosted, nxt, need, cached, done, again, PK, PF, chunks, LC, LB, capacity, S, G
            ):  # fmt: skip
                D[j, D_WAKE] = 0.0
                continue
            _settle(j, F, D, E, fresh, LC, LB, S, G)
        elif h >= 0:
            clock = D[j, D_FROM]
        if B == 0:
            D[j, D_WAKE] = lands
            if horizon == np.inf:
                return
            D[j, D_NOW] = horizon
        else:
            _flow(j, horizon, clock, F, D, E, keys, ids, need, hist, LC, LB, capacity, S, G)
            D[j, D_WAKE] = min(D[j, D_WAKE], lands)

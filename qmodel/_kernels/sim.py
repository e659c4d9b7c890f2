"""The event loop of the simulator: request-level events, spans of decode steps, one compiled entry point.

Within an instant all ends, landings and arrivals are handled first (prefill ends, landings, decode ends, arrivals;
each by id; on a clock that counts ticks arrivals come first); then idle prefill instances fill a step, decode
instances pull (late binding), and decode instances start. An engine thus forms its batch from everything that has
arrived by then.
"""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import inlined, kernel

from qmodel._kernels.laws import work_time
from qmodel._kernels.policies import (
    AT_ARRIVAL, COMPILED, DUE, EXTERNAL, FCFS, K_DECODE_EARLY, K_KIND, K_ORDER, K_ROOM, LATE, NONE, THRESHOLDS,
    P_PATIENCE, any_fault, available, decide_noisy, harm_price, kind_of, observe_decode, observe_hosting,
    observe_prefill, observe_stops,
)  # fmt: skip
from qmodel._kernels.policies_late import WAITING_FLOATS, late_pull, late_queue
from qmodel._kernels.policies_order import queue_key, sort_due, watch_overdue
from qmodel._kernels.sim_decode import end_decode, start_decode
from qmodel._kernels.sim_faults import E_TIME, apply_fault
from qmodel._kernels.sim_offers import NOTED, decide_live, floors_of, has_room, note_offers
from qmodel._kernels.sim_prefill import end_prefill, land, start_prefill, wake
from qmodel._kernels.sim_state import (
    CLOCK_INTERVAL, CLOCK_NOW, CLOCK_OBSERVE, F_ARRIVAL, F_HOST, F_KEY, F_LANDED, HOSTED, I_DIRTY, I_DOWN,
    I_HOST_TOKENS, I_HOSTING, I_PART, I_REQUESTS, L_COUNT, L_HEAD, LOOP_ASKED, LOOP_DIRTY, LOOP_EVENTS, LOOP_FAULT,
    LOOP_FINISHED, LOOP_NEXT, LOOP_OVERDUE, LOOP_PULL, R_DECODE, R_DEFLECTED, R_DONE, R_NEED, R_PREFILL, R_STATE, U_END,
    U_HOST_WAIT, U_PART_WORK, U_TOKENS, U_WORK, WAITING, X_DECODE, X_PREFILL, Y_TICKS, mark, push, push_sorted, remove,
)  # fmt: skip
from qmodel._kernels.user import decide_compiled

DONE, ASK, STUCK, REFUSED = range(4)


@inlined
def _place(t, r, u, host, R, F, UF, UI, lists, times, winners, loop, dirty, PK, EC, EB, EW, XI):
    """Put request r where the policy sends it: the queue of a prefill instance or of a decode instance."""
    k = XI[X_PREFILL]
    if u < k:
        R[r, R_STATE] = WAITING
        R[r, R_PREFILL] = u
        UF[u, U_WORK] += work_time(EW, EC, EB, u, R[r, R_NEED], R[r, R_DONE])
        UF[u, U_TOKENS] += R[r, R_NEED] - R[r, R_DONE]
        UI[u, I_REQUESTS] += 1
        if PK[K_ORDER] == FCFS or PK[K_ORDER] == DUE:
            push(lists, R, u, r)
        else:
            push_sorted(lists, R, F, u, r)
        if PK[K_DECODE_EARLY]:
            if R[r, R_DECODE] < 0:
                R[r, R_DECODE] = available(k, k + XI[X_DECODE], r, UI, PK)
            if PK[K_DECODE_EARLY] == AT_ARRIVAL:
                UI[R[r, R_DECODE], I_REQUESTS] += 1
        if UF[u, U_END] == np.inf:
            mark(UI, loop, dirty, u)
        return
    R[r, R_STATE] = HOSTED
    R[r, R_DEFLECTED] = 1
    R[r, R_PREFILL] = -1
    R[r, R_DECODE] = u
    F[r, F_HOST], F[r, F_LANDED] = host, t
    UF[u, U_HOST_WAIT] += host
    UI[u, I_HOST_TOKENS] += R[r, R_NEED] - R[r, R_DONE]
    UI[u, I_REQUESTS] += 1
    push(lists, R, 2 * k + u - k, r)
    if UI[u, I_HOSTING] == 0:
        wake(t, u, UF, UI, times, winners, loop, dirty, XI)


@kernel
def _queue_late(r, R, F, UF, lists, PK, EC, EB, EW):
    """Put request r in the shared queue; at the end of the instant idle prefill instances look at it."""
    R[r, R_STATE] = WAITING
    UF[0, U_WORK] += work_time(EW, EC, EB, 0, R[r, R_NEED], R[r, R_DONE])
    if PK[K_ORDER] == FCFS or PK[K_ORDER] == DUE:
        push(lists, R, 0, r)
    else:
        push_sorted(lists, R, F, 0, r)


@kernel
def _fill_late(t, R, F, UF, UI, lists, times, winners, PK, LC, LB, EC, EB, EW, XI, XF):
    """Let idle prefill instances fill steps from the shared queue, in order of id, until none can."""
    started = True
    while started:
        started = False
        for i in range(XI[X_PREFILL]):
            if UF[i, U_END] == np.inf and (lists[0, L_COUNT] > 0 or UI[i, I_PART] >= 0):
                start_prefill(t, i, 1, R, F, UF, UI, lists, times, winners, PK, LC, LB, EC, EB, EW, XI, XF)
                started = started or UF[i, U_END] < np.inf


@kernel
def _sort_dirty(dirty, n):
    for a in range(1, n):
        u, b = dirty[a], a - 1
        while b >= 0 and dirty[b] > u:
            dirty[b + 1] = dirty[b]
            b -= 1
        dirty[b + 1] = u


@inlined
def _pull_all(
    t, R, F, UF, UI, lists, times, winners, loop, dirty, classes, slo, seen, scratch, PK, PF, lengths, batches,
    contexts, curves, tables, floors, noted, bounds, lows, EC, EB, EW, XI, noise,
):  # fmt: skip
    """Let each decode instance pull waiting prompts until it has no room, in order of id; return whether any did."""
    k, d, pulled = XI[X_PREFILL], XI[X_DECODE], False
    price = harm_price(any_fault(k, d, UF, UI, PF), PF)
    stale, rows = True, np.empty((0, WAITING_FLOATS))
    for j in range(d):
        u = k + j
        while lists[0, L_COUNT] > 0 and has_room(u, UF, UI, PK, PF):
            if stale:
                rows, stale = late_queue(t, k, R, UF, UI, lists, lengths, curves, noise), False
                note_offers(t, k, j, rows, UF, UI, PK, PF, batches, contexts, floors, noted, bounds, lows)
            if lows[1, j] == 0.0:
                break
            observe_hosting(t, u, j, UF, UI, classes, slo, seen)
            r, host = late_pull(u, kind_of(PK, j), rows, seen, PK, PF, price, batches, contexts, tables, scratch)
            if r < 0:
                break
            stale, pulled = True, True
            remove(lists, R, 0, r)
            UF[0, U_WORK] -= work_time(EW, EC, EB, 0, R[r, R_NEED], R[r, R_DONE])
            if lists[0, L_COUNT] == 0:
                UF[0, U_WORK] = 0.0
            _place(t, r, u, host, R, F, UF, UI, lists, times, winners, loop, dirty, PK, EC, EB, EW, XI)
    return pulled


@kernel
def _sort_queue(t, first, last, pulled, patience, R, F, UF, UI, lists, slo, PK, EC, EB, EW, XI):
    """Bring the queue that prefill instances `first` to `last` - 1 share into the order of due times, if needed."""
    if lists[first, L_COUNT] < 2:
        return
    ahead, wanted, running = 0.0, False, 0
    for i in range(first, last):
        ahead += UF[i, U_PART_WORK] + (UF[i, U_END] - t if UF[i, U_END] < np.inf else 0.0)
        wanted = wanted or UF[i, U_END] == np.inf
        running += 1 - UI[i, I_DOWN]
    if pulled:
        for u in range(XI[X_PREFILL], XI[X_PREFILL] + XI[X_DECODE]):
            wanted = wanted or UI[u, I_HOST_TOKENS] < PK[K_ROOM]
    if wanted:
        sort_due(t, max(1, running), ahead, first, patience, lists, R, F, slo, EW, EC, EB)


@inlined
def _start_all(
    now, late, R, F, UF, UI, lists, times, winners, loop, dirty, slots, longest, classes, violations, hist, seen,
    scratch, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, floors, noted, bounds, lows, LC, LB, EC,
    EB, EW, XI, XF, noise,
):  # fmt: skip
    """End an instant: prefill instances fill steps, decode instances pull, decode instances start."""
    k = XI[X_PREFILL]
    _sort_dirty(dirty, loop[LOOP_DIRTY])
    first_decode, begun = 0, False
    while first_decode < loop[LOOP_DIRTY] and dirty[first_decode] < k:
        u = dirty[first_decode]
        UI[u, I_DIRTY] = 0
        first_decode += 1
        begun = begun or UI[u, I_PART] >= 0
        if not late:
            if PK[K_ORDER] == DUE:
                _sort_queue(now, u, u + 1, 0, np.inf, R, F, UF, UI, lists, slo, PK, EC, EB, EW, XI)
            start_prefill(now, u, 0, R, F, UF, UI, lists, times, winners, PK, LC, LB, EC, EB, EW, XI, XF)
    if late:
        if PK[K_ORDER] == DUE:
            if loop[LOOP_PULL] > 0 and PF[P_PATIENCE] > 0.0:
                watch_overdue(now, k, XI[X_DECODE], R, F, UF, UI, lists, loop, PK, PF, contexts)
            patience = PF[P_PATIENCE] if loop[LOOP_OVERDUE] > 0 else np.inf
            _sort_queue(now, 0, k, loop[LOOP_PULL], patience, R, F, UF, UI, lists, slo, PK, EC, EB, EW, XI)
        if begun or lists[0, L_COUNT] > 0:
            _fill_late(now, R, F, UF, UI, lists, times, winners, PK, LC, LB, EC, EB, EW, XI, XF)
    if loop[LOOP_PULL] > 0:
        loop[LOOP_PULL] = 0
        pulled = _pull_all(
            now, R, F, UF, UI, lists, times, winners, loop, dirty, classes, slo, seen, scratch, PK, PF, lengths,
            batches, contexts, curves, tables, floors, noted, bounds, lows, EC, EB, EW, XI, noise,
        )  # fmt: skip
        if pulled:
            _fill_late(now, R, F, UF, UI, lists, times, winners, PK, LC, LB, EC, EB, EW, XI, XF)
        _sort_dirty(dirty[first_decode:], loop[LOOP_DIRTY] - first_decode)
    for at in range(first_decode, loop[LOOP_DIRTY]):
        u = dirty[at]
        UI[u, I_DIRTY] = 0
        start_decode(
            now, u, R, F, UF, UI, lists, times, winners, slots, longest, classes, violations, hist, slo, PK, PF,
            chunks, LC, LB, EC, EB, XI, XF,
        )  # fmt: skip
    loop[LOOP_DIRTY] = 0


@kernel
def _next_arrival(again, R, lists, loop):
    """Return the request that arrives: one that a fault sent back, or the next of all."""
    r = lists[again, L_HEAD]
    if r >= 0:
        remove(lists, R, again, r)
        return r
    loop[LOOP_NEXT] += 1
    return loop[LOOP_NEXT] - 1


@kernel
def run(
    clock, loop, R, F, UF, UI, lists, times, winners, dirty, slots, longest, classes, violations, hist, seen,
    scratch, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, LC, LB, EC, EB, EW, XI, XF, faults, noise,
):  # fmt: skip
    """Advance the simulation until every request has finished, or until an external policy is asked.

    All state lives in the arrays, so that a call goes on where the last one returned. Returns DONE, ASK (request
    loop[LOOP_ASKED] has arrived: place it by calling `answer`), STUCK (nothing can happen any more) or REFUSED (a
    user's compiled decision for loop[LOOP_ASKED] names no instance).
    """
    k, d, n = XI[X_PREFILL], XI[X_DECODE], R.shape[0]
    late, again = PK[K_KIND] == LATE, 2 * k + 4 * d
    stale, clocked = clock[CLOCK_INTERVAL] > 0.0, XF[Y_TICKS] > 0.0
    live = PK[K_KIND] == THRESHOLDS and not stale
    floors = floors_of(PK[K_KIND], PF, tables)
    noted, bounds, lows = np.full((d, NOTED), np.nan), np.zeros((2, len(lengths), d)), np.empty((2, d))
    now = clock[CLOCK_NOW]
    while True:
        leaf = winners[1]
        t = times[leaf]
        arrival = F[loop[LOOP_NEXT], F_ARRIVAL] if loop[LOOP_NEXT] < n else np.inf
        if lists[again, L_COUNT] > 0:
            arrival = now
        arrives = arrival < t or (clocked and arrival == t)
        t = min(t, arrival)
        fails = loop[LOOP_FAULT] < len(faults) and faults[loop[LOOP_FAULT], E_TIME] <= t
        if fails:
            t, arrives = max(now, faults[loop[LOOP_FAULT], E_TIME]), False
        if (loop[LOOP_DIRTY] > 0 or loop[LOOP_PULL] > 0) and t > now:
            _start_all(
                now, late, R, F, UF, UI, lists, times, winners, loop, dirty, slots, longest, classes, violations,
                hist, seen, scratch, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, floors, noted,
                bounds, lows, LC, LB, EC, EB, EW, XI, XF, noise,
            )  # fmt: skip
            continue
        if loop[LOOP_FINISHED] == n or t == np.inf:
            clock[CLOCK_NOW] = now
            return DONE if loop[LOOP_FINISHED] == n else STUCK
        if clock[CLOCK_OBSERVE] <= t:
            # Of several looks before the next event only the last is ever seen.
            skipped = (t - clock[CLOCK_OBSERVE]) // clock[CLOCK_INTERVAL] - 1.0
            clock[CLOCK_OBSERVE] += clock[CLOCK_INTERVAL] * max(0.0, skipped)
            now = clock[CLOCK_OBSERVE]
            observe_prefill(now, k, UF, UI, seen)
            observe_decode(now, k, d, UF, UI, classes, slo, seen)
            clock[CLOCK_OBSERVE] += clock[CLOCK_INTERVAL]
            continue
        now = t
        loop[LOOP_EVENTS] += 1
        if fails:
            apply_fault(
                t, faults[loop[LOOP_FAULT]], late, R, F, UF, UI, lists, times, winners, loop, dirty, slots, longest,
                classes, violations, PK, LC, XI,
            )  # fmt: skip
            if stale:
                observe_stops(k, d, UI, seen)
            loop[LOOP_FAULT] += 1
            noted[:] = np.nan
            loop[LOOP_PULL] = 1 if late else 0
        elif arrives:
            r = _next_arrival(again, R, lists, loop)
            if PK[K_ORDER] != FCFS:
                F[r, F_KEY] = queue_key(F[r, F_ARRIVAL], r, R, PK, PF, EW, EC, EB)
            if late:
                _queue_late(r, R, F, UF, lists, PK, EC, EB, EW)
                loop[LOOP_PULL] = 1
                continue
            if not stale:
                observe_prefill(t, k, UF, UI, seen)
                if PK[K_KIND] != NONE and not live:
                    observe_decode(t, k, d, UF, UI, classes, slo, seen)
            if PK[K_KIND] == EXTERNAL:
                clock[CLOCK_NOW], loop[LOOP_ASKED] = now, r
                return ASK
            # In place: decided in a function of its own, a request takes a tenth longer.
            e, g = noise[r % len(noise), 0], noise[r % len(noise), 1]
            if PK[K_KIND] == COMPILED:
                u, host = decide_compiled(t, r, R, F, seen, slo, EC, EB, UF, XI, XF, scratch)
                if u < 0:
                    clock[CLOCK_NOW], loop[LOOP_ASKED] = now, r
                    return REFUSED
            elif live:
                u, host = decide_live(
                    t, r, R, UF, UI, classes, slo, seen, PK, PF, lengths, batches, contexts, curves, tables, floors,
                    noted, bounds, lows, XI, e, g,
                )  # fmt: skip
            else:
                u, host = decide_noisy(
                    t, r, R, UF, seen, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, EC, EB, XI, XF,
                    e, g,
                )  # fmt: skip
            _place(t, r, u, host, R, F, UF, UI, lists, times, winners, loop, dirty, PK, EC, EB, EW, XI)
        elif leaf < k:
            end_prefill(t, leaf, R, F, UF, UI, lists, times, winners, loop, PK, XI, XF)
            mark(UI, loop, dirty, leaf)
            loop[LOOP_PULL] = 1 if late else 0
        elif leaf < k + d:
            land(t, leaf, R, F, UF, UI, lists, times, winners, loop, dirty, PK, XI, XF)
        else:
            u = leaf - d
            if late and UI[u, I_HOSTING] > 0:
                loop[LOOP_PULL] = 1
            end_decode(
                t, u, R, F, UF, UI, lists, times, winners, slots, longest, classes, violations, hist, slo, loop, XI, XF
            )
            mark(UI, loop, dirty, u)


@kernel
def answer(r, u, host, clock, loop, R, F, UF, UI, lists, times, winners, dirty, PK, EC, EB, EW, XI):
    """Place request r at unit u as an external policy decided."""
    t = clock[CLOCK_NOW]
    _place(t, r, u, host, R, F, UF, UI, lists, times, winners, loop, dirty, PK, EC, EB, EW, XI)

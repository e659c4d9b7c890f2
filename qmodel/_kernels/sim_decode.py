"""Events of decode instances: admission, preemption, hosted chunks, spans of steps and their ends."""

# ruff: noqa: I001 - columns are imported many to a line

import math

import numpy as np
from qmodel._kernels import inlined, kernel

from qmodel._kernels.laws import law_time, safe_chunk_beside, span_lines, span_time, step_of_span, steps_above
from qmodel._kernels.policies import K_COMMIT, K_HOST_BUDGET, K_HOST_PACKING, chunk_limit, strictest_tbt
from qmodel._kernels.sim_state import (
    DECODING, FINISHED, F_ADMITTED, F_FINISH, F_FIRST, F_HOST, F_LANDED, F_LAST, F_PREFILLED, F_START, F_TBT_MAX,
    HOSTED, I_BATCH, I_COUNTED, I_DOWN, I_FORGOTTEN, I_HOSTING, I_HOST_TOKENS, I_JOINERS, I_NEXT_LEAVE, I_PART,
    I_PREEMPTIONS, I_REQUESTS, I_SPAN, I_STAMP, I_STEP, I_STEPS, I_STEP_TOKENS, LOOP_FINISHED, L_HEAD,
    R_CACHED, R_CLASS, R_DONE, R_LEFT, R_NEED, R_NEXT, R_OUTPUT, R_PREEMPTED, R_STATE, R_VIOLATIONS, S_BASE, S_ID,
    S_LEAVE, S_STAMP, U_BATCH_TIME, U_BUSY, U_CAPACITY, U_CONTEXT, U_END, U_EXPECTED, U_HOST_KV, U_HOST_PART,
    U_HOST_TIME, U_HOST_WAIT, U_S, U_SINCE, U_SLOWDOWN, U_X, U_Y, U_Z, X_DECODE, X_FIRST_PREFILL, X_MAX_SEQS,
    X_MEASURED, X_PREFILL, X_TREE, X_WARM, Y_HIST_LOG0, Y_HIST_STEP, Y_TICKS, cut_to_ticks, on_tick, push, push_front,
    remove, schedule,
)  # fmt: skip

_NEVER = 1 << 62
# Slowdowns that differ by less are of the same speed, but for rounding.
_SAME_SPEED = 1e-6


@kernel
def _count_tbt(hist, XF, time, weight):
    """Add tokens that came `time` [s] after their forerunner; return the upper edge of their bin [s]."""
    bin_ = int((math.log(max(time, 1e-300)) - XF[Y_HIST_LOG0]) / XF[Y_HIST_STEP])
    bin_ = min(max(bin_, 0), len(hist) - 1)
    hist[bin_] += weight
    return math.exp(XF[Y_HIST_LOG0] + (bin_ + 1) * XF[Y_HIST_STEP])


@inlined
def _count_span(hist, XF, x, s, y, z, m, counted, new):
    """Add the tokens of a span: `counted` of them a step, `new` fewer in its first step."""
    i = 0
    if new > 0:
        if counted > new:
            _count_tbt(hist, XF, step_of_span(x, s, y, z, 0), counted - new)
        i = 1
    while counted > 0 and i < m:
        edge = _count_tbt(hist, XF, step_of_span(x, s, y, z, i), 0.0)
        upto = max(i + 1, m - steps_above(x, s, y, z, m, edge))
        _count_tbt(hist, XF, step_of_span(x, s, y, z, i), counted * float(upto - i))
        i = upto


@inlined
def _join(r, u, j, R, UF, UI, slots, longest, classes, violations, XI):
    """Make request r resident at decode instance u."""
    b = UI[u, I_BATCH]
    slots[j, b, S_ID] = r
    slots[j, b, S_LEAVE] = UI[u, I_STEP] + R[r, R_LEFT]
    slots[j, b, S_BASE] = violations[j, R[r, R_CLASS]]
    slots[j, b, S_STAMP] = UI[u, I_STAMP]
    longest[j, b] = 0.0
    UI[u, I_STAMP] += 1
    UI[u, I_NEXT_LEAVE] = min(UI[u, I_NEXT_LEAVE], slots[j, b, S_LEAVE])
    UI[u, I_BATCH] = b + 1
    UF[u, U_CONTEXT] += R[r, R_NEED]
    classes[j, R[r, R_CLASS]] += 1
    if r >= XI[X_WARM]:
        UI[u, I_COUNTED] += 1
    R[r, R_STATE] = DECODING


@inlined
def leave(b, u, j, R, F, UF, UI, slots, longest, classes, violations, XI):
    """Take the resident of slot b out of the batch; return (request, steps it still had to make)."""
    r = slots[j, b, S_ID]
    left = slots[j, b, S_LEAVE] - UI[u, I_STEP]
    F[r, F_TBT_MAX] = max(F[r, F_TBT_MAX], longest[j, b])
    R[r, R_VIOLATIONS] += violations[j, R[r, R_CLASS]] - slots[j, b, S_BASE]
    UF[u, U_CONTEXT] -= R[r, R_NEED] + R[r, R_LEFT] - left
    classes[j, R[r, R_CLASS]] -= 1
    if r >= XI[X_WARM]:
        UI[u, I_COUNTED] -= 1
    last = UI[u, I_BATCH] - 1
    for c in range(4):
        slots[j, b, c] = slots[j, last, c]
    longest[j, b] = longest[j, last]
    UI[u, I_BATCH] = last
    if last == 0:
        UF[u, U_CONTEXT] = 0.0
    return r, left


@inlined
def next_leave(u, j, UI, slots):
    best = _NEVER
    for b in range(UI[u, I_BATCH]):
        best = min(best, slots[j, b, S_LEAVE])
    UI[u, I_NEXT_LEAVE] = best


@kernel
def _finish(t, r, u, R, F, UI, loop):
    F[r, F_FINISH] = t
    R[r, R_STATE] = FINISHED
    if UI[u, I_FORGOTTEN] > 0:
        UI[u, I_FORGOTTEN] -= 1
    else:
        UI[u, I_REQUESTS] -= 1
    loop[LOOP_FINISHED] += 1


@kernel
def _preempt(t, u, j, R, F, UF, UI, lists, slots, longest, classes, violations, XI):
    """Drop the newest resident: its cache is lost and recomputed there, ahead of everything that waits."""
    newest = 0
    for b in range(1, UI[u, I_BATCH]):
        if slots[j, b, S_STAMP] > slots[j, newest, S_STAMP]:
            newest = b
    r, left = leave(newest, u, j, R, F, UF, UI, slots, longest, classes, violations, XI)
    next_leave(u, j, UI, slots)
    UI[u, I_HOST_TOKENS] += R[r, R_NEED] + R[r, R_LEFT] - left + 1
    R[r, R_NEED] += R[r, R_LEFT] - left + 1  # the token sampled last is part of what is computed again
    R[r, R_LEFT] = left
    R[r, R_DONE] = 0
    R[r, R_PREEMPTED] += 1
    R[r, R_STATE] = HOSTED
    F[r, F_LAST] = t
    F[r, F_HOST] = 0.0
    UI[u, I_PREEMPTIONS] += 1
    push_front(lists, R, 2 * XI[X_PREFILL] + j, r)


@inlined
def _admit(t, u, j, until, most, hosting, R, F, UF, UI, lists, slots, longest, classes, violations, XI):
    """Admit requests that landed by time `until`, at most so many, beside `hosting` prompts; return how many.

    They join while sequences and cache allow; none does while a preempted one waits to come back.
    """
    k, d = XI[X_PREFILL], XI[X_DECODE]
    row, host = 2 * k + 2 * d + j, lists[2 * k + j, L_HEAD]
    if host >= 0 and R[host, R_PREEMPTED] > 0:
        return 0
    joiners, r = 0, lists[row, L_HEAD]
    while r >= 0 and joiners < most and F[r, F_LANDED] <= until and UI[u, I_BATCH] + hosting < XI[X_MAX_SEQS]:
        needed = UF[u, U_CONTEXT] + UF[u, U_HOST_KV] + R[r, R_NEED] + UI[u, I_BATCH] + 1
        if needed > UF[u, U_CAPACITY]:
            break
        remove(lists, R, row, r)
        F[r, F_ADMITTED] = t
        _join(r, u, j, R, UF, UI, slots, longest, classes, violations, XI)
        joiners += 1
        r = lists[row, L_HEAD]
    return joiners


@kernel
def _take_prompt(t, u, row, hosted, R, F, UF, UI, lists, XI):
    """Take the first prompt that waits into the step, beside so many; return it, -1 without seat or cache for it."""
    r, B, held = lists[row, L_HEAD], UI[u, I_BATCH], UF[u, U_CONTEXT] + UF[u, U_HOST_KV]
    if r < 0 or B + hosted >= XI[X_MAX_SEQS]:
        return -1
    if held > 0.0 and held + R[r, R_NEED] + B + hosted + 1 > UF[u, U_CAPACITY]:
        return -1
    remove(lists, R, row, r)
    UF[u, U_HOST_KV] += R[r, R_NEED]
    UF[u, U_HOST_WAIT] -= F[r, F_HOST]
    if lists[row, L_HEAD] < 0:
        UF[u, U_HOST_WAIT] = 0.0
    if R[r, R_PREEMPTED] == 0:
        F[r, F_START] = t
    return r


@kernel
def _add_chunk(u, run, r, chunk, R, F, UF, UI, lists):
    """Put the next tokens of prompt r into the step: it ends there, or is the part that the next step goes on with."""
    left = R[r, R_NEED] - R[r, R_DONE]
    R[r, R_DONE] += chunk
    if chunk == left:
        push(lists, R, run, r)
        return
    UI[u, I_PART] = r
    start = R[r, R_CACHED] if R[r, R_PREEMPTED] == 0 else 0
    UF[u, U_HOST_PART] = F[r, F_HOST] * (left - chunk) / (R[r, R_NEED] - start)


@inlined
def _fill_budget(
    t, u, j, preempted, R, F, UF, UI, lists, slots, longest, classes, violations, PK, XI
):  # fmt: skip
    """Fill the token budget of a step: residents, the begun prompt, then all that waits, first come first served.

    Prompts to host and landed caches wait in one queue here, as in vLLM: whoever finds no place stops all behind it.
    Returns (joiners, n, q, reloaded).
    """
    k, d = XI[X_PREFILL], XI[X_DECODE]
    row, run, landed = 2 * k + j, 2 * k + d + j, 2 * k + 2 * d + j
    room = PK[K_HOST_BUDGET] - UI[u, I_BATCH]
    joiners, n, q, reloaded, hosted = 0, 0, 0.0, 0.0, 0
    if room <= 0:
        return joiners, n, q, reloaded
    r = UI[u, I_PART]
    UI[u, I_PART] = -1
    UF[u, U_HOST_PART] = 0.0
    while room > 0:
        if r < 0:
            head, until = lists[row, L_HEAD], np.inf
            if head >= 0:
                until = -np.inf if R[head, R_PREEMPTED] > 0 else F[head, F_LANDED]
            most = 0 if preempted else room
            new = _admit(
                t, u, j, until, most, hosted, R, F, UF, UI, lists, slots, longest, classes, violations, XI
            )  # fmt: skip
            joiners += new
            room -= new
            first = lists[landed, L_HEAD]
            if room == 0 or (first >= 0 and F[first, F_LANDED] <= until):
                break
            r = _take_prompt(t, u, row, hosted, R, F, UF, UI, lists, XI)
            if r < 0:
                break
        done = R[r, R_DONE]
        chunk = min(room, R[r, R_NEED] - done)
        _add_chunk(u, run, r, chunk, R, F, UF, UI, lists)
        room -= chunk
        hosted += 1
        n += chunk
        q += chunk * (done + 0.5 * chunk)
        reloaded += done
        r = -1
    UI[u, I_HOSTING] = hosted
    UI[u, I_STEP_TOKENS] = n
    return joiners, n, q, reloaded


@inlined
def _host(t, u, j, R, F, UF, UI, lists, slo, classes, PK, PF, chunks, LC, LB, XI):
    """Choose the prompt tokens of the next step by its length; return (n, q, reloaded), n = 0 if nothing is hosted."""
    k, d = XI[X_PREFILL], XI[X_DECODE]
    row, run = 2 * k + j, 2 * k + d + j
    B, K = UI[u, I_BATCH], UF[u, U_CONTEXT]
    n, q, reloaded, hosted, more = 0, 0.0, 0.0, 0, True
    r = UI[u, I_PART]
    UI[u, I_PART] = -1
    UF[u, U_HOST_PART] = 0.0
    while more:
        if r < 0:
            head = lists[row, L_HEAD]
            if head >= 0 and hosted > 0:
                limit = chunk_limit(PF, strictest_tbt(j, classes, slo, np.inf), slo[R[head, R_CLASS], 1])
                begun, rest = R[head, R_DONE], R[head, R_NEED] - R[head, R_DONE]
                if safe_chunk_beside(LC, LB, u, B, K, n, q, reloaded, begun, rest, chunks, limit) == 0:
                    break
            r = _take_prompt(t, u, row, hosted, R, F, UF, UI, lists, XI)
            if r < 0:
                break
        done, left = R[r, R_DONE], R[r, R_NEED] - R[r, R_DONE]
        limit = chunk_limit(PF, strictest_tbt(j, classes, slo, np.inf), slo[R[r, R_CLASS], 1])
        chunk = safe_chunk_beside(LC, LB, u, B, K, n, q, reloaded, done, left, chunks, limit)
        if chunk == 0:
            chunk = min(chunks[len(chunks) - 1], left)
        _add_chunk(u, run, r, chunk, R, F, UF, UI, lists)
        more = PK[K_HOST_PACKING] != 0 and chunk == left
        hosted += 1
        n += chunk
        q += chunk * (done + 0.5 * chunk)
        reloaded += done
        r = -1
    UI[u, I_HOSTING] = hosted
    UI[u, I_STEP_TOKENS] = n
    return n, q, reloaded


@kernel
def _forget(u, j, run, R, UI, lists, slots):
    """Stop counting as load the requests whose last step begins (a rule of one peer's scheduler)."""
    gone, last = 0, UI[u, I_STEP] + 1
    if UI[u, I_NEXT_LEAVE] == last:
        for b in range(UI[u, I_BATCH]):
            gone += 1 if slots[j, b, S_LEAVE] == last else 0
    r = lists[run, L_HEAD]
    while r >= 0:
        ends = R[r, R_LEFT] == 1 if R[r, R_PREEMPTED] > 0 else R[r, R_OUTPUT] == 1
        gone += 1 if ends else 0
        r = R[r, R_NEXT]
    UI[u, I_FORGOTTEN] = gone
    UI[u, I_REQUESTS] -= gone


@kernel
def _begin_joiners(first, step, j, begin, end, R, F, slots, longest, hist, slo, XI, XF):
    """Note when the residents of slots `begin` to `end` - 1 end their first step, `step` [s] long."""
    for b in range(begin, end):
        r = slots[j, b, S_ID]
        c = R[r, R_CLASS]
        F[r, F_FIRST] = first
        if step > slo[c, 1]:
            slots[j, b, S_BASE] += 1  # its first step ends the TTFT and is no TBT
        if XI[X_FIRST_PREFILL]:
            gap = first - F[r, F_PREFILLED]
            longest[j, b] = gap
            if gap > slo[c, 1]:
                R[r, R_VIOLATIONS] += 1
            if r >= XI[X_WARM]:
                _count_tbt(hist, XF, gap, 1.0)


@inlined
def start_decode(
    t, u, R, F, UF, UI, lists, times, winners, slots, longest, classes, violations, hist, slo,
    PK, PF, chunks, LC, LB, EC, EB, XI, XF,
):  # fmt: skip
    """Start the next step or span of decode instance u, or leave it idle."""
    k, d = XI[X_PREFILL], XI[X_DECODE]
    j, run = u - k, k + d + u
    if UI[u, I_DOWN]:
        return
    preempted = False
    while UI[u, I_BATCH] > 0 and UF[u, U_CONTEXT] + UF[u, U_HOST_KV] + UI[u, I_BATCH] > UF[u, U_CAPACITY]:
        _preempt(t, u, j, R, F, UF, UI, lists, slots, longest, classes, violations, XI)
        preempted = True
    if PK[K_HOST_BUDGET] > 0:
        joiners, n, q, reloaded = _fill_budget(
            t, u, j, preempted, R, F, UF, UI, lists, slots, longest, classes, violations, PK, XI
        )  # fmt: skip
    else:
        joiners, hosting = 0, 1 if UI[u, I_PART] >= 0 else 0
        if not preempted:
            joiners = _admit(
                t, u, j, np.inf, _NEVER, hosting, R, F, UF, UI, lists, slots, longest, classes, violations, XI
            )  # fmt: skip
        n, q, reloaded = _host(t, u, j, R, F, UF, UI, lists, slo, classes, PK, PF, chunks, LC, LB, XI)
    B, K = UI[u, I_BATCH], UF[u, U_CONTEXT]
    if B == 0 and n == 0:
        return
    UI[u, I_JOINERS] = joiners
    UF[u, U_SINCE] = t
    if n > 0 or XF[Y_TICKS] > 0.0:
        step = cut_to_ticks(law_time(LC, LB, u, B, K, n, q, reloaded), XF[Y_TICKS])
        UF[u, U_X], UF[u, U_S], UF[u, U_Y], UF[u, U_Z] = step, 0.0, 0.0, 0.0
        UI[u, I_SPAN] = 1
    else:
        x, s, y, z = span_lines(LC, LB, u, B, K)
        UF[u, U_X], UF[u, U_S], UF[u, U_Y], UF[u, U_Z] = x, s, y, z
        room = int((UF[u, U_CAPACITY] - K - UF[u, U_HOST_KV]) // B)
        steps = min(UI[u, I_NEXT_LEAVE] - UI[u, I_STEP], max(1, room))
        UI[u, I_SPAN] = max(1, steps - 1) if PK[K_COMMIT] else steps
        step = x
    if XI[X_MEASURED]:
        UF[u, U_EXPECTED] = law_time(EC, EB, u, B, K, n, q, reloaded)
        if abs(step / UF[u, U_EXPECTED] - UF[u, U_SLOWDOWN]) > _SAME_SPEED:
            UI[u, I_SPAN] = 1  # another speed is known after one step
    if PK[K_COMMIT]:
        _forget(u, j, run, R, UI, lists, slots)
    _begin_joiners(on_tick(t + step, XF[Y_TICKS]), step, j, B - joiners, B, R, F, slots, longest, hist, slo, XI, XF)
    span = span_time(UF[u, U_X], UF[u, U_S], UF[u, U_Y], UF[u, U_Z], UI[u, I_SPAN])
    UF[u, U_END] = on_tick(t + span, XF[Y_TICKS])
    schedule(times, winners, XI[X_TREE], d + u, UF[u, U_END])


@inlined
def _end_hosted(t, u, j, R, F, UF, UI, lists, slots, longest, classes, violations, hist, slo, loop, XI, XF):
    """Make the prompts whose last chunk was in this step resident; the step has sampled a token of each."""
    k, d = XI[X_PREFILL], XI[X_DECODE]
    run = 2 * k + d + j
    UF[u, U_HOST_TIME] += t - UF[u, U_SINCE]
    UI[u, I_HOST_TOKENS] -= UI[u, I_STEP_TOKENS]
    UI[u, I_HOSTING] = 0
    r = lists[run, L_HEAD]
    while r >= 0:
        remove(lists, R, run, r)
        UF[u, U_HOST_KV] -= R[r, R_NEED]
        if R[r, R_PREEMPTED] > 0:
            gap, c = t - F[r, F_LAST], R[r, R_CLASS]
            F[r, F_TBT_MAX] = max(F[r, F_TBT_MAX], gap)
            R[r, R_VIOLATIONS] += 1 if gap > slo[c, 1] else 0
            if r >= XI[X_WARM]:
                _count_tbt(hist, XF, gap, 1.0)
        else:
            F[r, F_PREFILLED], F[r, F_ADMITTED], F[r, F_FIRST] = t, t, t
            R[r, R_LEFT] = R[r, R_OUTPUT]
        R[r, R_LEFT] -= 1
        if R[r, R_LEFT] == 0:
            _finish(t, r, u, R, F, UI, loop)
        else:
            _join(r, u, j, R, UF, UI, slots, longest, classes, violations, XI)
        r = lists[run, L_HEAD]


@inlined
def end_decode(
    t, u, R, F, UF, UI, lists, times, winners, slots, longest, classes, violations, hist, slo, loop, XI, XF
):  # fmt: skip
    """End the step or span of decode instance u: count its tokens, let finished requests leave."""
    d, j = XI[X_DECODE], u - XI[X_PREFILL]
    B, m, joiners = UI[u, I_BATCH], UI[u, I_SPAN], UI[u, I_JOINERS]
    x, s, y, z = UF[u, U_X], UF[u, U_S], UF[u, U_Y], UF[u, U_Z]
    UF[u, U_BUSY] += t - UF[u, U_SINCE]
    UF[u, U_BATCH_TIME] += B * (t - UF[u, U_SINCE])
    UF[u, U_END] = np.inf
    UI[u, I_STEPS] += m
    if XI[X_MEASURED]:
        UF[u, U_SLOWDOWN] = x / UF[u, U_EXPECTED]
    schedule(times, winners, XI[X_TREE], d + u, np.inf)
    if B > 0:
        last = step_of_span(x, s, y, z, m - 1)
        for b in range(B - joiners if m == 1 else B):
            longest[j, b] = max(longest[j, b], last)
        for c in range(violations.shape[1]):
            if last > slo[c, 1]:
                violations[j, c] += steps_above(x, s, y, z, m, slo[c, 1])
        new = 0
        for b in range(B - joiners, B):
            new += 1 if slots[j, b, S_ID] >= XI[X_WARM] else 0
        if UI[u, I_COUNTED] > 0:
            _count_span(hist, XF, x, s, y, z, m, float(UI[u, I_COUNTED]), float(new))
        UI[u, I_STEP] += m
        UF[u, U_CONTEXT] += B * m
        if UI[u, I_NEXT_LEAVE] == UI[u, I_STEP]:
            b = 0
            while b < UI[u, I_BATCH]:
                if slots[j, b, S_LEAVE] == UI[u, I_STEP]:
                    r, _ = leave(b, u, j, R, F, UF, UI, slots, longest, classes, violations, XI)
                    _finish(t, r, u, R, F, UI, loop)
                else:
                    b += 1
            next_leave(u, j, UI, slots)
    if UI[u, I_HOSTING] > 0:
        _end_hosted(t, u, j, R, F, UF, UI, lists, slots, longest, classes, violations, hist, slo, loop, XI, XF)

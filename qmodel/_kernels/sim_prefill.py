"""Events of prefill instances and of the network: steps are filled, end, and hand their prompts over."""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import inlined, kernel

from qmodel._kernels.laws import law_time, span_steps, span_time, whole_blocks, work_time
from qmodel._kernels.policies import (
    AT_ARRIVAL, AT_ARRIVAL_COUNT_LANDED, AT_ARRIVAL_COUNT_SENT, AT_PREFILLED, K_COMMIT, K_DECODE_EARLY, available,
)  # fmt: skip
from qmodel._kernels.sim_links import bytes_sent, send
from qmodel._kernels.sim_state import (
    F_FINISH, F_LANDED, F_PREFILLED, F_START, FINISHED, I_BATCH, I_DOWN, I_HOSTING, I_PART,
    I_REQUESTS, I_SPAN, I_STEP_TOKENS, I_STEPS, L_COUNT, L_HEAD, LANDED, LOOP_FINISHED, MOVING, PREFILLING,
    R_CACHED, R_DECODE, R_DONE, R_NEED, R_OUTPUT, R_PREFILL, R_PROMPT, R_STATE, U_BUSY, U_CAPACITY, U_END, U_KV,
    U_LINK_RATE, U_PART_WORK, U_S, U_SINCE, U_TOKENS, U_WORK, U_X, U_Y, U_Z, X_BUDGET, X_DECODE, X_FIRST_PREFILL,
    X_LAYERS, X_MAX_SEQS, X_PACKING, X_PREFILL, X_PREFILL_SEQS, X_TREE, Y_BLOCK, Y_KV_BYTES, Y_TICKS,
    cut_to_ticks, mark, on_tick, push, remove, schedule,
)  # fmt: skip


@inlined
def start_prefill(t, i, late, R, F, UF, UI, lists, times, winners, PK, LC, LB, EC, EB, EW, XI, XF):
    """Fill the next step of prefill instance i from its queue (the shared one when late) and start it."""
    if UI[i, I_DOWN]:
        return
    k, row, source = XI[X_PREFILL], (0 if late else i), (0 if late else i)
    room = XI[X_BUDGET] if XI[X_PACKING] else 1
    n, q, reloaded, seats = 0, 0.0, 0.0, XI[X_PREFILL_SEQS]
    r = UI[i, I_PART]
    UI[i, I_PART] = -1
    UF[i, U_PART_WORK] = 0.0
    while room > 0 and seats > 0:
        if r < 0:
            r = lists[row, L_HEAD]
            if r < 0 or (UF[i, U_KV] > 0.0 and UF[i, U_KV] + R[r, R_NEED] > UF[i, U_CAPACITY]):
                break
            remove(lists, R, row, r)
            UF[i, U_KV] += R[r, R_NEED]
            UF[source, U_WORK] -= work_time(EW, EC, EB, source, R[r, R_NEED], R[r, R_DONE])
            if lists[row, L_COUNT] == 0:
                UF[source, U_WORK] = 0.0
            if late:
                UF[i, U_TOKENS] += R[r, R_NEED] - R[r, R_DONE]
                UI[i, I_REQUESTS] += 1
            F[r, F_START] = t
            R[r, R_STATE] = PREFILLING
            R[r, R_PREFILL] = i
        done, left = R[r, R_DONE], R[r, R_NEED] - R[r, R_DONE]
        seats -= 1
        chunk = min(room, left) if XI[X_PACKING] else left
        n += chunk
        q += chunk * (done + 0.5 * chunk)
        reloaded += done
        room = room - chunk if XI[X_PACKING] else 0
        R[r, R_DONE] = done + chunk
        if chunk == left:
            push(lists, R, k + i, r)
        else:
            UI[i, I_PART] = r
            UF[i, U_PART_WORK] = work_time(EW, EC, EB, i, R[r, R_NEED], R[r, R_DONE])
        r = -1
    if n == 0:
        return
    UI[i, I_STEP_TOKENS] = n
    if PK[K_COMMIT]:
        UI[i, I_REQUESTS] -= lists[k + i, L_COUNT]
    UF[i, U_SINCE] = t
    step = cut_to_ticks(law_time(LC, LB, i, 0, 0.0, n, q, reloaded), XF[Y_TICKS])
    UF[i, U_END] = on_tick(t + step, XF[Y_TICKS])
    schedule(times, winners, XI[X_TREE], i, UF[i, U_END])


@inlined
def end_prefill(t, i, R, F, UF, UI, lists, times, winners, loop, PK, XI, XF):
    """End the step of prefill instance i: its finished prompts start their transfers."""
    k, d = XI[X_PREFILL], XI[X_DECODE]
    UF[i, U_BUSY] += t - UF[i, U_SINCE]
    UI[i, I_STEPS] += 1
    UF[i, U_END] = np.inf
    UF[i, U_TOKENS] -= UI[i, I_STEP_TOKENS]
    schedule(times, winners, XI[X_TREE], i, np.inf)
    row = k + i
    r = lists[row, L_HEAD]
    while r >= 0:
        remove(lists, R, row, r)
        F[r, F_PREFILLED] = t
        R[r, R_STATE] = MOVING
        if not PK[K_COMMIT]:
            UI[i, I_REQUESTS] -= 1
        u = R[r, R_DECODE]
        if u >= 0 and UI[u, I_DOWN]:
            UI[u, I_REQUESTS] -= 1 if PK[K_DECODE_EARLY] == AT_ARRIVAL else 0
            u = -1
        if XI[X_FIRST_PREFILL] and R[r, R_OUTPUT] == 1:
            F[r, F_FINISH], R[r, R_STATE] = t, FINISHED
            UF[i, U_KV] -= R[r, R_NEED]
            loop[LOOP_FINISHED] += 1
            if u >= 0 and PK[K_DECODE_EARLY] == AT_ARRIVAL:
                UI[u, I_REQUESTS] -= 1
            r = lists[row, L_HEAD]
            continue
        if u < 0:
            u = available(k, k + d, r, UI, PK)
            R[r, R_DECODE] = u
            if PK[K_DECODE_EARLY] != AT_ARRIVAL_COUNT_LANDED:
                UI[u, I_REQUESTS] += 1
        elif PK[K_DECODE_EARLY] == AT_PREFILLED or PK[K_DECODE_EARLY] == AT_ARRIVAL_COUNT_SENT:
            UI[u, I_REQUESTS] += 1
        size = XF[Y_KV_BYTES] * whole_blocks(R[r, R_PROMPT] - R[r, R_CACHED], XF[Y_BLOCK])
        rate = min(UF[i, U_LINK_RATE], UF[u, U_LINK_RATE])
        busy, layers = size / rate, XI[X_LAYERS]
        if layers > 0:
            busy = max(busy / layers, busy - (t - F[r, F_START]) * (layers - 1) / layers)
        send(t, r, i, u, busy * rate, busy, R, F, UF, lists, times, winners, XI, XF)
        r = lists[row, L_HEAD]


@inlined
def land(t, u, R, F, UF, UI, lists, times, winners, loop, dirty, PK, XI, XF):
    """Put the next cache that arrives at decode instance u in place and free its copy on the prefill side."""
    k, d = XI[X_PREFILL], XI[X_DECODE]
    transit = 2 * k + 3 * d + (u - k)
    r = lists[transit, L_HEAD]
    if bytes_sent(t, r, transit, R, F, UF, lists, times, winners, XI, XF):
        return
    remove(lists, R, transit, r)
    R[r, R_STATE] = LANDED
    if PK[K_DECODE_EARLY] == AT_ARRIVAL_COUNT_LANDED:
        UI[u, I_REQUESTS] += 1
    push(lists, R, 2 * k + 2 * d + (u - k), r)
    head = lists[transit, L_HEAD]
    schedule(times, winners, XI[X_TREE], u, F[head, F_LANDED] if head >= 0 else np.inf)
    i = R[r, R_PREFILL]
    UF[i, U_KV] -= R[r, R_NEED]
    if UF[i, U_END] == np.inf:
        mark(UI, loop, dirty, i)
    if UI[u, I_BATCH] + UI[u, I_HOSTING] < XI[X_MAX_SEQS]:
        wake(t, u, UF, UI, times, winners, loop, dirty, XI)


@kernel
def wake(t, u, UF, UI, times, winners, loop, dirty, XI):
    """Let decode instance u look around at the end of its step in progress, or now if it is idle."""
    if UF[u, U_END] == np.inf:
        mark(UI, loop, dirty, u)
    elif UI[u, I_SPAN] > 1:
        x, s, y, z, m = UF[u, U_X], UF[u, U_S], UF[u, U_Y], UF[u, U_Z], UI[u, I_SPAN]
        steps = span_steps(x, s, y, z, m, t - UF[u, U_SINCE])
        if steps < m:
            UI[u, I_SPAN] = steps
            UF[u, U_END] = UF[u, U_SINCE] + span_time(x, s, y, z, steps)
            schedule(times, winners, XI[X_TREE], XI[X_DECODE] + u, UF[u, U_END])

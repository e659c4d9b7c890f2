"""Layout of the simulator's state and its two small structures: linked lists and a winner tree of event times.

Units are numbered prefill first: u = 0..k-1 prefill, k..k+d-1 decode. A request waits in at most one list at a
time, so lists are threaded through the requests themselves.
"""

import math

from qmodel._kernels import kernel

# Integer columns of a request (int32).
(
    R_PROMPT, R_OUTPUT, R_CACHED, R_CLASS, R_DONE, R_NEED, R_LEFT, R_NEXT, R_PREV, R_PREFILL, R_DECODE,
    R_DEFLECTED, R_VIOLATIONS, R_PREEMPTED, R_RESTARTS, R_STATE,
) = range(16)  # fmt: skip
REQUEST_INTS = 16

# Float columns of a request [s].
F_ARRIVAL, F_START, F_PREFILLED, F_LANDED, F_ADMITTED, F_FIRST, F_FINISH, F_TBT_MAX, F_HOST, F_KEY, F_LAST = range(11)
REQUEST_FLOATS = 11

# On its way through a fairly shared network a request needs neither key nor host time.
F_BYTES, F_RATE = F_KEY, F_HOST

# States of a request.
NOT_ARRIVED, WAITING, PREFILLING, MOVING, HANDING_OVER, LANDED, DECODING, HOSTED, FINISHED = range(9)

# Float columns of a unit. END: when its step or span ends (inf: idle). EXPECTED: what the router's law says of its step
# [s]; SLOWDOWN: how many times as long the last one took.
(
    U_END, U_SINCE, U_KV, U_CAPACITY, U_LINK_FREE, U_LINK_RATE, U_BUSY, U_WORK, U_PART_WORK, U_TOKENS,
    U_CONTEXT, U_X, U_S, U_Y, U_Z, U_HOST_WAIT, U_HOST_PART, U_HOST_KV, U_BATCH_TIME, U_HOST_TIME,
    U_EXPECTED, U_SLOWDOWN,
) = range(22)  # fmt: skip
UNIT_FLOATS = 22

# Integer columns of a unit. PART: the prompt begun and not yet done (-1: none); COUNTED: residents past the warm-up;
# FORGOTTEN: residents and prompts in their last step that no longer count as load.
(
    I_DIRTY, I_PART, I_STEP_TOKENS, I_REQUESTS, I_BATCH, I_JOINERS, I_COUNTED, I_STEP, I_NEXT_LEAVE,
    I_SPAN, I_HOST_TOKENS, I_HOSTING, I_STAMP, I_PREEMPTIONS, I_STEPS, I_FORGOTTEN, I_DOWN,
) = range(17)  # fmt: skip
UNIT_INTS = 17

# Columns of a resident's slot: request, step at whose end it leaves, slow steps of its class when it joined, order.
S_ID, S_LEAVE, S_BASE, S_STAMP = range(4)

# Rows of the lists, k prefill and d decode instances:
#   i, k + i              the queue of prefill instance i (0 is shared by all when binding is late), and the prompts
#                         that end with its step in progress
#   2k + j, 2k + d + j    prompts that wait to be hosted at decode instance j, and those that end with its step
#   2k + 2d + j           requests whose cache has landed there and that wait for admission
#   2k + 3d + j           requests whose cache is on its way there, by the time of their next event
#   2k + 4d               requests that a fault lets arrive again
# Columns of a list: first, last, how many.
L_HEAD, L_TAIL, L_COUNT = range(3)

# Settings, integers; the last three are a user's compiled decision: address, address and count of its parameters.
(
    X_PREFILL, X_DECODE, X_BUDGET, X_MAX_SEQS, X_PACKING, X_FIRST_PREFILL, X_WARM, X_TREE, X_LAYERS, X_SHARING,
    X_MEASURED, X_PREFILL_SEQS, X_USER, X_PARAMETERS, X_PARAMETER_COUNT,
) = range(15)  # fmt: skip
SETTING_INTS = 15

# Settings, floats; Y_TICKS: of the clock in a second, 0 where time is continuous.
Y_FIXED, Y_KV_BYTES, Y_BLOCK, Y_HIST_LOG0, Y_HIST_STEP, Y_TICKS = range(6)
SETTING_FLOATS = 6

# Loop variables kept between calls.
LOOP_NEXT, LOOP_DIRTY, LOOP_PULL, LOOP_FINISHED, LOOP_EVENTS, LOOP_FAULT, LOOP_ASKED, LOOP_OVERDUE = range(8)
LOOP_INTS = 8

# Times kept between calls: now, the next observation (inf: the router sees everything at once), its interval.
CLOCK_NOW, CLOCK_OBSERVE, CLOCK_INTERVAL = range(3)


# Rounding of a time in ticks: what is this close to a whole tick is one.
_NEARLY = 1e-9


@kernel
def push(lists, R, row, r):
    """Append request r to a list."""
    tail = lists[row, L_TAIL]
    R[r, R_PREV] = tail
    R[r, R_NEXT] = -1
    if tail < 0:
        lists[row, L_HEAD] = r
    else:
        R[tail, R_NEXT] = r
    lists[row, L_TAIL] = r
    lists[row, L_COUNT] += 1


@kernel
def push_behind(lists, R, row, at, r):
    """Insert request r behind request `at` of a list; at its head where that is negative."""
    behind = lists[row, L_HEAD] if at < 0 else R[at, R_NEXT]
    R[r, R_PREV], R[r, R_NEXT] = at, behind
    if at < 0:
        lists[row, L_HEAD] = r
    else:
        R[at, R_NEXT] = r
    if behind < 0:
        lists[row, L_TAIL] = r
    else:
        R[behind, R_PREV] = r
    lists[row, L_COUNT] += 1


@kernel
def push_front(lists, R, row, r):
    """Put request r at the head of a list."""
    push_behind(lists, R, row, -1, r)


@kernel
def push_sorted(lists, R, F, row, r):
    """Insert request r behind all whose key is not larger, searching from the tail."""
    key = F[r, F_KEY]
    at = lists[row, L_TAIL]
    while at >= 0 and F[at, F_KEY] > key:
        at = R[at, R_PREV]
    push_behind(lists, R, row, at, r)


@kernel
def remove(lists, R, row, r):
    """Take request r out of the list it is in."""
    before, behind = R[r, R_PREV], R[r, R_NEXT]
    if before < 0:
        lists[row, L_HEAD] = behind
    else:
        R[before, R_NEXT] = behind
    if behind < 0:
        lists[row, L_TAIL] = before
    else:
        R[behind, R_PREV] = before
    lists[row, L_COUNT] -= 1


@kernel
def schedule(times, winners, size, leaf, time):
    """Set the time of an event; ties are won by the lower leaf."""
    times[leaf] = time
    node = (leaf + size) >> 1
    while node >= 1:
        a, b = winners[2 * node], winners[2 * node + 1]
        best = a if times[a] <= times[b] else b
        if best == winners[node] and best != leaf:
            return
        winners[node] = best
        node >>= 1


@kernel
def on_tick(t, ticks):
    """Return the time of the clock's nearest tick, t itself where time is continuous (no ticks a second)."""
    return t if ticks == 0.0 else math.floor(t * ticks + 0.5) / ticks


@kernel
def cut_to_ticks(step, ticks):
    """Return a step's time [s] cut to whole ticks, at least one."""
    return step if ticks == 0.0 else max(1, math.floor(step * ticks + _NEARLY)) / ticks


@kernel
def end_of_transfer(begin, busy, fixed, ticks):
    """Return when a cache has landed whose link is busy for so long and whose hand-over takes `fixed` [s].

    On a clock the two together are rounded up to whole ticks.
    """
    if ticks == 0.0:
        return begin + busy + fixed
    return on_tick(begin + math.ceil((busy + fixed) * ticks - _NEARLY) / ticks, ticks)


@kernel
def mark(UI, loop, dirty, u):
    """Remember that unit u may start a step at this instant."""
    if UI[u, I_DIRTY] == 0:
        UI[u, I_DIRTY] = 1
        dirty[loop[LOOP_DIRTY]] = u
        loop[LOOP_DIRTY] += 1

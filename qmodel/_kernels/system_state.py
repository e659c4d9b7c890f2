"""Columns of the recursion over both pools, and the small moves of its residents.

A decode batch between its joins and leaves is a fluid: n residents with K tokens of context all receive tokens at the
rate 1/T(n, K). The token clock of an instance counts its steps; it is whole at step boundaries, where those who wait
join, leave or begin a hosted chunk.
"""

import math

from qmodel._kernels import kernel
from qmodel._kernels.heap import heap_pop, heap_push
from qmodel._kernels.system import HEAD, TAIL

# Float columns of a request [s]; JOINED is the token clock at which it joined, SLOW counts steps above the TBT limit
# (while it is resident: of its instance, when it joined), HOST is its host time, LAST its last token before preemption.
ARRIVAL, START, FINISH, LANDED, ADMITTED, FIRST, END, SLOW, HOST, JOINED, LAST = range(11)
REQUEST_COLUMNS = 11

# Float columns of a decode instance: now [s], token clock [steps], context [tokens], end and length of the hosted step
# [s], host time of the prompts that wait and of the one begun [s], KV of hosted prompts [tokens], clock at which the
# next hosted step may begin and at which the latest joined, steps above the TBT limit so far, busy time [s], residents
# that count, those of them whose first step begins at D_NEXT and one step before it, when the link is free [s], and
# the time before which nothing happens [s].
(
    D_NOW, D_CLOCK, D_CONTEXT, D_END, D_STEP, D_WAIT, D_PART, D_KV, D_FROM, D_NEXT, D_SLOW, D_BUSY, D_COUNTED, D_NEW,
    D_OLD, D_LINK, D_WAKE,
) = range(17)  # fmt: skip
DECODE_FLOATS = 17

# Integer columns: residents, residents and those on their way, prompt tokens hosted, prompts in the step in progress,
# its prompt tokens, residents whose first step it is, and those of them that count.
E_BATCH, E_REQUESTS, E_TOKENS, E_HOSTING, E_STEP_TOKENS, E_FRESH, E_FRESH_COUNTED = range(7)
DECODE_INTS = 7
ROUNDING = 1e-9

# Settings.
S_PREFILL, S_DECODE, S_BUDGET, S_SEQS, S_WARM, S_LAYERS, S_SHARING, S_ENDS, S_ROUTED_BUDGET = range(9)
NO_CONTENTION = 2
G_FIXED, G_KV_BYTES, G_BLOCK, G_TTFT, G_TBT, G_LOG0, G_STEP = range(7)


@kernel
def count(hist, G, time, weight):
    """Add tokens that came `time` [s] after their forerunner."""
    bin_ = int((math.log(max(time, 1e-300)) - G[G_LOG0]) / G[G_STEP])
    hist[min(max(bin_, 0), len(hist) - 1)] += weight


@kernel
def leave(j, F, D, E, keys, ids, need, S):
    """Let the resident with the smallest key leave; return it."""
    r = heap_pop(keys[j], ids[j], E[j, E_BATCH])
    E[j, E_BATCH] -= 1
    D[j, D_CONTEXT] -= need[r] + D[j, D_CLOCK] - F[r, JOINED]
    if r >= S[S_WARM]:
        D[j, D_COUNTED] -= 1.0
    if E[j, E_BATCH] == 0:
        D[j, D_CONTEXT] = 0.0
    F[r, SLOW] = D[j, D_SLOW] - F[r, SLOW]
    return r


@kernel
def leave_for_good(j, F, D, E, keys, ids, need, S):
    """Let all residents leave whose last token the clock shows."""
    while E[j, E_BATCH] > 0 and keys[j, 0] <= D[j, D_CLOCK]:
        r = leave(j, F, D, E, keys, ids, need, S)
        E[j, E_REQUESTS] -= 1
        F[r, END] = D[j, D_NOW]


@kernel
def next_boundary(j, D, E):
    """Return the clock of the next step boundary of instance j; an idle one is at a boundary."""
    if E[j, E_BATCH] == 0:
        return math.floor(D[j, D_CLOCK] + 0.5)
    return math.ceil(D[j, D_CLOCK] - ROUNDING)


@kernel
def join(r, j, steps, boundary, F, D, E, keys, ids, need, S):
    """Make request r resident; it leaves `steps` steps after the clock shows `boundary`."""
    F[r, JOINED] = D[j, D_CLOCK]
    heap_push(keys[j], ids[j], E[j, E_BATCH], boundary + steps, r)
    E[j, E_BATCH] += 1
    D[j, D_CONTEXT] += need[r]
    if r >= S[S_WARM]:
        D[j, D_COUNTED] += 1.0


@kernel
def newest(j, E, ids, F):
    """Return the place in the heap of the resident of instance j that joined last."""
    at = 0
    for b in range(1, E[j, E_BATCH]):
        r, best = ids[j, b], ids[j, at]
        if F[r, JOINED] > F[best, JOINED] or (F[r, JOINED] == F[best, JOINED] and r > best):
            at = b
    return at


@kernel
def bring_first(j, at, keys, ids, key):
    """Move the resident at place `at` of the heap to its root, whose key becomes `key`, the smallest."""
    r = ids[j, at]
    while at > 0:
        up = (at - 1) >> 1
        keys[j, at], ids[j, at] = keys[j, up], ids[j, up]
        at = up
    keys[j, 0], ids[j, 0] = key, r


@kernel
def least_requests(E, d):
    """Return the decode instance with the fewest requests, ties to the lowest id."""
    best = 0
    for j in range(1, d):
        if E[j, E_REQUESTS] < E[best, E_REQUESTS]:
            best = j
    return best


@kernel
def push_second(queue, nxt, r, behind):
    """Put request r at the head of a queue, or right behind the head."""
    head = queue[HEAD]
    if head < 0:
        queue[HEAD], queue[TAIL], nxt[r] = r, r, -1
    elif behind:
        nxt[r] = nxt[head]
        nxt[head] = r
        if queue[TAIL] == head:
            queue[TAIL] = r
    else:
        nxt[r] = head
        queue[HEAD] = r


@kernel
def enqueue_by_landing(queue, nxt, F, r):
    """Put request r behind all that land no later."""
    nxt[r] = -1
    at = queue[HEAD]
    if at < 0 or F[queue[TAIL], LANDED] <= F[r, LANDED]:
        if at < 0:
            queue[HEAD] = r
        else:
            nxt[queue[TAIL]] = r
        queue[TAIL] = r
        return
    before = -1
    while F[at, LANDED] <= F[r, LANDED]:
        before, at = at, nxt[at]
    nxt[r] = at
    if before < 0:
        queue[HEAD] = r
    else:
        nxt[before] = r

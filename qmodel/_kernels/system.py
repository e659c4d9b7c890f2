"""Prefill side of a cluster as recursions over requests: packed steps, and plain FCFS waits in work."""

import numpy as np
from numba import njit

# Columns of a row of `coef`: what a step costs beside its table of tokens.
CONTEXT, ATTENTION, RELOAD, FLOOR, FLOOR_PER_REQUEST, DECODE_EXTRA = range(6)

# Columns of a prefill instance: end of its step, work no step has taken, work left of the prompt begun [s].
FREE, WAITING, PART = range(3)
HEAD, TAIL = range(2)


@njit(cache=True)
def step_time(base, coef, batch, context, prompt, quadratic, reloaded):
    """Return the time of one step from the table `base` of its tokens and linear terms beside it [s]."""
    kernels = (
        base[batch + prompt]
        + coef[DECODE_EXTRA] * batch
        + coef[CONTEXT] * context
        + coef[ATTENTION] * quadratic
        + coef[RELOAD] * reloaded
    )
    return max(kernels, coef[FLOOR] + coef[FLOOR_PER_REQUEST] * batch)


@njit(cache=True)
def rest_work(base, coef, budget, need, done):
    """Return W of the tokens from `done` to `need` of a prompt [s] (`laws.prefill_work_s`)."""
    n = need - done
    m = (n + budget - 1) // budget - 1
    reloaded = budget * m * (m + 1) / 2 + done * (m + 1)
    return n * base[budget] / budget + coef[ATTENTION] * n * (done + 0.5 * n) + coef[RELOAD] * reloaded


@njit(cache=True)
def prefill_step(unit, queue, base, coef, budget, work, lone, prompt, cached, done, nxt, start, finish):
    """Run an instance from unit[FREE] to the end of a step that others may share.

    Steps that the prompt at the head fills alone are run in one go: whatever arrives meanwhile waits. Returns the
    head of the queue as it was; requests from there to the new head are finished.
    """
    begin = unit[FREE]
    first = queue[HEAD]
    r = first
    if lone[first] > 0.0:
        start[first] = begin
        unit[WAITING] -= work[first]
        done[first] = prompt[first]
        duration = lone[first]
        r = nxt[first]
    else:
        duration = 0.0
        full = (prompt[first] - done[first]) // budget - 1
        if done[first] == cached[first]:
            start[first] = begin
            unit[WAITING] -= work[first]
        if full > 0:
            tokens = full * budget
            duration = (
                full * base[budget]
                + coef[ATTENTION] * tokens * (done[first] + 0.5 * tokens)
                + coef[RELOAD] * full * (done[first] + 0.5 * (full - 1) * budget)
            )
            done[first] += tokens
        room = budget
        quadratic = 0.0
        reloaded = 0.0
        while r >= 0 and room > 0:
            if done[r] == cached[r] and r != first:
                start[r] = begin + duration
                unit[WAITING] -= work[r]
            chi = min(room, prompt[r] - done[r])
            quadratic += chi * (done[r] + 0.5 * chi)
            reloaded += done[r]
            done[r] += chi
            room -= chi
            if done[r] < prompt[r]:
                break
            r = nxt[r]
        duration += step_time(base, coef, 0, 0.0, budget - room, quadratic, reloaded)
    unit[PART] = 0.0
    if r < 0:
        unit[WAITING] = 0.0  # leaves no rounding behind
    elif done[r] > cached[r]:
        unit[PART] = rest_work(base, coef, budget, prompt[r], done[r])
    unit[FREE] = begin + duration
    q = first
    while q != r:
        finish[q] = unit[FREE]
        q = nxt[q]
    queue[HEAD] = r
    return first


@njit(cache=True)
def enqueue(queue, nxt, r):
    """Put request r at the tail of a prefill instance's queue."""
    if queue[HEAD] >= 0:
        nxt[queue[TAIL]] = r
    else:
        queue[HEAD] = r
    queue[TAIL] = r


@njit(cache=True)
def packed_prefill(arrival, prompt, cached, work, lone, base, coef, law_of, budget):
    """Route each request to the least outstanding work and run packed FCFS steps; return instance, start, finish.

    `work` and `lone` have shape (laws, n): work of a request, and its time in one unpacked step (0: packed).
    """
    n, k = arrival.shape[0], law_of.shape[0]
    instance = np.zeros(n, np.int64)
    start, finish = np.zeros(n), np.zeros(n)
    done = cached.copy()
    nxt = np.full(n, -1, np.int64)
    queue = np.full((k, 2), -1, np.int64)
    units = np.zeros((k, 3))
    for r in range(n + 1):
        t = arrival[r] if r < n else np.inf
        best = 0
        least = np.inf
        for i in range(k):
            g = law_of[i]
            unit = units[i]
            while queue[i, HEAD] >= 0 and unit[FREE] < t:
                prefill_step(
                    unit, queue[i], base[g], coef[g], budget, work[g], lone[g], prompt, cached, done, nxt, start, finish
                )
            backlog = unit[WAITING] + unit[PART] + max(unit[FREE] - t, 0.0)
            if backlog < least:
                least = backlog
                best = i
        if r == n:
            break
        g = law_of[best]
        unit = units[best]
        instance[r] = best
        enqueue(queue[best], nxt, r)
        unit[WAITING] += work[g, r]
        unit[FREE] = max(unit[FREE], t)  # an idle instance starts once all that arrives at t is in
    return instance, start, finish


@njit(cache=True)
def fcfs_waits(arrival, work, servers):
    """Return the FCFS wait of each request at `servers` equal servers (Kiefer and Wolfowitz 1955) [s]."""
    n = arrival.shape[0]
    wait = np.empty(n)
    free = np.zeros(servers)
    for r in range(n):
        best = 0
        for i in range(1, servers):
            if free[i] < free[best]:
                best = i
        begin = max(free[best], arrival[r])
        wait[r] = begin - arrival[r]
        free[best] = begin + work[r]
    return wait


@njit(cache=True)
def fcfs_transfers(order, ready, sender, link_time, senders, receivers):
    """Return when each cache starts to move: egress and ingress FCFS, receivers in turn [s]."""
    n = ready.shape[0]
    begin = np.empty(n)
    egress = np.zeros(senders)
    ingress = np.zeros(receivers)
    for position in range(n):
        r = order[position]
        i = sender[r]
        j = position % receivers
        t = max(ready[r], max(egress[i], ingress[j]))
        begin[r] = t
        egress[i] = t + link_time[r]
        ingress[j] = t + link_time[r]
    return begin

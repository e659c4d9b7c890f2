"""Prefill side of a cluster as recursions over requests: packed steps, and plain FCFS waits in work."""

import numpy as np

from qmodel._kernels import kernel
from qmodel._kernels.heap import heap_pop, heap_push
from qmodel._kernels.laws import law_time, work_time

# Columns of a prefill instance: end of its step, work no step has taken, work left of the prompt begun [s], prompt
# tokens not yet computed and those of the step in progress, requests, when its link is free [s], busy time [s], cache
# of the prompts begun and not yet handed over [tokens], and when some of it is given back to one that waits for it [s].
FREE, WAITING, PART, TOKENS, STEP_TOKENS, REQUESTS, LINK, BUSY, HELD, GATE = range(10)
PREFILL_COLUMNS = 10
HEAD, TAIL = range(2)


@kernel
def prefill_step(i, unit, queue, LC, LB, EW, budget, capacity, skip, need, cached, done, nxt, start, finish):
    """Run instance i from unit[FREE] to the end of a step; with `skip`, to one that others may share.

    Steps that the prompt at the head fills alone may be run in one go: whatever arrives meanwhile waits. A budget
    of 0 means one prompt at a time in a single step. A prompt begins only if the cache has room for it. Returns the
    head of the queue as it was; requests from there to the new head are finished.
    """
    begin = unit[FREE]
    first = queue[HEAD]
    r = first
    duration, tokens = 0.0, 0
    while True:
        room = budget if budget > 0 else need[first] - done[first]
        n, quadratic, reloaded = 0, 0.0, 0.0
        while r >= 0 and room > 0:
            if done[r] == cached[r]:
                if n > 0 and unit[HELD] + need[r] > capacity:
                    break
                unit[HELD] += need[r]
                start[r] = begin + duration
                unit[WAITING] -= work_time(EW, LC, LB, i, need[r], done[r])
            chi = min(room, need[r] - done[r])
            quadratic += chi * (done[r] + 0.5 * chi)
            reloaded += done[r]
            done[r] += chi
            n += chi
            room -= chi
            if done[r] < need[r]:
                break
            r = nxt[r]
        duration += law_time(LC, LB, i, 0, 0.0, n, quadratic, reloaded)
        tokens += n
        if not skip or r != first or need[r] - done[r] < budget:
            break
    unit[PART] = 0.0
    if r < 0:
        unit[WAITING] = 0.0  # leaves no rounding behind
    elif done[r] > cached[r]:
        unit[PART] = work_time(EW, LC, LB, i, need[r], done[r])
    unit[FREE] = begin + duration
    unit[BUSY] += duration
    unit[TOKENS] -= unit[STEP_TOKENS]
    unit[STEP_TOKENS] = tokens
    q = first
    while q != r:
        finish[q] = unit[FREE]
        q = nxt[q]
    queue[HEAD] = r
    return first


@kernel
def enqueue(queue, nxt, r):
    """Put request r at the tail of a queue."""
    if queue[HEAD] >= 0:
        nxt[queue[TAIL]] = r
    else:
        queue[HEAD] = r
    queue[TAIL] = r


@kernel
def packed_prefill(arrival, need, cached, LC, LB, EW, k, budget):
    """Route each request to the least outstanding work and run packed FCFS steps.

    Returns instance, start and finish of each request and the busy time of each instance.
    """
    n = arrival.shape[0]
    instance = np.zeros(n, np.int64)
    start, finish = np.zeros(n), np.zeros(n)
    done = cached.copy()
    nxt = np.full(n, -1, np.int64)
    queue = np.full((k, 2), -1, np.int64)
    units = np.zeros((k, PREFILL_COLUMNS))
    for r in range(n + 1):
        t = arrival[r] if r < n else np.inf
        best = 0
        least = np.inf
        for i in range(k):
            unit = units[i]
            while queue[i, HEAD] >= 0 and unit[FREE] < t:
                prefill_step(
                    i, unit, queue[i], LC, LB, EW, budget, np.inf, True, need, cached, done, nxt, start, finish
                )
            backlog = unit[WAITING] + unit[PART] + max(unit[FREE] - t, 0.0)
            if backlog < least:
                least = backlog
                best = i
        if r == n:
            break
        instance[r] = best
        enqueue(queue[best], nxt, r)
        units[best, WAITING] += work_time(EW, LC, LB, best, need[r], cached[r])
        units[best, FREE] = max(units[best, FREE], t)  # an idle instance starts once all that arrives at t is in
    return instance, start, finish, units[:, BUSY].copy()


@kernel
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


@kernel
def fcfs_transfers(order, ready, sender, link_time, stay, senders, receivers):
    """Return when each cache starts to move: egress and ingress FCFS, to whoever has the fewest requests [s].

    A request counts from the end of its prefill until `stay` [s] after its cache has begun to move.
    """
    n = ready.shape[0]
    begin, receiver = np.empty(n), np.zeros(n, np.int64)
    egress, ingress, count = np.zeros(senders), np.zeros(receivers), np.zeros(receivers, np.int64)
    leaving, ids, size = np.empty(n), np.empty(n, np.int64), 0
    for r in order:
        while size > 0 and leaving[0] <= ready[r]:
            count[receiver[heap_pop(leaving, ids, size)]] -= 1
            size -= 1
        i, j = sender[r], 0
        for other in range(1, receivers):
            if count[other] < count[j]:
                j = other
        t = max(ready[r], max(egress[i], ingress[j]))
        begin[r], receiver[r] = t, j
        egress[i] = t + link_time[r]
        ingress[j] = t + link_time[r]
        count[j] += 1
        heap_push(leaving, ids, size, t + stay[r], r)
        size += 1
    return begin

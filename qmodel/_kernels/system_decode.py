"""Small decode batches as a path: who meets whom when every batch holds a few requests."""

import math

import numpy as np

from qmodel._kernels import kernel
from qmodel._kernels.heap import heap_pop, heap_push

_ROUNDING = 1e-9


@kernel
def light_batches(order, landed, steps, step_time, instances, warm):
    """Send each request, in the order of landing, to the instance with the fewest, whose batch is a fluid.

    `step_time[b - 1]` is the time of a step of b residents [s]; batches beyond the table take its last entry. Between
    joins and leaves every resident receives tokens at rate 1/step, so nothing happens step by step; those who land
    wait for the next whole step.

    Returns the wait for that step and the batch met by each request, the tokens made at each batch by requests from
    `warm` on, and the busy time of each instance up to the last landing.
    """
    n, cap = order.shape[0], step_time.shape[0]
    wait, met = np.zeros(n), np.zeros(n, np.int64)
    tokens, busy = np.zeros(cap), np.zeros(instances)
    batch, counted = np.zeros(instances, np.int64), np.zeros(instances, np.int64)
    now, clock, leave = np.zeros(instances), np.zeros(instances), np.full(instances, np.inf)
    room = 64
    keys, ids = np.zeros((instances, room)), np.zeros((instances, room), np.int64)
    for at in range(n + 1):
        r = order[at] if at < n else -1
        t = landed[r] if r >= 0 else np.inf
        best = 0
        for j in range(instances):
            while leave[j] <= t and batch[j] > 0:
                b = min(batch[j], cap) - 1
                tokens[b] += counted[j] * (keys[j, 0] - clock[j])
                if r >= 0:
                    busy[j] += leave[j] - now[j]
                now[j], clock[j] = leave[j], keys[j, 0]
                while batch[j] > 0 and keys[j, 0] <= clock[j]:
                    if heap_pop(keys[j], ids[j], batch[j]) >= warm:
                        counted[j] -= 1
                    batch[j] -= 1
                if batch[j] > 0:
                    leave[j] = now[j] + (keys[j, 0] - clock[j]) * step_time[min(batch[j], cap) - 1]
            if batch[j] < batch[best]:
                best = j
        if r < 0:
            break
        j = best
        boundary = math.floor(clock[j] + 0.5)
        if batch[j] > 0:
            b = min(batch[j], cap) - 1
            moved = (t - now[j]) / step_time[b]
            tokens[b] += counted[j] * moved
            clock[j] += moved
            busy[j] += t - now[j]
            boundary = math.ceil(clock[j] - _ROUNDING)
            wait[r] = max(boundary - clock[j], 0.0) * step_time[b]
        else:
            clock[j] = boundary
        now[j] = t
        if batch[j] == room:
            room *= 2
            wider, others = np.zeros((instances, room)), np.zeros((instances, room), np.int64)
            wider[:, : room // 2], others[:, : room // 2] = keys, ids
            keys, ids = wider, others
        heap_push(keys[j], ids[j], batch[j], boundary + steps[r], r)
        batch[j] += 1
        if r >= warm:
            counted[j] += 1
        met[r] = batch[j]
        leave[j] = now[j] + (keys[j, 0] - clock[j]) * step_time[min(batch[j], cap) - 1]
    return wait, met, tokens, busy

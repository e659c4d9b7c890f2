"""Sample-path kernels: the Kiefer-Wolfowitz recursion over given arrivals."""

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel

Array = npt.NDArray[np.float64]


@kernel
def sift_down(heap: Array) -> None:
    """Restore the heap order of `heap` after its root grew."""
    size, at, value = heap.size, 0, heap[0]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@kernel
def fcfs_waits(arrival: Array, work: Array, limit: Array, free: Array, waits: Array) -> None:
    """Fill `waits` with FCFS waits; a customer whose wait exceeds its `limit` balks (wait -1).

    `free` holds the times at which the servers fall free, as a heap with the least first; it is updated.
    """
    if free.size == 2:
        a, b = free[0], free[1]
        for i in range(arrival.size):
            now = arrival[i]
            wait = a - now if a > now else 0.0
            if wait > limit[i % limit.size]:
                waits[i] = -1.0
                continue
            waits[i] = wait
            a = now + wait + work[i]
            if a > b:
                a, b = b, a
        free[0], free[1] = a, b
        return
    for i in range(arrival.size):
        now = arrival[i]
        wait = free[0] - now if free[0] > now else 0.0
        if wait > limit[i % limit.size]:
            waits[i] = -1.0
            continue
        waits[i] = wait
        free[0] = now + wait + work[i]
        sift_down(free)

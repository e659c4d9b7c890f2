"""Sample-path kernels: the Kiefer-Wolfowitz recursion over given arrivals."""

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


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


@kernel
def insert_sorted(free: Array, end: float) -> None:
    """Replace the least of the increasing `free` by `end`."""
    size, at = free.size, 1
    while at < size and free[at] < end:
        free[at - 1] = free[at]
        at += 1
    free[at - 1] = end


@kernel
def place_of(rank: float, cumulative: Array, first: Integers) -> int:
    """Return the first place whose cumulative weight exceeds `rank`, in [0, 1); the last weight must exceed it.

    `first[c]` is where to start looking for ranks in cell c of equal cells of [0, 1).
    """
    at = first[int(rank * first.size)]
    while cumulative[at] <= rank:
        at += 1
    return int(at)


@kernel
def pick(ranks: Array, cumulative: Array, first: Integers, values: Array, out: Array) -> None:
    """Fill `out` with the values at the places of `ranks`."""
    for i in range(ranks.size):
        out[i] = values[place_of(ranks[i], cumulative, first)]


@kernel
def balking_path(
    gaps: Array,
    ranks: Array,
    law: tuple[Array, Integers],
    works: Array,
    limits: Array,
    free: Array,
    now: float,
    cells: tuple[float, float, float],
    fine: Array,
    coarse: Array,
) -> tuple[float, float]:
    """Go on with FCFS on k servers that a class joins within its limit; count the virtual waits that arrivals meet.

    `ranks` choose the class by `law`, its cumulative weights and where to look. `cells` are the least wait counted in
    `coarse` and the cells per second of both: `fine` counts no wait, then cells, `coarse` cells, the last open.
    Returns the time at the end and the work offered.
    """
    split, fine_per_s, coarse_per_s = cells
    last, offered = coarse.size - 1, 0.0
    for i in range(gaps.size):
        now += gaps[i]
        wait = free[0] - now
        if wait > 0.0:
            if wait <= split:
                fine[min(int(wait * fine_per_s) + 1, fine.size - 1)] += 1.0
            else:
                coarse[min(int((wait - split) * coarse_per_s), last)] += 1.0
        else:
            wait = 0.0
            fine[0] += 1.0
        at = place_of(ranks[i], law[0], law[1])
        offered += works[at]
        if wait <= limits[at]:
            insert_sorted(free, now + wait + works[at])
    return now, offered


@kernel
def balking_replays(
    counts: Integers,
    edges: Array,
    scales: Array,
    gaps: Array,
    ranks: Array,
    law: tuple[Array, Integers],
    services: Array,
    limits: Array,
    servers: int,
    cells: tuple[float, float, float],
    fine: Array,
    coarse: Array,
) -> None:
    """Replay a profile, a row of `counts` each, and count virtual waits by window (rows of `fine` and `coarse`).

    Between arrivals of a window lie its `gaps`, one more than arrivals, drawn as exponential and scaled to its width;
    services are `services` times the window's scale. Every replay starts empty.
    """
    first = at = 0
    for replay in range(counts.shape[0]):
        free = np.full(servers, edges[0])
        for window in range(counts.shape[1]):
            count = counts[replay, window]
            mine = gaps[first : first + count + 1]
            mine *= (edges[window + 1] - edges[window]) / mine.sum()
            balking_path(
                mine[:count],
                ranks[at : at + count],
                law,
                services * scales[window],
                limits,
                free,
                edges[window],
                cells,
                fine[window],
                coarse[window],
            )
            first += count + 1
            at += count

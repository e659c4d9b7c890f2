"""Sample path of two coupled pools: work is kept by prefill or deflected to decode; what arrivals meet is counted."""

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel
from qmodel._kernels.queueing_paths import insert_sorted, place_of, sift_down

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Servers from which on a heap is quicker than an increasing array (which is a heap too).
MANY = 12


@kernel
def cell_of(x: float, half: int) -> tuple[int, float]:
    """Return the cell of x >= 0 and the place in it, in [0, 1).

    Cells are 1 wide up to 2*half, then `half` of them fill every doubling.
    """
    at = 0
    while x >= 2 * half:
        x *= 0.5
        at += half
    whole = int(x)
    return at + whole, x - whole


@kernel
def between(values: Array, at: int, part: float) -> float:
    """Return `values` interpolated in cell `at`; infinite ones hold up to the next node."""
    if at >= values.size - 1:
        return float(values[-1])
    low, high = values[at], values[at + 1]
    if np.isfinite(low) and np.isfinite(high):
        return float(low + part * (high - low))
    return float(low)


@kernel
def place_work(free: Array, end: float) -> None:
    """Let the server that falls free first work until `end`."""
    if free.size <= MANY:
        insert_sorted(free, end)
    else:
        free[0] = end
        sift_down(free)


@kernel
def pools_path(
    gaps: Array,
    ranks: Array,
    law: tuple[Array, Integers],
    works: Array,
    hosts: Array,
    thetas: Array,
    halves: tuple[int, int],
    per_s: tuple[float, float, float, float],
    near: Array,
    far: Array,
    state: Array,
    joint: Array,
    tally: tuple[Array, Array, Array],
    times: Array,
    sums: Array,
) -> None:
    """Go on with two pools along given arrivals, and count the waits that they meet.

    `ranks` choose the class by `law`, its cumulative weights and where to look. `thetas` has a row a class, the longest
    prefill wait with which it is kept at the nodes of the decode wait. `halves` are the cells a doubling: of `joint`,
    and of nodes and `times`; `per_s` scales to cells: prefill and decode waits, nodes, and times. `near` and `far` hold
    when servers fall free, least first; `state` the time, and the work left of one queue that takes all prefill work,
    and its speed. `joint` (decode, prefill) counts waits, no wait first and the last cell open; `tally` counts those
    kept by class and prefill wait, those deflected by class and decode wait (neither when empty), and adds up their
    waits by cell; `times` counts times to the end of service. `sums` adds up prefill work offered, times, arrivals
    deflected, time elapsed, and the work left of the one queue.
    """
    now, left, speed = state[0], state[1], state[2]
    kept, moved, met = tally
    rows, columns, by_class = joint.shape[0] - 2, joint.shape[1] - 2, kept.shape[0] > 0
    for n in range(gaps.size):
        now += gaps[n]
        wait, beside = near[0] - now, far[0] - now
        i, j, at, part = 0, 0, 0, 0.0
        if wait > 0.0:
            i = min(cell_of(wait * per_s[0], halves[0])[0], columns) + 1
        else:
            wait = 0.0
        if beside > 0.0:
            j = min(cell_of(beside * per_s[1], halves[0])[0], rows) + 1
            at, part = cell_of(beside * per_s[2], halves[1])
        else:
            beside = 0.0
        joint[j, i] += 1.0
        b = place_of(ranks[n], law[0], law[1])
        left = max(left - speed * gaps[n], 0.0)
        sums[4] += left
        left += works[b]
        sums[0] += works[b]
        if wait <= between(thetas[b], at, part):
            spent = wait + works[b]
            place_work(near, now + spent)
            met[0, i] += wait
            if by_class:
                kept[b, i] += 1.0
        else:
            spent = beside + hosts[b]
            place_work(far, now + spent)
            sums[2] += 1.0
            met[1, j] += beside
            if by_class:
                moved[b, j] += 1.0
        sums[1] += spent
        times[min(cell_of(spent * per_s[3], halves[1])[0], times.size - 1)] += 1.0
    sums[3] += now - state[0]
    state[0], state[1] = now, left


@kernel
def split_by_class(joint: Array, edges: Array, limits: Array, kept: Array, moved: Array) -> None:
    """Share the law of the waits (decode, prefill) out to classes: those kept by prefill wait, those moved by decode's.

    Column 0 is no wait, column c lies between `edges[c - 1]` and `edges[c]`, its mass spread evenly. `limits` (classes,
    decode cells) are the longest waits with which a class is kept.
    """
    rows, columns = joint.shape
    for b in range(limits.shape[0]):
        for j in range(rows):
            limit = limits[b, j]
            if limit < 0.0:
                moved[b, j] = joint[j].sum()
                continue
            cut = columns if limit == np.inf else np.searchsorted(edges, limit, side="right")
            for i in range(min(cut, columns)):
                kept[b, i] += joint[j, i]
            if cut < columns:
                part = (limit - edges[cut - 1]) / (edges[cut] - edges[cut - 1])
                kept[b, cut] += part * joint[j, cut]
                moved[b, j] = (1.0 - part) * joint[j, cut] + joint[j, cut + 1 :].sum()


@kernel
def mixture_cdf(t: Array, after: Array, mix: Array, at: Array, heights: Array, total: Array) -> None:
    """Add the mixture of laws that begin `after` some time to `total` at t, increasing; linear between points `at`."""
    for b in range(mix.size):
        i = 0
        for n in range(t.size):
            x = t[n] - after[b]
            if x < 0.0:
                continue
            while i < at.size - 1 and at[i + 1] <= x:
                i += 1
            value = heights[b, i]
            if i < at.size - 1 and x > at[i]:
                value += (x - at[i]) / (at[i + 1] - at[i]) * (heights[b, i + 1] - value)
            total[n] += mix[b] * value

"""Sample paths of many independent queues side by side; loops over lanes are compiled to vectors.

Arrays are of shape (arrivals, lanes); `free` is of shape (servers, lanes), times at which servers fall free counted
from the last arrival, increasing along the first axis.
"""

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel

Array = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int32]


@kernel
def insert_lanes(free: Array, ends: Array) -> None:
    """Replace the least of each lane by `ends`, keeping lanes sorted; `ends` is used up."""
    servers, lanes = free.shape
    for j in range(1, servers):
        for i in range(lanes):
            one, two = ends[i], free[j, i]
            free[j - 1, i] = one if one < two else two
            ends[i] = two if one < two else one
    for i in range(lanes):
        free[servers - 1, i] = ends[i]


@kernel
def fcfs_lanes(gaps: Array, works: Array, free: Array, waits: Array) -> None:
    """Fill `waits` with FCFS waits (Kiefer-Wolfowitz recursion) and update `free`."""
    steps, lanes = gaps.shape
    now, ends = np.zeros(lanes), np.empty(lanes)
    for n in range(steps):
        for i in range(lanes):
            now[i] += gaps[n, i]
            wait = free[0, i] - now[i]
            wait = wait if wait > 0.0 else 0.0
            waits[n, i] = wait
            ends[i] = now[i] + wait + works[n, i]
        insert_lanes(free, ends)
    for j in range(free.shape[0]):
        for i in range(lanes):
            free[j, i] -= now[i]


@kernel
def unlimited_lanes(gaps: Array, works: Array, free: Array, waits: Array) -> None:
    """Fill `waits` with the k-th largest residual service, k rows of `free`, where everybody is served at once."""
    steps, lanes = gaps.shape
    now, ends = np.zeros(lanes), np.empty(lanes)
    for n in range(steps):
        for i in range(lanes):
            now[i] += gaps[n, i]
            wait = free[0, i] - now[i]
            waits[n, i] = wait if wait > 0.0 else 0.0
            end = now[i] + works[n, i]
            ends[i] = end if end > free[0, i] else free[0, i]
        insert_lanes(free, ends)
    for j in range(free.shape[0]):
        for i in range(lanes):
            free[j, i] -= now[i]


@kernel
def count_lanes(waits: Array, cells_per_s: float, counts: Counts, sums: Array) -> None:
    """Add waits to `sums` and count them, one row for two lanes: no wait, then equal cells, the last open."""
    steps, lanes = waits.shape
    rows, last = counts.shape[0], counts.shape[1] - 1
    cells = np.empty(lanes, np.int32)
    for n in range(steps):
        for i in range(lanes):
            cell = waits[n, i] * cells_per_s
            cells[i] = np.int32(np.ceil(cell if cell < last else last))
        for r in range(rows):
            counts[r, cells[2 * r]] += 1
            counts[r, cells[2 * r + 1]] += 1
            sums[r] += waits[n, 2 * r] + waits[n, 2 * r + 1]


@kernel
def look_up(ranks: Ranks, table: Array, factor: float, out: Array) -> None:
    """Fill `out` with factor * table[rank]."""
    steps, lanes = ranks.shape
    for n in range(steps):
        for i in range(lanes):
            out[n, i] = table[ranks[n, i]] * factor


@kernel
def mean_by_rank(below: Array, mass: Array, table: Array) -> None:
    """Fill `table` with the mean of each of equally likely cells of a law.

    `mass` is E[S; rank <= below] at increasing ranks from 0 to 1, linear in between (Lorenz curve).
    """
    cells, at, before = table.size, 0, 0.0
    for i in range(cells):
        rank = (i + 1) / cells
        while at < below.size - 2 and below[at + 1] < rank:
            at += 1
        width = below[at + 1] - below[at]
        here = mass[at + 1]
        if width > 0.0 and rank < below[at + 1]:
            here = mass[at] + (mass[at + 1] - mass[at]) * (rank - below[at]) / width
        table[i] = (here - before) * cells
        before = here

"""Waiting-time sums with positive terms: Franx's formula for M/D/k and its compound-Poisson form for lattice M/G/1."""

import math

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@kernel
def franx_tails(t: Array, rate: float, servers: int, service: float, beyond: Array, out: Array) -> None:
    """Fill `out` with P(W > t) of M/D/k; `beyond[i]` = P(more than i wait) at epochs one service apart."""
    for a in range(t.size):
        if not (t[a] >= 0.0 and t[a] * servers < (beyond.size + servers) * service):
            # Beyond the table nothing is left in double precision.
            out[a] = 0.0
            continue
        steps = math.floor(t[a] / service) + 1
        mean = rate * (steps * service - t[a])
        top = steps * servers - 1
        first = max(0, int(mean - 12.0 * math.sqrt(mean) - 40.0))
        last = min(top, int(mean + 12.0 * math.sqrt(mean) + 40.0))
        total, mass = 0.0, 0.0
        if mean > 0.0 and first <= top:
            term = math.exp(first * math.log(mean) - mean - math.lgamma(first + 1.0))
            for j in range(first, last + 1):
                mass += term
                if top - j < beyond.size:
                    total += term * beyond[top - j]
                term *= mean / (j + 1)
        elif mean <= 0.0:
            mass = 1.0
            total = beyond[top] if top < beyond.size else 0.0
        if last == top or first > top:
            total += max(1.0 - mass, 0.0)
        out[a] = total


@kernel
def lattice_tails(
    t: Array, rate: float, cell: float, sizes: Integers, weights: Array, beyond: Array, out: Array
) -> None:
    """Fill `out` with P(W > t) of M/G/1 with service sizes*cell; `beyond[i]` = P(more than i cells wait)."""
    longest = 1
    for a in range(t.size):
        if t[a] >= 0.0 and t[a] < beyond.size * cell:
            longest = max(longest, math.floor(t[a] / cell) + 1)
    compound = np.empty(longest)
    for a in range(t.size):
        if not (t[a] >= 0.0 and t[a] < beyond.size * cell):
            # Beyond the table nothing is left in double precision.
            out[a] = 0.0
            continue
        steps = math.floor(t[a] / cell) + 1
        mean = rate * (steps * cell - t[a])
        compound[0] = math.exp(-mean)
        total, mass = 0.0, 0.0
        for n in range(steps):
            if n > 0:
                # Panjer's recursion for the cells that arrive meanwhile.
                term = 0.0
                for i in range(sizes.size):
                    if sizes[i] > n:
                        break
                    term += sizes[i] * weights[i] * compound[n - sizes[i]]
                compound[n] = term * mean / n
            mass += compound[n]
            if steps - 1 - n < beyond.size:
                total += compound[n] * beyond[steps - 1 - n]
        out[a] = total + max(1.0 - mass, 0.0)

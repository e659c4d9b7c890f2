"""Matrix-analytic kernels: the MAP/PH2/k queue as a quasi-birth-and-death process.

A state of level n (customers) is (arrival phase, j), j servers in service phase 1 and min(n, k) - j in phase 2;
arrival phases vary slowest. Service starts in phase 1 with probability start1, runs at rate1, continues in phase 2
with probability go_on, and leaves from phase 2 at rate2.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]

#: Logarithmic reduction doubles its horizon each step: 60 steps are 2^60 transitions.
MAX_STEPS = 60
#: Mass still unaccounted for in G at which the reduction stops.
G_TOLERANCE = 1e-15


@njit(cache=True)
def kron(a: Array, b: Array) -> Array:
    """Return the Kronecker product of two matrices."""
    out = np.zeros((a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]))
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            if a[i, j] != 0.0:
                rows, cols = i * b.shape[0], j * b.shape[1]
                out[rows : rows + b.shape[0], cols : cols + b.shape[1]] = a[i, j] * b
    return out


@njit(cache=True)
def service_blocks(n: int, start1: float, rate1: float, rate2: float, go_on: float) -> tuple[Array, Array, Array]:
    """Return (local, down, again) of n busy servers: no completion, completion to n-1 busy, completion and restart."""
    local = np.zeros((n + 1, n + 1))
    down = np.zeros((n + 1, max(n, 1)))
    again = np.zeros((n + 1, n + 1))
    for j in range(n + 1):
        first, second = j * rate1, (n - j) * rate2
        local[j, j] = -first - second
        if j > 0:
            local[j, j - 1] += first * go_on
            ends = first * (1.0 - go_on)
            down[j, j - 1] += ends
            again[j, j] += ends * start1
            again[j, j - 1] += ends * (1.0 - start1)
        if j < n:
            down[j, j] += second
            again[j, j + 1] += second * start1
            again[j, j] += second * (1.0 - start1)
    return local, down, again


@njit(cache=True)
def log_reduction(up: Array, local: Array, down: Array) -> tuple[Array, float]:
    """Return (G, mass missing from G's rows) of a QBD with blocks up, local, down (Latouche & Ramaswami 1993)."""
    size = local.shape[0]
    eye = np.eye(size)
    negative = -local
    high = np.linalg.solve(negative, up)
    low = np.linalg.solve(negative, down)
    g = low.copy()
    t = high.copy()
    missing = 1.0
    for _ in range(MAX_STEPS):
        u = eye - high @ low - low @ high
        high = np.linalg.solve(u, high @ high)
        low = np.linalg.solve(u, low @ low)
        g += t @ low
        t = t @ high
        missing = np.max(t)
        if missing < G_TOLERANCE:
            break
    return g.astype(np.float64), missing


@njit(cache=True)
def solve_map_ph2(
    d0: Array, d1: Array, k: int, start1: float, rate1: float, rate2: float, go_on: float
) -> tuple[Array, Array, Array, float]:
    """Return (pi, R, G, missing): stationary row vectors of levels 0..k end to end, and the matrices above level k.

    `pi` is normalised over all levels; `missing` > 1e-8 means that the reduction did not converge.
    """
    m = d0.shape[0]
    eye_a = np.eye(m)
    local, _, again = service_blocks(k, start1, rate1, rate2, go_on)
    up_k = kron(d1, np.eye(k + 1))
    local_k = kron(d0, np.eye(k + 1)) + kron(eye_a, local)
    again_k = kron(eye_a, again)
    g, missing = log_reduction(up_k, local_k, again_k)
    r = np.ascontiguousarray(np.linalg.solve((-(local_k + up_k @ g)).T, up_k.T).T)
    # Backward elimination: pi_n = pi_{n-1} R_n, R_n = up_{n-1} (-(local_n + R_{n+1} down_{n+1}))^-1.
    size = m * (k + 1) * (k + 2) // 2
    steps = np.zeros((k + 1, m * (k + 1), m * (k + 1)))
    inner = local_k + r @ again_k
    for n in range(k, 0, -1):
        start = np.zeros((n, n + 1))
        for j in range(n):
            start[j, j + 1] = start1
            start[j, j] = 1.0 - start1
        up = kron(d1, start)
        step = np.ascontiguousarray(np.linalg.solve((-inner).T, np.ascontiguousarray(up.T)).T)
        steps[n, : m * n, : m * (n + 1)] = step
        below, _, _ = service_blocks(n - 1, start1, rate1, rate2, go_on)
        _, down, _ = service_blocks(n, start1, rate1, rate2, go_on)
        inner = kron(d0, np.eye(n)) + kron(eye_a, below) + step @ kron(eye_a, down)
    # inner is now the generator of level 0 censored: its stationary vector starts the chain.
    system = inner.T.copy()
    system[-1, :] = 1.0
    rhs = np.zeros(m)
    rhs[-1] = 1.0
    row = np.linalg.solve(system, rhs)
    pi = np.zeros(size)
    pi[:m] = row
    at = m
    total = row.sum()
    for n in range(1, k + 1):
        row = row @ np.ascontiguousarray(steps[n, : m * n, : m * (n + 1)])
        pi[at : at + m * (n + 1)] = row
        at += m * (n + 1)
        if n < k:
            total += row.sum()
    above = np.linalg.solve((np.eye(m * (k + 1)) - r).T, row)
    total += above.sum()
    return pi / total, r, g, missing

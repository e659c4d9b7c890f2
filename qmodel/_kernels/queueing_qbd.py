"""Matrix-analytic kernels: the MAP/PH2/k queue as a quasi-birth-and-death process.

A state of level n (customers) is (arrival phase, j), j servers in service phase 1 and min(n, k) - j in phase 2;
arrival phases vary slowest. Service starts in phase 1 with probability start1, runs at rate1, continues in phase 2
with probability go_on, and leaves from phase 2 at rate2.
"""

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel

Array = npt.NDArray[np.float64]

#: Logarithmic reduction doubles its horizon each step: 60 steps are 2^60 transitions.
MAX_STEPS = 60
#: Mass still unaccounted for in G at which the reduction stops.
G_TOLERANCE = 1e-15


@kernel
def product(a: Array, b: Array) -> Array:
    """Return the matrix product, four rows of b at a time: as fast as BLAS at these sizes, far quicker to compile."""
    rows, inner, columns = a.shape[0], a.shape[1], b.shape[1]
    out = np.zeros((rows, columns))
    whole = inner - inner % 4
    for i in range(rows):
        for k in range(0, whole, 4):
            one, two, three, four = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            for j in range(columns):
                out[i, j] += one * b[k, j] + two * b[k + 1, j] + three * b[k + 2, j] + four * b[k + 3, j]
        for k in range(whole, inner):
            factor = a[i, k]
            for j in range(columns):
                out[i, j] += factor * b[k, j]
    return out


@kernel
def solve(a: Array, b: Array) -> Array:
    """Return x with a x = b, by Gaussian elimination with partial pivoting; NaN when a is singular."""
    m, x = a.copy(), b.copy()
    size, width = m.shape[0], x.shape[1]
    for c in range(size):
        pivot = c
        for i in range(c + 1, size):
            if abs(m[i, c]) > abs(m[pivot, c]):
                pivot = i
        if not abs(m[pivot, c]) > 0.0:
            for i in range(size):
                for j in range(width):
                    x[i, j] = np.nan
            return x
        if pivot != c:
            for j in range(size):
                m[c, j], m[pivot, j] = m[pivot, j], m[c, j]
            for j in range(width):
                x[c, j], x[pivot, j] = x[pivot, j], x[c, j]
        for i in range(c + 1, size):
            factor = m[i, c] / m[c, c]
            if factor != 0.0:
                for j in range(c + 1, size):
                    m[i, j] -= factor * m[c, j]
                for j in range(width):
                    x[i, j] -= factor * x[c, j]
    for c in range(size - 1, -1, -1):
        for i in range(c + 1, size):
            factor = m[c, i]
            if factor != 0.0:
                for j in range(width):
                    x[c, j] -= factor * x[i, j]
        for j in range(width):
            x[c, j] /= m[c, c]
    return x


@kernel
def kron(a: Array, b: Array) -> Array:
    """Return the Kronecker product of two matrices."""
    out = np.zeros((a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]))
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            if a[i, j] != 0.0:
                for p in range(b.shape[0]):
                    for q in range(b.shape[1]):
                        out[i * b.shape[0] + p, j * b.shape[1] + q] = a[i, j] * b[p, q]
    return out


@kernel
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


@kernel
def transposed(a: Array, sign: float) -> Array:
    """Return sign times the transpose, contiguous."""
    out = np.empty((a.shape[1], a.shape[0]))
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[j, i] = sign * a[i, j]
    return out


@kernel
def plus(a: Array, b: Array) -> Array:
    """Return a + b."""
    out = np.empty(a.shape)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = a[i, j] + b[i, j]
    return out


@kernel
def negated(a: Array) -> Array:
    """Return -a."""
    out = np.empty(a.shape)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = -a[i, j]
    return out


@kernel
def identity(size: int) -> Array:
    """Return the identity matrix."""
    out = np.zeros((size, size))
    for i in range(size):
        out[i, i] = 1.0
    return out


@kernel
def beside(a: Array, b: Array) -> Array:
    """Return two matrices of as many rows side by side."""
    rows, columns = a.shape[0], a.shape[1]
    out = np.empty((rows, columns + b.shape[1]))
    for i in range(rows):
        for j in range(columns):
            out[i, j] = a[i, j]
        for j in range(b.shape[1]):
            out[i, columns + j] = b[i, j]
    return out


@kernel
def log_reduction(up: Array, local: Array, down: Array) -> tuple[Array, float]:
    """Return (G, mass missing from G's rows) of a QBD with blocks up, local, down (Latouche & Ramaswami 1993)."""
    size = local.shape[0]
    negative = negated(local)
    high = solve(negative, up)
    low = solve(negative, down)
    g, t = low, high
    eye = identity(size)
    for _ in range(MAX_STEPS):
        u = plus(eye, negated(plus(product(high, low), product(low, high))))
        both = solve(u, beside(product(high, high), product(low, low)))
        high, low = both[:, :size].copy(), both[:, size:].copy()
        g = plus(g, product(t, low))
        t = product(t, high)
        largest = 0.0
        for i in range(size):
            for j in range(size):
                largest = max(largest, abs(t[i, j]))
        if not largest >= G_TOLERANCE:
            break
    missing = 0.0
    for i in range(size):
        row = 1.0
        for j in range(size):
            row -= g[i, j]
        missing = max(missing, abs(row)) if row == row else np.inf
    return g, missing


@kernel
def solve_map_ph2(
    d0: Array, d1: Array, k: int, start1: float, rate1: float, rate2: float, go_on: float
) -> tuple[Array, Array, Array, float]:
    """Return (pi, R, G, missing): stationary row vectors of levels 0..k end to end, and the matrices above level k.

    `pi` is normalised over all levels; `missing` > 1e-8 means that the reduction did not converge.
    """
    m = d0.shape[0]
    eye_a = identity(m)
    local, _, again = service_blocks(k, start1, rate1, rate2, go_on)
    up_k = kron(d1, identity(k + 1))
    local_k = plus(kron(d0, identity(k + 1)), kron(eye_a, local))
    again_k = kron(eye_a, again)
    g, missing = log_reduction(up_k, local_k, again_k)
    r = transposed(solve(transposed(plus(local_k, product(up_k, g)), -1.0), transposed(up_k, 1.0)), 1.0)
    # Backward elimination: pi_n = pi_{n-1} R_n, R_n = up_{n-1} (-(local_n + R_{n+1} down_{n+1}))^-1.
    steps = np.zeros((k + 1, m * (k + 1), m * (k + 1)))
    inner = plus(local_k, product(r, again_k))
    for n in range(k, 0, -1):
        start = np.zeros((n, n + 1))
        for j in range(n):
            start[j, j + 1] = start1
            start[j, j] = 1.0 - start1
        step = transposed(solve(transposed(inner, -1.0), transposed(kron(d1, start), 1.0)), 1.0)
        for i in range(m * n):
            for j in range(m * (n + 1)):
                steps[n, i, j] = step[i, j]
        below, _, _ = service_blocks(n - 1, start1, rate1, rate2, go_on)
        _, down, _ = service_blocks(n, start1, rate1, rate2, go_on)
        inner = plus(plus(kron(d0, identity(n)), kron(eye_a, below)), product(step, kron(eye_a, down)))
    # inner is now the generator of level 0 censored: its stationary vector starts the chain.
    system = transposed(inner, 1.0)
    first = np.zeros((m, 1))
    for j in range(m):
        system[m - 1, j] = 1.0
    first[m - 1, 0] = 1.0
    row = solve(system, first)
    pi = np.zeros(m * (k + 1) * (k + 2) // 2)
    total, at = 0.0, m
    for j in range(m):
        pi[j] = row[j, 0]
        total += row[j, 0]
    for n in range(1, k + 1):
        for j in range(m * (n + 1)):
            for i in range(m * n):
                pi[at + j] += pi[at - m * n + i] * steps[n, i, j]
            if n < k:
                total += pi[at + j]
        at += m * (n + 1)
    size = m * (k + 1)
    last = np.empty((size, 1))
    for j in range(size):
        last[j, 0] = pi[at - size + j]
    above = solve(plus(identity(size), transposed(r, -1.0)), last)
    for j in range(size):
        total += above[j, 0]
    for j in range(pi.size):
        pi[j] /= total
    return pi, r, g, missing

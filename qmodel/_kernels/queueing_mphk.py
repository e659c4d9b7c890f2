"""M/PH2/k through its decay rates: k + 1 scalar equations instead of a matrix equation.

While all k servers are busy their phases are those of k independent services, each with generator T + r t0 alpha where
r counts a completion. The left eigenvectors of R, with eigenvalue r = lam/(lam + theta), are therefore products of k
left eigenvectors of that 2 x 2 matrix, m of its larger eigenvalue mu1 and k - m of its smaller mu2:

    m*mu1(r) + (k - m)*mu2(r) + theta = 0,  theta > 0,  m = 0..k,

and the wait is P(W > t) = sum of c_m exp(-theta_m t). States are those of `queueing_qbd`. Cf. Bertsimas, An analytic
approach to a general class of G/G/s queueing systems, Oper. Res. 38 (1990).
"""

import math

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel
from qmodel._kernels.queueing_qbd import product, service_blocks, solve, transposed

Array = npt.NDArray[np.float64]

#: Steps of a root and relative change at which it is known to rounding: Newton's method, halvings where it strays.
STEPS, ROUNDING = 200, 1e-15


@kernel
def matrix_of(r: float, start1: float, rate1: float, rate2: float, go_on: float) -> tuple[float, float, float, float]:
    """Return T + r t0 alpha, row by row."""
    end1 = rate1 * (1.0 - go_on)
    a, b = -rate1 + r * end1 * start1, rate1 * go_on + r * end1 * (1.0 - start1)
    return a, b, r * rate2 * start1, -rate2 + r * rate2 * (1.0 - start1)


@kernel
def eigenvalues(
    load: float, theta: float, start1: float, rate1: float, rate2: float, go_on: float
) -> tuple[float, float, float, float]:
    """Return the eigenvalues of T + r t0 alpha, r = load/(load + theta), the larger first, and their slopes in r."""
    r, end1 = load / (load + theta), rate1 * (1.0 - go_on)
    a, b, c, d = matrix_of(r, start1, rate1, rate2, go_on)
    half, slope = 0.5 * (a - d), 0.5 * (end1 * start1 - rate2 * (1.0 - start1))
    root = math.sqrt(half * half + b * c)
    bend = (half * slope + 0.5 * (end1 * (1.0 - start1) * c + b * rate2 * start1)) / root if root > 0.0 else 0.0
    drift = 0.5 * (end1 * start1 + rate2 * (1.0 - start1))
    lower = 0.5 * (a + d) - root
    # The determinant is rate1*rate2*(1 - r): near r = 1 the sum above would cancel.
    return rate1 * rate2 * theta / (load + theta) / lower, lower, drift + bend, drift - bend


@kernel
def decay(load: float, k: int, m: int, start1: float, rate1: float, rate2: float, go_on: float) -> float:
    """Return the theta > 0 of m servers on the larger eigenvalue; for m = k the equation is convex, 0 another root."""
    low, high = 0.0, k * (rate1 + rate2)
    theta = high
    for _ in range(STEPS):
        one, two, slope1, slope2 = eigenvalues(load, theta, start1, rate1, rate2, go_on)
        value = m * one + (k - m) * two + theta
        if value > 0.0:
            high = theta
        else:
            low = theta
        slope = 1.0 - (m * slope1 + (k - m) * slope2) * load / (load + theta) ** 2
        last, theta = theta, theta - value / slope if slope != 0.0 else low
        if not low <= theta <= high:
            theta = 0.5 * (low + high)
        if abs(theta - last) <= ROUNDING * theta:
            break
    return theta


@kernel
def left_rows(
    load: float, k: int, start1: float, rate1: float, rate2: float, go_on: float, thetas: Array, rows: Array
) -> None:
    """Fill `thetas` with decay rates and `rows` with their left eigenvectors, of absolute sum 1.

    That of a product of single servers' vectors (x, y) is the polynomial prod(x*s + y), s counting servers in phase 1.
    """
    for m in range(k + 1):
        thetas[m] = decay(load, k, m, start1, rate1, rate2, go_on)
        one, two, _, _ = eigenvalues(load, thetas[m], start1, rate1, rate2, go_on)
        a, b, c, d = matrix_of(load / (load + thetas[m]), start1, rate1, rate2, go_on)
        row = rows[m]
        row[:] = 0.0
        row[0] = 1.0
        for server in range(k):
            value = one if server < m else two
            x, y = (c, value - a) if abs(value - a) > abs(value - d) else (value - d, b)
            size = abs(x) + abs(y)
            x, y = x / size, y / size
            for j in range(server + 1, 0, -1):
                row[j] = y * row[j] + x * row[j - 1]
            row[0] *= y
        total = 0.0
        for j in range(k + 1):
            total += abs(row[j])
        for j in range(k + 1):
            row[j] /= total


@kernel
def factorise(m: Array) -> None:
    """Replace an M-matrix by its triangular factors: no pivots are needed."""
    size = m.shape[0]
    for c in range(size):
        for i in range(c + 1, size):
            factor = m[i, c] / m[c, c]
            m[i, c] = factor
            if factor != 0.0:
                for j in range(c + 1, size):
                    m[i, j] -= factor * m[c, j]


@kernel
def solve_factored(m: Array, x: Array) -> None:
    """Replace x by the solution of (factored) m y = x, x zero above its diagonal."""
    size, width = x.shape
    for c in range(size):
        reach = min(c + 1, width)
        for i in range(c + 1, size):
            factor = m[i, c]
            if factor != 0.0:
                for j in range(reach):
                    x[i, j] -= factor * x[c, j]
    for c in range(size - 1, -1, -1):
        for i in range(c + 1, size):
            factor = m[c, i]
            for j in range(width):
                x[c, j] -= factor * x[i, j]
        for j in range(width):
            x[c, j] /= m[c, c]


@kernel
def solve_row(m: Array, row: Array) -> None:
    """Replace row by the solution of y m = row, m factored."""
    size = m.shape[0]
    for c in range(size):
        row[c] /= m[c, c]
        for j in range(c + 1, size):
            row[j] -= row[c] * m[c, j]
    for c in range(size - 1, -1, -1):
        for j in range(c):
            row[j] -= row[c] * m[c, j]


@kernel
def climb(
    load: float, k: int, start1: float, rate1: float, rate2: float, go_on: float, top: Array
) -> tuple[Array, float]:
    """Return (level k, mass below it) of the stationary law, level 0 having mass 1.

    `top` is minus the generator of level k with what is above it censored. Level n then falls to n - 1 first in states
    V_n = (-inner_n)^-1 down_n, and inner_(n-1) = local_(n-1) + up V_n: positive terms alone.
    """
    factors = np.zeros((k + 1, k + 1, k + 1))
    inner = top.copy()
    for n in range(k, 0, -1):
        factorise(inner)
        factors[n, : n + 1, : n + 1] = inner
        below, _, _ = service_blocks(n - 1, start1, rate1, rate2, go_on)
        _, first, _ = service_blocks(n, start1, rate1, rate2, go_on)
        solve_factored(inner, first)
        inner = np.empty((n, n))
        for i in range(n):
            for j in range(n):
                inner[i, j] = -below[i, j] - load * (start1 * first[i + 1, j] + (1.0 - start1) * first[i, j])
            inner[i, i] += load
    row, mass = np.ones(1), 0.0
    for n in range(1, k + 1):
        higher = np.zeros(n + 1)
        for j in range(n):
            mass += row[j]
            higher[j + 1] += load * start1 * row[j]
            higher[j] += load * (1.0 - start1) * row[j]
        solve_row(factors[n, : n + 1, : n + 1], higher)
        row = higher
    return row, mass


@kernel
def solve_m_ph2(
    load: float, k: int, start1: float, rate1: float, rate2: float, go_on: float
) -> tuple[Array, Array, float]:
    """Return (coefficients, rates, residual): P(W > t) = sum of coefficient*exp(-rate*t).

    `residual` is how far R misses its equation, relative to the arrival rate.
    """
    size = k + 1
    thetas, rows, scaled = np.empty(size), np.empty((size, size)), np.empty((size, size))
    left_rows(load, k, start1, rate1, rate2, go_on, thetas, rows)
    for m in range(size):
        for j in range(size):
            scaled[m, j] = rows[m, j] * (load / (load + thetas[m]))
    r = solve(rows, scaled)
    top, _, again = service_blocks(k, start1, rate1, rate2, go_on)
    for i in range(size):
        for j in range(size):
            for near in range(max(j - 1, 0), min(j + 2, size)):
                top[i, j] += r[i, near] * again[near, j]
        top[i, i] -= load
    balance, residual = product(r, top), 0.0
    for i in range(size):
        balance[i, i] += load
        for j in range(size):
            residual = max(residual, abs(balance[i, j]))
            top[i, j] = -top[i, j]
    row, mass = climb(load, k, start1, rate1, rate2, go_on, top)
    shares = solve(transposed(rows, 1.0), row.reshape(size, 1))
    coefficients = np.empty(size)
    for m in range(size):
        total = 0.0
        for j in range(size):
            total += rows[m, j]
        # Levels from k on add up to 1/(1 - r), 1 - r = theta/(load + theta).
        coefficients[m] = shares[m, 0] * total * (load + thetas[m]) / thetas[m]
        mass += coefficients[m]
    for m in range(size):
        coefficients[m] /= mass
    return coefficients, thetas, residual / load

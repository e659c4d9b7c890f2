"""M/D/k: the roots of its transform, and Franx's sum of positive terms for the wait."""

import math

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

#: Newton steps, and the step after which a root is known to rounding: convergence is quadratic.
STEPS, ROOT_STEP = 100, 1e-9
#: Least term of a sum, relative to it.
LEAST_TERM = 1e-17


@kernel
def inner_roots(rho: float, k: int, roots: Complex) -> None:
    """Fill `roots` with the k - 1 roots z != 1 of z = w exp(rho (z - 1)), w the k-th roots of unity, by Newton."""
    for j in range(1, k):
        angle = 2.0 * math.pi * j / k
        unity = complex(math.cos(angle), math.sin(angle))
        z = unity * math.exp(-rho)
        for _ in range(STEPS):
            value = unity * np.exp(rho * (z - 1.0))
            step = (z - value) / (1.0 - rho * value)
            z = z - step
            if abs(step) < ROOT_STEP:
                break
        roots[j - 1] = z


@kernel
def multiply_by_roots(inverse: Complex, roots: Complex, out: Complex) -> None:
    """Multiply `out` by the product of (1 - root*inverse)/(1 - root)."""
    for root in roots:
        factor = 1.0 / (1.0 - root)
        for i in range(inverse.size):
            out[i] *= (1.0 - root * inverse[i]) * factor


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
        if 0.0 < mean < top + 1:
            # More than `top` arrive: summed, as the complement of `mass` is rounding where that is rare.
            j = top + 1
            term = math.exp(j * math.log(mean) - mean - math.lgamma(j + 1.0))
            more = term
            while term > LEAST_TERM * more:
                j += 1
                term *= mean / j
                more += term
            total += more
        elif last == top or first > top:
            total += max(1.0 - mass, 0.0)
        out[a] = total

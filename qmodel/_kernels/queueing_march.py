"""Time-varying queues: a birth-death chain of backlog cells marched implicitly through windows."""

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel

Array = npt.NDArray[np.float64]

#: 1 - 1/sqrt(2): the two-stage diagonally implicit Runge-Kutta method of order two that damps stiff parts.
GAMMA = 0.2928932188134524


@kernel
def implicit_stage(right: Array, up: Array, down: Array, size: float, out: Array, work: Array) -> None:
    """Solve (I - size*A) out = right, A the transposed generator with rates `up` (i to i+1) and `down` (i to i-1)."""
    n = right.size
    diagonal = 1.0 + size * up[0]
    out[0] = right[0] / diagonal
    for i in range(1, n):
        work[i] = -size * down[i] / diagonal
        below = -size * up[i - 1]
        rise = up[i] if i < n - 1 else 0.0
        diagonal = 1.0 + size * (rise + down[i]) - below * work[i]
        out[i] = (right[i] - below * out[i - 1]) / diagonal
    for i in range(n - 2, -1, -1):
        out[i] -= work[i + 1] * out[i + 1]


@kernel
def march_window(law: Array, up: Array, down: Array, width: float, steps: int, average: Array) -> None:
    """March `law` through a window of constant rates in place; `average` gets its mean over the window."""
    n = law.size
    step = width / steps
    first, second, right, work = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        average[i] = 0.0
    for _ in range(steps):
        implicit_stage(law, up, down, GAMMA * step, first, work)
        for i in range(n):
            right[i] = law[i] + (1.0 - GAMMA) / GAMMA * (first[i] - law[i])
        implicit_stage(right, up, down, GAMMA * step, second, work)
        for i in range(n):
            average[i] += ((1.0 - GAMMA) * first[i] + GAMMA * second[i]) / steps
            law[i] = second[i]

"""Step laws as kernels see them, and spans of decode steps in closed form.

Every law is brought to one canonical form before a kernel starts, the larger of an affine function and a table
plus an affine function of the five sums (batch B, context K, prompt n, quadratic q, reloaded r):

    T = scale * max(o0 + oB*B + oK*K + on*n + oq*q + or*r,  base[B + n] + kB*B + kK*K + kq*q + kr*r)

so that no power is taken inside a loop. During a span of steps without joins or leaves K grows by B a step, hence
both branches grow linearly and sums over a span are closed.
"""

import math

from qmodel._kernels import kernel

# Columns of a row of coefficients.
C_O0, C_OB, C_OK, C_ON, C_OQ, C_OR, C_KB, C_KK, C_KQ, C_KR, C_TABLE, C_SCALE = range(12)
COEF_WIDTH = 12


@kernel
def law_time(coef, base, u, B, K, n, q, r):
    """Return the step time [s] of unit u for the five sums."""
    first = coef[u, C_O0] + coef[u, C_OB] * B + coef[u, C_OK] * K + coef[u, C_ON] * n + coef[u, C_OQ] * q
    first += coef[u, C_OR] * r
    second = base[int(coef[u, C_TABLE]), B + n] + coef[u, C_KB] * B + coef[u, C_KK] * K
    second += coef[u, C_KQ] * q + coef[u, C_KR] * r
    return coef[u, C_SCALE] * max(first, second)


@kernel
def span_lines(coef, base, u, B, K):
    """Return (x, s, y, z): the step time of step i of a span is max(x + s*i, y + z*i)."""
    g = coef[u, C_SCALE]
    x = g * (coef[u, C_O0] + coef[u, C_OB] * B + coef[u, C_OK] * K)
    y = g * (base[int(coef[u, C_TABLE]), B] + coef[u, C_KB] * B + coef[u, C_KK] * K)
    s, z = g * coef[u, C_OK] * B, g * coef[u, C_KK] * B
    if x > y:
        return x, s, y, z
    return y, z, x, s


@kernel
def span_switch(x, s, y, z, m):
    """Return how many of m steps lie on the first line of `span_lines`, the higher one at the start."""
    if z <= s:
        return m
    return min(m, math.ceil((x - y) / (z - s)))


@kernel
def span_time(x, s, y, z, m):
    """Return the time [s] of the first m steps of a span."""
    c = span_switch(x, s, y, z, m)
    head = c * x + s * (0.5 * c * (c - 1))
    return head + (m - c) * y + z * (0.5 * (m * (m - 1) - c * (c - 1)))


@kernel
def step_of_span(x, s, y, z, i):
    """Return the time [s] of step i (from 0) of a span."""
    return max(x + s * i, y + z * i)


@kernel
def _steps_on_line(x, s, dt):
    """Return the real m at which m*x + s*m*(m-1)/2 = dt."""
    b = x - 0.5 * s
    root = b + math.sqrt(b * b + 2.0 * s * dt)
    return 2.0 * dt / root if root > 0.0 else 1.0


@kernel
def span_steps(x, s, y, z, m, dt):
    """Return the smallest j in [1, m] such that the first j steps of a span last at least dt [s]."""
    c = span_switch(x, s, y, z, m)
    head = c * x + s * (0.5 * c * (c - 1))
    on_first = c == m or dt <= head
    guess = _steps_on_line(x, s, dt) if on_first else c + _steps_on_line(y + z * c, z, dt - head)
    j = min(m, max(1, int(guess)))
    while j > 1 and span_time(x, s, y, z, j - 1) >= dt:
        j -= 1
    while j < m and span_time(x, s, y, z, j) < dt:
        j += 1
    return j


@kernel
def steps_above(x, s, y, z, m, limit):
    """Return how many of the m steps of a span are longer than `limit` [s]; step times never fall in a span."""
    if step_of_span(x, s, y, z, m - 1) <= limit:
        return 0
    low, high = 0, m - 1
    while low < high:
        mid = (low + high) // 2
        if step_of_span(x, s, y, z, mid) > limit:
            high = mid
        else:
            low = mid + 1
    return m - low


@kernel
def whole_blocks(tokens, block):
    """Return the tokens of the whole cache blocks that hold so many."""
    return block * math.ceil(tokens / block)


# Columns of a row of work constants of a prefill instance.
W_TOKEN, W_QUADRATIC, W_RELOAD, W_BUDGET = range(4)
WORK_WIDTH = 4


@kernel
def work_time(work, coef, base, u, need, done):
    """Return W [s] of the tokens from `done` to `need` (DESIGN 2); without packing (budget 0) their single step."""
    n = need - done
    q = n * (done + 0.5 * n)
    b = work[u, W_BUDGET]
    if b == 0.0:
        return law_time(coef, base, u, 0, 0.0, n, q, done)
    m = math.ceil(n / b) - 1.0
    reloaded = b * m * (m + 1.0) / 2.0 + done * (m + 1.0)
    return n * work[u, W_TOKEN] + work[u, W_QUADRATIC] * q + work[u, W_RELOAD] * reloaded


@kernel
def chunked_time(coef, base, u, need, done, budget):
    """Return S_b [s]: a lone prompt's tokens from `done` to `need` in steps of at most `budget` tokens."""
    total = 0.0
    while done < need:
        n = min(budget, need - done)
        total += law_time(coef, base, u, 0, 0.0, n, n * (done + 0.5 * n), done)
        done += n
    return total


@kernel
def safe_chunk(coef, base, u, B, K, done, left, chunks, limit):
    """Return the largest candidate chunk, cut to `left`, whose step stays within `limit` [s]; 0 if none does."""
    for c in chunks:
        n = min(c, left)
        if law_time(coef, base, u, B, K, n, n * (done + 0.5 * n), done) <= limit:
            return n
    return 0


@kernel
def safe_chunk_beside(coef, base, u, B, K, n0, q0, r0, done, left, chunks, limit):
    """Return `safe_chunk` of a prompt in a step that holds n0 prompt tokens already, with sums q0 and r0."""
    for c in chunks:
        n = min(c, left)
        if n0 + n > chunks[0]:
            continue
        if law_time(coef, base, u, B, K, n0 + n, q0 + n * (done + 0.5 * n), r0 + done) <= limit:
            return n
    return 0


@kernel
def schedule_time(coef, base, u, B, K, need, done, chunks, limit):
    """Return the time [s] of a hosted prompt's chunk schedule beside a frozen batch; -1 if no chunk is safe."""
    total = 0.0
    while done < need:
        n = safe_chunk(coef, base, u, B, K, done, need - done, chunks, limit)
        if n == 0:
            return -1.0
        total += law_time(coef, base, u, B, K, n, n * (done + 0.5 * n), done)
        done += n
    return total

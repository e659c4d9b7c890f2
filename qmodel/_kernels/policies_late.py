"""The rule of late binding, compiled: what a decode instance pulls from the shared queue."""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import inlined, kernel

from qmodel._kernels.policies import (
    FCFS, K_ORDER, OB_BATCH, OB_CONTEXT, OB_HOST, P_DEADLINE, P_RELIEF, full,
)  # fmt: skip
from qmodel._kernels.policies_tables import at, bracket, locate, within
from qmodel._kernels.sim_state import (
    I_DOWN, L_COUNT, L_HEAD, R_DONE, R_NEED, R_NEXT, U_END, U_PART_WORK,
)  # fmt: skip

# Columns of a waiting prompt: request, tokens, bracket of its length, error of host estimates, gain before what
# hosting costs [s], relief of those behind [s].
W_ID, W_TOKENS, W_BIN, W_SHARE, W_NOISE, W_GAIN, W_RELIEF = range(7)
WAITING_FLOATS = 7


@kernel
def work_begun(t, k, UF, UI):
    """Return the work [s] that prefill instances have begun, and how many of them run (at least 1 is said)."""
    ahead, running = 0.0, 0
    for i in range(k):
        running += 1 - UI[i, I_DOWN]
        ahead += UF[i, U_PART_WORK] + (max(0.0, UF[i, U_END] - t) if UF[i, U_END] < np.inf else 0.0)
    return ahead, max(1, running)


@kernel
def fill_rows(r, ahead, waiting, k, R, lengths, curves, noise, rows):
    """Fill rows with prompts that wait, from r on, of `waiting` in all; return how many, the next, the work ahead [s].

    gain = expected wait + s + x,  relief = (requests behind)*s/k; the expected wait is the work ahead shared by the k
    prefill instances that run.
    """
    m = 0
    while r >= 0 and m < len(rows):
        i, f = bracket(lengths, R[r, R_NEED] - R[r, R_DONE])
        s, x = noise[r % len(noise), 0] * max(0.0, at(curves[0], i, f)), max(0.0, at(curves[1], i, f))
        rows[m, W_ID], rows[m, W_TOKENS], rows[m, W_BIN], rows[m, W_SHARE] = r, R[r, R_NEED], i, f
        rows[m, W_NOISE] = noise[r % len(noise), 1]
        rows[m, W_GAIN] = ahead / k + s + x
        rows[m, W_RELIEF] = (waiting - 1 - m) * s / k
        ahead += s
        m += 1
        r = R[r, R_NEXT]
    return m, r, ahead


@inlined
def late_queue(t, k, R, UF, UI, lists, lengths, curves, noise):
    """Return a row per waiting prompt with what is the same for every decode instance, in order of the queue."""
    ahead, running = work_begun(t, k, UF, UI)
    rows = np.empty((lists[0, L_COUNT], WAITING_FLOATS))
    fill_rows(lists[0, L_HEAD], ahead, len(rows), running, R, lengths, curves, noise, rows)
    return rows


@kernel
def _once(table, known, i, cell):
    """Return the table at length i in a cell, computed when it is first asked for."""
    if np.isnan(known[i]):
        known[i] = within(table, i, cell)
    return known[i]


@kernel
def _between(table, known, i, f, cell):
    low = _once(table, known, i, cell)
    return low + f * (_once(table, known, min(i + 1, len(known) - 1), cell) - low)


@inlined
def late_pull(u, kind, rows, seen, PK, PF, price, batches, contexts, tables, scratch):
    """Return (request, host time) that decode instance u pulls from the shared queue, or (-1, 0).

    net = gain - v - h - price*harm,  value = (net + relief)/h;  pulled only where net + relief_weight*relief > 0 and
    v + h is within the deadline; with the tables of the instance's kind. A queue in order of arrival gives the prompt
    of most value, any other its first.
    """
    v, B, K = seen[u, OB_HOST], seen[u, OB_BATCH], seen[u, OB_CONTEXT]
    grid, host, harm = contexts[kind], tables[0, kind], tables[1, kind]
    cell = locate(batches, grid, B, K)
    scratch[:] = np.nan
    best, best_value, best_host = -1, 0.0, 0.0
    for m in range(len(rows)):
        i, f, relief = int(rows[m, W_BIN]), rows[m, W_SHARE], rows[m, W_RELIEF]
        h = rows[m, W_NOISE] * max(1e-9, _between(host, scratch[0], i, f, cell))
        if 0.0 < PF[P_DEADLINE] < v + h:
            continue
        net = rows[m, W_GAIN] - v - h
        if price > 0.0:
            net -= price * max(0.0, _between(harm, scratch[1], i, f, cell))
        if net + PF[P_RELIEF] * relief > 0.0 and not full(B, K, rows[m, W_TOKENS], PK, grid):
            if PK[K_ORDER] != FCFS:
                return int(rows[m, W_ID]), h
            value = (net + relief) / h
            if value > best_value:
                best, best_value, best_host = int(rows[m, W_ID]), value, h
    return best, best_host

"""Which decode instances need no closer look: lower bounds of what hosting costs, so that large clusters stay fast.

Between two changes of its batch an instance's context only grows. With the tables' smallest value at this or any larger
context (`floors`), what hosting cost once is a lower bound until the batch changes. Bounds decide only who is looked
at: whoever passes is judged by the rule itself, so that no decision depends on them.
"""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import kernel

from qmodel._kernels.policies import (
    K_MAX_BATCH, K_ROOM, LATE, OB_BATCH, OB_CONTEXT, OB_HOST, P_DEADLINE, P_HARM, P_RELIEF, THRESHOLDS, at, bracket,
    collapse, full, hosting_cost, locate, observe_hosting, prefill_cost,
)  # fmt: skip
from qmodel._kernels.policies_late import W_BIN, W_GAIN, W_NOISE, W_RELIEF, W_SHARE
from qmodel._kernels.sim_state import (
    I_BATCH, I_DOWN, I_HOST_TOKENS, I_HOSTING, I_SPAN, R_DONE, R_NEED, U_CONTEXT, U_END, U_HOST_PART, U_HOST_WAIT,
    U_SINCE, X_DECODE, X_PREFILL,
)  # fmt: skip

# What identifies a span, whether its bounds are there, and its cell of batch and context.
N_SINCE, N_BATCH, N_CONTEXT, N_BOUND, N_CELL = range(5)
NOTED = 10

# Rounding that a bound allows for [s], absolute and relative.
_SLACK, _SHARE = 1e-9, 1e-9


@kernel
def floors_of(kind, PF, tables):
    """Return lower bounds of the tables of host and harm, each that of this or any larger context.

    Late binding needs host + weight*harm alone, in the first. At the longest length they also bound what is
    extrapolated: zero, unless a table rises there.
    """
    if kind != LATE and kind != THRESHOLDS:
        return tables
    low, last = tables.copy(), tables.shape[1] - 1
    if kind == LATE and PF[P_HARM] > 0.0:
        low[0] += PF[P_HARM] * low[1]
    for which in range(2):
        if last > 0 and (low[which, last] < low[which, last - 1]).any():
            low[which, last] = 0.0
    for c in range(low.shape[3] - 2, -1, -1):
        low[:, :, :, c] = np.minimum(low[:, :, :, c], low[:, :, :, c + 1])
    return low


@kernel
def _changed(u, j, UF, UI, noted):
    """Return whether instance u is in another span than when it was last noted, and note it."""
    row = noted[j]
    if row[N_SINCE] == UF[u, U_SINCE] and row[N_BATCH] == UI[u, I_BATCH] and row[N_CONTEXT] == UF[u, U_CONTEXT]:
        return False
    row[N_SINCE], row[N_BATCH], row[N_CONTEXT], row[N_BOUND] = UF[u, U_SINCE], UI[u, I_BATCH], UF[u, U_CONTEXT], 0.0
    return True


@kernel
def has_room(u, UI, PK):
    """Return whether decode instance u may pull at all: it runs, has a slot, and few tokens to host."""
    if UI[u, I_DOWN] or 0 < PK[K_MAX_BATCH] <= UI[u, I_BATCH]:
        return False
    return UI[u, I_HOST_TOKENS] < PK[K_ROOM]


@kernel
def may_pull(t, u, j, rows, UF, UI, classes, slo, seen, PF, batches, contexts, floors, noted, bounds):
    """Return False only if decode instance u would pull none of the waiting prompts.

    The bounds of a span are computed when it is looked at for the second time: on a small cluster seldom.
    """
    if _changed(u, j, UF, UI, noted):
        return True
    if noted[j, N_BOUND] == 0.0:
        noted[j, N_BOUND] = 1.0
        observe_hosting(t, u, j, UF, UI, classes, slo, seen)
        collapse(floors[0], batches, contexts, seen[u, OB_BATCH], seen[u, OB_CONTEXT], bounds[j])
    v = UF[u, U_HOST_WAIT] + UF[u, U_HOST_PART]
    if UI[u, I_HOSTING] > 0 and UI[u, I_SPAN] == 1 and UF[u, U_END] < np.inf:
        v += UF[u, U_END] - t
    for m in range(len(rows)):
        if rows[m, W_SHARE] < 0.0:
            return True
        low = max(0.0, at(bounds[j], int(rows[m, W_BIN]), min(1.0, rows[m, W_SHARE])))
        cost = v + min(1.0, rows[m, W_NOISE]) * low
        if rows[m, W_GAIN] + PF[P_RELIEF] * rows[m, W_RELIEF] + _SLACK > cost * (1.0 - _SHARE):
            return True
    return False


@kernel
def _cell(u, j, UF, UI, batches, contexts, noted):
    """Return the cell of batch and context where the span of instance u began."""
    row = noted[j, N_CELL:]
    if _changed(u, j, UF, UI, noted):
        row[0], row[1], row[2], row[3], row[4], row[5] = locate(batches, contexts, UI[u, I_BATCH], UF[u, U_CONTEXT])
    return int(row[0]), int(row[1]), row[2], int(row[3]), int(row[4]), row[5]


@kernel
def decide_live(
    t, r, R, UF, UI, classes, slo, seen, PK, PF, lengths, batches, contexts, curves, tables, floors, noted, XI, e, g
):  # fmt: skip
    """Return `decide_thresholds` of what is seen now, looking only at decode instances that may be the best."""
    k = XI[X_PREFILL]
    i, f = bracket(lengths, R[r, R_NEED] - R[r, R_DONE])
    best, at_prefill = prefill_cost(i, f, k, seen, PF, curves, e)
    host, least, own, need = -1, at_prefill, 0.0, R[r, R_NEED]
    for j in range(XI[X_DECODE]):
        u = k + j
        B, K = float(UI[u, I_BATCH]), UF[u, U_CONTEXT]
        if UI[u, I_DOWN] or full(B, K, need, PK, contexts):
            continue
        if f >= 0.0:
            v = g * (UF[u, U_HOST_WAIT] + UF[u, U_HOST_PART])
            cost, _, _ = hosting_cost(v, i, min(1.0, f), _cell(u, j, UF, UI, batches, contexts, noted), PF, floors, g)
            if cost * (1.0 - _SHARE) >= least:
                continue
        observe_hosting(t, u, j, UF, UI, classes, slo, seen)
        K = seen[u, OB_CONTEXT]
        if full(B, K, need, PK, contexts):
            continue
        cost, wait, h = hosting_cost(g * seen[u, OB_HOST], i, f, locate(batches, contexts, B, K), PF, tables, g)
        if cost < least and not 0.0 < PF[P_DEADLINE] < wait:
            host, least, own = u, cost, h
    if host >= 0:
        return host, own
    return best, 0.0

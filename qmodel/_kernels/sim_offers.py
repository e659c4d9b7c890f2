"""Which decode instances need no closer look: lower bounds of what hosting costs, so that large clusters stay fast.

Between two changes of its batch an instance's context only grows. With the tables' smallest value at this or any larger
context (`floors`), what hosting cost once is a lower bound until the batch changes. Bounds decide only who is looked
at: whoever passes is judged by the rule itself, so that no decision depends on them.
"""

# ruff: noqa: I001 - columns are imported many to a line

import numpy as np
from qmodel._kernels import inlined, kernel

from qmodel._kernels.policies import (
    K_MAX_BATCH, K_ROOM, LATE, OB_BATCH, OB_CONTEXT, OB_HOST, OB_SLOW, P_DEADLINE, P_HARM, P_PRICE_DECODE, P_RELIEF,
    THRESHOLDS, any_fault, decide_thresholds, full, harm_price, hosting_cost, kind_of, observe_decode, observe_hosting,
    prefill_cost, too_slow,
)  # fmt: skip
from qmodel._kernels.policies_tables import bracket, collapse, locate
from qmodel._kernels.policies_late import W_BIN, W_GAIN, W_NOISE, W_RELIEF, W_SHARE
from qmodel._kernels.sim_state import (
    I_BATCH, I_DOWN, I_HOST_TOKENS, I_HOSTING, I_SPAN, R_DONE, R_NEED, U_CONTEXT, U_END, U_HOST_PART, U_HOST_WAIT,
    U_SINCE, U_SLOWDOWN, X_DECODE, X_PREFILL,
)  # fmt: skip

# What identifies a span, and whether its bounds are there.
N_SINCE, N_BATCH, N_CONTEXT, N_BOUND = range(4)
NOTED = 4

# With so few decode instances, looking at all costs no more than bounding.
_FEW = 4

# Rounding that a bound allows for [s], absolute and relative.
_SLACK, _SHARE = 1e-9, 1e-9


@kernel
def floors_of(kind, PF, tables):
    """Return lower bounds of the tables of host and of host + weight*harm, each that of this or any larger context.

    The sum is bounded as one: where no chunk is safe, host is large and harm nothing. At the longest length they also
    bound what is extrapolated: zero, unless a table rises there.
    """
    if kind != LATE and kind != THRESHOLDS:
        return tables
    low, last = tables.copy(), tables.shape[2] - 1
    low[1] = low[0] + PF[P_HARM] * low[1]
    for which in range(2):
        for kind in range(low.shape[1]):
            if last > 0 and (low[which, kind, last] < low[which, kind, last - 1]).any():
                low[which, kind, last] = 0.0
    for c in range(low.shape[4] - 2, -1, -1):
        low[:, :, :, :, c] = np.minimum(low[:, :, :, :, c], low[:, :, :, :, c + 1])
    return low


@inlined
def _changed(u, j, UF, UI, noted):
    """Return whether instance u is in another span than when it was last noted, and note it."""
    row = noted[j]
    if row[N_SINCE] == UF[u, U_SINCE] and row[N_BATCH] == UI[u, I_BATCH] and row[N_CONTEXT] == UF[u, U_CONTEXT]:
        return False
    row[N_SINCE], row[N_BATCH], row[N_CONTEXT], row[N_BOUND] = UF[u, U_SINCE], UI[u, I_BATCH], UF[u, U_CONTEXT], 0.0
    return True


@kernel
def has_room(u, UF, UI, PK, PF):
    """Return whether decode instance u may pull at all: it runs, not slowly, has a slot, and few tokens to host."""
    if UI[u, I_DOWN] or too_slow(UF[u, U_SLOWDOWN], PF) or 0 < PK[K_MAX_BATCH] <= UI[u, I_BATCH]:
        return False
    return UI[u, I_HOST_TOKENS] < PK[K_ROOM]


@inlined
def _hosted_work(t, u, UF, UI):
    """Return the work of deflected prompts at unit u at time t [s]: v, or a little less if a step is due now."""
    v = UF[u, U_HOST_WAIT] + UF[u, U_HOST_PART]
    if UI[u, I_HOSTING] > 0 and UI[u, I_SPAN] == 1 and UF[u, U_END] < np.inf:
        v += UF[u, U_END] - t
    return v


@inlined
def note_offers(t, k, first, rows, UF, UI, PK, PF, batches, contexts, floors, noted, bounds, lows):
    """Note in lows[1] which decode instances from `first` on may pull one of the waiting prompts: 0.0 where none is.

    The bounds of a span are computed when it is looked at for the second time: on a small cluster seldom.
    """
    d = lows.shape[1]
    for j in range(first, d):
        u = k + j
        lows[0, j], lows[1, j] = np.inf, -np.inf
        if not has_room(u, UF, UI, PK, PF):
            continue
        if _changed(u, j, UF, UI, noted):
            lows[0, j] = -np.inf
            continue
        if noted[j, N_BOUND] == 0.0:
            noted[j, N_BOUND] = 1.0
            kind = kind_of(PK, j)
            grid = contexts[kind]
            collapse(floors[1, kind], batches, grid, UI[u, I_BATCH], UF[u, U_CONTEXT], bounds[1, :, j])
        lows[0, j] = _hosted_work(t, u, UF, UI) * (1.0 - _SHARE) - _SLACK
    for m in range(len(rows)):
        i, f = int(rows[m, W_BIN]), min(1.0, rows[m, W_SHARE])
        i1, part = min(i + 1, bounds.shape[1] - 1), min(1.0, rows[m, W_NOISE]) * (1.0 - _SHARE)
        gain = rows[m, W_GAIN] + PF[P_RELIEF] * rows[m, W_RELIEF]
        if f < 0.0:  # shorter than all that the bounds know
            f, part = 0.0, 0.0
        for j in range(first, d):
            low = bounds[1, i, j] + f * (bounds[1, i1, j] - bounds[1, i, j])
            lows[1, j] = max(lows[1, j], gain - part * max(0.0, low))
    for j in range(first, d):
        lows[1, j] = 1.0 if lows[1, j] > lows[0, j] else 0.0


@inlined
def _bounds_of_costs(t, i, f, need, k, d, UF, UI, PK, PF, batches, contexts, floors, noted, bounds, lows, g):
    """Write a lower bound of what a prompt costs at each decode instance, inf where it cannot go; return the least's.

    Written so that an instance whose span has been looked at before takes a dozen operations.
    """
    gd, latest, within, first = PF[P_PRICE_DECODE], PF[P_DEADLINE], min(1.0, f), 0
    i1 = min(i + 1, bounds.shape[1] - 1)
    for j in range(d):
        u = k + j
        lows[0, j] = np.inf
        kind = kind_of(PK, j)
        grid = contexts[kind]
        if UI[u, I_DOWN] or full(UI[u, I_BATCH], UF[u, U_CONTEXT], need, PK, grid):
            continue
        if f < 0.0:
            lows[0, j] = 0.0
            continue
        if _changed(u, j, UF, UI, noted):
            for which in range(2):
                collapse(floors[which, kind], batches, grid, UI[u, I_BATCH], UF[u, U_CONTEXT], bounds[which, :, j])
        v = g * _hosted_work(t, u, UF, UI)
        h = g * max(0.0, bounds[0, i, j] + within * (bounds[0, i1, j] - bounds[0, i, j]))
        if 0.0 < latest < (v + h) * (1.0 - _SHARE):
            continue
        both = max(0.0, bounds[1, i, j] + within * (bounds[1, i1, j] - bounds[1, i, j]))
        lows[0, j] = (v + min(1.0, g) * both + gd * h * (h + 2.0 * v)) * (1.0 - _SHARE)
        if lows[0, j] < lows[0, first]:
            first = j
    return first


@inlined
def decide_live(
    t, r, R, UF, UI, classes, slo, seen, PK, PF, lengths, batches, contexts, curves, tables, floors, noted, bounds,
    lows, XI, e, g,
):  # fmt: skip
    """Return `decide_thresholds` of what is seen now, looking only at decode instances that may be the best.

    The one with the least bound is judged first: after it few others are left.
    """
    k, d = XI[X_PREFILL], XI[X_DECODE]
    if d <= _FEW:
        observe_decode(t, k, d, UF, UI, classes, slo, seen)
        return decide_thresholds(r, k, d, R, seen, PK, PF, lengths, batches, contexts, curves, tables, e, g)
    i, f = bracket(lengths, R[r, R_NEED] - R[r, R_DONE])
    best, at_prefill = prefill_cost(i, f, k, seen, PF, curves, e)
    host, least, own, need, price = -1, at_prefill, 0.0, R[r, R_NEED], harm_price(any_fault(k, d, UF, UI, PF), PF)
    first = _bounds_of_costs(t, i, f, need, k, d, UF, UI, PK, PF, batches, contexts, floors, noted, bounds, lows, g)
    for at_ in range(-1, d):
        j = first if at_ < 0 else at_
        u = k + j
        if lows[0, j] > least or at_ == first:
            continue
        observe_hosting(t, u, j, UF, UI, classes, slo, seen)
        B, K, kind = seen[u, OB_BATCH], seen[u, OB_CONTEXT], kind_of(PK, j)
        grid = contexts[kind]
        if full(B, K, need, PK, grid) or too_slow(seen[u, OB_SLOW], PF):
            continue
        v, cell = g * seen[u, OB_HOST], locate(batches, grid, B, K)
        cost, wait, h = hosting_cost(v, i, f, cell, PF, tables[0, kind], tables[1, kind], price, g)
        earlier = cost == least and 0 <= u < host  # ties go to the lowest id
        if (cost < least or earlier) and not 0.0 < PF[P_DEADLINE] < wait:
            host, least, own = u, cost, h
    if host >= 0:
        return host, own
    return best, 0.0

"""Decisions that users compile: called through a pointer, so that the simulator's own machine code stays as cached.

A user's function is compiled on its own into a C callback (a second or two); the event loop calls its address. What it
sees has the names of `qmodel.policies.ClusterState`, as views of the arrays that the built-in rules read.
"""

# ruff: noqa: I001 - columns are imported many to a line

import re
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from qmodel._kernels import kernel

from qmodel._kernels.laws import COEF_WIDTH, chunked_time, schedule_time, whole_blocks
from qmodel._kernels.policies import (
    OBSERVED, OB_BATCH, OB_CONTEXT, OB_HOST, OB_HOSTING, OB_KV, OB_LINK, OB_LOAD, OB_REQUESTS, OB_REST, OB_SLOW,
    OB_STRICTEST, OB_TOKENS, OB_WORK,
)  # fmt: skip
from qmodel._kernels.sim_state import (
    F_ARRIVAL, R_CACHED, R_CLASS, R_PROMPT, UNIT_FLOATS, U_LINK_RATE, X_BUDGET, X_DECODE, X_PARAMETERS,
    X_PARAMETER_COUNT, X_PREFILL, X_USER, Y_BLOCK, Y_FIXED, Y_KV_BYTES,
)  # fmt: skip

# What the loop says of the request, and the answer.
A_NOW, A_ARRIVAL, A_PROMPT, A_CACHED, A_TTFT, A_TBT = range(6)
ASK_WIDTH = 6


class CompiledState(NamedTuple):
    """The cluster as a compiled decision sees it; fields as in `qmodel.policies.ClusterState`."""

    time_s: float
    prefill_work_s: Any
    prefill_tokens: Any
    prefill_requests: Any
    link_free_s: Any
    deflected_work_s: Any
    batch: Any
    context_tokens: Any
    hosting: Any
    decode_requests: Any
    step_rest_s: Any
    strictest_tbt_s: Any
    kv_share: Any
    slowdown: Any
    budget: int
    link_bytes_per_s: Any
    transfer_fixed_s: float
    kv_bytes_per_token: float
    transfer_block_tokens: float
    law_coefficients: Any
    law_tables: Any


class CompiledRequest(NamedTuple):
    """The request to route; fields as in `qmodel.policies.RequestView`."""

    arrival_s: float
    prompt_tokens: int
    cached_tokens: int
    ttft_slo_s: float
    tbt_slo_s: float


@kernel
def execution_s(state, instance, request):
    """Return the request's prefill time alone at a prefill instance, in budget-sized chunks [s]."""
    coef, base = state.law_coefficients, state.law_tables
    return chunked_time(coef, base, instance, request.prompt_tokens, request.cached_tokens, state.budget)


@kernel
def transfer_s(state, instance, request):
    """Return X of the request from a prefill instance [s]."""
    tokens = whole_blocks(request.prompt_tokens - request.cached_tokens, state.transfer_block_tokens)
    moved = state.kv_bytes_per_token * tokens
    return state.transfer_fixed_s + moved / state.link_bytes_per_s[instance]


@kernel
def limit_s(state, instance, request, beta):
    """Return beta times the strictest TBT SLO among a decode instance's residents, the request's own without any."""
    strictest = state.strictest_tbt_s[instance]
    return beta * (request.tbt_slo_s if strictest == np.inf else strictest)


@kernel
def schedule_s(state, instance, request, chunks, limit):
    """Return the time of the request's chunk schedule at a decode instance [s]; -1 if no chunk is safe."""
    u, B, K = len(state.prefill_work_s) + instance, int(state.batch[instance]), state.context_tokens[instance]
    coef, base = state.law_coefficients, state.law_tables
    return schedule_time(coef, base, u, B, K, request.prompt_tokens, request.cached_tokens, chunks, limit)


@intrinsic
def _call(typingctx, address, arguments):
    """Call the C function at an address with integer arguments."""
    signature = types.void(address, arguments)

    def codegen(context, builder, signature, values):
        word = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [word] * len(arguments))
        callee = builder.inttoptr(values[0], ir.PointerType(function))
        builder.call(callee, [builder.extract_value(values[1], i) for i in range(len(arguments))])
        return context.get_dummy_value()

    return signature, codegen


@kernel
def decide_compiled(t, r, R, F, seen, slo, EC, EB, UF, XI, XF, scratch):
    """Return (unit, host time) of the user's function, unit -1 when its answer makes no sense."""
    k, d, c = XI[X_PREFILL], XI[X_DECODE], R[r, R_CLASS]
    ask, answer = scratch[0], scratch[1]
    ask[A_NOW], ask[A_ARRIVAL], ask[A_PROMPT], ask[A_CACHED] = t, F[r, F_ARRIVAL], R[r, R_PROMPT], R[r, R_CACHED]
    ask[A_TTFT], ask[A_TBT] = slo[c, 0], slo[c, 1]
    answer[0], answer[1], answer[2] = -1.0, -1.0, 0.0
    _call(
        XI[X_USER],
        (
            k, d, XI[X_BUDGET], seen.ctypes.data, EC.ctypes.data, EB.ctypes.data, EB.shape[0], EB.shape[1],
            UF.ctypes.data, XF.ctypes.data, XI[X_PARAMETERS], XI[X_PARAMETER_COUNT], ask.ctypes.data,
            answer.ctypes.data,
        ),
    )  # fmt: skip
    pool, at, host = answer[0], int(answer[1]), answer[2]
    if not 0.0 <= host < np.inf or (pool != 0.0 and pool != 1.0) or at < 0 or at >= (k if pool == 0.0 else d):
        return -1, 0.0
    return (at if pool == 0.0 else k + at), host


_WORD, _FLOATS = types.intp, types.CPointer(types.float64)
_SIGNATURE = types.void(
    _WORD, _WORD, _WORD, _FLOATS, _FLOATS, _FLOATS, _WORD, _WORD, _FLOATS, _FLOATS, _FLOATS, _WORD, _FLOATS, _FLOATS
)


def callback(decide):
    """Return the C callback of a user's njit `decide(state, request, parameters) -> (pool, instance, host_s)`.

    Raises ValueError with numba's first complaint when the function does not compile for these arguments.
    """

    def answer_of(
        k, d, budget, seen_at, coef_at, base_at, rows, width, units_at, fixed_at, params_at, count, ask_at, answer_at
    ):  # fmt: skip
        seen = numba.carray(seen_at, (k + d, OBSERVED))
        coef, base = numba.carray(coef_at, (k + d, COEF_WIDTH)), numba.carray(base_at, (rows, width))
        units, fixed = numba.carray(units_at, (k + d, UNIT_FLOATS)), numba.carray(fixed_at, (Y_BLOCK + 1,))
        ask, answer = numba.carray(ask_at, (ASK_WIDTH,)), numba.carray(answer_at, (3,))
        P, D = seen[:k], seen[k:]
        state = CompiledState(
            ask[A_NOW], P[:, OB_WORK], P[:, OB_TOKENS], P[:, OB_REQUESTS], P[:, OB_LINK], D[:, OB_HOST],
            D[:, OB_BATCH], D[:, OB_CONTEXT], D[:, OB_HOSTING], D[:, OB_LOAD], D[:, OB_REST], D[:, OB_STRICTEST],
            D[:, OB_KV], D[:, OB_SLOW], budget, units[:k, U_LINK_RATE], fixed[Y_FIXED], fixed[Y_KV_BYTES],
            fixed[Y_BLOCK], coef, base,
        )  # fmt: skip
        request = CompiledRequest(ask[A_ARRIVAL], int(ask[A_PROMPT]), int(ask[A_CACHED]), ask[A_TTFT], ask[A_TBT])
        pool, instance, host = decide(state, request, numba.carray(params_at, (count,)))
        answer[0], answer[1], answer[2] = pool, instance, host

    try:
        return numba.cfunc(_SIGNATURE)(answer_of)
    except numba.core.errors.NumbaError as error:
        lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
        complaint = next((line for line in lines if line and not line.startswith("Failed in")), "numba gave no reason")
        raise ValueError(complaint if len(complaint) < 120 else f"{complaint[:50]} ... {complaint[-60:]}") from error

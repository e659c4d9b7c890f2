"""Which steps a law is fitted to, and which it is checked on: designs over batch, context, chunk and prefix."""

from __future__ import annotations

from itertools import product

import numpy as np

from qmodel.fitting.composition import StepComposition
from qmodel.laws.samples import StepSamples

__all__ = ["MAX_BATCH", "MAX_CHUNK", "MAX_CONTEXT", "context_limit", "fit_steps", "off_grid_steps", "prompts"]

MAX_BATCH = 256  # vLLM's default max_num_seqs
MAX_CHUNK = 8192  # the longest prompt step in the kernel tables [tokens]
MAX_CONTEXT = 32768  # of one request; the valid range flags longer ones
LEAST_CONTEXT = 8192  # engines stretch the trained context of older models at least this far
# Steps that laws are fitted to: decode batches by context of a request, and chunks by tokens done of their prompt.
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_HOST_BATCHES = (1, 4, 16, 64, 128, 256)
_HOST_CONTEXTS = (256, 1024, 4096, 16384)
_CHUNKS = (128, 256, 512, 1024, 2048, 4096, 8192)
_DONE = (0, 1024, 4096, 16384)
_OFF_GRID = 600  # random steps that laws are checked on
_SEED = 20260702  # of those steps; any other draws others of the same law


def context_limit(model_context: int) -> int:
    """Return the longest context of a request in a design [tokens], for a model trained to `model_context`.

    Parameters
    ----------
    model_context : int
        Longest context that the model's configuration names [tokens].
    """
    return int(np.clip(model_context, LEAST_CONTEXT, MAX_CONTEXT))


def _samples(c: StepComposition, b: np.ndarray, ctx: np.ndarray, chi: np.ndarray, done: np.ndarray) -> StepSamples:
    b, ctx, chi, done = (np.asarray(v, dtype=float) for v in (b, ctx, chi, done))
    return StepSamples(batch=b, context=b * ctx, chunk=chi, done=done, time_s=c.step_time_s(b, ctx, chi, done))


def fit_steps(composition: StepComposition, capacity_tokens: int, longest: int = MAX_CONTEXT) -> StepSamples:
    """Return the steps that a step law is fitted to: decode alone, and decode that hosts a chunk.

    Parameters
    ----------
    composition : StepComposition
        Kernels of a step.
    capacity_tokens : int
        KV capacity of an instance [tokens]; larger steps cannot happen.
    longest : int
        Longest context of a request [tokens].
    """
    rows = [(b, c, 0, 0) for b, c in product(_BATCHES, _CONTEXTS)]
    rows += list(product(_HOST_BATCHES, _HOST_CONTEXTS, _CHUNKS, _DONE))
    fits = [r for r in rows if r[0] * r[1] + r[2] + r[3] <= capacity_tokens and max(r[1], r[2] + r[3]) <= longest]
    table = np.array(fits, dtype=float)
    return _samples(composition, *table.T)


def off_grid_steps(composition: StepComposition, capacity_tokens: int, longest: int = MAX_CONTEXT) -> StepSamples:
    """Return steps between those of `fit_steps`, log-uniform, half without a chunk; a fixed seed.

    Parameters
    ----------
    composition : StepComposition
        Kernels of a step.
    capacity_tokens : int
        KV capacity of an instance [tokens].
    longest : int
        Longest context of a request [tokens].
    """
    rng = np.random.default_rng(_SEED)
    n = 4 * _OFF_GRID
    b = np.floor(np.exp(rng.uniform(0, np.log(MAX_BATCH + 1), n)))
    ctx = np.floor(np.exp(rng.uniform(np.log(128), np.log(longest), n)))
    chi = np.floor(np.exp(rng.uniform(np.log(128), np.log(MAX_CHUNK), n))) * (rng.random(n) < 0.5)
    done = np.floor(np.exp(rng.uniform(np.log(128), np.log(longest / 2), n))) * (rng.random(n) < 0.75) * (chi > 0)
    keep = np.flatnonzero((b * ctx + chi + done <= capacity_tokens) & (chi + done <= longest))[:_OFF_GRID]
    return _samples(composition, b[keep], ctx[keep], chi[keep], done[keep])


def prompts(composition: StepComposition, lengths: np.ndarray) -> StepSamples:
    """Return lone prompts of the given lengths, each one unchunked step.

    Parameters
    ----------
    composition : StepComposition
        Kernels of a step.
    lengths : ndarray
        Prompt tokens.
    """
    length = np.asarray(lengths, dtype=float)
    zero = np.zeros(len(length))
    return _samples(composition, zero, zero + 1.0, length, zero)

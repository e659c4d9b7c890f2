"""Streams of requests spread evenly over their laws, so that short paths already have the right means."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qmodel.scenario.sources import PoissonSource, Source

__all__ = ["Residence", "StreamLengths", "StreamPath", "at_ranks", "lengths_of", "path_of", "stream"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_SEED = 20260702


class Residence(NamedTuple):
    """Means over the tokens that decode makes: of steps a request, and of a resident's context and its square."""

    mean_steps: float
    context: float
    context_square: float

    @classmethod
    def of_joint(cls, prompt_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike, weights: npt.ArrayLike) -> Residence:
        """Return the means for a joint law of lengths [tokens]; weights sum to 1."""
        L, w = np.asarray(prompt_tokens, dtype=float), np.asarray(weights, dtype=float)
        s = np.maximum(np.asarray(output_tokens, dtype=float) - 1.0, 1.0)
        E = float(w @ s)
        return cls(E, float(w @ (s * (L + s / 2))) / E, float(w @ (s * (L * L + L * s + s * s / 3))) / E)

    @classmethod
    def of_product(cls, prompt: tuple[Any, FloatArray], output: tuple[Any, FloatArray]) -> Residence:
        """Return the means for independent lengths, each (values [tokens], weights)."""
        L, w = np.asarray(prompt[0], dtype=float), prompt[1]
        s = np.maximum(np.asarray(output[0], dtype=float) - 1.0, 1.0)
        E, s2, s3 = (float(output[1] @ s**i) for i in (1, 2, 3))
        L1, L2 = float(w @ L), float(w @ (L * L))
        return cls(E, L1 + s2 / (2 * E), L2 + L1 * s2 / E + s3 / (3 * E))


@lru_cache(maxsize=8)
def stream(count: int, seed: int = 0) -> tuple[FloatArray, ...]:
    """Return unit gaps, ranks of prompts and of outputs, and two uniforms for decode, spread evenly and shuffled."""
    rng = np.random.default_rng(_SEED + seed)
    even = (np.arange(count) + 0.5) / count
    gaps = -np.log1p(-rng.permutation(even))
    return (gaps / gaps.mean(), *(rng.permutation(even) for _ in range(4)))


class StreamLengths(NamedTuple):
    """Lengths by increasing prompt, with weights; independent outputs apart where they are."""

    prompt: IntArray
    cached: IntArray
    weights: FloatArray
    output: IntArray
    output_weights: FloatArray | None
    residence: Residence


def at_ranks(cumulative: FloatArray, ranks: FloatArray) -> IntArray:
    """Return the entries at evenly spread, shuffled ranks (i + 1/2)/n; sorting first keeps the search local."""
    n = len(ranks)
    found = np.minimum(np.searchsorted(cumulative, (np.arange(n) + 0.5) / n), len(cumulative) - 1)
    return np.asarray(found[(ranks * n).astype(np.int64)])


def lengths_of(source: Source) -> StreamLengths:
    """Return the lengths of a source; sources are frozen, so that one object always means the same."""
    frozen: Any = source
    return _lengths_of(frozen)


@lru_cache(maxsize=16)
def _lengths_of(source: Source) -> StreamLengths:
    if isinstance(source, PoissonSource):
        prompt, output = source.prompt, source.output
        order, other = np.argsort(prompt.values, kind="stable"), np.argsort(output.values, kind="stable")
        return StreamLengths(
            prompt.values[order].astype(np.int64),
            np.zeros(len(order), np.int64),
            prompt.weights[order],
            output.values[other].astype(np.int64),
            output.weights[other],
            Residence.of_product((prompt.values, prompt.weights), (output.values, output.weights)),
        )
    tokens, made, cached, weights = source.lengths()
    order = np.argsort(tokens, kind="stable")
    residence = Residence.of_joint(tokens, made, weights)
    return StreamLengths(tokens[order], cached[order], weights[order], made[order], None, residence)


class StreamPath(NamedTuple):
    """A stream of requests at rate 1 with lengths spread evenly over their laws; `pick` is their place in them."""

    arrival: FloatArray
    pick: IntArray
    prompt: IntArray
    output: IntArray
    cached: IntArray


def path_of(source: Source, count: int, seed: int = 0) -> StreamPath:
    """Return a stream of `count` requests of a source at rate 1."""
    frozen: Any = source
    return _path_of(frozen, count, seed)


@lru_cache(maxsize=16)
def _path_of(source: Source, count: int, seed: int) -> StreamPath:
    lengths = lengths_of(source)
    gaps, ranks, others, _, _ = stream(count, seed)
    pick = at_ranks(np.cumsum(lengths.weights), ranks)
    other = pick if lengths.output_weights is None else at_ranks(np.cumsum(lengths.output_weights), others)
    return StreamPath(np.cumsum(gaps), pick, lengths.prompt[pick], lengths.output[other], lengths.cached[pick])

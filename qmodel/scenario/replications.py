"""Replications of a source: where each begins, and the latest of a model kept for the next rate."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from qmodel.scenario.requests import Requests
from qmodel.scenario.sources import Source
from qmodel.scenario.windowed import WindowedSource

__all__ = ["GOLDEN", "replication"]

GOLDEN = 0.6180339887498949  # fractional parts of n*GOLDEN spread evenly for every number of seeds
_KEPT_COUNT = 100_000  # requests of a replication kept for the next rate: 4 MB


def replication(source: Source, count: int, seed: int) -> Requests:
    """Return a replication on the source's own clock; the latest of a model is kept, for a grid over rates.

    Parameters
    ----------
    source : Source
        Where requests come from.
    count : int
        Requests.
    seed : int
        Replication; 0 starts where the source does.

    Returns
    -------
    Requests
        Arrays that the caller may write into.
    """
    if not isinstance(source, WindowedSource) or count > _KEPT_COUNT:
        return _drawn(source, count, seed)
    kept = _kept(source, count, seed)
    names = ("prompt_tokens", "output_tokens", "cached_tokens", "slo_class")
    return replace(kept, **{name: getattr(kept, name).copy() for name in names})  # callers may write into theirs


def _drawn(source: Source, count: int, seed: int) -> Requests:
    return source.draw(count, (seed * GOLDEN) % 1.0, np.random.default_rng(seed))


_kept = lru_cache(maxsize=1)(_drawn)

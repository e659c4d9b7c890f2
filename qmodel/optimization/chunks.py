"""Chunk schedules of a deflected prompt: host time, harm to residents, and the TBT-safe chunk table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.laws import Calibration

__all__ = ["CHUNKS", "NO_SCHEDULE_S", "SMALLEST_PLANNED_CHUNK", "Schedule", "capped", "chunk_schedule", "safe_chunks"]

FloatArray = npt.NDArray[np.float64]

# Candidate chunk sizes [tokens], largest first. The paper's powers of two leave up to half of a step's room unused:
# multiples of 32 lower P95 TTFT by up to a fifth in congested panels, and keep the TBT SLO where chunks of 128 tokens
# late in a long prompt would not (docs/decisions/0051, 0052).
CHUNKS = tuple(range(2048, 0, -32))
# No prompt is deflected on a schedule with smaller chunks [tokens]: smaller ones are for batches that grow meanwhile.
SMALLEST_PLANNED_CHUNK = 128
# Host time where some step has no TBT-safe chunk [s]: so long that no price makes deflection worth it, yet finite.
NO_SCHEDULE_S = 1e6


def capped(cap: int | None, chunks: tuple[int, ...] = CHUNKS) -> tuple[int, ...]:
    """Return the candidate chunks up to a cap.

    Parameters
    ----------
    cap : int, optional
        Largest chunk [tokens]; none keeps all.
    chunks : tuple of int
        Candidates, largest first [tokens].

    Returns
    -------
    tuple of int
        Largest first.

    Raises
    ------
    InputError
        When the cap leaves no chunk that a schedule is planned with.
    """
    if cap is None:
        return chunks
    if not cap >= SMALLEST_PLANNED_CHUNK:
        raise InputError("chunk_cap", cap, f">= {SMALLEST_PLANNED_CHUNK} tokens", "smaller chunks are never planned")
    return tuple(c for c in chunks if c <= cap)


class Schedule(NamedTuple):
    """Host time, harm and number of steps of whole chunk schedules; arrays of one shape."""

    host_s: FloatArray
    harm_s: FloatArray
    steps: FloatArray


def _step_s(cal: Calibration, B: FloatArray, K: FloatArray, chi: FloatArray, done: FloatArray) -> FloatArray:
    return np.asarray(cal.step.step_time_s(B, K, chi, chi * (done + chi / 2), np.where(chi > 0, done, 0.0)))


def _choose(
    cal: Calibration,
    B: FloatArray,
    K: FloatArray,
    left: FloatArray,
    done: FloatArray,
    chunks: tuple[int, ...],
    limit_s: float,
) -> tuple[FloatArray, FloatArray]:
    """Return the largest candidate (cut to `left`) whose step keeps the limit, 0 where none does, and its step time.

    Step times rise with the chunk, so the place of the first safe candidate is found by bisection.
    """
    candidates = np.asarray(chunks, dtype=float)
    low, high = np.zeros(len(done), dtype=np.int64), np.full(len(done), len(chunks), dtype=np.int64)
    while np.any(low < high):
        middle = np.minimum((low + high) // 2, len(chunks) - 1)
        safe = _step_s(cal, B, K, np.minimum(candidates[middle], left), done) <= limit_s
        high = np.where(safe & (low < high), middle, high)
        low = np.where(~safe & (low < high), middle + 1, low)
    chi = np.where(low < len(chunks), np.minimum(candidates[np.minimum(low, len(chunks) - 1)], left), 0.0)
    return chi, np.where(chi > 0, _step_s(cal, B, K, chi, done), 0.0)


def safe_chunks(
    calibration: Calibration,
    batch: npt.ArrayLike,
    context_tokens: npt.ArrayLike,
    done: npt.ArrayLike,
    limit_s: float,
    chunks: tuple[int, ...] = CHUNKS,
) -> npt.NDArray[np.int64]:
    """Return chi*(B, K, done), the largest candidate chunk whose step keeps the TBT limit; *exact* under the law.

    Parameters
    ----------
    calibration : Calibration
        Laws of the decode instance.
    batch, context_tokens, done : array_like
        Residents, their context [tokens] and tokens of the prompt already processed; they broadcast.
    limit_s : float
        Longest step allowed [s].
    chunks : tuple of int
        Candidates [tokens], largest first.

    Returns
    -------
    ndarray of int
        Chunk [tokens]; 0 where no candidate is safe.
    """
    shape = np.broadcast_shapes(np.shape(batch), np.shape(context_tokens), np.shape(done))
    B, K, d = (np.broadcast_to(np.asarray(x, dtype=float), shape).ravel() for x in (batch, context_tokens, done))
    chosen, _ = _choose(calibration, B, K, np.full(B.shape, float(chunks[0])), d, chunks, limit_s)
    return chosen.astype(np.int64).reshape(shape)


def _long_path(
    cal: Calibration, B: FloatArray, K: FloatArray, until: float, chunks: tuple[int, ...], limit_s: float
) -> tuple[FloatArray, FloatArray]:
    """Return done and time after each step of an endless prompt, shape (steps, states); time is NaN once stuck.

    Steps grow with what is done, so the safe chunk only shrinks: the search goes on where the last step left it.
    """
    done, time = [np.zeros(len(B))], [np.zeros(len(B))]
    candidates = np.asarray(chunks, dtype=float)
    first, _ = _choose(cal, B, K, np.full(len(B), candidates[0]), done[0], chunks, limit_s)
    at = np.minimum(np.searchsorted(-candidates, -first), len(chunks) - 1)
    while True:
        going = np.flatnonzero((done[-1] < until) & np.isfinite(time[-1]))
        if not len(going):
            return np.array(done), np.array(time)
        next_done, next_time = done[-1].copy(), time[-1].copy()
        while len(going):
            chi = candidates[at[going]]
            t = _step_s(cal, B[going], K[going], chi, done[-1][going])
            safe = t <= limit_s
            next_done[going[safe]] += chi[safe]
            next_time[going[safe]] += t[safe]
            at[going[~safe]] += 1
            stuck = going[at[going] == len(chunks)]
            next_time[stuck] = np.nan
            going = going[~safe & (at[going] < len(chunks))]
        done.append(next_done)
        time.append(next_time)


def chunk_schedule(
    calibration: Calibration,
    prompt_tokens: npt.ArrayLike,
    batch: npt.ArrayLike,
    context_tokens: npt.ArrayLike,
    limit_s: float,
    chunks: tuple[int, ...] = CHUNKS,
) -> Schedule:
    """Return host time and harm of whole schedules at frozen decode states; *exact* under the law.

    At each step the largest candidate chunk, the last one cut to what remains, whose step time is within the limit.
    harm = sum over steps of B*(T(B,K,chi,done) - T(B,K,0,0)).

    Parameters
    ----------
    calibration : Calibration
        Laws of the decode instance.
    prompt_tokens : array_like, shape (n_L,)
        Tokens to prefill.
    batch, context_tokens : array_like, shape (n_S,)
        Decode states: residents and their context [tokens].
    limit_s : float
        Longest step allowed [s].
    chunks : tuple of int
        Candidates [tokens], largest first.

    Returns
    -------
    Schedule
        Arrays of shape (n_L, n_S); host time is `NO_SCHEDULE_S` and harm 0 where a step has no safe chunk.

    Notes
    -----
    Prompts share the steps of one endless prompt until the largest candidate exceeds what remains; only the last
    few steps are worked out for each length.
    """
    lengths = np.asarray(prompt_tokens, dtype=float)
    B, K = np.broadcast_arrays(np.asarray(batch, dtype=float), np.asarray(context_tokens, dtype=float))
    shared = np.maximum(lengths - chunks[0], 0.0)
    path_done, path_time = _long_path(calibration, B, K, float(shared.max(initial=0.0)), chunks, limit_s)
    at = np.stack([_first_at_least(path_done[:, j], shared) for j in range(len(B))], axis=1)
    column = np.arange(len(B))[None, :]
    done, host, steps = path_done[at, column], path_time[at, column], at.astype(float)
    B2, K2 = (np.broadcast_to(x, done.shape).ravel() for x in (B, K))
    done, host, steps = done.ravel().copy(), host.ravel().copy(), steps.ravel().copy()
    left = np.repeat(lengths, len(B)) - done
    while len(open_ := np.flatnonzero((left > 0) & np.isfinite(host))):
        chi, t = _choose(calibration, B2[open_], K2[open_], left[open_], done[open_], chunks, limit_s)
        host[open_] = np.where(chi > 0, host[open_] + t, np.nan)
        done[open_] += chi
        left[open_] -= chi
        steps[open_] += 1
    bare = np.where(B2 > 0, _step_s(calibration, B2, K2, 0 * B2, 0 * B2), 0.0)
    stuck = ~np.isfinite(host)
    harm = np.where(stuck, 0.0, B2 * np.maximum(np.where(stuck, 0.0, host) - steps * bare, 0.0))
    shape = (len(lengths), len(B))
    return Schedule(np.where(stuck, NO_SCHEDULE_S, host).reshape(shape), harm.reshape(shape), steps.reshape(shape))


def _first_at_least(done: FloatArray, targets: FloatArray) -> npt.NDArray[np.int64]:
    """Return the first steps after which `done` reaches the targets, or the last step of a path that got stuck."""
    return np.minimum(np.searchsorted(done, targets, side="left"), len(done) - 1)

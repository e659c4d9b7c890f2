"""Tables of a threshold rule: host time, harm and bare steps over prompt length, decode batch and decode context."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.laws import Calibration
from qmodel.optimization.chunks import CHUNKS, NO_SCHEDULE_S, SMALLEST_PLANNED_CHUNK, chunk_schedule
from qmodel.optimization.decode_state import decode_kinds
from qmodel.policies.rule import DecodeTables, ThresholdRule
from qmodel.scenario import SLO, Cluster

__all__ = ["host_tables", "of_kind", "rule_tables", "table_lengths", "table_states", "with_chunks"]

FloatArray = npt.NDArray[np.float64]

# Grid of the tables: about a third of an octave in length, and 12 decode batches and contexts.
_LENGTHS = 40
_BATCHES = (0, 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_CONTEXTS = 12


def table_lengths(longest_tokens: float, budget: int) -> FloatArray:
    """Return the prompt lengths of the tables [tokens]: geometric from 16, with the budget among them.

    Parameters
    ----------
    longest_tokens : float
        Longest prompt to cover [tokens].
    budget : int
        Token budget of a prefill step, where the laws have a kink.

    Returns
    -------
    ndarray
        Increasing whole numbers.
    """
    top = max(float(longest_tokens), 4.0 * budget)
    grid = np.geomspace(16.0, top, _LENGTHS)
    return np.unique(np.concatenate([[1.0], np.round(grid), [float(budget)]]))


def table_states(calibration: Calibration, max_num_seqs: int) -> tuple[FloatArray, FloatArray]:
    """Return the decode batches and contexts [tokens] of the tables.

    Parameters
    ----------
    calibration : Calibration
        Gives the KV capacity.
    max_num_seqs : int
        Largest batch.

    Returns
    -------
    tuple of ndarray
        Batches and contexts, both from 0.
    """
    batches = np.unique([b for b in _BATCHES if b < max_num_seqs] + [max_num_seqs]).astype(float)
    capacity = float(calibration.kv_capacity_tokens)
    contexts = np.concatenate([[0.0], np.round(np.geomspace(min(4000.0, capacity / 4), capacity, _CONTEXTS - 1))])
    return batches, contexts


def host_tables(
    calibration: Calibration,
    lengths: FloatArray,
    batches: FloatArray,
    contexts: FloatArray,
    slo: SLO,
    chunks: tuple[int, ...] = CHUNKS,
) -> tuple[FloatArray, FloatArray]:
    """Return host time and harm of every prompt length at every decode state; *exact* at the grid points.

    Parameters
    ----------
    calibration : Calibration
        Laws of the decode instance.
    lengths : ndarray, shape (n_L,)
        Prompt lengths [tokens].
    batches, contexts : ndarray, shape (n_B,) and (n_K,)
        Decode batches and contexts [tokens].
    slo : SLO
        `tbt_s` bounds each step.
    chunks : tuple of int
        Candidate chunks [tokens], largest first.

    Returns
    -------
    tuple of ndarray
        host_s and harm_s, shape (n_L, n_B, n_K).
    """
    B, K = (grid.ravel() for grid in np.meshgrid(batches, contexts, indexing="ij"))
    planned = tuple(c for c in chunks if c >= SMALLEST_PLANNED_CHUNK) or chunks
    schedule = chunk_schedule(calibration, lengths, B, K, slo.tbt_s, planned)
    shape = (len(lengths), len(batches), len(contexts))
    return schedule.host_s.reshape(shape), schedule.harm_s.reshape(shape)


def rule_tables(
    cluster: Cluster, lengths: FloatArray, batches: FloatArray, contexts: FloatArray, slo: SLO, chunks: tuple[int, ...]
) -> dict[str, Any]:
    """Return the fields of a rule that say what hosting costs; those of a mean instance where there are kinds.

    The mean instance has no schedule where any kind has none. Each kind also has tables up to its own capacity.

    Parameters
    ----------
    cluster : Cluster
        Decode instances.
    lengths, batches, contexts : ndarray
        Grid of the tables, of the mean instance where there are kinds.
    slo : SLO
        `tbt_s` bounds each hosted step.
    chunks : tuple of int
        Candidate chunks [tokens], largest first.

    Returns
    -------
    dict of str to Any
        Fields of `ThresholdRule`.
    """
    kinds = decode_kinds(cluster)
    tables = {key: host_tables(c, lengths, batches, contexts, slo, chunks) for key, c in kinds.items()}
    weights = [sum(c.fingerprint == key for c in cluster.decode_calibrations) for key in kinds]
    each = [tables[c.fingerprint] for c in cluster.decode_calibrations]
    host, harm = each[0] if len(kinds) == 1 else tuple(np.mean([pair[i] for pair in each], axis=0) for i in range(2))
    step = np.average([_bare_steps(c, batches, contexts) for c in kinds.values()], axis=0, weights=weights)
    if len(kinds) == 1:
        return {"host_s": host, "harm_s": harm, "step_s": step}
    unsafe = np.any([pair[0] >= NO_SCHEDULE_S for pair in each], axis=0)
    keys = list(kinds)
    return {
        "host_s": np.where(unsafe, NO_SCHEDULE_S, host),
        "harm_s": np.where(unsafe, 0.0, harm),
        "step_s": step,
        "kinds": tuple(_kind_tables(c, lengths, batches, slo, chunks, cluster.max_num_seqs) for c in kinds.values()),
        "kind_of": tuple(keys.index(c.fingerprint) for c in cluster.decode_calibrations),
    }


def _kind_tables(
    calibration: Calibration,
    lengths: FloatArray,
    batches: FloatArray,
    slo: SLO,
    chunks: tuple[int, ...],
    max_num_seqs: int,
) -> DecodeTables:
    _, contexts = table_states(calibration, max_num_seqs)
    host, harm = host_tables(calibration, lengths, batches, contexts, slo, chunks)
    return DecodeTables(contexts=contexts, host_s=host, harm_s=harm, step_s=_bare_steps(calibration, batches, contexts))


def _bare_steps(calibration: Calibration, batches: FloatArray, contexts: FloatArray) -> FloatArray:
    """Return decode steps without a hosted chunk, of at least one resident [s]; shape (n_B, n_K)."""
    B, K = np.meshgrid(np.maximum(batches, 1.0), contexts, indexing="ij")
    return np.asarray(calibration.decode_step_s(B, K), dtype=float)


def with_chunks(rule: ThresholdRule, cluster: Cluster, slo: SLO, chunks: tuple[int, ...]) -> ThresholdRule:
    """Return the rule with other candidate chunks, its tables of host time and harm made anew.

    Parameters
    ----------
    rule : ThresholdRule
        Prices and grids.
    cluster : Cluster
        Decode instances.
    slo : SLO
        `tbt_s` bounds each hosted step.
    chunks : tuple of int
        Candidate chunks [tokens], largest first.

    Returns
    -------
    ThresholdRule
        The same prices.
    """
    tables = rule_tables(cluster, rule.lengths, rule.batches, rule.contexts, slo, chunks)
    return replace(rule, chunks=chunks, **tables)


def of_kind(rule: ThresholdRule, tables: DecodeTables) -> ThresholdRule:
    """Return the rule as it holds for one kind of decode instance.

    Parameters
    ----------
    rule : ThresholdRule
        Prices and tables of several kinds.
    tables : DecodeTables
        One of `rule.kinds`.

    Returns
    -------
    ThresholdRule
        The same prices, with that kind's tables alone.
    """
    own = {name: getattr(tables, name) for name in ("contexts", "host_s", "harm_s", "step_s")}
    return replace(rule, **own, kinds=(), kind_of=())

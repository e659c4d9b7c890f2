"""The state that a deflected prompt meets at a decode instance: batch and context of the product form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.laws import Calibration
from qmodel.scenario import Cluster

__all__ = ["DecodeState", "decode_kinds", "decode_state"]

FloatArray = npt.NDArray[np.float64]
# Waiting room of the truncated product form, in multiples of the batch limit: an overloaded pool stays finite.
_ROOM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeState:
    """Mean state of one decode instance.

    Parameters
    ----------
    batch : float
        B, mean resident requests.
    context_tokens : float
        K, mean resident context [tokens].
    step_s : float
        Decode step without a hosted chunk at that state [s].
    batch_limit : int
        Most residents: the smaller of max_num_seqs and what the KV cache holds.
    """

    batch: float
    context_tokens: float
    step_s: float
    batch_limit: int


def decode_state(
    calibration: Calibration,
    rate_per_s: float,
    lengths: tuple[npt.NDArray[np.generic], ...],
    max_num_seqs: int,
    slowdown: float = 1.0,
) -> DecodeState:
    """Return the mean state of one decode instance by the product form; *exact* for exponential output lengths.

    pi(n) ~ prod_{j<=n} lam*E[O]*T(min(j,N))/min(j,N), with T(n) at the mean resident context
    K(n) = n*E[O*(L + O/2)]/E[O] (Cohen, Acta Informatica 12, 1979). Truncated at 2N requests, so that an
    overloaded instance has a state too: its full batch.

    Parameters
    ----------
    calibration : Calibration
        Laws of the instance.
    rate_per_s : float
        Requests per second that decode there [1/s].
    lengths : tuple of ndarray
        Prompt, output and cached tokens and their weights.
    max_num_seqs : int
        Batch limit of the engine.
    slowdown : float
        Mean step over the step without hosted chunks, >= 1.

    Returns
    -------
    DecodeState
        Mean batch, context and step.
    """
    prompt, output, _, weights = (np.asarray(x, dtype=float) for x in lengths)
    mean_output = float(np.sum(weights * output) / np.sum(weights))
    context = float(np.sum(weights * output * (prompt + output / 2)) / np.sum(weights * output))
    limit = max(1, min(max_num_seqs, int(calibration.kv_capacity_tokens / context)))
    n = np.arange(1, limit + 1, dtype=float)
    step = np.asarray(calibration.decode_step_s(n, n * context)) * slowdown
    served = np.concatenate([n, np.full(int(_ROOM * limit), float(limit))])
    pace = np.concatenate([step, np.full(int(_ROOM * limit), step[-1])])
    logs = np.concatenate([[0.0], np.cumsum(np.log(rate_per_s * mean_output * pace / served))])
    pi = np.exp(logs - logs.max())
    batch = float(np.sum(pi * np.concatenate([[0.0], served])) / pi.sum())
    bare = float(calibration.decode_step_s(max(batch, 1.0), max(batch, 1.0) * context))
    return DecodeState(batch=batch, context_tokens=batch * context, step_s=bare, batch_limit=limit)


def decode_kinds(cluster: Cluster) -> dict[str, Calibration]:
    """Return the kinds of decode instances, by fingerprint, in the order in which they come.

    Parameters
    ----------
    cluster : Cluster
        Its decode pool.

    Returns
    -------
    dict of str to Calibration
        One entry per kind.
    """
    return {c.fingerprint: c for c in cluster.decode_calibrations}

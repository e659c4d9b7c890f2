"""Whether a cluster and its workload stay within the range in which their laws were calibrated."""

from __future__ import annotations

import numpy as np

from qmodel.scenario.cluster import Cluster
from qmodel.scenario.sources import PoissonSource
from qmodel.scenario.workload import Workload

__all__ = ["range_warnings"]


def range_warnings(cluster: Cluster, workload: Workload, *, strict: bool = False) -> tuple[str, ...]:
    """Return a line for each way in which the workload asks laws for more than they were fitted to.

    Parameters
    ----------
    cluster : Cluster
        Its calibrations carry their valid ranges.
    workload : Workload
        Its longest prompt counts, and the longest context at the end of a request.
    strict : bool
        Whether to raise instead.

    Returns
    -------
    tuple of str
        Empty when everything lies within.

    Raises
    ------
    OutOfRangeError
        When `strict` and something lies outside.
    """
    longest = _longest_prompt(workload)
    lines: dict[str, None] = {}
    for calibration in dict.fromkeys((*cluster.prefill_calibrations, *cluster.decode_calibrations)):
        asked = {
            "prompt_tokens": longest,
            "chunk_tokens": float(min(longest, cluster.max_num_batched_tokens)),
            "batch": float(cluster.max_num_seqs),
        }
        lines |= dict.fromkeys(calibration.check(**asked, strict=strict))
    return tuple(lines)


def _longest_prompt(workload: Workload) -> float:
    source = workload.source
    if isinstance(source, PoissonSource):  # spares the product law of prompts and outputs
        prompt, weights = source.prompt.values, source.prompt.weights
    else:
        prompt, _, _, weights = workload.lengths()
    return float(np.max(np.asarray(prompt)[np.asarray(weights) > 0], initial=0.0))

"""Prompt bins: the joint law of lengths and cached prefixes as a few classes with rates, work and transfer times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qmodel.scenario import Cluster

__all__ = ["PromptBins", "WorkloadLike", "binned", "prompt_bins", "weighted_quantile"]

FloatArray = npt.NDArray[np.float64]


class WorkloadLike(Protocol):
    """What the optimizer reads of a workload: its rate and its joint law of lengths."""

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate [1/s]."""
        ...

    def lengths(self) -> tuple[npt.NDArray[np.generic], ...]:
        """Prompt, output and cached tokens with weights that sum to 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptBins:
    """Classes of prompts of similar length; all arrays have shape (n_bins,), in order of length.

    Parameters
    ----------
    rate_per_s : ndarray
        lam_b, arrivals [1/s].
    tokens : ndarray
        Mean number of tokens to prefill (prompt less cached prefix) [tokens].
    upper_tokens : ndarray
        Longest prompt of the bin [tokens].
    work_s : ndarray
        s_b, mean of W(L) on one prefill instance [s].
    work2_s2 : ndarray
        Mean of W(L)^2 [s^2], so that the Pollaczek-Khinchine condition is exact for the binned law.
    transfer_s : ndarray
        x_b, mean exposed transfer time that counts in TTFT [s].
    kv_tokens : ndarray
        Mean cache that a prompt of the bin holds [tokens].
    wanted : int
        Bins asked for; the same number gives the same bins again, that of the bins may give others.
    """

    rate_per_s: FloatArray
    tokens: FloatArray
    upper_tokens: FloatArray
    work_s: FloatArray
    work2_s2: FloatArray
    transfer_s: FloatArray
    kv_tokens: FloatArray
    wanted: int

    def __len__(self) -> int:
        return len(self.rate_per_s)


def weighted_quantile(values: npt.ArrayLike, weights: npt.ArrayLike, q: float) -> float:
    """Return the smallest value whose cumulative weight reaches `q`; *exact*.

    Parameters
    ----------
    values, weights : array_like
        Points and their weights, which need not sum to 1.
    q : float
        Probability in [0, 1].

    Returns
    -------
    float
        A point of `values`.

    Examples
    --------
    >>> weighted_quantile([1, 2, 3], [1, 1, 2], 0.5)
    2.0
    """
    points, mass = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    rank = np.argsort(points, kind="stable")
    total = np.cumsum(mass[rank])
    at = int(np.searchsorted(total, q * total[-1] * (1 - 1e-12)))
    return float(points[rank[min(at, len(rank) - 1)]])


def transfer_part_s(cluster: Cluster, prompt_tokens: FloatArray, cached_tokens: FloatArray | float = 0.0) -> FloatArray:
    """Return X(L) as it counts in TTFT [s]: 0 when the first token is the one that prefill produces.

    Parameters
    ----------
    cluster : Cluster
        Cluster whose link moves the cache.
    prompt_tokens, cached_tokens : ndarray
        Prompts and their cached prefixes [tokens].

    Returns
    -------
    ndarray
        Exposed transfer time [s].
    """
    if cluster.first_token == "prefill":
        return np.zeros_like(prompt_tokens)
    execution = cluster.execution_s(prompt_tokens, cached_tokens)
    return np.asarray(cluster.transfer_law().exposed_s(prompt_tokens - cached_tokens, execution))


def binned(
    cluster: Cluster, workload: WorkloadLike, count: int
) -> tuple[FloatArray, FloatArray, FloatArray, npt.NDArray[np.intp]]:
    """Return the distinct prompts of a workload and their bins, each of about equal share of requests and work.

    Parameters
    ----------
    cluster : Cluster
        Gives W(L).
    workload : Workload
        Gives lengths.
    count : int
        Bins wanted; fewer when there are fewer lengths.

    Returns
    -------
    tuple of ndarray
        Tokens to prefill, cached tokens, probability and bin of each distinct prompt.
    """
    prompt, _, cached, weights = (np.asarray(x, dtype=float) for x in workload.lengths())
    pairs, index = np.unique(np.stack([prompt - cached, cached], axis=1), axis=0, return_inverse=True)
    mass = np.bincount(np.ravel(index), weights=weights)
    mass = mass / mass.sum()
    fresh, held = pairs[:, 0], pairs[:, 1]
    work = np.asarray(cluster.work_s(fresh + held, held))
    share = 0.5 * np.cumsum(mass) + 0.5 * np.cumsum(mass * work) / np.sum(mass * work)
    bin_of = np.minimum((share - 0.5 * mass) * count, count - 1).astype(int)
    return fresh, held, mass, np.unique(bin_of, return_inverse=True)[1]


def prompt_bins(cluster: Cluster, workload: WorkloadLike, count: int = 20) -> PromptBins:
    """Return the workload's prompts in at most `count` bins, each of about equal share of requests and work; *exact*.

    Parameters
    ----------
    cluster : Cluster
        Gives W(L) and X(L).
    workload : Workload
        Gives rate and lengths.
    count : int
        Bins wanted; fewer when there are fewer lengths.

    Returns
    -------
    PromptBins
        Bins in order of length.
    """
    fresh, held, mass, bin_of = binned(cluster, workload, count)
    work = np.asarray(cluster.work_s(fresh + held, held))
    transfer = transfer_part_s(cluster, fresh + held, held)
    total = np.bincount(bin_of, weights=mass)

    def mean(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(bin_of, weights=mass * values) / total)

    upper = np.zeros(len(total))
    np.maximum.at(upper, bin_of, fresh + held)
    return PromptBins(
        rate_per_s=np.asarray(workload.rate_per_s * total, dtype=np.float64),
        tokens=mean(fresh),
        upper_tokens=upper,
        work_s=mean(work),
        work2_s2=mean(work**2),
        transfer_s=mean(transfer),
        kv_tokens=mean(fresh + held),
        wanted=count,
    )

"""Intervals for simulation output: over replications, and over batches of one run for means and quantiles."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from qmodel.errors import InputError

__all__ = ["batch_means_interval", "mean_interval", "quantile_interval"]


def mean_interval(values: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return mean and half-width of Student's interval over independent replications; *exact* for normal values.

    half-width = t_{n-1, (1 + level)/2} * s / sqrt(n)

    Parameters
    ----------
    values : array_like
        One value per replication, at least two.
    level : float, optional
        Coverage, in (0, 1).

    Returns
    -------
    tuple of float
        (mean, half-width), in the unit of the values.

    Raises
    ------
    InputError
        With fewer than two values, or values that are not finite.

    Examples
    --------
    >>> mean, half = mean_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    x = np.asarray(values, dtype=float)
    n = x.size
    if n < 2:
        raise InputError("replications", n, ">= 2 for an interval", "run more seeds")
    if not np.all(np.isfinite(x)):
        raise InputError("replication value", x[~np.isfinite(x)][0], "finite")
    if not 0 < level < 1:
        raise InputError("level", level, "in (0, 1)", "give e.g. 0.95")
    t = float(stdtrit(n - 1, (1 + level) / 2))
    return float(x.mean()), t * float(x.std(ddof=1)) / math.sqrt(n)


def batch_means_interval(values: npt.ArrayLike, batches: int = 30, level: float = 0.95) -> tuple[float, float]:
    """Return mean and half-width from the means of consecutive batches of one long run; *approximation*.

    Parameters
    ----------
    values : array_like
        Observations in order of time, warm-up left out.
    batches : int, optional
        Number of batches; each should be much longer than the correlation time.
    level : float, optional
        Coverage, in (0, 1).

    Returns
    -------
    tuple of float
        (mean, half-width).

    Raises
    ------
    InputError
        With fewer than two observations a batch.
    """
    x = np.asarray(values, dtype=float)
    size = x.size // batches
    if size < 2:
        raise InputError("observations", x.size, f">= {2 * batches} for {batches} batches", "run longer")
    return mean_interval(x[x.size - size * batches :].reshape(batches, size).mean(axis=1), level)


def quantile_interval(values: npt.ArrayLike, q: float, batches: int = 30, level: float = 0.95) -> tuple[float, float]:
    """Return a quantile of one long run and its half-width from batch quantiles; *approximation*.

    The batch quantiles' spread gives the width (they are biased for small batches, the centre is not: it is the
    quantile of the whole run). When batches are too short for q, the binomial interval of independent observations
    would be far too narrow for queues, hence an error instead.

    Parameters
    ----------
    values : array_like
        Observations in order of time, warm-up left out.
    q : float
        Quantile, in (0, 1).
    batches : int, optional
        Number of batches.
    level : float, optional
        Coverage, in (0, 1).

    Returns
    -------
    tuple of float
        (quantile, half-width).

    Raises
    ------
    InputError
        With fewer than 5/(1 - q) observations a batch, or q outside (0, 1).
    """
    x = np.asarray(values, dtype=float)
    if not 0 < q < 1:
        raise InputError("quantile", q, "in (0, 1)", "give e.g. 0.95")
    size = x.size // batches
    if size * min(q, 1 - q) < 5:
        raise InputError("observations", x.size, f">= {math.ceil(5 * batches / min(q, 1 - q))}", "run longer")
    cut = x[x.size - size * batches :].reshape(batches, size)
    _, half = mean_interval(np.quantile(cut, q, axis=1), level)
    return float(np.quantile(x, q)), half

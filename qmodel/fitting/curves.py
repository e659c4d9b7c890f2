"""Kernel times as smooth curves: cleaned table rows, interpolated in log-log."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError

__all__ = ["Curve", "Surface", "isotonic", "merge_duplicates", "outliers"]

Array = npt.NDArray[np.float64]

_MAX_SLOPE = 2.0  # no kernel here grows faster than the square of its tokens


def isotonic(y: npt.ArrayLike) -> Array:
    """Return the non-decreasing sequence nearest to `y` in least squares; *exact* (pool adjacent violators).

    Parameters
    ----------
    y : array_like
        Values in order of their abscissa.

    Returns
    -------
    ndarray
        Non-decreasing values, shape of `y`.

    Notes
    -----
    Barlow, Bartholomew, Bremner and Brunk, Statistical Inference under Order Restrictions (1972), section 1.2.

    Examples
    --------
    >>> isotonic([1.0, 3.0, 2.0, 4.0]).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in np.asarray(y, dtype=float):
        mean, size = float(value), 1
        while means and means[-1] > mean:
            previous, count = means.pop(), sizes.pop()
            mean, size = (mean * size + previous * count) / (size + count), size + count
        means.append(mean)
        sizes.append(size)
    return np.repeat(means, sizes)


def merge_duplicates(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Array, Array, int]:
    """Return sorted unique `x`, the median `y` of each, and how many rows were merged away.

    Parameters
    ----------
    x, y : array_like
        Abscissas and values, in any order.

    Returns
    -------
    tuple
        Unique x ascending, median y of each, rows merged.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    unique, inverse = np.unique(xs, return_inverse=True)
    if len(unique) == len(xs):
        order = np.argsort(xs)
        return xs[order], ys[order], 0
    medians = np.array([np.median(ys[inverse == i]) for i in range(len(unique))])
    return unique, medians, len(xs) - len(unique)


def outliers(x: Array, y: Array, factor: float = 4.0) -> npt.NDArray[np.bool_]:
    """Return which interior points differ by more than `factor` from the line between their neighbours in log-log.

    Parameters
    ----------
    x, y : ndarray
        Sizes, ascending and > 0, and values > 0.
    factor : float
        Ratio beyond which a point is an outlier; kernels change by less between adjacent sizes.

    Returns
    -------
    ndarray of bool
        True at outliers; never at the first or last point.
    """
    found = np.zeros(len(x), dtype=bool)
    if len(x) < 3:
        return found
    lx, ly = np.log(x), np.log(y)
    share = (lx[1:-1] - lx[:-2]) / (lx[2:] - lx[:-2])
    middle = ly[:-2] + share * (ly[2:] - ly[:-2])
    away = np.abs(ly[1:-1] - middle)
    found[1:-1] = away > np.log(factor)
    found[1:-1] &= away >= np.maximum(np.r_[0.0, away[:-1]], np.r_[away[1:], 0.0])
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Time of one kernel against its size: monotone nodes, linear between them in log-log.

    Parameters
    ----------
    x : ndarray
        Sizes (tokens or bytes), ascending and > 0.
    y_s : ndarray
        Times at the nodes [s], non-decreasing.
    noise : ndarray
        log(measured / smoothed) at each node; bootstrap draws from it.
    label : str
        Where the nodes come from; says when they were scaled from another shape.
    tail_slope : float, optional
        Log-log slope beyond the last node; by default that of the last segment, between 1 and 2.
    """

    x: Array
    y_s: Array
    noise: Array
    label: str = ""
    tail_slope: float | None = None

    @classmethod
    def fit(cls, x: npt.ArrayLike, y_s: npt.ArrayLike, label: str = "", tail_slope: float | None = None) -> Curve:
        """Return the monotone curve through measured points; duplicates count by their median.

        Parameters
        ----------
        x, y_s : array_like
            Sizes (> 0) and times [s] (> 0), in any order.
        label : str
            Where they come from.
        tail_slope : float, optional
            Log-log slope beyond the last node.

        Returns
        -------
        Curve
            With at least one node.

        Raises
        ------
        InputError
            When there is no point, or one is not finite and > 0.
        """
        xs, ys, _ = merge_duplicates(x, y_s)
        if not len(xs):
            raise InputError(f"kernel table of {label or 'a kernel'}", "empty", "at least one row")
        if not (np.all(np.isfinite(xs)) and np.all(xs > 0) and np.all(np.isfinite(ys)) and np.all(ys > 0)):
            raise InputError(f"kernel table of {label or 'a kernel'}", "not finite or not > 0", "finite and > 0")
        smooth = np.exp(isotonic(np.log(ys)))
        return cls(x=xs, y_s=smooth, noise=np.log(ys / smooth), label=label, tail_slope=tail_slope)

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Return times [s] at sizes `x`; 0 at 0, constant below the first node, a power law beyond the last."""
        size = np.asarray(x, dtype=float)
        safe = np.maximum(size, self.x[0])
        lx, ly = np.log(self.x), np.log(self.y_s)
        value = np.interp(np.log(safe), lx, ly)
        beyond = np.log(safe) - lx[-1]
        value = np.where(beyond > 0, ly[-1] + self._slope() * beyond, value)
        return np.where(size > 0, np.exp(value), 0.0)

    def _slope(self) -> float:
        if self.tail_slope is not None:
            return self.tail_slope
        if len(self.x) < 2:
            return 1.0
        slope = np.log(self.y_s[-1] / self.y_s[-2]) / np.log(self.x[-1] / self.x[-2])
        return float(np.clip(slope, 1.0, _MAX_SLOPE))

    def scaled(self, time_factor: float, size_factor: float = 1.0, fixed_s: float = 0.0, label: str = "") -> Curve:
        """Return the curve fixed + factor*(t(size_factor*x) - fixed), for a shape that was not measured.

        Parameters
        ----------
        time_factor : float
            Factor on the time above `fixed_s`.
        size_factor : float
            Size of the measured kernel per size of the wanted one.
        fixed_s : float
            Launch time that does not scale [s].
        label : str
            How it was scaled.
        """
        y = fixed_s + time_factor * np.maximum(self.y_s - fixed_s, 0.0)
        y = np.maximum(y, 1e-9)
        return replace(self, x=self.x / size_factor, y_s=y, label=label or self.label)

    def resampled(self, rng: np.random.Generator) -> Curve:
        """Return the curve with the table's own noise drawn anew at each node.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.
        """
        noise = rng.choice(self.noise, size=len(self.noise))
        return replace(self, y_s=np.exp(isotonic(np.log(self.y_s) + noise)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surface:
    """Time of a decode-attention kernel against batch and context, bilinear in log-log.

    Parameters
    ----------
    batches : ndarray
        Batches, ascending.
    curves : tuple of Curve
        Time against the context of each request [tokens], one per batch.
    label : str
        Where they come from.
    """

    batches: Array
    curves: tuple[Curve, ...]
    label: str = ""

    @classmethod
    def fit(cls, batch: npt.ArrayLike, context: npt.ArrayLike, y_s: npt.ArrayLike, label: str = "") -> Surface:
        """Return the surface through measured points, monotone in context at each batch.

        Parameters
        ----------
        batch, context, y_s : array_like
            Requests, context of each [tokens] and time [s], in any order.
        label : str
            Where they come from.
        """
        b, c, y = (np.asarray(v, dtype=float) for v in (batch, context, y_s))
        levels = np.unique(b)
        curves = tuple(Curve.fit(c[b == v], y[b == v], label, tail_slope=1.0) for v in levels)
        return cls(batches=levels, curves=curves, label=label)

    def __call__(self, batch: npt.ArrayLike, context: npt.ArrayLike) -> Array:
        """Return times [s] at `batch` requests with `context` tokens each; 0 at batch 0."""
        b, c = np.broadcast_arrays(np.asarray(batch, dtype=float), np.asarray(context, dtype=float))
        logs = np.log(np.stack([curve(np.maximum(c, 1.0)) for curve in self.curves]))
        lb = np.log(self.batches)
        at = np.log(np.maximum(b, self.batches[0]))
        high = np.clip(np.searchsorted(lb, at), 1, max(len(lb) - 1, 1)) if len(lb) > 1 else np.zeros(b.shape, int)
        if len(lb) == 1:
            value = logs[0] + (at - lb[0])
        else:
            low = high - 1
            share = (at - lb[low]) / (lb[high] - lb[low])
            first = np.take_along_axis(logs, low[None], axis=0)[0]
            second = np.take_along_axis(logs, high[None], axis=0)[0]
            inside = first + np.minimum(share, 1.0) * (second - first)
            value = inside + np.maximum(at - lb[-1], 0.0)
        return np.where(b > 0, np.exp(value), 0.0)

    def scaled(self, time_factor: float, *, batch_factor: float = 1.0, label: str) -> Surface:
        """Return the surface with times multiplied, for a shape that was not measured.

        Parameters
        ----------
        time_factor : float
            Factor on the time.
        batch_factor : float
            Requests of the measured kernel per request of the wanted one.
        label : str
            How it was scaled.
        """
        curves = tuple(c.scaled(time_factor, label=label) for c in self.curves)
        return replace(self, batches=self.batches / batch_factor, curves=curves, label=label)

    def resampled(self, rng: np.random.Generator) -> Surface:
        """Return the surface with the table's own noise drawn anew.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.
        """
        return replace(self, curves=tuple(c.resampled(rng) for c in self.curves))

"""What sample paths share: draws from weighted values, and averages corrected by controls of known mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qmodel._kernels.queueing_paths import pick

__all__ = ["Choice", "regressed"]

FloatArray = npt.NDArray[np.float64]

#: Ridge of the regression, relative: controls may be copies of each other.
RIDGE = 1e-9


class Choice:
    """Draws from weighted values by a table of where to look."""

    def __init__(self, values: FloatArray, weights: FloatArray) -> None:
        cumulative = np.cumsum(weights)
        self.values = np.ascontiguousarray(values)
        self.cumulative = cumulative / cumulative[-1]
        self.cumulative[-1] = 2.0
        cells = 1 << max(len(values).bit_length() + 2, 8)
        self.first = np.searchsorted(self.cumulative, np.arange(cells) / cells, side="right").astype(np.int64)

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return `count` draws."""
        out = np.empty(count)
        pick(rng.random(count), self.cumulative, self.first, self.values, out)
        return out


def regressed(own: FloatArray, controls: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return means of `own` over rows, less the regression on controls of mean zero, and standard errors.

    Parameters
    ----------
    own : ndarray, shape (rows, points)
        What is to be averaged.
    controls : ndarray, shape (controls, rows, points) or (rows, points)
        What its deviations are explained by.
    """
    controls = controls if controls.ndim == 3 else controls[None]
    rows, count = len(own), len(controls)
    mean, off = own.mean(axis=0), controls.mean(axis=1)
    spread, moved = own - mean, controls - off[:, None]
    square = np.einsum("irp,jrp->pij", moved, moved)
    size = np.trace(square, axis1=1, axis2=2)
    square += np.where(size > 0, RIDGE * size, 1.0)[:, None, None] * np.eye(count)
    beta = np.linalg.solve(square, np.einsum("irp,rp->pi", moved, spread)[..., None])[..., 0]
    rest = ((spread - np.einsum("pi,irp->rp", beta, moved)) ** 2).sum(axis=0)
    return mean - np.einsum("pi,ip->p", beta, off), np.sqrt(rest / ((rows - 1 - count) * rows))

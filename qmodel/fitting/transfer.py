"""Transfer laws from measurements: send/receive tables, or any (bytes, seconds)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.laws import TransferLaw
from qmodel.units import MS

__all__ = ["TransferFit", "fit_transfer", "read_send_recv"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFit:
    """A fixed time and a rate, with the errors of the fit.

    Parameters
    ----------
    fixed_s : float
        Time of an empty transfer [s].
    bytes_per_s : float
        Rate [bytes/s].
    mape, worst : float
        Mean and largest relative error.
    rows : int
        Measurements.
    """

    fixed_s: float
    bytes_per_s: float
    mape: float
    worst: float
    rows: int

    def law(
        self, kv_bytes_per_token: float, *, layers: int = 1, gpus: int = 1, streams: int = 1, pipelined: bool = False
    ) -> TransferLaw:
        """Return the transfer law of an instance whose GPUs and streams each reach the fitted rate.

        Parameters
        ----------
        kv_bytes_per_token : float
            Size of the cache of one token [bytes].
        layers : int
            Layers of the model.
        gpus, streams : int
            GPUs of the instance, and streams of each; stay within the link's own rate.
        pipelined : bool
            Whether layers are sent while later ones are computed.
        """
        return TransferLaw(
            fixed_s=self.fixed_s,
            bytes_per_s=self.bytes_per_s * gpus * streams,
            kv_bytes_per_token=kv_bytes_per_token,
            layers=layers,
            pipelined=pipelined,
        )


def fit_transfer(sizes_bytes: npt.ArrayLike, times_s: npt.ArrayLike) -> TransferFit:
    """Return time = fixed + bytes/rate by relative least squares with both >= 0; *empirical*.

    Parameters
    ----------
    sizes_bytes, times_s : array_like
        Measured transfers: bytes (> 0) and seconds (> 0).

    Returns
    -------
    TransferFit
        Fixed time and rate.

    Raises
    ------
    InputError
        When there are fewer than three measurements, one is not finite and > 0, or time does not grow with bytes.

    Examples
    --------
    >>> fit = fit_transfer([1e6, 1e7, 1e8], [0.0011, 0.002, 0.011])
    >>> round(fit.fixed_s, 6), round(fit.bytes_per_s / 1e9, 3)
    (0.001, 10.0)
    """
    from scipy.optimize import nnls

    size, time = np.asarray(sizes_bytes, dtype=float), np.asarray(times_s, dtype=float)
    if size.shape != time.shape or len(size) < 3:
        raise InputError("measured transfers", len(size), ">= 3 pairs of bytes and seconds")
    for what, values in (("bytes", size), ("seconds", time)):
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            at = int(np.argmax(bad))
            raise InputError(f"{what} of transfer {at + 1}", float(values[at]), "finite and > 0")
    scale = float(size.max())
    (fixed, slope), _ = nnls(np.column_stack([np.ones(len(size)), size / scale]) / time[:, None], np.ones(len(size)))
    if slope <= 0:
        raise InputError("transfer time", "not growing with bytes", "growing", "measure larger transfers")
    error = np.abs((fixed + slope * size / scale) / time - 1)
    return TransferFit(
        fixed_s=float(fixed),
        bytes_per_s=float(scale / slope),
        mape=float(error.mean()),
        worst=float(error.max()),
        rows=len(size),
    )


def read_send_recv(path: str | Path, devices_per_node: int = 1) -> tuple[Array, Array]:
    """Return bytes and median seconds of a Vidur ``send_recv.csv``.

    Parameters
    ----------
    path : str or Path
        CSV file; times in ms.
    devices_per_node : int
        1: between two nodes; 2: inside one node.

    Returns
    -------
    tuple of ndarray
        Bytes and seconds.

    Raises
    ------
    InputError
        When the file or a column is missing, or has no such rows.
    """
    import pandas as pd

    file = Path(path)
    if not file.is_file():
        raise InputError("transfer profile", f"'{file}', which does not exist", remedy="check the path")
    frame = pd.read_csv(file)
    needed = ("time_stats.send_recv.median", "size", "devices_per_node")
    missing = [name for name in needed if name not in frame]
    if missing:
        raise InputError(f"columns of '{file}'", f"without {', '.join(missing)}", f"with {', '.join(needed)}")
    rows = frame[frame["devices_per_node"] == devices_per_node]
    if not len(rows):
        there = ", ".join(str(v) for v in sorted(frame["devices_per_node"].unique()))
        raise InputError(f"devices_per_node in '{file}'", devices_per_node, f"one of {there}")
    return rows["size"].to_numpy(dtype=float), rows["time_stats.send_recv.median"].to_numpy(dtype=float) * MS

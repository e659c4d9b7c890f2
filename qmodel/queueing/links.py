"""Network links: transfers that share a link, or queue for it, after a fixed cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.checks import check_array, check_load, check_number, check_service
from qmodel.queueing.metrics import QueueMetrics
from qmodel.queueing.mgk import mgk

__all__ = ["FcfsLink", "SharedLink", "fcfs_link", "shared_link"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLink:
    """A link whose transfers in progress share its bandwidth equally.

    Parameters
    ----------
    utilisation : float
        Load rho of the link.
    mean_transfer_s : float
        Mean time of a transfer alone [s], fixed cost left out.
    fixed_s : float
        Time before the transfer takes bandwidth [s].
    """

    utilisation: float
    mean_transfer_s: float
    fixed_s: float

    def transfer_s(self, alone_s: npt.ArrayLike) -> FloatArray:
        """Return the mean time [s] of a transfer that would take `alone_s` [s] alone: fixed + alone/(1 - rho)."""
        return np.asarray(self.fixed_s + _checked_alone(alone_s) / (1 - self.utilisation))

    @property
    def mean_s(self) -> float:
        """Mean time of a transfer [s]."""
        return self.fixed_s + self.mean_transfer_s / (1 - self.utilisation)


def shared_link(arrival_rate_per_s: float, transfer: ServiceTime, fixed_s: float = 0.0) -> SharedLink:
    """Exact: M/G/1 processor sharing, E[T | x] = x/(1 - rho), insensitive to the law of sizes.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate of transfers [1/s].
    transfer : ServiceTime
        Law of the time a transfer takes alone [s].
    fixed_s : float
        Cost that takes no bandwidth [s].

    Returns
    -------
    SharedLink
        Mean times by size.

    Raises
    ------
    UnstableError
        When the link's load is 1 or more.

    Notes
    -----
    Kleinrock, Queueing Systems II (1976), eq. 4.17.

    Examples
    --------
    >>> float(shared_link(5.0, ServiceTime.exponential(0.1), 0.001).transfer_s(0.2))
    0.401
    """
    _check_fixed(fixed_s)
    load = check_load(arrival_rate_per_s, 1, check_service(transfer).mean_s)
    return SharedLink(utilisation=load, mean_transfer_s=transfer.mean_s, fixed_s=float(fixed_s))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FcfsLink:
    """A link that serves one transfer after the other.

    Parameters
    ----------
    queue : QueueMetrics
        The wait for the link.
    mean_transfer_s : float
        Mean time of a transfer alone [s], fixed cost left out.
    fixed_s : float
        Time that takes no bandwidth [s].
    """

    queue: QueueMetrics
    mean_transfer_s: float
    fixed_s: float

    def transfer_s(self, alone_s: npt.ArrayLike) -> FloatArray:
        """Return the mean time [s] of a transfer that takes `alone_s` [s] alone: fixed + wait + alone."""
        return np.asarray(self.fixed_s + self.queue.mean_wait_s + _checked_alone(alone_s))

    @property
    def mean_s(self) -> float:
        """Mean time of a transfer [s]."""
        return self.fixed_s + self.queue.mean_wait_s + self.mean_transfer_s


def fcfs_link(arrival_rate_per_s: float, transfer: ServiceTime, fixed_s: float = 0.0, links: int = 1) -> FcfsLink:
    """Exact for one link: M/G/1 (several: M/G/k) in order of arrival, plus a fixed cost.

    Parameters
    ----------
    arrival_rate_per_s : float
        Poisson rate of transfers [1/s].
    transfer : ServiceTime
        Law of the time a transfer takes alone [s].
    fixed_s : float
        Cost that takes no bandwidth [s].
    links : int
        Number of links that serve one queue.

    Returns
    -------
    FcfsLink
        Mean times by size and the law of the wait.

    Raises
    ------
    UnstableError
        When the load is 1 or more.

    Notes
    -----
    Pollaczek (1930), Khinchine (1932): see `mgk`.

    Examples
    --------
    >>> link = fcfs_link(5.0, ServiceTime.exponential(0.1), 0.001)
    >>> round(link.mean_s, 6) # lam m^2/(1 - rho) + m + fixed
    0.201
    """
    _check_fixed(fixed_s)
    queue = mgk(arrival_rate_per_s, links, transfer)
    return FcfsLink(queue=queue, mean_transfer_s=transfer.mean_s, fixed_s=float(fixed_s))


def _checked_alone(alone_s: npt.ArrayLike) -> FloatArray:
    alone = check_array("time of a transfer alone", alone_s)
    bad = ~(np.isfinite(alone) & (alone >= 0))
    if bad.any():
        raise InputError("time of a transfer alone", float(alone[bad][0]), "finite and >= 0")
    return alone


def _check_fixed(fixed_s: float) -> None:
    fixed_s = check_number("fixed time", fixed_s)
    if not (np.isfinite(fixed_s) and fixed_s >= 0):
        raise InputError("fixed cost of a transfer", fixed_s, "finite and >= 0")

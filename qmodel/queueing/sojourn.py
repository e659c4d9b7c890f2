"""Time in the system: the wait and the service that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.distributions.parts import Atoms, Part
from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.checks import check_number, check_service, shown
from qmodel.queueing.metrics import QueueMetrics, checked_times, search_quantile

__all__ = ["sojourn_quantile_s", "sojourn_tail"]

FloatArray = npt.NDArray[np.float64]

#: Cells of the coarser of two sums over services that are not point masses.
CELLS = 256
#: Relative difference of means up to which a service law is that of the queue.
SAME_MEAN = 1e-6
#: Numbers held at once while a tail is computed.
AT_ONCE = 1 << 21


def sojourn_tail(metrics: QueueMetrics, service: ServiceTime, t: npt.ArrayLike) -> FloatArray:
    """Exact given the wait: P(W + S > t), the time in the system, wait and service.

    In order of arrival a customer's wait does not depend on its own service, so

        P(W + S > t) = P(S > t) + integral_0^t P(W > t - u) dB(u).

    Parameters
    ----------
    metrics : QueueMetrics
        The law of the wait, of a FCFS queue.
    service : ServiceTime
        The law of a service time that the queue was solved for.
    t : array_like
        Times [s].

    Returns
    -------
    ndarray
        Probabilities, of the shape of `t`; 1 at negative times. Sums over point masses are exact, those over other laws
        within 1e-6.

    Raises
    ------
    InputError
        When `metrics` is not that of a queue, or `service` has another mean than its services.

    Notes
    -----
    Kleinrock, Queueing Systems I (1975), sec. 5.7 (one server); FCFS with any number alike.

    Examples
    --------
    >>> from qmodel.queueing import mmk
    >>> float(sojourn_tail(mmk(0.5, 1, 1.0), ServiceTime.exponential(1.0), 2.0).round(6)) # exp(-(mu - lam) t)
    0.367879
    """
    law = _sojourn(metrics, service)
    at = checked_times(t)
    return np.asarray(np.where(at < 0, 1.0, law.tail(np.maximum(at, 0.0))))


def sojourn_quantile_s(metrics: QueueMetrics, service: ServiceTime, q: float) -> float:
    """Exact given the wait: the q quantile of the time in the system [s], wait and service.

    Parameters
    ----------
    metrics : QueueMetrics
        The law of the wait, of a FCFS queue.
    service : ServiceTime
        The law of a service time that the queue was solved for.
    q : float
        Level, at least 0 and below 1.

    Returns
    -------
    float
        The least t [s] with P(W + S <= t) >= q.

    Raises
    ------
    InputError
        When `metrics` is not that of a queue, `service` has another mean than its services, or q is out of range.

    Examples
    --------
    >>> from qmodel.queueing import mmk
    >>> round(sojourn_quantile_s(mmk(0.5, 1, 1.0), ServiceTime.exponential(1.0), 0.9), 4) # ln(10)/(mu - lam)
    4.6052
    """
    law = _sojourn(metrics, service)
    if not 0.0 <= check_number("quantile level", q) < 1.0:
        raise InputError("quantile level", q, "at least 0 and below 1")
    return search_quantile(law, q, metrics.mean_sojourn_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sojourn:
    """P(W + S > t), W and S independent."""

    metrics: QueueMetrics
    service: ServiceTime

    def tail(self, t: FloatArray) -> FloatArray:
        """Return P(W + S > t) at t >= 0."""
        flat = np.ravel(t)
        found = np.array(self.service.tail(flat))
        for weight, part in zip(self.service.weights, self.service.parts, strict=True):
            points = len(part.values) if isinstance(part, Atoms) else 3 * CELLS
            size = max(AT_ONCE // points, 1)
            for first in range(0, flat.size, size):
                some = slice(first, first + size)
                found[some] += weight * self._waited(part, flat[some])
        return np.clip(found, 0.0, 1.0).reshape(np.shape(t))

    def quantile(self, q: float, scale: float) -> float:
        """Return the q quantile [s]."""
        return search_quantile(self, q, scale)

    def _waited(self, part: Part, t: FloatArray) -> FloatArray:
        """Return P(S <= t < W + S) for services by `part`."""
        if isinstance(part, Atoms):
            left = np.subtract.outer(t, part.values)
            return np.asarray(np.where(left >= 0, self.metrics.wait_tail(left), 0.0) @ part.weights)
        coarse, fine = (self._sum(part, t, cells) for cells in (CELLS, 2 * CELLS))
        return np.asarray((4 * fine - coarse) / 3)

    def _sum(self, part: Part, t: FloatArray, cells: int) -> FloatArray:
        """Return the integral of P(W > t - u) over services u < t by the midpoint rule, cells finest at both ends."""
        x = np.linspace(0.0, 1.0, cells + 1)
        edges = np.multiply.outer(t, x * x * (3 - 2 * x))
        mass = -np.diff(part.tail(edges), axis=1)
        middle = (edges[:, 1:] + edges[:, :-1]) / 2
        return np.asarray((mass * self.metrics.wait_tail(t[:, None] - middle)).sum(axis=1))


def _sojourn(metrics: object, service: object) -> _Sojourn:
    if not isinstance(metrics, QueueMetrics):
        raise InputError("queue", shown(metrics), "the metrics of a queue", "take those that mgk or ggk returns")
    law = check_service(service)
    if abs(law.mean_s / metrics.mean_service_s - 1) > SAME_MEAN:
        limit = f"that of the queue, {metrics.mean_service_s:.6g}"
        raise InputError("mean service time", law.mean_s, limit, "pass the law that the queue was solved for")
    return _Sojourn(metrics=metrics, service=law)

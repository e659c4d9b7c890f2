"""Bursty arrivals in steady state, no deflection: the wait of a Markov-modulated queue, exact as a QBD.

The rate of arriving work, window by window, is taken as that of a chain which switches between two levels. Work then
arrives as a Markov-modulated Poisson process, whose queue at k prefill instances is solved as a quasi-birth-and-death
process. What packing adds is measured on a path whose arrivals follow the windows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel.queueing import mmpp_k
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.system.accuracy import method_errors
from qmodel.system.decode import decode_pool
from qmodel.system.prediction import Prediction
from qmodel.system.prefill import prefill_path
from qmodel.system.stationary import COUPLED, coupled, quantiles_of, saturated_work_s, service_of
from qmodel.system.streams import lengths_of, path_of

__all__ = ["modulation", "predict_bursty"]

FloatArray = npt.NDArray[np.float64]
_WINDOW_S = 10.0  # as for the windows method
_NEGLIGIBLE = 0.05  # covariances below this share of the first are taken as noise
_FASTEST = 1e-3  # of its state a chain keeps at least this from one window to the next


def modulation(rates_per_s: npt.ArrayLike, width_s: float) -> tuple[FloatArray, FloatArray]:
    """Return (level rates, switching rates) [1/s] of the two-state chain with the moments of a row of windows.

    Lagged covariances c_h of the windows' rates (in a circle) hold no counting noise; those of a chain that switches
    at rates q1, q2 fall as exp(-(q1 + q2)*h*width). Their sum gives q1 + q2, c_1 the variance of the chain, and the
    third central moment which share p of the time is spent at the higher rate: skewness = (1 - 2p)/sqrt(p(1 - p)).
    A lower rate below 0 is set to 0, keeping mean and variance; without positive covariance there is one level.

    Parameters
    ----------
    rates_per_s : array_like, shape (n,)
        Arrival rate in each window [1/s].
    width_s : float
        Width of a window [s].

    Notes
    -----
    After Heffes & Lucantoni, IEEE J. Sel. Areas Commun. 4 (1986), with windows in place of count moments.
    """
    rate = np.asarray(rates_per_s, dtype=float)
    mean, x = float(rate.mean()), rate - rate.mean()
    lagged = np.array([float(np.mean(x * np.roll(x, -h))) for h in range(max(2, len(x) // 4))])
    if not lagged[1] > 0:
        return np.array([mean]), np.zeros((1, 1))
    low = np.flatnonzero(lagged[1:] <= _NEGLIGIBLE * lagged[1])
    last = max(int(low[0]), 1) if len(low) else len(lagged) - 1
    total = float(lagged[1 : 1 + last].sum()) / (1.0 - _NEGLIGIBLE)
    kept = max(1.0 - lagged[1] / total, _FASTEST)  # exp(-(q1 + q2)*width): sum_h c_h = c_1/(1 - kept)
    switching = -np.log(kept) / width_s
    variance = min(lagged[1] / kept, lagged[0])
    skewness = float(np.mean(x**3)) / variance**1.5
    p = 0.5 * (1.0 - skewness / np.sqrt(4.0 + skewness**2))
    lower, higher = mean - np.sqrt(variance * p / (1 - p)), mean + np.sqrt(variance * (1 - p) / p)
    if lower < 0:
        p = mean**2 / (variance + mean**2)
        lower, higher = 0.0, mean / p
    return np.array([lower, higher]), switching * np.array([[0.0, p], [1.0 - p, 0.0]])


def predict_bursty(
    cluster: Cluster, workload: Workload, slo: SLO, fidelity: Literal["fast", "balanced", "exact"] = "balanced"
) -> Prediction:
    """Return the steady state under arrivals that keep changing as the workload's windows do; *approximation*.

    Decode batches follow the path of arrivals.

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    workload : Workload
        Gives windows of 10 s, of the recording's own clock, and the law of lengths.
    slo : SLO
        Limits for attainment.
    fidelity : {"fast", "balanced", "exact"}
        Length of the coupled path.

    Returns
    -------
    Prediction
        Laws of TTFT and TBT.

    Raises
    ------
    UnstableError
        When the mean load of a pool is 1 or more.
    """
    lengths, drawn = lengths_of(workload.source), path_of(workload.source, COUPLED[fidelity])
    work = saturated_work_s(cluster, lengths.prompt, lengths.cached)
    # windows of the recording, so that another rate sees the same ones
    start, _, offered = workload.windows(cluster, _WINDOW_S * workload.time_scale)
    width = workload.span_s / len(start)
    # work counts, not requests: lengths drift too, and a window of long prompts is a burst
    rate = offered * (workload.rate_per_s / float(offered.mean()))
    levels, switch = modulation(rate, width)
    law = mmpp_k(levels, switch, cluster.prefill_count, service_of(work, lengths.weights))
    pool = decode_pool(cluster, workload.rate_per_s, lengths.residence)
    method = (
        f"bursty: MMPP({len(levels)})/G/{cluster.prefill_count} in work from windows of {width:.3g} s, packed steps "
        "and decode batches by a coupled path"
    )
    arrival = _at_windows(drawn.arrival, rate, width)
    path = prefill_path(cluster, arrival, drawn.prompt, drawn.cached, pool.decode_s(drawn.output))
    return coupled(
        cluster, slo, drawn, path, arrival, work, quantiles_of(law), pool, light=True, method=method,
        errors=method_errors("bursty"),
    )  # fmt: skip


def _at_windows(unit_arrivals: FloatArray, rate: FloatArray, width: float) -> FloatArray:
    """Return unit-rate arrivals on the clock of windows that repeat [s]: the inverse of their cumulative rate."""
    passed = np.concatenate([[0.0], np.cumsum(rate * width)])
    turns = np.floor(unit_arrivals / passed[-1])
    clock = np.arange(len(passed)) * width
    return np.asarray(np.interp(unit_arrivals - turns * passed[-1], passed, clock) + turns * clock[-1])

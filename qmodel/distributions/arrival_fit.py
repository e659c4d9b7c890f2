"""Fits of arrival laws: from rate, SCV and indices of dispersion, or from the arrival times of a trace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.distributions.arrivals import (
    Arrivals,
    MmppArrivals,
    PoissonArrivals,
    RenewalArrivals,
    checked_times,
)
from qmodel.distributions.checks import check_array, check_positive
from qmodel.errors import InputError, OutOfRangeError

__all__ = ["ArrivalFit", "fit_arrivals", "fit_mmpp", "measured_dispersion"]

FloatArray = npt.NDArray[np.float64]

#: Windows in mean gaps at which a trace is measured by default, and windows of a length that it must hold.
WINDOWS, LEAST_WINDOWS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0), 20
#: Index of dispersion at every window up to which arrivals count as independent.
CALM = 1.15
#: Points of the search for the time scale of bursts and for the share of time in one.
SEARCH = 400


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrivalFit:
    """A fitted arrival law beside what it was fitted to.

    Parameters
    ----------
    arrivals : Arrivals
        The law.
    scv : float
        SCV of the gaps that was asked for or measured.
    windows_s, idc : ndarray, shape (windows,)
        Windows [s] and indices of dispersion that were asked for or measured.
    scv_error : float
        Relative error of the law's SCV.
    idc_error : ndarray, shape (windows,)
        Relative errors of the law's indices of dispersion.
    """

    arrivals: Arrivals
    scv: float
    windows_s: FloatArray
    idc: FloatArray
    scv_error: float
    idc_error: FloatArray

    @property
    def worst(self) -> float:
        """Largest relative error of all that was fitted."""
        return float(max(abs(self.scv_error), np.abs(self.idc_error).max(initial=0.0)))


def _fit(arrivals: Arrivals, scv: float, windows: FloatArray, idc: FloatArray) -> ArrivalFit:
    found = np.array([arrivals.idc(float(window)) for window in windows])
    return ArrivalFit(
        arrivals=arrivals,
        scv=scv,
        windows_s=windows,
        idc=idc,
        scv_error=arrivals.scv / scv - 1,
        idc_error=found / idc - 1,
    )


def fit_mmpp(rate_per_s: float, scv: float, windows_s: npt.ArrayLike, idc: npt.ArrayLike) -> ArrivalFit:
    """Approximation: the two-phase MMPP nearest to a rate, an SCV of gaps and indices of dispersion of counts.

    IDC(t) = 1 + A (1 - (1 - exp(-s t))/(s t)) is fitted by least squares in log IDC over its time scale 1/s and height
    A; what remains free, the share of time in the busy phase, is chosen for the SCV. The rate is always exact.

    Parameters
    ----------
    rate_per_s : float
        Mean arrivals per second.
    scv : float
        Squared coefficient of variation of the gaps, above 1.
    windows_s, idc : array_like, shape (windows,)
        Windows [s] and variance over mean of the counts in them, above 1 in some.

    Returns
    -------
    ArrivalFit
        The law and how well it fits.

    Raises
    ------
    OutOfRangeError
        When the counts or gaps are no more variable than Poisson ones.
    InputError
        When something is not finite and positive.

    Notes
    -----
    Heffes & Lucantoni, IEEE JSAC 4 (1986); Gusella, IEEE JSAC 9 (1991).

    Examples
    --------
    >>> law = MmppArrivals(rates_per_s=(1.0, 6.0), switch_per_s=(0.05, 0.2))
    >>> windows = [1.0, 10.0, 100.0]
    >>> fit = fit_mmpp(law.rate_per_s, law.scv, windows, [law.idc(t) for t in windows])
    >>> bool(fit.worst < 0.01)
    True
    """
    windows, wanted = np.atleast_1d(check_array("windows", windows_s)), np.atleast_1d(check_array("indices", idc))
    if windows.ndim != 1 or windows.shape != wanted.shape or windows.size == 0:
        raise InputError("windows and indices", f"of shapes {windows.shape}, {wanted.shape}", "one index per window")
    rate_per_s, scv = check_positive("arrival rate", rate_per_s), check_positive("scv of gaps", scv)
    for name, array in (("window", windows), ("idc", wanted)):
        if not np.all(np.isfinite(array) & (array > 0)):
            raise InputError(name, float(array[~(np.isfinite(array) & (array > 0))][0]), "finite and > 0")
    if not (wanted.max() > 1 and scv > 1):
        raise OutOfRangeError(
            "scv or largest idc", min(scv, float(wanted.max())), "above 1", "use RenewalArrivals.gamma"
        )
    scales = np.geomspace(1e-3 / windows.max(), 1e3 / windows.min(), SEARCH)
    for _ in range(4):
        ramps = 1 + np.expm1(-np.multiply.outer(scales, windows)) / np.multiply.outer(scales, windows)
        heights = _heights(ramps, wanted)
        misses = ((np.log1p(heights[:, None] * ramps) - np.log(wanted)) ** 2).sum(axis=1)
        best = int(np.argmin(misses))
        near = scales[max(best - 1, 0)], scales[min(best + 1, SEARCH - 1)]
        height, scale = float(heights[best]), float(scales[best])
        scales = np.geomspace(*near, SEARCH)
    # Share of time in the busy phase: as long as the quiet phase has a rate >= 0.
    most = rate_per_s / (rate_per_s + height * scale / 2)
    shares = (1 - most) + most * np.geomspace(1e-9, 1.0, SEARCH)[:-1]
    laws = [_law(rate_per_s, height, scale, float(share)) for share in shares]
    gaps = np.array([law.scv for law in laws])
    pick = laws[int(np.argmin(np.abs(np.log(gaps / scv))))]
    return _fit(pick, scv, windows, wanted)


def _heights(ramps: FloatArray, idc: FloatArray) -> FloatArray:
    """Return the height A for each time scale, by Gauss-Newton steps on log(1 + A*ramp) - log(idc)."""
    height = np.maximum((ramps * (idc - 1)).sum(axis=1) / (ramps * ramps).sum(axis=1), 1e-9)
    for _ in range(30):
        value = 1 + height[:, None] * ramps
        slope = ramps / value
        step = (slope * (np.log(value) - np.log(idc))).sum(axis=1) / (slope * slope).sum(axis=1)
        height = np.maximum(height - np.clip(step, -height, height), 1e-9)
    return np.asarray(height)


def _law(rate: float, height: float, scale: float, quiet: float) -> MmppArrivals:
    """Return the MMPP of a mean rate, height A, time scale 1/s and share of time in the quiet phase."""
    busy = 1 - quiet
    apart = np.sqrt(height * scale * rate / (2 * quiet * busy))
    rates = (max(float(rate - busy * apart), 0.0), float(rate + quiet * apart))
    return MmppArrivals(rates_per_s=rates, switch_per_s=(scale * busy, scale * quiet))


def measured_dispersion(
    arrival_s: npt.ArrayLike, windows_s: npt.ArrayLike | None = None
) -> tuple[float, float, FloatArray, FloatArray]:
    """Return (rate [1/s], SCV of gaps, windows [s], indices of dispersion) of a trace's arrival times.

    Parameters
    ----------
    arrival_s : array_like
        Arrival times [s], sorted.
    windows_s : array_like, optional
        Windows [s]; by default 3 to 1,000 mean gaps, as far as the trace holds twenty of them.

    Returns
    -------
    tuple
        Rate, SCV, windows and indices.

    Raises
    ------
    InputError
        When times are not sorted, or too few for the windows.

    Notes
    -----
    Cox & Lewis, The Statistical Analysis of Series of Events (1966), sec. 4.5: variance over mean of counts.

    Examples
    --------
    >>> times = np.cumsum(np.random.default_rng(0).exponential(0.5, 20_000))
    >>> rate, scv, windows, idc = measured_dispersion(times, [5.0, 50.0])
    >>> round(rate, 1), bool(abs(scv - 1) < 0.05), bool(np.abs(idc - 1).max() < 0.2)
    (2.0, True, True)
    """
    times = checked_times(arrival_s)
    horizon, gaps = float(times[-1] - times[0]), np.diff(times)
    mean = horizon / gaps.size
    windows = np.array(WINDOWS) * mean if windows_s is None else np.atleast_1d(check_array("windows", windows_s))
    if not np.all(np.isfinite(windows) & (windows > 0)):
        raise InputError("window", "not finite or not > 0", "finite and > 0")
    if windows_s is None:
        windows = windows[windows * LEAST_WINDOWS <= horizon]
    if windows.size == 0 or windows.max() * LEAST_WINDOWS > horizon * (1 + 1e-9):
        raise InputError(
            "length of the trace", horizon, f"at least {LEAST_WINDOWS} windows", "use shorter windows or a longer trace"
        )
    found = []
    for window in windows:
        counts = np.diff(np.searchsorted(times, times[0] + np.arange(int(horizon / window) + 1) * window))
        found.append(counts.var(ddof=1) / counts.mean())
    return 1 / mean, float(gaps.var() / mean**2), windows, np.array(found)


def fit_arrivals(arrival_s: npt.ArrayLike, windows_s: npt.ArrayLike | None = None) -> ArrivalFit:
    """Approximation: a stationary arrival law with the rate, SCV and dispersion of a trace's arrival times.

    Bursty counts give an MMPP; counts that are not more variable than Poisson ones give gamma gaps, or a Poisson
    process when the SCV is near one. Rates that drift belong in `WindowedArrivals.from_times`.

    Parameters
    ----------
    arrival_s : array_like
        Arrival times [s], sorted.
    windows_s : array_like, optional
        Windows of the indices of dispersion [s].

    Returns
    -------
    ArrivalFit
        The law and how well it fits.

    Raises
    ------
    InputError
        When times are not sorted, or too few for the windows.

    Notes
    -----
    Heffes & Lucantoni, IEEE JSAC 4 (1986), for the MMPP.

    Examples
    --------
    >>> log = MmppArrivals(rates_per_s=(1.0, 6.0), switch_per_s=(0.05, 0.2)).sample(50_000, np.random.default_rng(0))
    >>> fit = fit_arrivals(log)
    >>> type(fit.arrivals).__name__, bool(fit.worst < 0.1)
    ('MmppArrivals', True)
    """
    rate, scv, windows, idc = measured_dispersion(arrival_s, windows_s)
    scv, idc = max(scv, 1e-3), np.maximum(idc, 1e-3)
    if idc.max() > CALM and scv > 1:
        return _fit(fit_mmpp(rate, scv, windows, idc).arrivals, scv, windows, idc)
    if abs(scv - 1) <= CALM - 1:
        return _fit(PoissonArrivals(rate_per_s=rate), scv, windows, idc)
    return _fit(RenewalArrivals.gamma(rate, scv), scv, windows, idc)

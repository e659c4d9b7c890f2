"""How predictions vary with calibrations drawn from the uncertainty of their fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InfeasibleError, InputError, UnstableError

if TYPE_CHECKING:
    from qmodel.laws import Calibration
    from qmodel.scenario import Cluster
    from qmodel.scenario.cluster import InstanceGroup
    from qmodel.system.prediction import Prediction

__all__ = ["COVERAGE", "CalibrationInterval", "drawn_clusters", "headline", "interval_of", "with_interval"]

COVERAGE = 0.90
MIN_DRAWS, MAX_DRAWS = 2, 10_000
_QUANTILES = (0.5, 0.95, 0.99)
_SHARES = ("ttft_attainment", "tbt_attainment", "slo_attainment", "deflected_share")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationInterval:
    """Where predicted metrics lie when the calibration is drawn from its fit's covariance.

    Parameters
    ----------
    intervals : Mapping
        Metric, e.g. ``p95_ttft_s``, to its 5 % and 95 % quantile over draws; times in seconds.
    draws : int
        Calibrations drawn.
    unstable : int
        How many of them leave a pool overloaded; they are not in the intervals, whose upper ends are then too low.
    """

    intervals: Mapping[str, tuple[float, float]]
    draws: int
    unstable: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        intervals = {name: list(limits) for name, limits in self.intervals.items()}
        return {"draws": self.draws, "coverage": COVERAGE, "unstable": self.unstable, "intervals": intervals}

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line when some draws are unstable."""
        if not self.unstable:
            return ()
        return (
            f"{self.unstable} of {self.draws} draws of the calibration overload a pool: the upper limits are larger "
            "than the intervals say",
        )


def drawn_clusters(cluster: Cluster, draws: int, seed: int) -> list[Cluster]:
    """Return copies of a cluster whose calibrations are drawn; instances that share one share its draw.

    Parameters
    ----------
    cluster : Cluster
        Whose calibrations have standard errors.
    draws : int
        Copies, 2 to 10,000.
    seed : int
        Seed of the draws.

    Returns
    -------
    list of Cluster
        The same for the same seed.

    Raises
    ------
    InputError
        When `draws` is out of range or a calibration has no standard errors.
    """
    if not (isinstance(draws, (int, np.integer)) and MIN_DRAWS <= draws <= MAX_DRAWS):
        raise InputError("draws", draws, f"a whole number from {MIN_DRAWS} to {MAX_DRAWS}", "20 give 90 % intervals")
    rng = np.random.default_rng(seed)
    distinct = dict.fromkeys((cluster.calibration, *cluster.prefill_calibrations, *cluster.decode_calibrations))
    drawn = {id(c): c.draws(int(draws), rng) for c in distinct}
    return [_with(cluster, {key: copies[i] for key, copies in drawn.items()}) for i in range(draws)]


def _with(cluster: Cluster, drawn: Mapping[int, Calibration]) -> Cluster:
    def pool(value: int | tuple[InstanceGroup, ...]) -> int | tuple[InstanceGroup, ...]:
        if not isinstance(value, tuple):
            return value
        return tuple(replace(group, calibration=drawn[id(group.calibration)]) for group in value)

    calibration = drawn[id(cluster.calibration)]
    return cluster.with_(calibration=calibration, prefill=pool(cluster.prefill), decode=pool(cluster.decode))


def interval_of(clusters: Iterable[Cluster], evaluate: Callable[[Cluster], Mapping[str, float]]) -> CalibrationInterval:
    """Return the 90 % intervals of what `evaluate` finds for drawn clusters.

    Parameters
    ----------
    clusters : iterable of Cluster
        As `drawn_clusters` returns them.
    evaluate : callable
        From a cluster to its metrics; a draw that overloads a pool, or leaves no plan, is counted apart.

    Returns
    -------
    CalibrationInterval
        Quantiles over the draws that are stable.

    Raises
    ------
    UnstableError, InfeasibleError
        When every draw is lost.
    """
    rows: list[Mapping[str, float]] = []
    lost: list[UnstableError | InfeasibleError] = []
    for cluster in clusters:
        try:
            rows.append(evaluate(cluster))
        except (UnstableError, InfeasibleError) as error:
            lost.append(error)
    if not rows:
        raise lost[0]
    return CalibrationInterval(intervals=_quantiles(rows), draws=len(rows) + len(lost), unstable=len(lost))


def _quantiles(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    tail = (1 - COVERAGE) / 2
    found = {}
    for name in rows[0]:
        low, high = np.quantile([row[name] for row in rows], [tail, 1 - tail])
        found[name] = (float(low), float(high))
    return found


def headline(prediction: Prediction) -> dict[str, float]:
    """Return the metrics that intervals are given for.

    Parameters
    ----------
    prediction : Prediction
        Of one cluster.

    Returns
    -------
    dict
        ``p50_ttft_s`` to ``p99_tbt_s`` [s], attainments and the deflected share.
    """
    row = {f"p{100 * q:g}_ttft_s": float(prediction.ttft_s(q)) for q in _QUANTILES}
    if np.isfinite(prediction.mean_tbt_s).any():
        row |= {f"p{100 * q:g}_tbt_s": float(prediction.tbt_s(q)) for q in _QUANTILES}
    return row | {name: float(getattr(prediction, name)) for name in _SHARES}


def with_interval(
    prediction: Prediction, cluster: Cluster, again: Callable[[Cluster], Prediction], draws: int, seed: int
) -> Prediction:
    """Return a prediction with the interval that its calibration's uncertainty gives, also in its error estimate.

    The half-widths of both are independent and add in squares: the method's from `Prediction.error_estimate`, the
    calibration's from the interval.

    Parameters
    ----------
    prediction : Prediction
        Made with the fitted calibration.
    cluster : Cluster
        What it was made for.
    again : callable
        Predicts another cluster in the same way.
    draws, seed : int
        Calibrations to draw, and the seed of the draws.

    Returns
    -------
    Prediction
        A copy.
    """
    found = interval_of(drawn_clusters(cluster, draws, seed), lambda drawn: headline(again(drawn)))
    centre, errors = headline(prediction), dict(prediction.error_estimate)
    for name in errors:
        if name in centre:
            low, high = found.intervals[name]
            scale = 1.0 if name in _SHARES or centre[name] == 0 else centre[name]
            errors[name] = float(np.hypot(errors[name], 0.5 * (high - low) / scale))
    return replace(
        prediction,
        calibration_interval=found,
        error_estimate=errors,
        warnings=(*prediction.warnings, *found.warnings),
    )

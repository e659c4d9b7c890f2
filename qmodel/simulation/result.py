"""What a simulation returns: per-request columns, percentiles, attainments and utilisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.scenario.ttft import PARTS
from qmodel.simulation.statistics import batch_means_interval, quantile_interval

__all__ = ["SimulationResult"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulationResult:
    """Outcome of one simulated run. All metrics leave out the first `warm_from` requests.

    Parameters
    ----------
    policy : str
        Name of the policy.
    columns : Mapping
        One array per column of `requests`, in order of arrival; times in seconds.
    warm_from : int
        First request that counts.
    tbt_edges_s, tbt_tokens : ndarray
        Histogram of the time between tokens: bin edges [s], shape (n + 1,), and tokens per bin, shape (n,).
    ttft_slo_s, tbt_slo_s : ndarray
        SLO limits of each request [s].
    tbt_quantile : ndarray
        Quantile of each request's TBTs held to its limit.
    units : Mapping
        One array per column of `instances`.
    utilisation : Mapping
        Busy share of the prefill and of the decode pool until the last request finishes.
    makespan_s : float
        When the last request finished [s].
    events : int
        Events handled.
    """

    policy: str
    columns: Mapping[str, npt.NDArray[Any]]
    warm_from: int
    tbt_edges_s: FloatArray
    tbt_tokens: FloatArray
    ttft_slo_s: FloatArray
    tbt_slo_s: FloatArray
    tbt_quantile: FloatArray
    units: Mapping[str, npt.NDArray[Any]]
    utilisation: Mapping[str, float]
    makespan_s: float
    events: int

    @property
    def requests(self) -> Any:
        """One row per request (pandas.DataFrame), warm-up included; times in seconds."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))

    @property
    def instances(self) -> Any:
        """One row per instance (pandas.DataFrame): pool, busy share, steps, mean batch, preemptions."""
        import pandas as pd

        return pd.DataFrame(dict(self.units))

    @property
    def count(self) -> int:
        """Number of requests, warm-up included."""
        return len(self.columns["arrival_s"])

    def _warm(self, column: str) -> npt.NDArray[Any]:
        return self.columns[column][self.warm_from :]

    @property
    def ttft_values_s(self) -> FloatArray:
        """TTFT of each counted request [s], in order of arrival."""
        return self._warm("ttft_s")

    def ttft_s(self, q: float) -> float:
        """Return the q-quantile of TTFT [s].

        Parameters
        ----------
        q : float
            In [0, 1], e.g. 0.95.
        """
        return float(np.quantile(self.ttft_values_s, _quantile(q)))

    def tbt_s(self, q: float, weight: Literal["token", "request"] = "token") -> float:
        """Return the q-quantile of the time between tokens [s].

        Parameters
        ----------
        q : float
            In [0, 1].
        weight : {"token", "request"}
            Over all tokens (from a histogram with bins 0.1 % wide), or over the requests' mean TBT.

        Raises
        ------
        InputError
            When no request has two tokens to measure between.
        """
        if weight == "request":
            means = self._warm("tbt_mean_s")
            means = means[np.isfinite(means)]
            if not len(means):
                raise InputError("tokens to measure TBT between", 0, ">= 1", "simulate longer outputs")
            return float(np.quantile(means, _quantile(q)))
        total = np.cumsum(self.tbt_tokens)
        if total[-1] == 0:
            raise InputError("tokens to measure TBT between", 0, ">= 1", "simulate longer outputs")
        target = _quantile(q) * total[-1]
        at = int(np.searchsorted(total, target))
        below = total[at - 1] if at else 0.0
        share = (target - below) / self.tbt_tokens[at] if self.tbt_tokens[at] > 0 else 0.0
        return float(self.tbt_edges_s[at] + share * (self.tbt_edges_s[at + 1] - self.tbt_edges_s[at]))

    def breakdown(self, q: float | None = None) -> dict[str, float]:
        """Return where TTFT goes [s]: queue, prefill, transfer, admission, first_step.

        Parameters
        ----------
        q : float, optional
            Means over the 1 % of requests (at least 20) around the q-quantile of TTFT, scaled to add up to it;
            without it plain means.
        """
        ttft = self.ttft_values_s
        if q is None:
            return {part: float(self._warm(f"{part}_s").mean()) for part in PARTS}
        n = len(ttft)
        half = max(10, n // 200)
        centre = round(_quantile(q) * (n - 1))
        near = np.argsort(ttft, kind="stable")[max(0, centre - half) : centre + half + 1]
        parts = {part: float(self._warm(f"{part}_s")[near].mean()) for part in PARTS}
        total, target = sum(parts.values()), self.ttft_s(q)
        return {part: value * target / total if total > 0 else 0.0 for part, value in parts.items()}

    @property
    def ttft_met(self) -> npt.NDArray[np.bool_]:
        """Whether each counted request met its TTFT SLO."""
        return np.asarray(self.ttft_values_s <= self.ttft_slo_s[self.warm_from :])

    @property
    def tbt_met(self) -> npt.NDArray[np.bool_]:
        """Whether each counted request met its TBT SLO; one without TBTs has."""
        allowed = (1.0 - self.tbt_quantile[self.warm_from :]) * self._warm("tbt_count")
        return np.asarray(self._warm("tbt_violations") <= np.floor(allowed + 1e-9))

    @property
    def ttft_attainment(self) -> float:
        """Share of requests that met their TTFT SLO."""
        return float(self.ttft_met.mean())

    @property
    def tbt_attainment(self) -> float:
        """Share of requests that met their TBT SLO."""
        return float(self.tbt_met.mean())

    @property
    def slo_attainment(self) -> float:
        """Share of requests that met both SLOs."""
        return float((self.ttft_met & self.tbt_met).mean())

    @property
    def deflected_share(self) -> float:
        """Share of requests prefilled on a decode instance."""
        return float(self._warm("deflected").mean())

    @property
    def goodput_per_s(self) -> float:
        """Requests that met both SLOs, per second of the counted arrivals' span."""
        arrivals = self._warm("arrival_s")
        span = float(arrivals[-1] - arrivals[0])
        return float((self.ttft_met & self.tbt_met).sum()) / span if span > 0 else 0.0

    def ci(self, name: str, q: float | None = None) -> tuple[float, float]:
        """Return a metric and the half-width of its 95 % interval from 30 batches of this run; *approximation*.

        Intervals over independent replications (`statistics.mean_interval`) are better where there are several.

        Parameters
        ----------
        name : str
            ``ttft_s``, ``tbt_mean_s`` or another column of `requests`, or ``ttft_attainment``, ``tbt_attainment``,
            ``slo_attainment``, ``deflected_share``.
        q : float, optional
            Quantile of a column; its mean without it.

        Returns
        -------
        tuple of float
            (value, half-width).

        Raises
        ------
        InputError
            When the name is unknown or the run too short.
        """
        met: dict[str, Callable[[], npt.NDArray[Any]]] = {
            "ttft_attainment": lambda: self.ttft_met,
            "tbt_attainment": lambda: self.tbt_met,
            "slo_attainment": lambda: self.ttft_met & self.tbt_met,
            "deflected_share": lambda: self._warm("deflected"),
        }
        if name not in met and name not in self.columns:
            known = ", ".join([*met, *self.columns])
            raise InputError("metric", repr(name), f"one of {known}")
        values = np.asarray(met[name]() if name in met else self._warm(name), dtype=float)
        values = values[np.isfinite(values)]
        return batch_means_interval(values) if q is None else quantile_interval(values, q)

    def to_dict(self) -> dict[str, Any]:
        """Return a summary as plain data for JSON; times in seconds."""
        quantiles = (0.5, 0.9, 0.95, 0.99)
        has_tbt = bool(self.tbt_tokens.sum() > 0)
        return {
            "policy": self.policy,
            "requests": self.count,
            "warm_from": self.warm_from,
            "ttft_s": {f"p{100 * q:g}": self.ttft_s(q) for q in quantiles} | {"mean": float(self.ttft_values_s.mean())},
            "tbt_s": {f"p{100 * q:g}": self.tbt_s(q) for q in quantiles} if has_tbt else {},
            "breakdown_p95_s": self.breakdown(0.95),
            "ttft_attainment": self.ttft_attainment,
            "tbt_attainment": self.tbt_attainment,
            "slo_attainment": self.slo_attainment,
            "goodput_per_s": self.goodput_per_s,
            "deflected_share": self.deflected_share,
            "utilisation": dict(self.utilisation),
            "makespan_s": self.makespan_s,
        }


def _quantile(q: float) -> float:
    if not 0 <= q <= 1:
        raise InputError("quantile", q, "in [0, 1]", "give e.g. 0.95")
    return float(q)

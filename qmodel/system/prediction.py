"""What `predict` returns: laws of TTFT and TBT of a cluster, their parts, attainment and an error estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.scenario import SLO
from qmodel.scenario.ttft import PARTS

if TYPE_CHECKING:
    from qmodel.system.draws import CalibrationInterval

__all__ = ["Prediction"]

FloatArray = npt.NDArray[np.float64]
_FEWEST_NEAR = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Predicted TTFT and TBT of a cluster, held as equally likely requests with their parts of TTFT.

    Parameters
    ----------
    method : str
        How the numbers were found, in a line.
    slo : SLO
        Limits that attainment refers to.
    parts_s : ndarray, shape (5, n)
        Parts of TTFT in the order of `PARTS` [s], one column per typical request.
    prompt_tokens : ndarray, shape (n,)
        Prompt length of each [tokens].
    deflected : ndarray of bool, shape (n,)
        Whether its prefill ran on a decode instance.
    tbt_met : ndarray, shape (n,)
        Probability that its TBTs meet the SLO.
    tbt_grid_s, tbt_cdf : ndarray, shape (m,)
        Law of the time between tokens, by token [s].
    mean_tbt_s : ndarray, shape (n,)
        Mean time between the tokens of each request [s]; NaN for requests without any.
    utilisation : Mapping
        Busy share of the pools: ``prefill`` and ``decode``.
    error_estimate : Mapping
        Metric to relative half-width (for shares: absolute).
    warnings : tuple of str
        What the reader should know.
    calibration_interval : CalibrationInterval, optional
        Where the metrics lie when the calibration is drawn from the uncertainty of its fit; None unless asked for.
    """

    method: str
    slo: SLO
    parts_s: FloatArray
    prompt_tokens: npt.NDArray[np.int64]
    deflected: npt.NDArray[np.bool_]
    tbt_met: FloatArray
    tbt_grid_s: FloatArray
    tbt_cdf: FloatArray
    mean_tbt_s: FloatArray
    utilisation: Mapping[str, float]
    error_estimate: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    calibration_interval: CalibrationInterval | None = None

    def ttft_s(self, q: npt.ArrayLike) -> Any:
        """Return the q-quantile of the time to first token [s].

        Parameters
        ----------
        q : float or array_like
            In (0, 1).

        Returns
        -------
        float or ndarray
            Time to first token [s].

        Raises
        ------
        InputError
            When q is outside (0, 1).
        """
        levels = _levels(q)
        found = np.quantile(self.parts_s.sum(axis=0), levels)
        return float(found) if np.ndim(q) == 0 else found

    def tbt_s(self, q: npt.ArrayLike, weight: Literal["token", "request"] = "token") -> Any:
        """Return the q-quantile of the time between tokens [s].

        Parameters
        ----------
        q : float or array_like
            In (0, 1).
        weight : {"token", "request"}
            Law over all tokens, or over requests of the mean of each.

        Returns
        -------
        float or ndarray
            Time between tokens [s].

        Raises
        ------
        InputError
            When q is outside (0, 1), or no request makes a second token.
        """
        levels, means = _levels(q), self.mean_tbt_s[np.isfinite(self.mean_tbt_s)]
        if not len(means):
            raise InputError("requests with time between tokens", 0, ">= 1", "give longer outputs")
        found = np.quantile(means, levels) if weight == "request" else np.interp(levels, self.tbt_cdf, self.tbt_grid_s)
        return float(found) if np.ndim(q) == 0 else found

    def breakdown(self, q: float | None = None) -> dict[str, float]:
        """Return where TTFT goes [s]: queue, prefill, transfer, admission, first_step.

        Parameters
        ----------
        q : float, optional
            Means over the 1 % of requests (at least 20) around the q-quantile of TTFT, scaled to add up to it;
            without it plain means.

        Returns
        -------
        dict
            The parts [s].
        """
        if q is None:
            return dict(zip(PARTS, map(float, self.parts_s.mean(axis=1)), strict=True))
        total = self.parts_s.sum(axis=0)
        n = len(total)
        half = max(_FEWEST_NEAR // 2, n // 200)
        centre = round(float(_levels(q)) * (n - 1))
        near = np.argsort(total, kind="stable")[max(0, centre - half) : centre + half + 1]
        means = self.parts_s[:, near].mean(axis=1)
        means *= float(self.ttft_s(q)) / max(float(means.sum()), 1e-300)
        return dict(zip(PARTS, map(float, means), strict=True))

    @property
    def ttft_attainment(self) -> float:
        """Share of requests with TTFT within its SLO."""
        return float(np.mean(self.parts_s.sum(axis=0) <= self.slo.ttft_s))

    @property
    def tbt_attainment(self) -> float:
        """Share of requests with every TBT within its SLO."""
        return float(np.mean(self.tbt_met))

    @property
    def slo_attainment(self) -> float:
        """Share of requests that meet both SLOs."""
        return float(np.mean((self.parts_s.sum(axis=0) <= self.slo.ttft_s) * self.tbt_met))

    @property
    def deflected_share(self) -> float:
        """Share of requests whose prefill runs on a decode instance."""
        return float(np.mean(self.deflected))

    def by_length(self, edges_tokens: npt.ArrayLike, q: float = 0.95) -> list[dict[str, float]]:
        """Return TTFT and attainment by class of prompt length.

        Parameters
        ----------
        edges_tokens : array_like
            Inner limits of the classes [tokens], increasing.
        q : float
            Quantile of TTFT shown, in (0, 1).

        Returns
        -------
        list of dict
            ``from_tokens``, ``to_tokens``, ``share``, ``ttft_s``, ``slo_attainment`` and ``deflected_share``;
            empty classes are left out.
        """
        edges = np.concatenate([[0.0], np.asarray(edges_tokens, dtype=float).reshape(-1), [np.inf]])
        total = self.parts_s.sum(axis=0)
        level = float(_levels(q))
        rows = []
        for low, high in pairwise(edges):
            inside = (self.prompt_tokens > low) & (self.prompt_tokens <= high)
            if not np.any(inside):
                continue
            met = (total[inside] <= self.slo.ttft_s) * self.tbt_met[inside]
            rows.append(
                {
                    "from_tokens": float(low),
                    "to_tokens": float(min(high, float(np.max(self.prompt_tokens)))),
                    "share": float(np.mean(inside)),
                    "ttft_s": float(np.quantile(total[inside], level)),
                    "slo_attainment": float(np.mean(met)),
                    "deflected_share": float(np.mean(self.deflected[inside])),
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the headline numbers as plain types, ready for JSON; times in seconds."""
        interval, has_tbt = self.calibration_interval, bool(np.isfinite(self.mean_tbt_s).any())
        return {
            "method": self.method,
            "ttft_s": {f"p{100 * q:g}": self.ttft_s(q) for q in (0.5, 0.9, 0.95, 0.99)},
            "tbt_s": {f"p{100 * q:g}": self.tbt_s(q) for q in (0.5, 0.9, 0.95, 0.99) if has_tbt},
            "breakdown_p95_s": self.breakdown(0.95),
            "ttft_attainment": self.ttft_attainment,
            "tbt_attainment": self.tbt_attainment,
            "slo_attainment": self.slo_attainment,
            "deflected_share": self.deflected_share,
            "utilisation": dict(self.utilisation),
            "error_estimate": dict(self.error_estimate),
            "calibration_interval": None if interval is None else interval.to_dict(),
            "warnings": list(self.warnings),
        }


def _levels(q: npt.ArrayLike) -> FloatArray:
    levels = np.asarray(q, dtype=float)
    if not np.all((levels > 0) & (levels < 1)):
        raise InputError("quantile", q, "between 0 and 1", "give e.g. 0.95")
    return levels

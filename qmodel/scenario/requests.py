"""A set of requests: when each arrived, its prompt and output tokens, its cached prefix and its SLO class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError

__all__ = ["Requests"]

IntArray = npt.NDArray[np.int64]


_MOST_TOKENS = 2.0**62


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """Requests in order of arrival; all arrays have shape (n,).

    Parameters
    ----------
    arrival_s : ndarray of float
        Arrival times [s], finite, >= 0, non-decreasing.
    prompt_tokens : ndarray of int
        Prompt lengths L [tokens], >= 1.
    output_tokens : ndarray of int
        Output lengths O [tokens], >= 1.
    cached_tokens : ndarray of int
        Prompt tokens found in a prefix cache [tokens], in [0, L - 1].
    slo_class : ndarray of int
        Index of each request's SLO class; 0 when there is only one.
    """

    arrival_s: npt.NDArray[np.float64]
    prompt_tokens: IntArray
    output_tokens: IntArray
    cached_tokens: IntArray
    slo_class: IntArray

    def __post_init__(self) -> None:
        n = len(self.arrival_s)
        if n == 0:
            raise InputError("number of requests", 0, ">= 1", "give a workload with requests")
        for name in ("prompt_tokens", "output_tokens", "cached_tokens", "slo_class"):
            if len(getattr(self, name)) != n:
                raise InputError(f"length of {name}", len(getattr(self, name)), f"{n}, one per request")
        t = self.arrival_s
        if not np.all(np.isfinite(t)) or t[0] < 0 or np.any(np.diff(t) < 0):
            raise InputError("arrival_s", "out of order, negative or not finite", "sorted, finite and >= 0 [s]")
        for name in ("prompt_tokens", "output_tokens"):
            low = int(np.min(getattr(self, name)))
            if low < 1:
                raise InputError(f"smallest {name}", low, ">= 1", "drop or mend such requests")
        if np.any(self.cached_tokens < 0) or np.any(self.cached_tokens >= self.prompt_tokens):
            raise InputError("cached_tokens", "below 0 or not below prompt_tokens", "in [0, prompt_tokens - 1]")

    @classmethod
    def from_arrays(
        cls,
        arrival_s: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        cached_tokens: npt.ArrayLike = 0,
        slo_class: npt.ArrayLike = 0,
    ) -> Requests:
        """Return requests from anything array-like; scalars are repeated.

        Parameters
        ----------
        arrival_s : array_like
            Arrival times [s], sorted.
        prompt_tokens, output_tokens, cached_tokens : array_like
            Tokens per request.
        slo_class : array_like
            SLO class per request.

        Returns
        -------
        Requests
            Validated requests.

        Raises
        ------
        InputError
            When times are unsorted or tokens out of range.
        """
        try:
            t = np.array(arrival_s, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise InputError("arrival_s", "not numbers", "times [s]") from error

        def column(values: npt.ArrayLike) -> IntArray:
            array = np.asarray(values)
            if array.dtype.kind not in "biuf" or array.ndim > 1:
                raise InputError("tokens", f"{array.ndim}-d {array.dtype}", "whole numbers, one per request")
            if array.dtype.kind == "f" and not np.all((np.abs(array) < _MOST_TOKENS) & (array == np.floor(array))):
                raise InputError("tokens", "fractions, infinite or not numbers", "whole", "round them first")
            return np.array(np.broadcast_to(array, t.shape) if array.ndim == 0 else array, dtype=np.int64)

        return cls(
            arrival_s=t,
            prompt_tokens=column(prompt_tokens),
            output_tokens=column(output_tokens),
            cached_tokens=column(cached_tokens),
            slo_class=column(slo_class),
        )

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, index: slice | npt.NDArray[np.bool_] | IntArray, start_s: float = 0.0) -> Requests:
        """Return some of the requests, with their times from `start_s` on.

        Parameters
        ----------
        index : slice or ndarray
            Positions in order, or a mask.
        start_s : float
            Time that becomes 0 [s].

        Raises
        ------
        InputError
            When there are none, or one arrived before `start_s`.
        """
        return Requests(
            arrival_s=self.arrival_s[index] - start_s,
            prompt_tokens=self.prompt_tokens[index],
            output_tokens=self.output_tokens[index],
            cached_tokens=self.cached_tokens[index],
            slo_class=self.slo_class[index],
        )

    @property
    def span_s(self) -> float:
        """Time from 0 to the last arrival [s]."""
        return float(self.arrival_s[-1])

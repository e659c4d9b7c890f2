"""Service-level objectives of a request: time to first token and time between tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qmodel.errors import InputError

__all__ = ["SLO"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SLO:
    """A request meets its SLO when TTFT <= `ttft_s` and none of its TBTs exceeds `tbt_s`.

    Parameters
    ----------
    ttft_s : float
        Limit on the time to first token [s].
    tbt_s : float
        Limit on the time between tokens [s].
    tbt_quantile : float
        Quantile of a request's TBTs held to `tbt_s`: 1.0 (default) for every one, 0.99 for their P99.

    Examples
    --------
    >>> SLO(ttft_s=1.0, tbt_s=0.060).tbt_s
    0.06
    """

    ttft_s: float = 1.0
    tbt_s: float = 0.060
    tbt_quantile: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tbt_s"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(name, value, "finite and > 0 [s]", "give e.g. ttft_s=1.0, tbt_s=0.060")
        if not 0 < self.tbt_quantile <= 1:
            raise InputError("tbt_quantile", self.tbt_quantile, "in (0, 1]", "give e.g. 1.0 or 0.99")

"""Service-level objectives of a request: time to first token and time between tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmodel.errors import InputError

__all__ = ["SLO", "slo_classes", "strictest"]


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
    weight : float
        What a second of TTFT of a request of this class is worth, relative to the others.

    Examples
    --------
    >>> SLO(ttft_s=1.0, tbt_s=0.060).tbt_s
    0.06
    """

    ttft_s: float = 1.0
    tbt_s: float = 0.060
    tbt_quantile: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tbt_s", "weight"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(
                    name,
                    value,
                    "finite and > 0" if name == "weight" else "finite and > 0 [s]",
                    "give e.g. ttft_s=1.0, tbt_s=0.060",
                )
        if not 0 < self.tbt_quantile <= 1:
            raise InputError("tbt_quantile", self.tbt_quantile, "in (0, 1]", "give e.g. 1.0 or 0.99")


def slo_classes(slo: SLO | Sequence[SLO]) -> tuple[SLO, ...]:
    """Return the objectives by SLO class: one, or as many as were given.

    Parameters
    ----------
    slo : SLO or sequence of SLO
        Objectives.

    Raises
    ------
    InputError
        When there is none.
    """
    classes = (slo,) if isinstance(slo, SLO) else tuple(slo)
    if not classes:
        raise InputError("SLO classes", 0, "at least one", "give SLO(ttft_s=1.0, tbt_s=0.060)")
    return classes


def strictest(slo: SLO | Sequence[SLO]) -> SLO:
    """Return objectives that meet those of every class: what a rule that does not know classes is held to.

    Parameters
    ----------
    slo : SLO or sequence of SLO
        Objectives, one per class.

    Examples
    --------
    >>> strictest([SLO(ttft_s=0.5, tbt_s=0.1), SLO(ttft_s=5.0, tbt_s=0.05)])
    SLO(ttft_s=0.5, tbt_s=0.05, tbt_quantile=1.0, weight=1.0)
    """
    classes = slo_classes(slo)
    if len(classes) == 1:
        return classes[0]
    return SLO(
        ttft_s=min(one.ttft_s for one in classes),
        tbt_s=min(one.tbt_s for one in classes),
        tbt_quantile=max(one.tbt_quantile for one in classes),
    )

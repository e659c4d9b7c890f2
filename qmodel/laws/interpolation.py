"""A calibration at a tensor-parallel degree between two that were fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qmodel.errors import InputError
from qmodel.laws.calibration import Calibration, ValidRange
from qmodel.laws.step import PNormLaw, StepLaw

__all__ = ["at_tp"]

# Where a law bends rather than by how much; a law without the bend has none to interpolate with.
_PLACES = ("expert_share", "jump_from_tokens", "jump_to_tokens")
_CURVE = ("allreduce_tokens", "allreduce_s")
_NUMBERS = tuple(name for name in PNormLaw.__slots__ if name not in _CURVE)


def at_tp(calibrations: Sequence[Calibration], tp: int) -> Calibration:
    """Return the calibration at `tp`: the fitted one, or one interpolated between its neighbours; *approximation*.

    Coefficients are interpolated geometrically in log tp (linearly where one is zero): kernel times fall roughly as
    a power of tp.

    Parameters
    ----------
    calibrations : sequence of Calibration
        One model and GPU, without engine correction, at different tp.
    tp : int
        Tensor-parallel degree wanted.

    Returns
    -------
    Calibration
        Labelled in its provenance when interpolated.

    Raises
    ------
    InputError
        When `tp` lies outside the fitted degrees.
    """
    by_tp = {c.tp: c for c in calibrations}
    if tp in by_tp:
        return by_tp[tp]
    lower = [t for t in by_tp if t < tp]
    upper = [t for t in by_tp if t > tp]
    if not lower or not upper:
        degrees = ", ".join(str(t) for t in sorted(by_tp))
        one = calibrations[0]
        raise InputError(f"tp for {one.model} on {one.gpu}", tp, f"within {degrees}", "calibrate it from profiles")
    low, high = by_tp[max(lower)], by_tp[min(upper)]
    share = float(np.log(tp / low.tp) / np.log(high.tp / low.tp))
    text = f"interpolated between tp {low.tp} and tp {high.tp}"
    capacity = int(low.kv_capacity_tokens + (tp - low.tp) / (high.tp - low.tp) * _growth(low, high))
    return replace(
        low,
        tp=tp,
        step=_between(low.step, high.step, share),
        prefill=_between(low.prefill, high.prefill, share),
        kv_capacity_tokens=capacity,
        valid_range=ValidRange(
            batch=min(low.valid_range.batch, high.valid_range.batch),
            context_tokens=min(low.valid_range.context_tokens, high.valid_range.context_tokens),
            chunk_tokens=min(low.valid_range.chunk_tokens, high.valid_range.chunk_tokens),
            prompt_tokens=min(low.valid_range.prompt_tokens, high.valid_range.prompt_tokens),
        ),
        provenance=dict(low.provenance) | {"interpolation": text},
    )


def _growth(low: Calibration, high: Calibration) -> int:
    return high.kv_capacity_tokens - low.kv_capacity_tokens


def _between(low: StepLaw, high: StepLaw, share: float) -> PNormLaw:
    if not (isinstance(low, PNormLaw) and isinstance(high, PNormLaw)):
        raise InputError(
            "laws to interpolate", "not both p-norm laws", "p-norm laws", "calibrate that tp from profiles"
        )
    values = {}
    for name in _NUMBERS:
        a, b = getattr(low, name), getattr(high, name)
        linear = a + share * (b - a)
        values[name] = float(a ** (1 - share) * b**share) if a > 0 and b > 0 else float(linear)
    for name in _PLACES:
        values[name] = getattr(low if getattr(low, name) > 0 else high, name)
    tokens, times = _allreduce_between(low, high, share)
    return PNormLaw(**values, allreduce_tokens=tokens, allreduce_s=times)


def _allreduce_between(low: PNormLaw, high: PNormLaw, share: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the points of a share of the way from one measured all-reduce to the other, none counting as zero."""
    tokens = tuple(sorted({*low.allreduce_tokens, *high.allreduce_tokens}))
    times = sum(part * law.allreduce_time_s(np.array(tokens)) for law, part in ((low, 1 - share), (high, share)))
    return tokens, tuple(np.atleast_1d(times).tolist())

"""Standard errors of law coefficients: kernels' table noise and the choice of steps, both drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from qmodel.fitting.composition import StepComposition
from qmodel.fitting.steplaw import Form, fit_step_law
from qmodel.laws import LinearLaw, PNormLaw, StepSamples

__all__ = ["bootstrap"]

Law = PNormLaw | LinearLaw

DRAWS = 32  # standard errors to 13 %, enough for one digit
_SEED = 90210
_ENGINE = ("floor_s", "floor_per_request_s", "gain")
_SMALLEST_CORRELATION = 0.1  # 32 draws do not tell smaller ones from none


def bootstrap(
    composition: StepComposition,
    steps: Callable[[StepComposition], StepSamples],
    laws: dict[str, tuple[Law, Form, Callable[[StepSamples], np.ndarray]]],
    prompts: Callable[[StepComposition], StepSamples],
) -> tuple[dict[str, float], dict[str, float]]:
    """Return standard errors and correlations of the coefficients of a step and a prefill law.

    Every draw resamples the noise of each kernel's table (measured against smoothed), composes the steps again,
    draws steps with replacement and refits from the fitted coefficients (Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, chapter 9).

    Parameters
    ----------
    composition : StepComposition
        Kernels of a step.
    steps, prompts : callable
        From a composition to the samples of the step law and of the prefill law.
    laws : dict
        ``step`` and ``prefill``: fitted law, its form, and the weights of samples.

    Returns
    -------
    tuple of dict
        Standard errors by ``step.w_s`` and the like, and correlations by pairs ``a|b``.
    """
    rng = np.random.default_rng(_SEED)
    names = [f"{part}.{c}" for part in ("step", "prefill") for c in _coefficients(laws[part][0], part)]
    rows = []
    for _ in range(DRAWS):
        drawn = composition.resampled(rng)
        fitted: dict[str, Law] = {}
        for part, samples in (("step", steps(drawn)), ("prefill", prompts(drawn))):
            law, form, weigh = laws[part]
            index = np.sort(rng.integers(0, len(samples), len(samples)))
            again = samples.take(index)
            start = law if isinstance(law, PNormLaw) else None
            reload_s = getattr(fitted["step"], "reload_s", 0.0) if part == "prefill" else None
            fitted[part] = fit_step_law(again, form, weights=weigh(again), start=start, reload_s=reload_s)
        rows.append([getattr(fitted[name.split(".")[0]], name.split(".")[1]) for name in names])
    table = np.array(rows)
    spread = table.std(axis=0, ddof=1)
    errors = {name: float(s) for name, s in zip(names, spread, strict=True) if s > 0}
    correlations = {}
    for i, j in combinations(range(len(names)), 2):
        if spread[i] > 0 and spread[j] > 0:
            with np.errstate(invalid="ignore"):  # a spread of 1e-200 squares to 0: no correlation
                value = float(np.corrcoef(table[:, i], table[:, j])[0, 1])
            if abs(value) >= _SMALLEST_CORRELATION:
                correlations[f"{names[i]}|{names[j]}"] = value
    return errors, correlations


def _coefficients(law: Law, part: str) -> list[str]:
    skip = (*_ENGINE, "reload_s", "context_s") if part == "prefill" else _ENGINE
    return [name for name in law.__slots__ if name not in skip]

"""Standard errors of law coefficients: the choice of steps, and kernels' table noise, drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from qmodel.fitting.choice import reload_of_s
from qmodel.fitting.steplaw import Form, fit_step_law
from qmodel.laws import LinearLaw, PNormLaw, StepSamples

__all__ = ["Fitted", "bootstrap"]

Law = PNormLaw | LinearLaw
Part = Literal["step", "prefill"]

DRAWS = 32  # standard errors to 13 %, enough for one digit
_SEED = 90210
_GIVEN = ("floor_s", "floor_per_request_s", "gain", "allreduce_tokens", "allreduce_s")  # not fitted
_STEP_ONLY = ("reload_s", "context_s")  # a prefill law has them from the step law
_SMALLEST_CORRELATION = 0.1  # 32 draws do not tell smaller ones from none


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A law with how it was fitted.

    Parameters
    ----------
    law : PNormLaw or LinearLaw
        Law.
    form : Form
        What it was made of.
    weigh : callable, optional
        Weights of samples; all alike without it.
    """

    law: Law
    form: Form
    weigh: Callable[[StepSamples], np.ndarray] | None = None

    def again(self, samples: StepSamples, rng: np.random.Generator, reload_s: float | None) -> Law:
        """Return the law of rows drawn with replacement.

        Parameters
        ----------
        samples : StepSamples
            Rows to draw from.
        rng : numpy.random.Generator
            Source of randomness.
        reload_s : float or None
            cx to hold fixed [s per token].
        """
        rows = samples.take(np.sort(rng.integers(0, len(samples), len(samples))))
        start = self.law if isinstance(self.law, PNormLaw) else None
        weights = self.weigh(rows) if self.weigh else None
        return fit_step_law(rows, self.form, weights=weights, start=start, reload_s=reload_s)


def bootstrap(
    draw: Callable[[np.random.Generator], Mapping[Part, StepSamples]], laws: Mapping[Part, Fitted]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return standard errors and correlations of the coefficients of a step and a prefill law.

    Every draw takes the data anew, draws rows of them with replacement and refits from the fitted coefficients
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 9). Deterministic.

    Parameters
    ----------
    draw : callable
        From a generator to the samples of each law; composed steps draw their kernels' table noise, measured ones
        are what they are.
    laws : mapping
        ``step`` and ``prefill``: what was fitted. Without the latter prompts take the step law.

    Returns
    -------
    tuple of dict
        Standard errors by ``step.w_s`` and the like, and correlations by pairs ``a|b``.
    """
    rng = np.random.default_rng(_SEED)
    step_law = laws["step"].law
    prefill_law = laws["prefill"].law if "prefill" in laws else step_law
    names = [f"step.{c}" for c in _coefficients(step_law)]
    names += [f"prefill.{c}" for c in _coefficients(prefill_law) if c not in _STEP_ONLY]
    rows = []
    for _ in range(DRAWS):
        samples = draw(rng)
        step = laws["step"].again(samples["step"], rng, None)
        prefill = laws["prefill"].again(samples["prefill"], rng, reload_of_s(step)) if "prefill" in laws else step
        drawn = {"step": step, "prefill": prefill}
        rows.append([getattr(drawn[name.split(".")[0]], name.split(".")[1]) for name in names])
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


def _coefficients(law: Law) -> list[str]:
    return [name for name in law.__slots__ if name not in _GIVEN]

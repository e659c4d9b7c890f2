"""Which form a model's laws take: the one with the lowest error on what was left out, further terms at a price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from qmodel.fitting import design
from qmodel.fitting.composition import StepComposition
from qmodel.fitting.models import ModelShape
from qmodel.fitting.steplaw import Family, Form, errors_of, fit_step_law, law_times_s, loss_of
from qmodel.laws import LinearLaw, PNormLaw, StepSamples

__all__ = [
    "DENSE_LIMITS",
    "MOE_LIMITS",
    "SHORT_PROMPT",
    "FittedLaws",
    "LawData",
    "LawSamples",
    "choose_laws",
    "prompt_weights",
    "reload_of_s",
    "step_weights",
]

Law = PNormLaw | LinearLaw

FAMILIES: tuple[Family, ...] = ("linear", "dense", "moe")
# A dense model's law gives up convexity (a > 0), and any model the floor and gain of the p-norm law for the linear
# baseline, only for half the error.
CHOICE_MARGIN = 0.5
# What one further term, saturating experts or a jump, must leave of the error to be taken.
FURTHER_MARGIN = 0.8
# Errors to stay below; a form that does not is given up for one that does, whatever the margin.
DENSE_LIMITS = {"step_mape": 0.04, "step_p95": 0.10, "chunk_increment_mape": 0.10, "prefill_mape": 0.02}
MOE_LIMITS = DENSE_LIMITS | {"step_mape": 0.07, "step_p95": 0.18}
SHORT_PROMPT = 256  # below it the prefill law's error is stated apart
_SHORTEST = 16  # prompts that prefill laws are fitted to [tokens]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLaws:
    """Step and prefill law in one form, with their errors on steps and prompts that were left out.

    Parameters
    ----------
    form, prefill_form : Form
        What each is made of.
    step, prefill : PNormLaw or LinearLaw
        Laws.
    errors : dict
        Name to relative error.
    step_rms, prefill_rms : float
        Root-mean-square relative errors, by which forms are compared.
    """

    form: Form
    prefill_form: Form
    step: Law
    prefill: Law
    errors: dict[str, float]
    step_rms: float
    prefill_rms: float

    def meets(self, limits: dict[str, float]) -> bool:
        """Return whether every error is within its limit.

        Parameters
        ----------
        limits : dict
            Name to largest error; what the data cannot tell is taken to be within.
        """
        return all(self.errors.get(name, 0.0) <= limit for name, limit in limits.items())

    @property
    def penalised(self) -> float:
        """Geometric mean of both errors over what the form's further terms have to leave of it."""
        terms = (self.form.family == "experts") + bool(self.form.jump)
        return float(np.sqrt(self.step_rms * self.prefill_rms)) / FURTHER_MARGIN**terms


class LawData(Protocol):
    """Steps and prompts, composed or measured, that laws in several forms are fitted to and checked on."""

    left_out: str  # what errors are taken on, in words

    @property
    def jump_tokens(self) -> tuple[float, ...]:
        """Tokens between which kernels change algorithm, () where that is not known."""
        ...

    @property
    def allreduce_points(self) -> tuple[tuple[float, float], ...]:
        """Points of a step's all-reduces [tokens, s], () where they are not known."""
        ...

    def fit(self, form: Form, prefill_form: Form | None = None, near: FittedLaws | None = None) -> FittedLaws:
        """Return both laws in a form, with their errors on what was left out."""
        ...


class LawSamples:
    """Steps and prompts of a composition: those that laws are fitted to, and those left out.

    Parameters
    ----------
    composition : StepComposition
        Kernels of a step.
    capacity : int
        KV capacity of an instance [tokens].
    longest : int
        Longest context of a request [tokens].
    """

    left_out = "off the grid"

    def __init__(self, composition: StepComposition, capacity: int, longest: int) -> None:
        self.composition, self.capacity, self.longest = composition, capacity, longest
        lengths = _lengths(longest)
        between = np.unique(np.round(np.sqrt(lengths[1:] * lengths[:-1])))
        self.steps, self.prompts = self._steps_of(composition), self._prompts_of(composition)
        self.held_steps = design.off_grid_steps(composition, capacity, longest)
        self.held_prompts = design.prompts(composition, between)

    @property
    def jump_tokens(self) -> tuple[float, ...]:
        """Tokens between which the all-reduce changes algorithm, () without one."""
        return self.composition.jump_tokens

    @property
    def allreduce_points(self) -> tuple[tuple[float, float], ...]:
        """Points of a step's all-reduces [tokens, s], () without one."""
        return self.composition.allreduce_points

    def _steps_of(self, composition: StepComposition) -> StepSamples:
        return design.fit_steps(composition, self.capacity, self.longest)

    def _prompts_of(self, composition: StepComposition) -> StepSamples:
        return design.prompts(composition, _lengths(self.longest))

    def drawn(self, rng: np.random.Generator) -> dict[Literal["step", "prefill"], StepSamples]:
        """Return the steps and prompts that laws are fitted to, with every kernel's table noise drawn anew.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.
        """
        again = self.composition.resampled(rng)
        return {"step": self._steps_of(again), "prefill": self._prompts_of(again)}

    def fit(self, form: Form, prefill_form: Form | None = None, near: FittedLaws | None = None) -> FittedLaws:
        """Return both laws in a form; the prefill law takes cx from the step law.

        Parameters
        ----------
        form : Form
            What the laws may be made of.
        prefill_form : Form, optional
            Another one for the prefill law.
        near : FittedLaws, optional
            Laws to start from, instead of several places.
        """
        starts = [law if isinstance(law, PNormLaw) else None for law in ((near.step, near.prefill) if near else ())]
        at_step, at_prefill = starts or (None, None)
        step = fit_step_law(self.steps, form, weights=step_weights(self.steps), start=at_step)
        weights = prompt_weights(self.prompts)
        prefill_form = prefill_form or form
        prefill = fit_step_law(
            self.prompts, prefill_form, weights=weights, start=at_prefill, reload_s=reload_of_s(step)
        )
        return FittedLaws(
            form=form,
            prefill_form=prefill_form,
            step=step,
            prefill=prefill,
            errors=self._errors(step, prefill),
            step_rms=loss_of(step, self.held_steps, np.ones(len(self.held_steps))),
            prefill_rms=loss_of(prefill, self.held_prompts, prompt_weights(self.held_prompts)),
        )

    def _errors(self, step: Law, prefill: Law) -> dict[str, float]:
        errors = errors_of(step, self.held_steps)
        long_ = self.held_prompts.chunk >= SHORT_PROMPT
        prompts, short = (errors_of(prefill, self.held_prompts.take(mask)) for mask in (long_, ~long_))
        return {
            "step_mape": errors.mape,
            "step_p95": errors.p95,
            "step_worst": errors.worst,
            "chunk_increment_mape": self._increment_error(step),
            "prefill_mape": prompts.mape,
            "prefill_p95": prompts.p95,
            "prefill_short_mape": short.mape,
        }

    def _increment_error(self, law: Law) -> float:
        """Return the mean relative error of dT = T(B,K,chi,done) - T(B,K,0,0) for chunks of at least 256 tokens."""
        hosting = self.held_steps.take(self.held_steps.chunk >= SHORT_PROMPT)
        zero = np.zeros(len(hosting))
        alone = self.composition.step_time_s(hosting.batch, hosting.context / hosting.batch)
        plain = StepSamples(batch=hosting.batch, context=hosting.context, chunk=zero, done=zero, time_s=alone)
        predicted = law_times_s(law, hosting) - law_times_s(law, plain)
        return float(np.mean(np.abs(predicted / (hosting.time_s - alone) - 1)))


def choose_laws(samples: LawData, model: ModelShape) -> tuple[FittedLaws, str, dict[str, float]]:
    """Return a model's laws, why they have their form, and all errors that a calibration states.

    Parameters
    ----------
    samples : LawData
        What to fit and to check on.
    model : ModelShape
        Dimensions.

    Returns
    -------
    tuple
        Laws, the choice in words, and errors with those of the linear baseline.
    """
    natural = samples.fit(Form("moe" if model.is_moe else "dense"))
    rivals = {name: samples.fit(Form(name), natural.form) for name in FAMILIES if name != natural.form.family}
    best = min((natural, *rivals.values()), key=lambda f: f.step_rms / (1.0 if f is natural else CHOICE_MARGIN))
    further = _further_forms(samples, natural, model) if best is natural else []
    limits = MOE_LIMITS if model.is_moe else DENSE_LIMITS
    if further:
        forms = [natural, *further]
        best = min([f for f in forms if f.meets(limits)] or forms, key=lambda f: f.penalised)
    families = ", ".join(f"{f.form} {_percent(f.step_rms)}" for f in sorted([natural, *rivals.values()], key=_order))
    choice = f"{best.form}, by root-mean-square relative error {samples.left_out}: {families}"
    if further:
        choice += "; with prompts: " + ", ".join(
            f"{f.form} {_percent(f.step_rms)} and {_percent(f.prefill_rms)}" for f in (natural, *further)
        )
    if not best.meets(limits) and best.form.family == "dense":
        best, words = _other_prompts(samples, best, limits)
        choice += words
    return best, choice, _stated(best.errors, rivals["linear"].errors)


def _other_prompts(samples: LawData, laws: FittedLaws, limits: dict[str, float]) -> tuple[FittedLaws, str]:
    """Return the laws with the first other form of the prefill law that meets every limit, in words; else as given."""
    forms = {"prompts with a free, t0 = 0": Form("moe", jump=laws.form.jump)}
    if samples.allreduce_points:
        forms["prompts beside the all-reduce as measured"] = Form("dense", allreduce=samples.allreduce_points)
    for words, form in forms.items():
        other = samples.fit(laws.form, form)
        if other.meets(limits):
            return other, f"; {words}: {_percent(other.prefill_rms)}"
    return laws, ""


def _stated(errors: dict[str, float], linear: dict[str, float]) -> dict[str, float]:
    """Return the errors of laws with those of the linear baseline, steps first."""
    baseline = {f"linear_{name}": linear[name] for name in ("step_mape", "step_worst")}
    steps = {name: value for name, value in errors.items() if not name.startswith("prefill")}
    return steps | baseline | errors


def _further_forms(samples: LawData, natural: FittedLaws, model: ModelShape) -> list[FittedLaws]:
    """Return the laws with further terms: saturating experts, the jump of the all-reduce, and both."""
    plain = [natural]
    if model.is_moe:
        experts = Form("experts", model.experts_per_token / model.experts)
        plain.append(samples.fit(experts, near=natural))
    jump = samples.jump_tokens
    jumping = [samples.fit(laws.form._replace(jump=jump), near=laws) for laws in plain] if jump else []
    return plain[1:] + jumping


def _order(laws: FittedLaws) -> int:
    return FAMILIES.index(laws.form.family)


def _percent(error: float) -> str:
    return f"{100 * error:.2f} %"


def reload_of_s(law: Law) -> float:
    """Return cx [s per token] of a step law, which lone prompts do not show; 0 for the linear law.

    Parameters
    ----------
    law : PNormLaw or LinearLaw
        Step law.
    """
    return law.reload_s if isinstance(law, PNormLaw) else 0.0


def step_weights(samples: StepSamples) -> np.ndarray:
    """Return weights under which steps with and without a chunk count alike: engines run far more of the latter.

    Parameters
    ----------
    samples : StepSamples
        Steps.
    """
    plain = samples.chunk == 0
    shares = np.where(plain, 0.5 / plain.sum(), 0.5 / (~plain).sum())
    return np.asarray(shares * len(samples))


def prompt_weights(samples: StepSamples) -> np.ndarray:
    """Return weights under which short prompts count for less: they matter less.

    Parameters
    ----------
    samples : StepSamples
        Lone prompts.
    """
    return np.where(samples.chunk < SHORT_PROMPT, 0.1, 1.0)


def _lengths(longest: int) -> np.ndarray:
    return np.unique(np.round(np.exp(np.linspace(np.log(_SHORTEST), np.log(longest), 56))))

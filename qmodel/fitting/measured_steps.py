"""A calibration straight from measured engine steps, without kernels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.fitting.bootstrap import Fitted, bootstrap
from qmodel.fitting.choice import SHORT_PROMPT, FittedLaws, choose_laws, reload_of_s
from qmodel.fitting.gpus import Gpu
from qmodel.fitting.models import BYTES, ModelShape
from qmodel.fitting.steplaw import Form, fit_step_law, law_times_s
from qmodel.fitting.unit_checks import OPERATIONS_PER_BYTE, check_ratio
from qmodel.laws import Calibration, LinearLaw, PNormLaw, StepSamples, ValidRange
from qmodel.laws.calibration import MEASURED_TABLES

__all__ = ["MeasuredSteps", "calibrate_steps", "check_unit"]

Array = npt.NDArray[np.float64]
Law = PNormLaw | LinearLaw

_FOLDS = 5  # of the cross-validation that chooses the form
_SEED = 411  # who is in which fold
_LEAST_ROWS = 12  # of each kind of step; fewer do not tell the coefficients apart
_STEP_RANGE = (0.2, 200.0)  # step over a lower bound of its time: engines add to their kernels


def check_unit(samples: StepSamples, model: ModelShape, gpu: Gpu, tp: int) -> None:
    """Raise when step times cannot be in the unit they are said to be.

    Parameters
    ----------
    samples : StepSamples
        Steps.
    model : ModelShape
        Dimensions.
    gpu : Gpu
        GPU type.
    tp : int
        GPUs of the instance.

    Raises
    ------
    InputError
        When the median step is far from the time to read and multiply the weights that a token uses.
    """
    read = model.active_parameters * BYTES / (tp * gpu.bytes_per_s)
    multiply = (samples.batch + samples.chunk) * read / OPERATIONS_PER_BYTE
    ratio = float(np.median(samples.time_s / np.maximum(read, multiply)))
    check_ratio("median step over the least time its weights need", ratio, _STEP_RANGE, "check the unit: t_ms in ms")


class MeasuredSteps:
    """Measured steps and lone prompts that laws are fitted to, checked by a 5-fold cross-validation.

    Parameters
    ----------
    samples : StepSamples
        Decode steps (B > 0, with or without a chunk) and prompts (B = 0).

    Raises
    ------
    InputError
        When there are too few decode steps.
    """

    left_out = "in a 5-fold cross-validation"
    jump_tokens: tuple[float, ...] = ()  # an engine's steps do not say which kernel changed
    allreduce_points: tuple[tuple[float, float], ...] = ()  # nor how long one took

    def __init__(self, samples: StepSamples) -> None:
        lone = samples.batch == 0
        if int((~lone).sum()) < _LEAST_ROWS:
            raise InputError(
                "measured decode steps (B > 0)", int((~lone).sum()), f">= {_LEAST_ROWS}", "measure more steps"
            )
        self.steps = samples.take(~lone)
        self.prompts = samples.take(lone) if int(lone.sum()) >= _LEAST_ROWS else None

    def fit(self, form: Form, prefill_form: Form | None = None, near: FittedLaws | None = None) -> FittedLaws:
        """Return both laws in a form; too few prompts take the step law.

        Parameters
        ----------
        form : Form
            What the laws may be made of.
        prefill_form : Form, optional
            Another one for the prefill law.
        near : FittedLaws, optional
            Laws to start from, instead of several places.
        """
        step, held = _cross_validated(self.steps, form, near.step if near else None, None)
        errors = _errors_of("step", held, self.steps) | _increment_error(step, held, self.steps)
        prefill_form = prefill_form or form
        prefill, held_prompts, prompts = step, held, self.steps
        if self.prompts is not None:
            prompts, reload_s = self.prompts, reload_of_s(step)
            prefill, held_prompts = _cross_validated(prompts, prefill_form, near.prefill if near else None, reload_s)
            errors |= _errors_of("prefill", held_prompts, prompts)
        return FittedLaws(
            form=form,
            prefill_form=prefill_form if self.prompts is not None else form,
            step=step,
            prefill=prefill,
            errors=errors,
            step_rms=_rms(held, self.steps),
            prefill_rms=_rms(held_prompts, prompts),
        )

    def drawn(self, rng: np.random.Generator) -> dict[Literal["step", "prefill"], StepSamples]:
        """Return the steps and prompts as they were measured: only which of them count is drawn.

        Parameters
        ----------
        rng : numpy.random.Generator
            Not used.
        """
        del rng
        if self.prompts is None:
            return {"step": self.steps}
        return {"step": self.steps, "prefill": self.prompts}


def calibrate_steps(samples: StepSamples, model: ModelShape, gpu: Gpu, tp: int, source: str) -> Calibration:
    """Return the laws of measured steps, in the form with the lowest error in a 5-fold cross-validation.

    Standard errors come from a bootstrap over rows, so `Calibration.draws` works.

    Parameters
    ----------
    samples : StepSamples
        Decode steps (B > 0, with or without a chunk) and prompts (B = 0).
    model : ModelShape
        Dimensions.
    gpu : Gpu
        GPU type.
    tp : int
        GPUs of the instance.
    source : str
        Where the steps come from.

    Returns
    -------
    Calibration
        Valid where steps were measured.

    Raises
    ------
    InputError
        When there are too few steps or their unit is wrong.
    """
    check_unit(samples, model, gpu, tp)
    measured = MeasuredSteps(samples)
    laws, choice, errors = choose_laws(measured, model)
    fitted: dict[Literal["step", "prefill"], Fitted] = {"step": Fitted(law=laws.step, form=laws.form)}
    if measured.prompts is not None:
        fitted["prefill"] = Fitted(law=laws.prefill, form=laws.prefill_form)
    standard_errors, correlations = bootstrap(measured.drawn, fitted)
    return Calibration(
        model=model.name,
        gpu=gpu.name,
        tp=tp,
        step=laws.step,
        prefill=laws.prefill,
        layers=model.layers,
        kv_bytes_per_token=model.kv_bytes_per_token(),
        kv_capacity_tokens=model.kv_capacity_tokens(tp, gpu.memory_bytes),
        valid_range=ValidRange(
            batch=int(samples.batch.max()),
            context_tokens=max(1, int(samples.context.max())),
            chunk_tokens=max(1, int(samples.chunk.max())),
            prompt_tokens=max(1, int((samples.done + samples.chunk).max())),
        ),
        fit=errors,
        standard_errors=standard_errors,
        correlations=correlations,
        provenance={
            "source": source,
            "source_version": f"{len(samples)} steps",
            "tables": MEASURED_TABLES,
            "law_choice": choice,
            "prefill_law": "the step law: too few steps without decode requests"
            if measured.prompts is None
            else "fitted to steps without decode requests",
            "engine_correction": "none: the steps are the engine's own",
        },
    )


def _cross_validated(samples: StepSamples, form: Form, near: Law | None, reload_s: float | None) -> tuple[Law, Array]:
    """Return the law of all samples, and the times [s] that laws of the other four fifths give for each sample."""

    def fit(rows: StepSamples, start: Law | None) -> Law:
        return fit_step_law(rows, form, start=start if isinstance(start, PNormLaw) else None, reload_s=reload_s)

    law = fit(samples, near)
    fold = np.random.default_rng(_SEED).permutation(len(samples)) % _FOLDS
    held_s = np.empty(len(samples))
    for i in range(_FOLDS):
        held = fold == i
        held_s[held] = law_times_s(fit(samples.take(~held), law), samples.take(held))
    return law, held_s


def _errors_of(part: str, held_s: Array, samples: StepSamples) -> dict[str, float]:
    error = np.abs(held_s / samples.time_s - 1)
    errors = {f"{part}_mape": error.mean(), f"{part}_p95": np.quantile(error, 0.95)}
    if part == "step":
        errors["step_worst"] = error.max()
    return {name: float(value) for name, value in errors.items()}


def _increment_error(law: Law, held_s: Array, samples: StepSamples) -> dict[str, float]:
    """Return the error of steps that host a chunk over what the law says that the chunk adds; {} without any.

    A measured step has no twin without the chunk, so the increment itself is the law's.
    """
    hosting = samples.chunk >= SHORT_PROMPT
    if not hosting.any():
        return {}
    rows, none = samples.take(hosting), np.zeros(int(hosting.sum()))
    plain = StepSamples(batch=rows.batch, context=rows.context, chunk=none, done=none, time_s=rows.time_s)
    added_s = law_times_s(law, rows) - law_times_s(law, plain)
    if not (added_s > 0).all():
        return {}
    return {"chunk_increment_mape": float(np.mean(np.abs(held_s[hosting] - rows.time_s) / added_s))}


def _rms(held_s: Array, samples: StepSamples) -> float:
    return float(np.sqrt(np.mean((held_s / samples.time_s - 1) ** 2)))

"""From kernel profiles to a calibration: compose steps, fit the laws, check them off the grid."""

from __future__ import annotations

import numpy as np

from qmodel.errors import InputError
from qmodel.fitting import design
from qmodel.fitting.bootstrap import bootstrap
from qmodel.fitting.composition import StepComposition, compose
from qmodel.fitting.gpus import Gpu
from qmodel.fitting.models import ModelShape
from qmodel.fitting.sources import KernelSource
from qmodel.fitting.steplaw import Family, errors_of, fit_step_law, law_times_s
from qmodel.laws import Calibration, LinearLaw, PNormLaw, StepSamples, ValidRange

__all__ = ["calibrate_model"]

Law = PNormLaw | LinearLaw

FAMILIES: tuple[Family, ...] = ("linear", "dense", "moe")
# A dense model's law gives up convexity (a > 0), and any model the floor and gain of the p-norm law for the linear
# baseline, only for half the error.
CHOICE_MARGIN = 0.5
SHORT_PROMPT = 256  # below it the prefill law's error is stated apart
_SHORTEST = 16


def calibrate_model(model: ModelShape, source: KernelSource, gpu: Gpu, tp: int) -> Calibration:
    """Return the laws of one model on one GPU type at one tensor-parallel degree, fitted to composed kernels.

    Parameters
    ----------
    model : ModelShape
        Dimensions.
    source : KernelSource
        Kernel times.
    gpu : Gpu
        Memory and name.
    tp : int
        GPUs of one instance.

    Returns
    -------
    Calibration
        Laws with their leave-out errors, valid range and provenance.

    Raises
    ------
    InputError
        When the weights do not fit, or a kernel is missing.
    """
    capacity = model.kv_capacity_tokens(tp, gpu.memory_bytes)
    if capacity < design.MAX_CHUNK:
        limit = f"at least {design.MAX_CHUNK} tokens of KV cache beside the weights"
        raise InputError(f"room for {model.name} on {tp} x {gpu.name}", f"{capacity} tokens", limit, "use a larger tp")
    composition = compose(model, source, tp)
    longest = design.context_limit(model.max_context)
    step, family, choice, errors = _step_law(composition, capacity, longest, moe=model.is_moe)
    prefill, prefill_errors = _prefill_law(composition, step, longest, moe=model.is_moe)
    natural: Family = "moe" if model.is_moe else "dense"
    standard_errors, correlations = bootstrap(
        composition,
        lambda c: design.fit_steps(c, capacity, longest),
        {"step": (step, family, _weights), "prefill": (prefill, natural, _prompt_weights)},
        lambda c: design.prompts(c, _lengths(longest)),
    )
    cleaned = source.report.lines()
    return Calibration(
        model=model.name,
        gpu=gpu.name,
        tp=tp,
        step=step,
        prefill=prefill,
        layers=model.layers,
        kv_bytes_per_token=model.kv_bytes_per_token(),
        kv_capacity_tokens=capacity,
        valid_range=ValidRange(
            batch=design.MAX_BATCH,
            context_tokens=min(capacity, design.MAX_BATCH * longest),
            chunk_tokens=design.MAX_CHUNK,
            prompt_tokens=longest,
        ),
        fit=errors | prefill_errors,
        standard_errors=standard_errors,
        correlations=correlations,
        provenance=source.description
        | {"engine_correction": "none", "law_choice": choice}
        | {f"cleaning_{i + 1}": line for i, line in enumerate(cleaned)},
    )


def _weights(samples: StepSamples) -> np.ndarray:
    """Weigh steps with and without a chunk alike: engines run far more of the latter."""
    plain = samples.chunk == 0
    shares = np.where(plain, 0.5 / plain.sum(), 0.5 / (~plain).sum())
    return np.asarray(shares * len(samples))


def _prompt_weights(samples: StepSamples) -> np.ndarray:
    return np.where(samples.chunk < SHORT_PROMPT, 0.1, 1.0)


def _lengths(longest: int) -> np.ndarray:
    return np.unique(np.round(np.exp(np.linspace(np.log(_SHORTEST), np.log(longest), 56))))


def _step_law(
    composition: StepComposition, capacity: int, longest: int, *, moe: bool
) -> tuple[Law, Family, str, dict[str, float]]:
    """Return the family with the lowest off-grid error, why, and its errors."""
    fitted = design.fit_steps(composition, capacity, longest)
    held = design.off_grid_steps(composition, capacity, longest)
    laws = {family: fit_step_law(fitted, family, weights=_weights(fitted)) for family in FAMILIES}
    rms = {f: float(np.sqrt(np.mean((law_times_s(law, held) / held.time_s - 1) ** 2))) for f, law in laws.items()}
    natural = "moe" if moe else "dense"
    best = min(FAMILIES, key=lambda f: rms[f] / (1.0 if f == natural else CHOICE_MARGIN))
    found = ", ".join(f"{f} {100 * rms[f]:.2f} %" for f in FAMILIES)
    choice = f"{best}, by root-mean-square relative error off the grid: {found}"
    errors, linear = errors_of(laws[best], held), errors_of(laws["linear"], held)
    increment = _increment_error(laws[best], composition, held)
    return (
        laws[best],
        best,
        choice,
        {
            "step_mape": errors.mape,
            "step_p95": errors.p95,
            "step_worst": errors.worst,
            "chunk_increment_mape": increment,
            "linear_step_mape": linear.mape,
            "linear_step_worst": linear.worst,
        },
    )


def _increment_error(law: Law, composition: StepComposition, held: StepSamples) -> float:
    """Return the mean relative error of dT = T(B,K,chi,done) - T(B,K,0,0) for chunks of at least 256 tokens."""
    hosting = held.take(held.chunk >= SHORT_PROMPT)
    zero = np.zeros(len(hosting))
    alone = composition.step_time_s(hosting.batch, hosting.context / hosting.batch)
    plain = StepSamples(batch=hosting.batch, context=hosting.context, chunk=zero, done=zero, time_s=alone)
    predicted = law_times_s(law, hosting) - law_times_s(law, plain)
    return float(np.mean(np.abs(predicted / (hosting.time_s - alone) - 1)))


def _prefill_law(composition: StepComposition, step: Law, longest: int, *, moe: bool) -> tuple[Law, dict[str, float]]:
    """Return the law of lone prompts, cx taken from the step law, with its errors between the fitted lengths."""
    lengths = _lengths(longest)
    between = np.unique(np.round(np.sqrt(lengths[1:] * lengths[:-1])))
    reload_s = step.reload_s if isinstance(step, PNormLaw) else 0.0
    fitted = design.prompts(composition, lengths)
    law = fit_step_law(fitted, "moe" if moe else "dense", weights=_prompt_weights(fitted), reload_s=reload_s)
    long_, short = (design.prompts(composition, between[m]) for m in (between >= SHORT_PROMPT, between < SHORT_PROMPT))
    errors, small = errors_of(law, long_), errors_of(law, short)
    return law, {"prefill_mape": errors.mape, "prefill_p95": errors.p95, "prefill_short_mape": small.mape}

"""A calibration straight from measured engine steps, without kernels."""

from __future__ import annotations

import numpy as np

from qmodel.errors import InputError
from qmodel.fitting.gpus import Gpu
from qmodel.fitting.models import BYTES, ModelShape
from qmodel.fitting.steplaw import Family, fit_step_law, law_times_s
from qmodel.laws import Calibration, LinearLaw, PNormLaw, StepSamples, ValidRange

__all__ = ["calibrate_steps", "check_unit"]

Law = PNormLaw | LinearLaw

_FOLDS = 5
_SEED = 411
_LEAST_ROWS = 12
_FASTEST, _SLOWEST = 0.2, 200.0  # step over a lower bound of its time; a wrong unit is off by 1000


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
    multiply = (samples.batch + samples.chunk) * read / 150  # operations per byte that data-centre GPUs balance
    ratio = float(np.median(samples.time_s / np.maximum(read, multiply)))
    if not _FASTEST <= ratio <= _SLOWEST:
        limit = f"between {_FASTEST} and {_SLOWEST:g}"
        raise InputError("median step over the least time its weights need", ratio, limit, "check the unit: t_ms in ms")


def calibrate_steps(samples: StepSamples, model: ModelShape, gpu: Gpu, tp: int, source: str) -> Calibration:
    """Return the laws of measured steps; the leave-out error is that of a 5-fold cross-validation.

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
    decode = samples.take(samples.batch > 0)
    if len(decode) < _LEAST_ROWS:
        raise InputError("measured decode steps (B > 0)", len(decode), f">= {_LEAST_ROWS}", "measure more steps")
    natural: Family = "moe" if model.is_moe else "dense"
    step, errors = _cross_validated(decode, natural)
    lone = samples.batch == 0
    enough = int(lone.sum()) >= _LEAST_ROWS
    reload_s = step.reload_s if isinstance(step, PNormLaw) else 0.0
    prefill = fit_step_law(samples.take(lone), natural, reload_s=reload_s) if enough else step
    prompts = samples.take(lone) if enough else decode
    prompt_error = np.abs(law_times_s(prefill, prompts) / prompts.time_s - 1)
    whole = samples.done + samples.chunk
    return Calibration(
        model=model.name,
        gpu=gpu.name,
        tp=tp,
        step=step,
        prefill=prefill,
        layers=model.layers,
        kv_bytes_per_token=model.kv_bytes_per_token(),
        kv_capacity_tokens=model.kv_capacity_tokens(tp, gpu.memory_bytes),
        valid_range=ValidRange(
            batch=int(samples.batch.max()),
            context_tokens=max(1, int(samples.context.max())),
            chunk_tokens=max(1, int(samples.chunk.max())),
            prompt_tokens=max(1, int(whole.max())),
        ),
        fit=errors | {"prefill_mape": float(prompt_error.mean())},
        provenance={
            "source": source,
            "source_version": f"{len(samples)} steps",
            "tables": "measured engine steps",
            "law_choice": f"{natural}, the model's own family",
            "prefill_law": "fitted to steps without decode requests" if enough else "the step law: too few such steps",
            "engine_correction": "none: the steps are the engine's own",
        },
    )


def _cross_validated(steps: StepSamples, family: Family) -> tuple[Law, dict[str, float]]:
    law = fit_step_law(steps, family)
    fold = np.random.default_rng(_SEED).permutation(len(steps)) % _FOLDS
    error = np.empty(len(steps))
    for i in range(_FOLDS):
        held = fold == i
        part = fit_step_law(steps.take(~held), family, start=law if isinstance(law, PNormLaw) else None)
        error[held] = np.abs(law_times_s(part, steps.take(held)) / steps.time_s[held] - 1)
    return law, {
        "step_mape": float(error.mean()),
        "step_p95": float(np.quantile(error, 0.95)),
        "step_worst": float(error.max()),
        "chunk_increment_mape": float(error[steps.chunk > 0].mean()) if (steps.chunk > 0).any() else 0.0,
    }

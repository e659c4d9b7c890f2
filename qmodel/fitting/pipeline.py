"""From kernel profiles to a calibration: compose steps, fit the laws, check them off the grid."""

from __future__ import annotations

from qmodel.errors import InputError
from qmodel.fitting import design
from qmodel.fitting.bootstrap import Fitted, bootstrap
from qmodel.fitting.choice import LawSamples, choose_laws, prompt_weights, step_weights
from qmodel.fitting.composition import compose
from qmodel.fitting.gpus import Gpu
from qmodel.fitting.models import ModelShape
from qmodel.fitting.sources import KernelSource
from qmodel.laws import Calibration, ValidRange

__all__ = ["calibrate_model"]


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
    samples = LawSamples(composition, capacity, longest)
    laws, choice, errors = choose_laws(samples, model)
    standard_errors, correlations = bootstrap(
        samples.drawn,
        {
            "step": Fitted(law=laws.step, form=laws.form, weigh=step_weights),
            "prefill": Fitted(law=laws.prefill, form=laws.prefill_form, weigh=prompt_weights),
        },
    )
    cleaned = source.report.lines()
    return Calibration(
        model=model.name,
        gpu=gpu.name,
        tp=tp,
        step=laws.step,
        prefill=laws.prefill,
        layers=model.layers,
        kv_bytes_per_token=model.kv_bytes_per_token(),
        kv_capacity_tokens=capacity,
        valid_range=ValidRange(
            batch=design.MAX_BATCH,
            context_tokens=min(capacity, design.MAX_BATCH * longest),
            chunk_tokens=design.MAX_CHUNK,
            prompt_tokens=longest,
        ),
        fit=errors,
        standard_errors=standard_errors,
        correlations=correlations,
        provenance=source.description
        | {"engine_correction": "none", "law_choice": choice}
        | {f"cleaning_{i + 1}": line for i, line in enumerate(cleaned)},
    )

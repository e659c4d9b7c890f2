"""A calibration: the laws of one (model, GPU, tp), with where they come from and how far they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qmodel.errors import InputError, OutOfRangeError
from qmodel.laws.engine import EngineCorrection
from qmodel.laws.prefill import chunked_prefill_s, lone_prefill_s, prefill_work_s
from qmodel.laws.step import FloatLike, PNormLaw, StepLaw
from qmodel.laws.uncertainty import draw_calibrations

__all__ = ["MEASURED_TABLES", "Calibration", "ValidRange"]

MEASURED_TABLES = "measured engine steps"  # provenance["tables"] of laws fitted to an engine's own steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidRange:
    """Largest values that the fit has seen; a query beyond them is flagged.

    Parameters
    ----------
    batch : int
        Decode requests in a step.
    context_tokens : int
        Sum of their contexts [tokens].
    chunk_tokens : int
        Prompt tokens in a step.
    prompt_tokens : int
        Length of a prompt [tokens].
    """

    batch: int
    context_tokens: int
    chunk_tokens: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Laws of one model on one GPU type at one tensor-parallel degree.

    Parameters
    ----------
    model, gpu : str
        Names, e.g. ``deepseek-v2-lite`` and ``a100``.
    tp : int
        GPUs of one instance.
    step : StepLaw
        Law of steps on a decode instance, with or without a hosted chunk.
    prefill : StepLaw
        Law of (packed) steps on a prefill instance; the two differ by 6-7 % at 4-8k tokens.
    layers : int
        Layers of the model.
    kv_bytes_per_token : float
        KV cache of one token [bytes], summed over the instance's GPUs.
    kv_capacity_tokens : int
        Tokens of KV cache that fit one instance.
    valid_range : ValidRange
        Where the fit holds.
    fit : Mapping
        Fit errors: name to relative error, e.g. ``step_mape``.
    standard_errors : Mapping
        Standard error of each coefficient, by ``step.w_s`` and the like.
    provenance : Mapping
        Source package, version, date and choices made.
    engine : EngineCorrection, optional
        What was added to the kernels' laws to obtain `step` and `prefill`; None for kernels alone.
    correlations : Mapping
        Correlations between the fitted coefficients, by pairs of names of `standard_errors`, ``a|b``.
    """

    model: str
    gpu: str
    tp: int
    step: StepLaw
    prefill: StepLaw
    layers: int
    kv_bytes_per_token: float
    kv_capacity_tokens: int
    valid_range: ValidRange
    fit: Mapping[str, float] = field(default_factory=dict)
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    engine: EngineCorrection | None = None
    correlations: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("tp", "layers", "kv_capacity_tokens"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 1):
                raise InputError(f"calibration {name}", value, ">= 1", "check the calibration file")

    @property
    def name(self) -> str:
        """Name of the calibration: model, GPU and tp."""
        return f"{self.model}_{self.gpu}_tp{self.tp}"

    @property
    def fingerprint(self) -> str:
        """Return the sha256 (hex) of everything that predictions depend on; provenance and errors are left out."""
        numbers = np.concatenate([self.step.kernel_params(), self.prefill.kernel_params()])
        exponent = self.engine.batch_exponent if self.engine else 0.0
        sizes = (self.layers, self.kv_bytes_per_token, self.kv_capacity_tokens, exponent)
        text = ";".join([self.name, *(f"{value:.12g}" for value in (*numbers, *sizes))])
        return hashlib.sha256(text.encode()).hexdigest()

    def check(
        self,
        *,
        batch: FloatLike = 0.0,
        context_tokens: FloatLike = 0.0,
        chunk_tokens: FloatLike = 0.0,
        prompt_tokens: FloatLike = 0.0,
        strict: bool = False,
    ) -> list[str]:
        """Return a warning for each quantity beyond the range in which the laws were fitted.

        Parameters
        ----------
        batch, context_tokens, chunk_tokens, prompt_tokens : float or ndarray
            What will be asked of the laws; the largest value counts.
        strict : bool
            Whether to raise instead.

        Returns
        -------
        list of str
            One line per quantity out of range; empty when all are within.

        Raises
        ------
        OutOfRangeError
            When `strict` and a quantity is out of range.
        """
        asked = {
            "batch": batch,
            "context_tokens": context_tokens,
            "chunk_tokens": chunk_tokens,
            "prompt_tokens": prompt_tokens,
        }
        warnings = []
        for name, value in asked.items():
            largest, limit = float(np.max(value, initial=0.0)), getattr(self.valid_range, name)
            if largest > limit:
                if strict:
                    remedy = f"calibrate {self.model} over that range"
                    raise OutOfRangeError(name, largest, f"<= {limit}, the range of {self.name}", remedy)
                warnings.append(f"{name} up to {largest:.6g} leaves the calibrated range of {self.name} ({limit})")
        return warnings

    def lone_prefill_s(self, prompt_tokens: FloatLike, cached_tokens: FloatLike = 0.0) -> FloatLike:
        """Return S(L) [s], one unchunked step for a lone prompt; see `laws.prefill.lone_prefill_s`."""
        return lone_prefill_s(self.prefill, prompt_tokens, cached_tokens)

    def chunked_prefill_s(self, prompt_tokens: FloatLike, budget: int, cached_tokens: FloatLike = 0.0) -> FloatLike:
        """Return S_b(L) [s], a lone prompt in budget-sized steps; see `laws.prefill.chunked_prefill_s`."""
        return chunked_prefill_s(self.prefill, prompt_tokens, budget, cached_tokens)

    def work_s(self, prompt_tokens: FloatLike, budget: int, cached_tokens: FloatLike = 0.0) -> FloatLike:
        """Return W(L) [s], a prompt's share of full prefill steps; see `laws.prefill.prefill_work_s`."""
        return prefill_work_s(self.prefill, prompt_tokens, budget, cached_tokens)

    def prompt_batch_s(self, prompts: FloatLike, prompt_tokens: FloatLike) -> FloatLike:
        """Return the time of one unchunked step that holds several prompts of the same length [s].

        Parameters
        ----------
        prompts : float or ndarray
            Prompts b in the batch.
        prompt_tokens : float or ndarray
            Tokens L of each.
        """
        b, L = np.asarray(prompts, dtype=float), np.asarray(prompt_tokens, dtype=float)
        time = self.prefill.step_time_s(0.0 * b, 0.0 * b, b * L, b * L**2 / 2)
        time = time * (self.engine.batch_factor(b, b * L) if self.engine else 1.0)
        return float(time) if np.ndim(time) == 0 else np.asarray(time)

    def with_engine(self, engine: EngineCorrection) -> Calibration:
        """Return the calibration of an engine from that of its kernels.

        Parameters
        ----------
        engine : EngineCorrection
            What the engine adds.

        Raises
        ------
        InputError
            When the laws are corrected already.
        """
        return replace(self, step=engine.step_law(self.step), prefill=engine.prefill_law(self.prefill), engine=engine)

    def without_engine(self) -> Calibration:
        """Return the calibration of the kernels alone."""
        if self.engine is None or not (isinstance(self.step, PNormLaw) and isinstance(self.prefill, PNormLaw)):
            return self
        step, prefill = (
            replace(law, floor_s=0.0, floor_per_request_s=0.0, gain=1.0) for law in (self.step, self.prefill)
        )
        return replace(self, step=step, prefill=prefill, engine=None)

    def draws(self, n: int, rng: np.random.Generator) -> list[Calibration]:
        """Return `n` calibrations drawn from the fit's covariance; see `laws.uncertainty.draw_calibrations`."""
        return draw_calibrations(self, n, rng)

    def decode_step_s(
        self, batch: FloatLike, context_tokens: FloatLike, chunk: FloatLike = 0.0, done: FloatLike = 0.0
    ) -> FloatLike:
        """Return T(B, K, chi, done) [s] of a decode step that hosts one chunk of `chunk` tokens."""
        reloaded = np.where(np.asarray(chunk) > 0, done, 0.0)
        time = self.step.step_time_s(batch, context_tokens, chunk, chunk * (done + chunk / 2), reloaded)
        return float(time) if np.ndim(time) == 0 else time

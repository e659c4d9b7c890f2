"""The form of a calibration file: pydantic models with units in the keys, and their way to laws and back."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from qmodel.errors import InputError
from qmodel.laws import Calibration, EngineCorrection, LinearLaw, PNormLaw, StepLaw, ValidRange
from qmodel.units import MS

__all__ = ["SCHEMA_VERSION", "CalibrationFile"]

SCHEMA_VERSION = 1
_DIGITS = 6  # significant digits in files: well below any fit error, and the same bytes on every machine


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PNormFile(_Strict):
    """Coefficients of a `PNormLaw` in ms and tokens."""

    kind: Literal["p-norm"]
    t0_ms: float = 0.0
    w_ms: float
    a: float = 0.0
    c_ms_per_token: float
    p: float = 1.0
    context_ms_per_token: float = 0.0
    attention_ms_per_token2: float = 0.0
    reload_ms_per_token: float = 0.0
    floor_ms: float = 0.0
    floor_ms_per_request: float = 0.0
    gain: float = 1.0
    expert_share: float = 0.0
    jump_ms: float = 0.0
    jump_from_tokens: float = 0.0
    jump_to_tokens: float = 0.0
    allreduce_tokens: tuple[float, ...] = ()
    allreduce_ms: tuple[float, ...] = ()

    def law(self) -> PNormLaw:
        """Return the law in seconds."""
        return PNormLaw(
            t0_s=self.t0_ms * MS,
            w_s=self.w_ms * MS,
            a=self.a,
            c_s=self.c_ms_per_token * MS,
            p=self.p,
            context_s=self.context_ms_per_token * MS,
            attention_s=self.attention_ms_per_token2 * MS,
            reload_s=self.reload_ms_per_token * MS,
            floor_s=self.floor_ms * MS,
            floor_per_request_s=self.floor_ms_per_request * MS,
            gain=self.gain,
            expert_share=self.expert_share,
            jump_s=self.jump_ms * MS,
            jump_from_tokens=self.jump_from_tokens,
            jump_to_tokens=self.jump_to_tokens,
            allreduce_tokens=self.allreduce_tokens,
            allreduce_s=tuple(value * MS for value in self.allreduce_ms),
        )

    @classmethod
    def of(cls, law: PNormLaw) -> PNormFile:
        """Return the file form of a law."""
        values = {
            "t0_ms": law.t0_s / MS,
            "w_ms": law.w_s / MS,
            "a": law.a,
            "c_ms_per_token": law.c_s / MS,
            "p": law.p,
            "context_ms_per_token": law.context_s / MS,
            "attention_ms_per_token2": law.attention_s / MS,
            "reload_ms_per_token": law.reload_s / MS,
            "floor_ms": law.floor_s / MS,
            "floor_ms_per_request": law.floor_per_request_s / MS,
            "gain": law.gain,
            "expert_share": law.expert_share,
            "jump_ms": law.jump_s / MS,
            "jump_from_tokens": law.jump_from_tokens,
            "jump_to_tokens": law.jump_to_tokens,
        }
        points = {
            "allreduce_tokens": tuple(map(_rounded, law.allreduce_tokens)),
            "allreduce_ms": tuple(_rounded(value / MS) for value in law.allreduce_s),
        }
        return cls.model_validate({"kind": "p-norm"} | {k: _rounded(v) for k, v in values.items()} | points)


class LinearFile(_Strict):
    """Coefficients of a `LinearLaw` in ms and tokens."""

    kind: Literal["linear"]
    alpha_ms: float
    batch_ms: float
    context_ms_per_token: float
    prompt_ms_per_token: float
    attention_ms_per_token2: float

    def law(self) -> LinearLaw:
        """Return the law in seconds."""
        return LinearLaw(
            alpha_s=self.alpha_ms * MS,
            batch_s=self.batch_ms * MS,
            context_s=self.context_ms_per_token * MS,
            prompt_s=self.prompt_ms_per_token * MS,
            attention_s=self.attention_ms_per_token2 * MS,
        )

    @classmethod
    def of(cls, law: LinearLaw) -> LinearFile:
        """Return the file form of a law."""
        values = {
            "alpha_ms": law.alpha_s,
            "batch_ms": law.batch_s,
            "context_ms_per_token": law.context_s,
            "prompt_ms_per_token": law.prompt_s,
            "attention_ms_per_token2": law.attention_s,
        }
        return cls.model_validate({"kind": "linear"} | {k: _rounded(v / MS) for k, v in values.items()})


class EngineFile(_Strict):
    """An engine correction in ms."""

    floor_ms: float
    floor_ms_per_request: float
    gain: float
    prefill_floor_ms: float
    prefill_gain: float
    batch_exponent: float

    def correction(self) -> EngineCorrection:
        """Return the correction in seconds."""
        return EngineCorrection(
            floor_s=self.floor_ms * MS,
            floor_per_request_s=self.floor_ms_per_request * MS,
            gain=self.gain,
            prefill_floor_s=self.prefill_floor_ms * MS,
            prefill_gain=self.prefill_gain,
            batch_exponent=self.batch_exponent,
        )

    @classmethod
    def of(cls, engine: EngineCorrection) -> EngineFile:
        """Return the file form of a correction."""
        return cls(
            floor_ms=_rounded(engine.floor_s / MS),
            floor_ms_per_request=_rounded(engine.floor_per_request_s / MS),
            gain=_rounded(engine.gain),
            prefill_floor_ms=_rounded(engine.prefill_floor_s / MS),
            prefill_gain=_rounded(engine.prefill_gain),
            batch_exponent=_rounded(engine.batch_exponent),
        )


class RangeFile(_Strict):
    """Largest values that the fit has seen."""

    batch: int = Field(ge=1)
    context_tokens: int = Field(ge=1)
    chunk_tokens: int = Field(ge=1)
    prompt_tokens: int = Field(ge=1)


class CalibrationFile(_Strict):
    """A calibration as it stands in a file."""

    schema_version: Literal[1] = 1
    model: str
    gpu: str
    tp: int = Field(ge=1)
    layers: int = Field(ge=1)
    kv_bytes_per_token: float = Field(gt=0)
    kv_capacity_tokens: int = Field(ge=1)
    step_law: PNormFile | LinearFile = Field(discriminator="kind")
    prefill_law: PNormFile | LinearFile = Field(discriminator="kind")
    valid_range: RangeFile
    fit: dict[str, float] = {}
    standard_errors: dict[str, float] = {}
    correlations: dict[str, float] = {}
    engine: EngineFile | None = None
    provenance: dict[str, str] = {}
    other_tp: list[CalibrationFile] = []

    def calibration(self) -> Calibration:
        """Return the calibration, in seconds and bytes."""
        return Calibration(
            model=self.model,
            gpu=self.gpu,
            tp=self.tp,
            step=self.step_law.law(),
            prefill=self.prefill_law.law(),
            layers=self.layers,
            kv_bytes_per_token=self.kv_bytes_per_token,
            kv_capacity_tokens=self.kv_capacity_tokens,
            valid_range=ValidRange(**self.valid_range.model_dump()),
            fit=dict(self.fit),
            standard_errors=dict(_in_seconds(key, value) for key, value in self.standard_errors.items()),
            correlations={"|".join(_law_name(k) for k in pair.split("|")): v for pair, v in self.correlations.items()},
            engine=self.engine.correction() if self.engine else None,
            provenance=dict(self.provenance),
        )

    @classmethod
    def of(cls, cal: Calibration) -> CalibrationFile:
        """Return the file form of a calibration."""
        valid = cal.valid_range
        return cls(
            model=cal.model,
            gpu=cal.gpu,
            tp=cal.tp,
            layers=cal.layers,
            kv_bytes_per_token=cal.kv_bytes_per_token,
            kv_capacity_tokens=cal.kv_capacity_tokens,
            step_law=_law_file(cal.step),
            prefill_law=_law_file(cal.prefill),
            valid_range=RangeFile(
                batch=valid.batch,
                context_tokens=valid.context_tokens,
                chunk_tokens=valid.chunk_tokens,
                prompt_tokens=valid.prompt_tokens,
            ),
            fit={k: _rounded(v, 4) for k, v in cal.fit.items()},
            standard_errors=dict(_in_ms(name, value) for name, value in cal.standard_errors.items()),
            correlations={
                "|".join(_file_name(n) for n in pair.split("|")): round(v, 2) for pair, v in cal.correlations.items()
            },
            engine=EngineFile.of(cal.engine) if cal.engine else None,
            provenance=dict(cal.provenance),
        )


# Names of coefficients in laws (seconds) and in files (milliseconds).
_FILE_NAMES = {
    "t0_s": "t0_ms",
    "w_s": "w_ms",
    "c_s": "c_ms_per_token",
    "context_s": "context_ms_per_token",
    "attention_s": "attention_ms_per_token2",
    "reload_s": "reload_ms_per_token",
    "jump_s": "jump_ms",
    "alpha_s": "alpha_ms",
    "batch_s": "batch_ms",
    "prompt_s": "prompt_ms_per_token",
    "floor_s": "floor_ms",
    "floor_per_request_s": "floor_ms_per_request",
    "prefill_floor_s": "prefill_floor_ms",
}
_LAW_NAMES = {value: key for key, value in _FILE_NAMES.items()}


def _file_name(name: str) -> str:
    part, _, coefficient = name.partition(".")
    return f"{part}.{_FILE_NAMES.get(coefficient, coefficient)}"


def _law_name(key: str) -> str:
    part, _, coefficient = key.partition(".")
    return f"{part}.{_LAW_NAMES.get(coefficient, coefficient)}"


def _in_ms(name: str, value: float) -> tuple[str, float]:
    return _file_name(name), _rounded(value / MS if name.partition(".")[2] in _FILE_NAMES else value, 3)


def _in_seconds(key: str, value: float) -> tuple[str, float]:
    return _law_name(key), value * MS if key.partition(".")[2] in _LAW_NAMES else value


def _law_file(law: StepLaw) -> PNormFile | LinearFile:
    if isinstance(law, PNormLaw):
        return PNormFile.of(law)
    if isinstance(law, LinearLaw):
        return LinearFile.of(law)
    raise InputError("law", type(law).__name__, "a PNormLaw or LinearLaw", "only these have a file form")


def _rounded(value: float, digits: int = _DIGITS) -> float:
    return float(f"{value:.{digits}g}")

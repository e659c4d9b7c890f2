"""Calibration files: one JSON file per (model, GPU, tp), units in the keys, milliseconds and tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qmodel.errors import InputError
from qmodel.io.atomic import write_text
from qmodel.laws import Calibration, EngineCorrection, LinearLaw, PNormLaw, StepLaw, ValidRange
from qmodel.units import MS

__all__ = [
    "calibration_json",
    "list_calibrations",
    "load_calibration",
    "load_calibrations",
    "read_calibration",
    "read_calibrations",
    "save_calibration",
    "shipped_folder",
]

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
        }
        return cls.model_validate({"kind": "p-norm"} | {k: _rounded(v) for k, v in values.items()})


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


def shipped_folder() -> Path:
    """Return the folder of the calibrations that come with qmodel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "data" / "calibration"
    return installed if installed.is_dir() else package.parent / "calibration"


def list_calibrations() -> list[tuple[str, str, int]]:
    """Return the (model, gpu, tp) of every shipped calibration.

    Returns
    -------
    list of tuple
        Sorted by model, GPU and tp.
    """
    return sorted(_shipped())


def _shipped() -> Iterator[tuple[str, str, int]]:
    for path in shipped_folder().glob("*_tp*.json"):
        model, gpu, tp = path.stem.rsplit("_", 2)
        yield model, gpu, int(tp.removeprefix("tp"))


def load_calibration(model: str, gpu: str = "a100", tp: int = 1) -> Calibration:
    """Return a calibration: a shipped one by model, GPU and tp, or one from a file that `qmodel calibrate` wrote.

    Parameters
    ----------
    model : str
        Name such as ``deepseek-v2-lite``, or the path of a calibration file (``.json``).
    gpu : str
        GPU name; not used with a path.
    tp : int
        GPUs of an instance; with a path, the default takes the file's first calibration where it has none for tp 1.

    Returns
    -------
    Calibration
        Laws and sizes, in seconds, bytes and tokens.

    Raises
    ------
    InputError
        When there is no such calibration (the message names those there are), or the file is not one.
    """
    if str(model).endswith(".json"):
        found = read_calibrations(model)
        first = tp == 1 and all(c.tp != 1 for c in found)
        return found[0] if first else read_calibration(model, tp)
    name, device = str(model).lower(), str(gpu).lower()
    path = shipped_folder() / f"{name}_{device}_tp{tp}.json"
    if path.is_file():
        return read_calibration(path)
    known = list_calibrations()
    models = sorted({m for m, _, _ in known})
    if name not in models:
        raise InputError("model", repr(model), f"one of {', '.join(models)}", "or the path of a calibration file")
    gpus = sorted({g for m, g, _ in known if m == name})
    if device not in gpus:
        raise InputError(f"GPU for {name}", repr(gpu), f"one of {', '.join(gpus)}", "or calibrate it")
    degrees = [str(t) for m, g, t in known if (m, g) == (name, device)]
    raise InputError(f"tp for {name} on {device}", tp, f"one of {', '.join(degrees)}", "or calibrate it")


def load_calibrations(model: str, gpu: str = "a100") -> list[Calibration]:
    """Return the shipped calibrations of a model on a GPU, one for each tp.

    Parameters
    ----------
    model, gpu : str
        Names.

    Returns
    -------
    list of Calibration
        By tp; at least one.

    Raises
    ------
    InputError
        When there is none.
    """
    name, device = model.lower(), gpu.lower()
    degrees = [t for m, g, t in list_calibrations() if (m, g) == (name, device)]
    return [load_calibration(name, device, t) for t in degrees or (1,)]


def read_calibration(path: str | Path, tp: int | None = None) -> Calibration:
    """Return the calibration in a file; one of several when the file holds more than one tp.

    Parameters
    ----------
    path : str or Path
        JSON file.
    tp : int, optional
        GPUs of an instance; by default those of the file's first calibration.

    Returns
    -------
    Calibration
        Laws and sizes.

    Raises
    ------
    InputError
        When the file is missing, not JSON, not a calibration, or has none for `tp`.
    """
    found = read_calibrations(path)
    if tp is None:
        return found[0]
    for calibration in found:
        if calibration.tp == tp:
            return calibration
    degrees = ", ".join(str(c.tp) for c in found)
    raise InputError(f"tp in '{path}'", tp, f"one of {degrees}", "calibrate with measurements or profiles of that tp")


def read_calibrations(path: str | Path) -> list[Calibration]:
    """Return every calibration in a file: the first, then those of other tp.

    Parameters
    ----------
    path : str or Path
        JSON file.

    Returns
    -------
    list of Calibration
        At least one.

    Raises
    ------
    InputError
        When the file is missing, not JSON, or not a calibration.
    """
    try:
        file = CalibrationFile.model_validate(_read_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        remedy = "write it with `qmodel calibrate`"
        raise InputError(f"calibration '{path}', {where}", first["msg"], remedy=remedy) from None
    return [entry.calibration() for entry in (file, *file.other_tp)]


def _read_object(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise InputError("calibration file", f"'{path}', which does not exist", "there") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError("calibration file", f"'{path}': {error}", "a readable JSON object") from None
    if not isinstance(content, dict):
        raise InputError("calibration file", f"'{path}'", "a JSON object")
    return content


def calibration_json(calibration: Calibration, other_tp: Sequence[Calibration] = ()) -> str:
    """Return the text of a calibration file; the same calibration gives the same bytes.

    Parameters
    ----------
    calibration : Calibration
        What to write.
    other_tp : sequence of Calibration
        The same model and GPU at other tp, kept in the same file.
    """
    file = CalibrationFile.of(calibration)
    file = file.model_copy(update={"other_tp": [CalibrationFile.of(c) for c in other_tp]})
    content = file.model_dump(exclude_defaults=True)
    return json.dumps({"schema_version": SCHEMA_VERSION} | content, indent=2) + "\n"


def save_calibration(calibration: Calibration, path: str | Path, other_tp: Sequence[Calibration] = ()) -> None:
    """Write a calibration to a file, whole or not at all.

    Parameters
    ----------
    calibration : Calibration
        What to write.
    path : str or Path
        JSON file.
    other_tp : sequence of Calibration
        The same model and GPU at other tp, kept in the same file.
    """
    write_text(path, calibration_json(calibration, other_tp))

"""How far a calibration is from measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.fitting.engine import carried_engine, decode_times_s, fitting_rows, prompt_times_s
from qmodel.io.calibrations import load_calibrations, read_calibrations
from qmodel.io.measurements import read_measurements
from qmodel.laws import Calibration, Measurements

__all__ = ["Validation", "own_rows", "validate_calibration"]

# The paper's own analytical model claims 10 %; beyond half as much again a percentile is called unexplained.
UNEXPLAINED = 0.15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """How far a calibration is from measurements.

    Parameters
    ----------
    token_time_mape, prompt_time_mape : float, optional
        Mean |predicted/measured - 1| over rows; None when the file has no such rows.
    token_rows, prompt_rows : int
        Rows compared.
    by_tp : dict
        The same by tp: ``{"4": {"token_time_mape": ...}}``.
    percentiles : dict
        By percentile: size of the relative error over rows (``token_time``, ``prompt_time``), and for files with
        requests the signed error of the predicted percentile (``ttft``, ``tbt``).
    notes : tuple of str
        Rows set aside, and why.
    calibrations : tuple of Calibration
        What was compared, of the first model and GPU that the file has rows of.
    measured : tuple of Measurements
        What it was compared with.
    """

    token_time_mape: float | None
    prompt_time_mape: float | None
    token_rows: int
    prompt_rows: int
    by_tp: dict[str, dict[str, float]]
    percentiles: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    measured: tuple[Measurements, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, errors as fractions."""
        out: dict[str, Any] = {}
        for name in ("token_time_mape", "prompt_time_mape"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        for name, errors in self.percentiles.items():
            out[f"{name}_error"] = errors
        counts = {"token_rows": self.token_rows, "prompt_rows": self.prompt_rows, "by_tp": self.by_tp}
        return out | counts | {"unexplained": self.unexplained(), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """Return the result as short lines for people."""
        out = []
        if self.token_time_mape is not None:
            out.append(f"token time: mean error {self.token_time_mape:.1%} over {self.token_rows} rows")
        if self.prompt_time_mape is not None:
            out.append(f"prompt time: mean error {self.prompt_time_mape:.1%} over {self.prompt_rows} rows")
        for name, errors in self.percentiles.items():
            sign = "+" if name in ("ttft", "tbt") else ""
            parts = ", ".join(f"{q.upper()} {error:{sign}.1%}" for q, error in errors.items())
            label = name.upper() if sign else f"{name.replace('_', ' ')}, size of the error"
            out.append(f"{label}: {parts}")
        return out + [f"not explained: {text}" for text in self.unexplained()] + [f"note: {t}" for t in self.notes]

    def unexplained(self) -> list[str]:
        """Return percentiles of TTFT and TBT that the laws and the order of arrival do not explain, in words."""
        reasons = {
            "ttft": "queueing that the file does not show (other clients, a router, scheduling), or prefix cache hits",
            "tbt": "steps that host prompts, preemption, or the network between engine and client",
        }
        return [
            f"{name.upper()} {q.upper()} is predicted {error:+.0%} off: {reasons[name]}"
            for name, errors in self.percentiles.items()
            if name in reasons
            for q, error in errors.items()
            if abs(error) > UNEXPLAINED
        ]

    def draw(self, path: str | Path) -> None:
        """Draw predicted against measured to a file (.png, .pdf, .svg)."""
        from qmodel.plotting.calibration import draw_validation

        laws = {}
        for rows in self.measured:
            if rows.requests is not None:
                from qmodel.studies.calibration_requests import request_laws

                laws = request_laws(self.calibrations[0], rows.requests)
        draw_validation(self.calibrations, self.measured, path, laws)


def _key(name: str) -> str:
    return "".join(ch for ch in name.lower() if ch.isalnum())


def _is_of(rows: Measurements, calibration: Calibration) -> bool:
    same_model = not rows.model or _key(rows.model) == _key(calibration.model)
    return same_model and (not rows.gpu or _key(rows.gpu).startswith(_key(calibration.gpu)))


def own_rows(rows: Sequence[Measurements], calibration: Calibration) -> list[Measurements]:
    """Return the rows of the calibration's model and GPU: of variants such as power-capped parts, the plainest.

    Parameters
    ----------
    rows : sequence of Measurements
        What a file says, by model and GPU.
    calibration : Calibration
        Whose model and GPU are asked for.

    Returns
    -------
    list of Measurements
        One, or none.
    """
    mine = [r for r in rows if _is_of(r, calibration)]
    return sorted(mine, key=lambda r: len(r.gpu))[:1]


def validate_calibration(calibration: str | Path | Sequence[Calibration], measured: str | Path) -> Validation:
    """Say how far a calibration is from measurements.

    Parameters
    ----------
    calibration : str, Path or sequence of Calibration
        Calibration file, or calibrations of one model and GPU.
    measured : str or Path
        File of measurements.

    Returns
    -------
    Validation
        Errors by row kind, tp and percentile. Rows of a model or GPU other than the calibration's are compared with
        the shipped laws of that model under the same engine correction, which the notes say.

    Raises
    ------
    InputError
        When a file cannot be used, or no row can be compared.
    """
    found = read_calibrations(calibration) if isinstance(calibration, (str, Path)) else list(calibration)
    notes: list[str] = []
    rows = read_measurements(measured, found[0].tp, found[0].model, found[0].gpu)
    mine = own_rows(rows, found[0])
    pairs = [(found, r) for r in mine] or [(_carried(found[0], r, notes), r) for r in rows]
    if mine and len(mine) < len(rows):
        notes.append(f"rows of {', '.join(f'{r.model} on {r.gpu}' for r in rows if r not in mine)} set aside")
    return _compared(pairs, notes)


def _carried(calibration: Calibration, rows: Measurements, notes: list[str]) -> list[Calibration]:
    """Return the shipped laws of the measured model and GPU under this calibration's engine correction."""
    from qmodel.io.calibrations import list_calibrations

    for model, gpu, _ in list_calibrations():
        kernels = load_calibrations(model, gpu)
        if _is_of(rows, kernels[0]):
            notes.append(
                f"rows are of {model} on {gpu}: its shipped laws under the engine correction of {calibration.name}"
            )
            engine = carried_engine(calibration, kernels[0])
            return [k.with_engine(engine) for k in kernels] if engine else kernels
    limit = f"of {calibration.model} on {calibration.gpu}, or of a shipped calibration"
    raise InputError("measured rows", f"of {rows.model} on {rows.gpu}", limit)


def _compared(pairs: Sequence[tuple[Sequence[Calibration], Measurements]], notes: list[str]) -> Validation:
    errors: dict[str, list[tuple[float, float]]] = {"token_time_mape": [], "prompt_time_mape": []}
    percentiles: dict[str, dict[str, float]] = {}
    for calibrations, rows in pairs:
        decode, prompt, aside = fitting_rows(calibrations, rows.decode, rows.prompt)
        notes += [*rows.notes, *aside]
        token = np.abs(decode_times_s(calibrations, decode) / decode.time_s - 1)
        phase = np.abs(prompt_times_s(calibrations, prompt) / prompt.time_s - 1)
        errors["token_time_mape"] += zip(decode.tp, token, strict=True)
        errors["prompt_time_mape"] += zip(prompt.tp, phase, strict=True)
        if rows.requests is not None:
            from qmodel.studies.calibration_requests import percentile_errors

            percentiles = percentile_errors(calibrations[0], rows.requests)
    if not any(errors.values()):
        raise InputError("measured rows that can be compared", 0, ">= 1", "; ".join(notes))
    for name, values in errors.items():
        if values:
            sizes = [e for _, e in values]
            key = name.removesuffix("_mape")
            percentiles[key] = {f"p{q}": float(np.percentile(sizes, q)) for q in (50, 90, 99)}
    by_tp: dict[str, dict[str, float]] = {}
    for name, values in errors.items():
        for tp in sorted({t for t, _ in values}):
            by_tp.setdefault(f"{tp:g}", {})[name] = float(np.mean([e for t, e in values if t == tp]))
    means = {n: float(np.mean([e for _, e in v])) if v else None for n, v in errors.items()}
    return Validation(
        token_time_mape=means["token_time_mape"],
        prompt_time_mape=means["prompt_time_mape"],
        token_rows=len(errors["token_time_mape"]),
        prompt_rows=len(errors["prompt_time_mape"]),
        by_tp=by_tp,
        percentiles=percentiles,
        notes=tuple(notes),
        calibrations=tuple(pairs[0][0]),
        measured=tuple(rows for _, rows in pairs),
    )

"""Calibrating a model from profiles and measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.fitting.engine import EngineFit, fit_engine
from qmodel.io.calibrations import load_calibrations, save_calibration
from qmodel.io.measurements import read_measurements, read_steps
from qmodel.laws import Calibration, Measurements
from qmodel.laws.interpolation import at_tp
from qmodel.studies.calibration_validation import own_rows

__all__ = ["CalibrationResult", "calibrate"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationResult:
    """A calibration just made, at one tp or several.

    Parameters
    ----------
    calibration : Calibration
        The one asked for.
    other_tp : tuple of Calibration
        The same model and GPU at other tp, sharing the engine correction.
    engine : EngineFit, optional
        How the engine correction came about, when measurements were given.
    notes : tuple of str
        What a reader should know.
    measured : tuple of Measurements
        What it was corrected with.
    """

    calibration: Calibration
    other_tp: tuple[Calibration, ...] = ()
    engine: EngineFit | None = None
    notes: tuple[str, ...] = ()
    measured: tuple[Measurements, ...] = ()

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """All of them, the one asked for first."""
        return (self.calibration, *self.other_tp)

    def save(self, path: str | Path) -> None:
        """Write the calibration file, whole or not at all."""
        save_calibration(self.calibration, path, self.other_tp)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        out: dict[str, Any] = {
            "model": self.calibration.model,
            "gpu": self.calibration.gpu,
            "tp": [c.tp for c in self.calibrations],
            "fingerprint": self.calibration.fingerprint,
            "fit": dict(self.calibration.fit),
            "notes": list(self.notes),
        }
        if self.engine is not None:
            e, c = self.engine, self.engine.correction
            out["engine"] = {name: getattr(c, name) for name in c.__slots__} | {
                "launches": e.launches,
                "token_time_mape": e.token_time_mape,
                "prompt_time_mape": e.prompt_time_mape,
                "token_rows": e.token_rows,
                "prompt_rows": e.prompt_rows,
            }
        return out

    def lines(self) -> list[str]:
        """Return the result as short lines for people."""
        c, fit = self.calibration, self.calibration.fit
        degrees = ", ".join(str(x.tp) for x in self.calibrations)
        out = [f"{c.model} on {c.gpu}, tp {degrees}: {c.kv_capacity_tokens:,} tokens of KV cache at tp {c.tp}"]
        names = {
            "step_mape": "steps left out of the fit: mean error",
            "step_p95": "P95",
            "chunk_increment_mape": "chunk increment",
            "prefill_mape": "prompts",
        }
        stated = [f"{text} {fit[name]:.1%}" for name, text in names.items() if name in fit]
        if stated:
            out.append("; ".join(stated))
        if self.engine is not None:
            e, k = self.engine, self.engine.correction
            out.append(
                f"engine ({e.launches} launches): decode max({k.floor_s * 1e3:.1f} ms + "
                f"{k.floor_per_request_s * 1e3:.2f} ms a request, {k.gain:.2f} x kernels); prompts "
                f"max({k.prefill_floor_s * 1e3:.1f} ms, {k.prefill_gain:.2f} x kernels), batch exponent "
                f"{k.batch_exponent:.2f}"
            )
            kinds = (("token", e.token_time_mape, e.token_rows), ("prompt", e.prompt_time_mape, e.prompt_rows))
            seen = [f"{kind} time {error:.1%} ({rows} rows)" for kind, error, rows in kinds if rows]
            out.append(f"on the measurements: {', '.join(seen)}")
        return out + [f"note: {text}" for text in self.notes]

    def draw(self, path: str | Path) -> None:
        """Draw the fit to a file (.png, .pdf, .svg)."""
        from qmodel.plotting.calibration import draw_calibration

        draw_calibration(self.calibrations, self.measured, path)


def calibrate(
    model: str | Path,
    gpu: str = "a100",
    tp: int = 1,
    *,
    profiles: str | Path | None = None,
    measured: str | Path | None = None,
) -> CalibrationResult:
    """Return the latency laws of a model, fitted to kernel profiles and corrected with measurements.

    Parameters
    ----------
    model : str or Path
        Name, or path of a Hugging Face ``config.json``.
    gpu : str
        GPU name.
    tp : int
        GPUs of an instance.
    profiles : str or Path, optional
        ``aiconfigurator`` (or ``aiconfigurator/ENGINE/VERSION``), a Vidur directory, or a CSV of measured steps.
        Without it, `measured` corrects the shipped calibrations of that model and GPU at every tp.
    measured : str or Path, optional
        File of measurements of an engine.

    Returns
    -------
    CalibrationResult
        Calibrations with their errors; `save` writes the file.

    Raises
    ------
    InputError
        When the model, GPU or a file cannot be used.
    MissingExtraError
        When kernel tables are asked for and the ``profiles`` extra is not installed.

    Examples
    --------
    >>> calibrate("llama-3.1-8b", "a100")  # doctest: +SKIP
    """
    notes: list[str] = []
    if profiles is None and measured is not None:
        kernels = load_calibrations(str(model), gpu)
    else:
        kernels = [_from_profiles(model, gpu, tp, str(profiles or "aiconfigurator"))]
    chosen = _chosen(kernels, tp, notes)
    if measured is None:
        return CalibrationResult(calibration=chosen, notes=tuple(notes))
    rows = read_measurements(measured, chosen.tp, chosen.model, chosen.gpu)
    mine = _matching(rows, chosen, notes)
    fit = fit_engine(kernels, mine.decode, mine.prompt, "eager" if mine.eager else "graph")
    source = f"measurements: {mine.kind}, {fit.token_rows} decode and {fit.prompt_rows} prompt rows, {fit.launches}"
    corrected = [_labelled(c.without_engine().with_engine(fit.correction), source, fit) for c in kernels]
    primary = next(c for c in corrected if c.tp == chosen.tp)
    return CalibrationResult(
        calibration=primary,
        other_tp=tuple(c for c in corrected if c is not primary),
        engine=fit,
        notes=(*notes, *mine.notes, *fit.notes),
        measured=(mine,),
    )


def _from_profiles(model: str | Path, gpu: str, tp: int, profiles: str) -> Calibration:
    from qmodel.fitting import calibrate_model, gpu_named, load_model
    from qmodel.fitting.aiconfigurator import AiconfiguratorTables
    from qmodel.fitting.measured_steps import calibrate_steps
    from qmodel.fitting.vidur import VidurDirectory

    shape, device = load_model(model), gpu_named(gpu)
    name, _, rest = profiles.partition("/")
    if name == "aiconfigurator":
        engine, _, version = rest.partition("/")
        return calibrate_model(shape, AiconfiguratorTables(gpu, engine or "vllm", version or None), device, tp)
    folder = Path(profiles)
    if folder.is_dir():
        return calibrate_model(shape, VidurDirectory(folder, shape, device, tp), device, tp)
    if folder.suffix == ".csv":
        return calibrate_steps(read_steps(folder), shape, device, tp, f"measured steps, {folder.name}")
    limit = "'aiconfigurator', a Vidur directory, or a CSV with columns B,K,chi,done,t_ms"
    raise InputError("profiles", repr(profiles), limit)


def _chosen(kernels: Sequence[Calibration], tp: int, notes: list[str]) -> Calibration:
    by_tp = {c.tp: c for c in kernels}
    if tp in by_tp:
        return by_tp[tp]
    if min(by_tp) < tp < max(by_tp):
        notes.append(f"tp {tp} is interpolated")
        return at_tp(kernels, tp)
    nearest = min(by_tp, key=lambda t: (abs(np.log(t / tp)), t))
    notes.append(f"no calibration at tp {tp}; tp {nearest} stands first in the file")
    return by_tp[nearest]


def _labelled(calibration: Calibration, text: str, fit: EngineFit) -> Calibration:
    provenance = dict(calibration.provenance) | {"engine_correction": text}
    errors = dict(calibration.standard_errors) | dict(fit.standard_errors)
    return replace(calibration, provenance=provenance, standard_errors=errors)


def _matching(rows: Sequence[Measurements], calibration: Calibration, notes: list[str]) -> Measurements:
    """Return the measurements of the calibration's model and GPU; the others are set aside with a note."""
    mine = own_rows(rows, calibration)
    others = [f"{r.model} on {r.gpu}" for r in rows if r not in mine]
    if not mine:
        limit = f"of {calibration.model} on {calibration.gpu}"
        raise InputError("measured rows", f"of {', '.join(others)}", limit, "choose another --model or --gpu")
    if others:
        notes.append(f"rows of {', '.join(others)} set aside")
    return mine[0]

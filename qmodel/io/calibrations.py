"""Calibration files: one JSON file per (model, GPU, tp), units in the keys, milliseconds and tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qmodel.errors import InputError
from qmodel.io.atomic import write_text
from qmodel.io.calibration_file import SCHEMA_VERSION, CalibrationFile
from qmodel.laws import Calibration

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
    except (OSError, ValueError, RecursionError) as error:
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

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
from qmodel.io.problems import first_problem
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

DEFAULT_GPU = "a100"


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


def load_calibration(model: str, gpu: str | None = None, tp: int | None = None) -> Calibration:
    """Return a calibration: a shipped one by model, GPU and tp, or one from a file that `qmodel calibrate` wrote.

    Parameters
    ----------
    model : str
        Name such as ``deepseek-v2-lite``, or the path of a calibration file (``.json``).
    gpu : str, optional
        GPU name; by default a100, or that of the file.
    tp : int, optional
        GPUs of an instance; by default 1, or where there is no calibration for that the fewest, of a file its first.

    Returns
    -------
    Calibration
        Laws and sizes, in seconds, bytes and tokens.

    Raises
    ------
    InputError
        When there is no such calibration (the message names those there are), the file is not one, or it is of
        another GPU.
    """
    if str(model).endswith(".json"):
        return _from_file(str(model), gpu, tp)
    name, device = str(model).lower(), str(DEFAULT_GPU if gpu is None else gpu).lower()
    known = list_calibrations()
    degrees = [t for m, g, t in known if (m, g) == (name, device)]
    chosen = tp if tp is not None else min(degrees, default=1)
    if chosen in degrees:
        return read_calibration(shipped_folder() / f"{name}_{device}_tp{chosen}.json")
    models = sorted({m for m, _, _ in known})
    if name not in models:
        raise InputError("model", repr(model), f"one of {', '.join(models)}", "or the path of a calibration file")
    gpus = sorted({g for m, g, _ in known if m == name})
    if device not in gpus:
        raise InputError(f"GPU for {name}", repr(gpu), f"one of {', '.join(gpus)}", "or calibrate it")
    raise InputError(f"tp for {name} on {device}", tp, f"one of {', '.join(map(str, degrees))}", "or calibrate it")


def _from_file(path: str, gpu: str | None, tp: int | None) -> Calibration:
    found = read_calibrations(path)
    if gpu is not None and found[0].gpu != gpu.lower():
        remedy = "leave the GPU out, or calibrate for it"
        raise InputError(f"GPU of '{path}'", repr(found[0].gpu), f"{gpu!r}, as asked", remedy)
    if tp is not None:
        return read_calibration(path, tp)
    return next((c for c in found if c.tp == 1), found[0])


def load_calibrations(model: str, gpu: str = DEFAULT_GPU) -> list[Calibration]:
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
        where, problem, limit = first_problem(error)
        what = f"calibration '{path}'{f', {where}' if where else ''}"
        raise InputError(what, problem, limit, "write the file with qmodel calibrate") from None
    return [entry.calibration() for entry in (file, *file.other_tp)]


def _read_object(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        remedy = "check the path, or write it with qmodel calibrate"
        raise InputError("calibration file", f"'{path}', which does not exist", remedy=remedy) from None
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

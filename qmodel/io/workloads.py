"""Workloads that ship with qmodel: compact models with their provenance and measured fit errors."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from qmodel.errors import InputError

__all__ = ["list_builtins", "read_builtin"]

_FOLDER = ("data", "workloads")


def list_builtins() -> list[str]:
    """Return the names of the built-in workloads, sorted.

    Returns
    -------
    list of str
        Names for `Workload.builtin` and ``--workload``.

    Examples
    --------
    >>> list_builtins()
    ['azure-code', 'azure-conv', 'mooncake-conversation']
    """
    folder = files("qmodel").joinpath(*_FOLDER)
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def read_builtin(name: str) -> dict[str, Any]:
    """Return the model of a built-in workload, with provenance and fit errors.

    Parameters
    ----------
    name : str
        One of `list_builtins`.

    Returns
    -------
    dict
        As `Workload.model` gives, plus ``provenance`` and ``fit``.

    Raises
    ------
    InputError
        When there is none of that name.
    """
    if name not in list_builtins():
        raise InputError("workload", repr(name), f"a trace file or one of {', '.join(list_builtins())}")
    text = files("qmodel").joinpath(*_FOLDER, f"{name}.json").read_text(encoding="utf-8")
    model: dict[str, Any] = json.loads(text)
    return model

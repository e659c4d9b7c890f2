"""What pydantic finds wrong in a file, in the words of this package's messages."""

from __future__ import annotations

from pydantic import ValidationError

__all__ = ["first_problem", "limit_of"]


def first_problem(error: ValidationError) -> tuple[str, str, str]:
    """Return where the first fault of a file is, what is there, and what must be.

    Parameters
    ----------
    error : ValidationError
        From a model of the file.

    Returns
    -------
    tuple of str
        Keys that lead there, joined by points; the value, ``missing`` or ``unknown``; the limit, empty where the value
        says it all.
    """
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return where, "missing", ""
    if first["type"] == "extra_forbidden":
        return where, "unknown", ""
    shown = repr(first["input"])
    return where, shown if len(shown) <= 40 else f"{shown[:37]}...", limit_of(first["msg"])


def limit_of(message: str) -> str:
    """Return what a value must be, as the end of "it must be ...".

    Parameters
    ----------
    message : str
        Of one of pydantic's errors, or of a validator of ours inside one.
    """
    own = message.removeprefix("Value error, ")
    _, found, limit = own.partition("; it must be ")
    return limit if found else own.removeprefix("Input should be ")

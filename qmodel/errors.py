"""Every error that qmodel raises on purpose: one tree, each message with name, value, limit and remedy."""

from __future__ import annotations

__all__ = [
    "ConvergenceError",
    "InfeasibleError",
    "InputError",
    "MissingExtraError",
    "OutOfRangeError",
    "QModelError",
    "SolverError",
    "UnstableError",
]


class QModelError(Exception):
    """Base of all errors raised by qmodel.

    Parameters
    ----------
    what : str
        Name of the quantity or thing at fault, e.g. ``"load"``.
    value : object
        What was found.
    limit : str
        What would be accepted, e.g. ``"finite and > 0"``.
    remedy : str
        What to do, in a few words.
    """

    exit_code = 2

    def __init__(self, what: str, value: object = None, limit: str = "", remedy: str = "") -> None:
        self.what, self.value, self.limit, self.remedy = what, value, limit, remedy
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        parts = [what if value is None else f"{what} is {shown}"]
        if limit:
            parts.append(f"it must be {limit}")
        if remedy:
            parts.append(remedy)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))

    def __reduce__(self) -> tuple[type[QModelError], tuple[str, object, str, str]]:
        return type(self), (self.what, self.value, self.limit, self.remedy)


class InputError(QModelError, ValueError):
    """A value, file or option given by the user cannot be used."""


class OutOfRangeError(QModelError, ValueError):
    """A query lies outside the range in which a law was calibrated."""


class UnstableError(QModelError, ValueError):
    """The offered load is at or above capacity, so no stationary law exists."""


class ConvergenceError(QModelError, ArithmeticError):
    """An iteration did not converge; its last iterate is not returned."""


class SolverError(QModelError, ArithmeticError):
    """A convex solver ended with a status other than optimal or infeasible."""


class InfeasibleError(QModelError):
    """No plan satisfies the constraints: the answer is "no", with the nearest feasible value as remedy."""

    exit_code = 1


class MissingExtraError(QModelError, ImportError):
    """An optional dependency is needed; the remedy names the extra to install."""

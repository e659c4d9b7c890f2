"""Steps with their times, composed from kernels or measured: what laws are fitted to and checked against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError

__all__ = ["StepSamples"]

Array = npt.NDArray[np.float64]
_UNIT_LIMIT_S = 60.0  # no engine step takes a minute; times beyond are in the wrong unit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepSamples:
    """Engine steps: what each carried, and how long it took.

    Parameters
    ----------
    batch : ndarray
        Decode requests B.
    context : ndarray
        Sum of their contexts K [tokens].
    chunk : ndarray
        Prompt tokens chi of one chunk; 0 without one.
    done : ndarray
        Tokens of that prompt already processed.
    time_s : ndarray
        Time of the step [s], > 0.
    """

    batch: Array
    context: Array
    chunk: Array
    done: Array
    time_s: Array

    def __post_init__(self) -> None:
        sizes = {len(getattr(self, name)) for name in self.__slots__}
        if len(sizes) != 1 or 0 in sizes:
            raise InputError("steps", "columns of different or no length", "at least one row, equal columns")
        for name in self.__slots__:
            values = getattr(self, name)
            limit = "finite and > 0" if name == "time_s" else "finite and >= 0"
            low = values > 0 if name == "time_s" else values >= 0
            bad = ~(np.isfinite(values) & low)
            if bad.any():
                at = int(np.argmax(bad))
                raise InputError(f"step {name} in row {at + 1}", float(values[at]), limit, "mend or drop the row")
        if np.median(self.time_s) > _UNIT_LIMIT_S:
            value = float(np.median(self.time_s))
            raise InputError(
                "median step time [s]", value, f"<= {_UNIT_LIMIT_S:g}", "times must be in ms: check the unit"
            )

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def quadratic(self) -> Array:
        """Attention work of the chunks, chi*(done + chi/2) [tokens^2]."""
        return self.chunk * (self.done + self.chunk / 2)

    @property
    def reloaded(self) -> Array:
        """Tokens whose cached latents are read again [tokens]."""
        return np.where(self.chunk > 0, self.done, 0.0)

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> StepSamples:
        """Return the steps at `index`.

        Parameters
        ----------
        index : ndarray
            Positions or a mask.
        """
        return StepSamples(**{name: getattr(self, name)[index] for name in self.__slots__})

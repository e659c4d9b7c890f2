"""Times that an engine was seen to take: decode steps, batches of prompts, and whole requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError

__all__ = ["DecodeTimes", "Measurements", "PromptTimes", "RequestTimes"]

Array = npt.NDArray[np.float64]


def _check(table: object, positive: tuple[str, ...], names: tuple[str, ...]) -> None:
    lengths = {len(getattr(table, name)) for name in names}
    if len(lengths) > 1:
        raise InputError("measured columns", "of different lengths", "of equal length")
    for name in names:
        values = getattr(table, name)
        good = np.isfinite(values) & ((values > 0) if name in positive else (values >= 0))
        if not good.all():
            at = int(np.argmin(good))
            limit = "finite and > 0" if name in positive else "finite and >= 0"
            raise InputError(f"measured {name} in row {at + 1}", float(values[at]), limit, "mend or drop the row")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeTimes:
    """Decode steps of an engine.

    Parameters
    ----------
    tp : ndarray
        GPUs of the instance.
    batch, context : ndarray
        Decode requests B, and the sum of their contexts K [tokens].
    time_s : ndarray
        Time of the step [s].
    peak : ndarray
        KV cache that the run needed at its end [tokens]; where it exceeds the capacity, the run did not fit.
    """

    tp: Array
    batch: Array
    context: Array
    time_s: Array
    peak: Array

    def __post_init__(self) -> None:
        _check(self, ("tp", "batch", "time_s"), self.__slots__)

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> DecodeTimes:
        """Return the rows at `index` (positions or a mask)."""
        return DecodeTimes(**{name: getattr(self, name)[index] for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptTimes:
    """Prompt phases of an engine: `prompts` prompts of `tokens` tokens each, in one unchunked step.

    Parameters
    ----------
    tp : ndarray
        GPUs of the instance.
    prompts, tokens : ndarray
        Prompts in the batch, and the tokens of each.
    time_s : ndarray
        Time of the prompt phase [s].
    peak : ndarray
        KV cache that the run needed at its end [tokens].
    """

    tp: Array
    prompts: Array
    tokens: Array
    time_s: Array
    peak: Array

    def __post_init__(self) -> None:
        _check(self, ("tp", "prompts", "tokens", "time_s"), self.__slots__)

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> PromptTimes:
        """Return the rows at `index` (positions or a mask)."""
        return PromptTimes(**{name: getattr(self, name)[index] for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestTimes:
    """Requests that a load generator timed at one instance.

    Parameters
    ----------
    start_s : ndarray
        When each was sent [s]; empty when the file does not say.
    prompt_tokens, output_tokens : ndarray
        Lengths [tokens].
    ttft_s : ndarray
        Time to first token [s].
    itl_s : tuple of ndarray
        Times between tokens of each request [s].
    """

    start_s: Array
    prompt_tokens: Array
    output_tokens: Array
    ttft_s: Array
    itl_s: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.ttft_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurements:
    """Everything that a measurement file says about one (model, GPU).

    Parameters
    ----------
    kind : str
        Format of the file, for people.
    eager : bool
        Whether engines measured in this format usually launch kernels one by one, without captured graphs.
    decode, prompt : DecodeTimes, PromptTimes
        Steps and prompt phases; either may be empty.
    requests : RequestTimes, optional
        Requests, where the file has them.
    model, gpu : str
        Names as the file gives them; empty when it does not.
    notes : tuple of str
        What was dropped or assumed while reading.
    """

    kind: str
    decode: DecodeTimes
    prompt: PromptTimes
    requests: RequestTimes | None = None
    model: str = ""
    gpu: str = ""
    notes: tuple[str, ...] = ()
    eager: bool = False

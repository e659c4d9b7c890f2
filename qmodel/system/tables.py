"""Step laws as tables that the recursions read: time by tokens in the step, and linear terms beside it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.laws.step import LinearLaw, PNormLaw, StepLaw

__all__ = ["LawTable", "tabulate"]

FloatArray = npt.NDArray[np.float64]
LawTable = tuple[FloatArray, FloatArray]


def tabulate(law: StepLaw, tokens: int) -> LawTable:
    """Return (base, coef) of a law for steps of up to `tokens` tokens, as `_kernels.system.step_time` reads them.

    Parameters
    ----------
    law : StepLaw
        A `PNormLaw` or `LinearLaw`; both are a function of the step's tokens plus linear terms.
    tokens : int
        Most tokens in a step, decode requests and prompt tokens together.

    Returns
    -------
    tuple of ndarray
        base, shape (tokens + 1,) [s], and coef, shape (6,): per token of context, per token^2 of attention,
        per reloaded token, floor, floor per request, and what a decode token costs beyond a prompt token [s].

    Raises
    ------
    InputError
        For a law of any other form.
    """
    if not isinstance(law, (PNormLaw, LinearLaw)):
        raise InputError("step law of predict", type(law).__name__, "a PNormLaw or LinearLaw", "simulate it instead")
    return _tabulate(law, tokens)


@lru_cache(maxsize=64)
def _tabulate(law: PNormLaw | LinearLaw, tokens: int) -> LawTable:
    m = np.arange(tokens + 1, dtype=float)
    if isinstance(law, PNormLaw):
        g = law.gain
        terms = (g * law.context_s, g * law.attention_s, g * law.reload_s, law.floor_s, law.floor_per_request_s, 0.0)
        return g * np.asarray(law.base_s(m)), np.array(terms)
    terms = (law.context_s, law.attention_s, 0.0, 0.0, 0.0, law.batch_s - law.prompt_s)
    return law.alpha_s + law.prompt_s * m, np.array(terms)

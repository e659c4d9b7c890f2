"""Step laws of a cluster's instances as the arrays that kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qmodel.laws.prefill import work_constants
from qmodel.laws.step import StepLaw

__all__ = ["InstanceLaws", "instance_laws"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanceLaws:
    """Laws of units 0..k-1 (prefill) and k..k+d-1 (decode) as `_kernels.laws` reads them.

    Parameters
    ----------
    coef : ndarray
        One row of coefficients a unit.
    base : ndarray
        The distinct tables of step time by tokens [s].
    work : ndarray
        One row of constants of W(L) a unit; zeros for decode units and without packing.
    """

    coef: FloatArray
    base: FloatArray
    work: FloatArray


@lru_cache(maxsize=32)
def _canonical(params: bytes, size: int) -> tuple[FloatArray, FloatArray]:
    from qmodel._kernels.law_tables import canonical

    coef, table = canonical(np.frombuffer(params), size)
    return np.asarray(coef), np.asarray(table)


def instance_laws(prefill: Sequence[StepLaw], decode: Sequence[StepLaw], budget: int, size: int) -> InstanceLaws:
    """Return the laws of all instances for steps of fewer than `size` tokens.

    Parameters
    ----------
    prefill, decode : sequence of StepLaw
        One per instance.
    budget : int
        Tokens of a full prefill step; 0 without packing.
    size : int
        Length of the tables: one more than the most tokens of a step, decode requests and prompt tokens together.

    Returns
    -------
    InstanceLaws
        Fresh arrays.
    """
    from qmodel._kernels.laws import C_TABLE, COEF_WIDTH, W_BUDGET, WORK_WIDTH

    laws = [*prefill, *decode]
    coef, work = np.zeros((len(laws), COEF_WIDTH)), np.zeros((len(laws), WORK_WIDTH))
    tables: list[FloatArray] = []
    rows: dict[bytes, int] = {}
    constants: dict[bytes, tuple[float, float, float]] = {}
    for u, law in enumerate(laws):
        params = np.asarray(law.kernel_params(), dtype=float).tobytes()
        row, table = _canonical(params, size)
        if params not in rows:
            rows[params] = len(tables)
            tables.append(table)
        coef[u] = row
        coef[u, C_TABLE] = rows[params]
        if u < len(prefill) and budget:
            if params not in constants:
                constants[params] = work_constants(law, budget)
            work[u, :W_BUDGET], work[u, W_BUDGET] = constants[params], budget
    return InstanceLaws(coef=coef, base=np.stack(tables), work=work)

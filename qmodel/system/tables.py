"""Step laws of a cluster's instances in the form that the recursions read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qmodel.laws.step import StepLaw
from qmodel.scenario import Cluster

__all__ = ["UnitLaws", "unit_laws"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitLaws:
    """Laws of units 0..k-1 (prefill) and k..k+d-1 (decode) as `_kernels.laws` reads them.

    Parameters
    ----------
    coef : ndarray
        One row of coefficients a unit.
    base : ndarray
        The distinct tables of step time by tokens [s].
    work : ndarray
        One row of constants of W(L) a unit.
    budget : int
        Tokens of a full prefill step; 0 without packing.
    """

    coef: FloatArray
    base: FloatArray
    work: FloatArray
    budget: int


@lru_cache(maxsize=32)
def _canonical(params: bytes, size: int) -> tuple[FloatArray, FloatArray]:
    from qmodel._kernels.law_tables import canonical

    coef, table = canonical(np.frombuffer(params), size)
    return np.asarray(coef), np.asarray(table)


def _work_constants(law: StepLaw, budget: int) -> tuple[float, float, float, float]:
    full = float(np.asarray(law.step_time_s(0.0, 0.0, float(budget), 0.0, 0.0)))
    one = float(np.asarray(law.step_time_s(0.0, 0.0, float(budget), 1.0, 0.0))) - full
    again = float(np.asarray(law.step_time_s(0.0, 0.0, float(budget), 0.0, 1.0))) - full
    return full / budget, one, again, float(budget)


def unit_laws(cluster: Cluster, tokens: int) -> UnitLaws:
    """Return the laws of all instances for steps of up to `tokens` tokens.

    Parameters
    ----------
    cluster : Cluster
        Instances and token budget.
    tokens : int
        Most tokens in a step, decode requests and prompt tokens together.

    Returns
    -------
    UnitLaws
        Arrays for the kernels.
    """
    from qmodel._kernels.laws import C_TABLE, COEF_WIDTH, WORK_WIDTH

    k = cluster.prefill_count
    laws = [c.prefill for c in cluster.prefill_calibrations] + [c.step for c in cluster.decode_calibrations]
    budget = int(cluster.max_num_batched_tokens) if cluster.packing else 0
    coef, work = np.zeros((len(laws), COEF_WIDTH)), np.zeros((len(laws), WORK_WIDTH))
    tables: list[FloatArray] = []
    rows: dict[bytes, int] = {}
    constants: dict[bytes, tuple[float, float, float, float]] = {}
    for u, law in enumerate(laws):
        params = np.asarray(law.kernel_params(), dtype=float).tobytes()
        row, table = _canonical(params, tokens + 1)
        if params not in rows:
            rows[params] = len(tables)
            tables.append(table)
        coef[u] = row
        coef[u, C_TABLE] = rows[params]
        if u < k and budget:
            if params not in constants:
                constants[params] = _work_constants(law, budget)
            work[u] = constants[params]
    return UnitLaws(coef=coef, base=np.stack(tables), work=work, budget=budget)

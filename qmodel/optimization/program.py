"""The linear program of the static split: HiGHS called directly for the search, cvxpy for what it is held to.

Through cvxpy the program is compiled once per shape and re-solved by setting parameters; a solve takes about 2 ms
either way, but cvxpy 1.6 s to load, a third of a whole command. A test holds each to the other.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import SolverError

__all__ = ["DIRECT", "NO_SOLUTION", "SOLVED", "BoxProgram", "LinearSolution", "Status", "solve_box_lp", "solve_elastic"]

FloatArray = npt.NDArray[np.float64]
#: HiGHS without cvxpy, the solver of the search; the others are cvxpy's names, tried in turn where it fails.
DIRECT = "DIRECT"
SOLVERS = ("CLARABEL", "HIGHS", "SCIPY")
# What scipy's linprog says: 0 solved, 2 infeasible.
SOLVED, NO_SOLUTION = 0, 2


class Status(Enum):
    """How a solve ended."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxProgram:
    """minimise cost @ z subject to rows @ z <= limits, lower <= z <= 1.

    Parameters
    ----------
    cost : ndarray, shape (n,)
        Objective.
    rows : ndarray, shape (m, n)
        Constraint rows.
    limits : ndarray, shape (m,)
        Right-hand sides.
    lower : ndarray, shape (n,)
        Lower bounds in [0, 1].
    """

    cost: FloatArray
    rows: FloatArray
    limits: FloatArray
    lower: FloatArray

    @property
    def scale(self) -> FloatArray:
        """Largest entry of each row, right-hand side included; rows are divided by it before a solve."""
        size = np.maximum(np.abs(self.rows).max(axis=1), np.abs(self.limits))
        return np.where(size > 0, size, 1.0)

    def bound(self, duals: FloatArray) -> float:
        """Return the best lower *bound* of the optimum that some duals prove: weak duality, least Lagrangian over z.

        Parameters
        ----------
        duals : ndarray, shape (p, m)
            Any prices >= 0 of the rows, such as those of similar programs; none prove nothing.

        Returns
        -------
        float
            A lower bound; -inf without prices.
        """
        reduced = self.cost + duals @ self.rows
        least = np.where(reduced > 0, self.lower, 1.0)
        return float(np.max(np.sum(reduced * least, axis=1) - duals @ self.limits, initial=-np.inf))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearSolution:
    """Solution of a `BoxProgram`.

    Parameters
    ----------
    status : Status
        Whether there is a solution.
    z : ndarray, shape (n,)
        Point, within [0, 1]; NaN when infeasible.
    value : float
        Objective; inf when infeasible.
    duals : ndarray, shape (m,)
        What one unit of each limit is worth, >= 0; NaN when infeasible.
    """

    status: Status
    z: FloatArray
    value: float
    duals: FloatArray


@dataclass(frozen=True, slots=True)
class _Compiled:
    problem: Any
    z: Any
    cost: Any
    rows: Any
    limits: Any
    lower: Any
    constraint: Any


@lru_cache(maxsize=16)
def _compiled(n: int, m: int) -> _Compiled:
    import cvxpy as cp

    z = cp.Variable(n)
    cost, rows, limits, lower = cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m), cp.Parameter(n)
    constraint = rows @ z <= limits
    problem = cp.Problem(cp.Minimize(cost @ z), [constraint, z >= lower, z <= 1])
    return _Compiled(problem, z, cost, rows, limits, lower, constraint)


def solve_box_lp(program: BoxProgram, solver: str = DIRECT) -> LinearSolution:
    """Solve a box-constrained linear program, directly or through cvxpy.

    Rows and objective are scaled to largest entry 1 before the solve, and the duals scaled back.

    Parameters
    ----------
    program : BoxProgram
        Data; programs of one shape share one compiled problem.
    solver : str
        `DIRECT`, or cvxpy's name of the solver tried first; the others follow when it fails.

    Returns
    -------
    LinearSolution
        Optimal or infeasible.

    Raises
    ------
    SolverError
        When every solver ends with another status.
    """
    scale = program.scale
    size = float(np.abs(program.cost).max()) or 1.0
    if solver == DIRECT:
        found = _solve_directly(program, scale, size)
        if found is not None:
            return found
        solver = SOLVERS[0]
    compiled = _compiled(len(program.cost), len(program.limits))
    compiled.cost.value = program.cost / size
    compiled.rows.value = program.rows / scale[:, None]
    compiled.limits.value = program.limits / scale
    compiled.lower.value = program.lower
    ended = []
    for name in dict.fromkeys((solver, *SOLVERS)):
        status = _run(compiled.problem, name)
        if status == "optimal":
            z = np.clip(np.asarray(compiled.z.value, dtype=float), program.lower, 1.0)
            duals = np.maximum(np.asarray(compiled.constraint.dual_value, dtype=float), 0.0) * size / scale
            return LinearSolution(status=Status.OPTIMAL, z=z, value=float(program.cost @ z), duals=duals)
        if status == "infeasible":
            return _infeasible(program)
        ended.append(f"{name}: {status}")
    raise SolverError(
        "linear program of the static split", "; ".join(ended), "optimal or infeasible", "rescale the inputs"
    )


def _solve_directly(program: BoxProgram, scale: FloatArray, size: float) -> LinearSolution | None:
    """Return HiGHS' answer; None when it ends otherwise than optimal or infeasible."""
    from scipy.optimize import linprog

    box = np.column_stack([program.lower, np.ones_like(program.lower)])
    answer = linprog(
        program.cost / size, A_ub=program.rows / scale[:, None], b_ub=program.limits / scale, bounds=box, method="highs"
    )
    if answer.status == NO_SOLUTION:
        return _infeasible(program)
    if answer.status != SOLVED:
        return None
    z = np.clip(np.asarray(answer.x, dtype=float), program.lower, 1.0)
    duals = np.maximum(-np.asarray(answer.ineqlin.marginals, dtype=float), 0.0) * size / scale
    return LinearSolution(status=Status.OPTIMAL, z=z, value=float(program.cost @ z), duals=duals)


def _infeasible(program: BoxProgram) -> LinearSolution:
    m, n = program.rows.shape
    return LinearSolution(status=Status.INFEASIBLE, z=np.full(n, np.nan), value=np.inf, duals=np.full(m, np.nan))


def _run(problem: Any, solver: str) -> str:
    """Return cvxpy's status; a solver that fails or is missing is a status too, so that the next one is tried."""
    import cvxpy as cp

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "solution may be inaccurate" comes with a status of its own
            problem.solve(solver=solver)
    except cp.error.SolverError as failure:
        return f"failed ({failure})"
    return str(problem.status)


def solve_elastic(program: BoxProgram, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the point and the smallest weighted relaxation of the limits that make a program feasible.

    minimise weights @ t subject to rows @ z <= limits + t, t >= 0, lower <= z <= 1

    Parameters
    ----------
    program : BoxProgram
        An infeasible program; its cost is not used.
    weights : ndarray, shape (m,)
        Price of each limit's relaxation, > 0.

    Returns
    -------
    tuple of ndarray
        z of shape (n,) and the relaxations t of shape (m,), 0 where a limit holds.

    Raises
    ------
    SolverError
        When the solver ends otherwise than optimal; the elastic program always has a solution.
    """
    import cvxpy as cp

    m, n = program.rows.shape
    scale = program.scale
    z, t = cp.Variable(n), cp.Variable(m, nonneg=True)
    rows = (program.rows / scale[:, None]) @ z <= program.limits / scale + t
    price = weights * scale
    problem = cp.Problem(cp.Minimize(price / price.max() @ t), [rows, z >= program.lower, z <= 1])
    for name in SOLVERS:
        if _run(problem, name) == "optimal":
            slack = np.where(t.value > 1e-7, t.value, 0.0)
            return np.clip(z.value, program.lower, 1.0), np.asarray(slack * scale, dtype=float)
    raise SolverError("elastic program of the static split", problem.status, "optimal", "report this input")

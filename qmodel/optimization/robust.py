"""Plans that hold when traffic and laws are not as planned: scenario sets and the split with the least worst cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qmodel.laws import Calibration, PNormLaw
from qmodel.optimization.bins import prompt_bins
from qmodel.optimization.choice import Scenario, busiest
from qmodel.optimization.problem import SplitProblem, split_problem
from qmodel.optimization.program import BoxProgram, Status, solve_box_lp
from qmodel.optimization.split import StaticSplit
from qmodel.policies.rule import ThresholdRule
from qmodel.scenario import SLO, Cluster, Requests, Workload

__all__ = ["SCENARIOS", "RobustSplit", "robust_prices", "robust_split", "scenario_set", "with_laws"]

FloatArray = npt.NDArray[np.float64]

#: Name, and factors on the arrival rate and on the step times of prefill and of decode instances.
SCENARIOS = (
    ("as planned", 1.0, 1.0, 1.0),
    ("rate +30 %", 1.3, 1.0, 1.0),
    ("rate -30 %", 0.7, 1.0, 1.0),
    ("laws +20 %", 1.0, 1.2, 1.2),
    ("laws -20 %", 1.0, 0.8, 0.8),
    ("prefill law +20 %, decode law -20 %", 1.0, 1.2, 0.8),
    ("prefill law -20 %, decode law +20 %", 1.0, 0.8, 1.2),
)
# Most programs of the tightening; it ends before when the worst cost no longer falls.
_ROUNDS = 30


class RobustSplit(NamedTuple):
    """The split with the least worst cost.

    Parameters
    ----------
    kept : ndarray, shape (n_bins,)
        Shares kept at prefill.
    worst_cost : float
        Largest cost over the scenarios [requests in or before prefill].
    weights : ndarray, shape (n_scenarios,)
        Multipliers of the scenarios, >= 0, sum 1: how much each one decides.
    """

    kept: FloatArray
    worst_cost: float
    weights: FloatArray


def scenario_set(cluster: Cluster, workload: Workload, most: int, others: Sequence[Workload] = ()) -> list[Scenario]:
    """Return the scenarios of a robust plan: rate +-30 %, laws +-20 %, and other traffic at the same prefill load.

    Parameters
    ----------
    cluster : Cluster
        As planned.
    workload : Workload
        Traffic planned for.
    most : int
        Requests per scenario.
    others : sequence of Workload
        Traffic that may come instead.
    """
    requests = busiest(workload, most)
    found = [
        Scenario(name, with_laws(cluster, prefill, decode), _faster(requests, rate))
        for name, rate, prefill, decode in SCENARIOS
    ]
    load = workload.load(cluster)
    return found + [Scenario(one.name, cluster, busiest(one.at_load(load, cluster), most)) for one in others]


def _faster(requests: Requests, factor: float) -> Requests:
    return replace(requests, arrival_s=requests.arrival_s / factor)


def with_laws(cluster: Cluster, prefill: float, decode: float) -> Cluster:
    """Return the cluster with step times multiplied; laws that are not p-norm stay as they are.

    Parameters
    ----------
    cluster : Cluster
        Pools.
    prefill, decode : float
        Factors on the step times of either pool.

    Returns
    -------
    Cluster
        The same one where both factors are 1.
    """
    if prefill == decode == 1.0:
        return cluster
    changes: dict[str, Any] = {"calibration": _scaled(cluster.calibration, prefill, decode)}
    for name in ("prefill", "decode"):
        pool = getattr(cluster, name)
        if isinstance(pool, tuple):
            changes[name] = tuple(replace(g, calibration=_scaled(g.calibration, prefill, decode)) for g in pool)
    return cluster.with_(**changes)


def _scaled(calibration: Calibration, prefill: float, decode: float) -> Calibration:
    laws = []
    for law, factor in ((calibration.prefill, prefill), (calibration.step, decode)):
        if isinstance(law, PNormLaw):
            floor_s, per_request_s = law.floor_s * factor, law.floor_per_request_s * factor
            law = replace(law, gain=law.gain * factor, floor_s=floor_s, floor_per_request_s=per_request_s)
        laws.append(law)
    return replace(calibration, prefill=laws[0], step=laws[1])


def robust_prices(
    cluster: Cluster, workload: Workload, slo: SLO, split: StaticSplit, rule: ThresholdRule
) -> ThresholdRule:
    """Return a rule with the prices of the split that has the least worst cost over rates and laws.

    At that split the price of backlog is the mean of the scenarios' g = lam/(2*(1 - rho)), weighted by their
    multipliers: the gradient of the maximum.

    Parameters
    ----------
    cluster, workload, slo
        As planned.
    split : StaticSplit
        The nominal one.
    rule : ThresholdRule
        Its rule.
    """
    problems = []
    for _, rate, prefill, decode in SCENARIOS:
        other, traffic = with_laws(cluster, prefill, decode), workload.at_rate(workload.rate_per_s * rate)
        law = prompt_bins(other, traffic, split.problem.bins.wanted)
        if len(law) == len(split.kept):
            problems.append(split_problem(other, law, traffic, slo, rule.chunks, split.problem.slowdown))
    found = robust_split([one for one in problems if np.isfinite(one.cost(split.kept))], split.kept)
    if found is None:
        return rule
    prices = np.array([_prices(one, found.kept) for one in problems if np.isfinite(one.cost(split.kept))])
    g_P, g_D = found.weights @ prices
    return replace(rule, price_prefill_per_s=float(g_P), price_decode_per_s=float(g_D))


def _prices(problem: SplitProblem, z: FloatArray) -> tuple[float, float]:
    lam, h = problem.bins.rate_per_s, np.where(problem.safe, problem.host_s, 0.0)
    rho_P = float(z @ (lam * problem.bins.work_s)) / problem.prefill
    rho_D = float((1 - z) @ (lam * h)) / problem.decode
    return (
        float(z @ lam) / problem.prefill / (2 * (1 - rho_P)),
        float((1 - z) @ lam) / problem.decode / (2 * (1 - rho_D)),
    )


def robust_split(problems: Sequence[SplitProblem], start: FloatArray, solver: str = "CLARABEL") -> RobustSplit | None:
    """Return the split whose largest cost over several problems is least, by linear programs at target waits.

    minimise t subject to cost_s(z; w_s) <= t and the rows of every problem s at its target waits w_s. At the waits of
    a split its costs are exact, so tightening w_s to the waits of the solution never raises t.

    Parameters
    ----------
    problems : sequence of SplitProblem
        One per scenario, over the same bins.
    start : ndarray, shape (n_bins,)
        A split with a finite cost in every problem.
    solver : str
        cvxpy solver tried first.

    Returns
    -------
    RobustSplit or None
        None without problems.
    """
    if not problems:
        return None
    z, worst = start, max(float(one.cost(start)) for one in problems)
    weights = np.zeros(len(problems))
    weights[int(np.argmax([one.cost(start) for one in problems]))] = 1.0
    for _ in range(_ROUNDS):
        program = _epigraph(problems, z, worst)
        solution = solve_box_lp(program, solver)
        if solution.status is not Status.OPTIMAL:
            break
        z_new = np.clip(solution.z[:-1], 0.0, 1.0)
        cost = max(float(one.cost(z_new)) for one in problems)
        if not cost < worst * (1 - 1e-5):
            break
        duals = np.maximum(solution.duals[-len(problems) :], 0.0)
        z, worst, weights = z_new, cost, duals / max(float(duals.sum()), 1e-300)
    return RobustSplit(z, worst, weights)


def _epigraph(problems: Sequence[SplitProblem], z: FloatArray, worst: float) -> BoxProgram:
    """Return the program in (z, t/(2*worst)) at target waits a little above those of z."""
    rows, limits, costs, levels = [], [], [], []
    for one in problems:
        waits = (1.05 * float(wait) + 1e-6 for wait in one.waits_s(z))
        program, constant = one.program(*waits)
        rows.append(np.c_[program.rows, np.zeros(len(program.rows))])
        limits.append(program.limits)
        costs.append(np.r_[program.cost, -2 * worst])
        levels.append(-constant)
    n = len(z)
    lower = np.r_[np.max([np.where(one.safe, 0.0, 1.0) for one in problems], axis=0), 0.0]
    return BoxProgram(
        cost=np.r_[np.zeros(n), 2 * worst],
        rows=np.concatenate([*rows, np.array(costs)]),
        limits=np.concatenate([*limits, np.array(levels)]),
        lower=lower,
    )

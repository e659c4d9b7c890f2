"""The answer of a capacity question, with everything that was looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qmodel.scenario.plan import Plan
from qmodel.studies.capacity_search import PLAN_POLICY

if TYPE_CHECKING:
    from qmodel.scenario import Cluster
    from qmodel.studies.capacity_search import Search
    from qmodel.studies.capacity_types import Candidate

__all__ = ["CapacityPlan", "answer_with"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CapacityPlan:
    """The answer of a capacity question, with everything that was looked at.

    Parameters
    ----------
    cluster : Cluster
        The answer; when nothing meets the SLO, the best that was found.
    name : str
        Its text, e.g. ``3P2D``.
    gpus : int
        Its GPUs.
    cost : float
        Its price: GPUs when there is no price list.
    meets_slo : bool
        Whether its simulated mean attainment reaches the target.
    rate_per_s : float
        The rate asked for, or the highest one found [1/s].
    attainment : float
        Share of requests that must meet the SLO.
    policy : object
        Policy of every prediction and simulation here.
    predicted : Mapping
        Metrics of the queueing model on the arrivals of the same seeds; empty where it does not cover the policy.
    simulated : Mapping
        Metrics by simulation: means over the seeds.
    half_widths : Mapping
        Half-widths of their 95 % intervals.
    seeds : tuple of int
        Seeds simulated.
    requests : int, optional
        Requests asked for in each run.
    gpus_allowed : int
        Most GPUs that the question allowed.
    rows : tuple of dict
        Every candidate looked at: cluster, gpus, cost, rate_per_s, predicted and simulated attainment, each with the
        number of replications behind it (``predicted_runs``, ``simulated_runs``), and P95 TTFT.
    notes : tuple of str
        What the reader should know.
    """

    cluster: Cluster
    name: str
    gpus: int
    cost: float
    meets_slo: bool
    rate_per_s: float
    attainment: float
    policy: Any
    predicted: Mapping[str, float]
    simulated: Mapping[str, float]
    half_widths: Mapping[str, float]
    seeds: tuple[int, ...]
    rows: tuple[dict[str, Any], ...]
    requests: int | None = None
    gpus_allowed: int = 0
    notes: tuple[str, ...] = ()

    @property
    def policy_name(self) -> str:
        """Name of the policy, for people."""
        if self.policy is None:
            return "none"
        return PLAN_POLICY if self.policy == PLAN_POLICY or isinstance(self.policy, Plan) else str(self.policy.name)

    def sentence(self) -> str:
        """Return the answer in words."""
        verb = "serves" if self.meets_slo else "does not serve"
        return (
            f"{self.name} ({self.gpus} GPUs) {verb} {self.rate_per_s:.4g} requests/s with the SLO kept for at least "
            f"{100 * self.attainment:g} % of requests, policy {self.policy_name}; mean of {len(self.seeds)} simulated "
            "runs."
        )

    def star(self) -> dict[str, float]:
        """Return where the answer lies in pictures of cost: ``cost``, ``p95_ttft_s`` and ``rate_per_s``."""
        return {"cost": self.cost, "p95_ttft_s": self.simulated["p95_ttft_s"], "rate_per_s": self.rate_per_s}

    def pareto(self) -> list[dict[str, Any]]:
        """Return the rows at the answer's rate that no other beats in both cost and P95 TTFT, by cost."""
        rows = [r for r in self.rows if r["rate_per_s"] == self.rate_per_s and r["p95_ttft_s"] is not None]
        best, kept = math.inf, []
        for row in sorted(rows, key=lambda r: (r["cost"], r["p95_ttft_s"])):
            if row["p95_ttft_s"] < best:
                best = row["p95_ttft_s"]
                kept.append(row)
        return kept

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; times in seconds."""
        return {
            "cluster": self.name,
            "gpus": self.gpus,
            "cost": self.cost,
            "meets_slo": self.meets_slo,
            "rate_per_s": self.rate_per_s,
            "attainment_target": self.attainment,
            "predicted": dict(self.predicted),
            "simulated": dict(self.simulated),
            "half_widths_95": dict(self.half_widths),
            "seeds": list(self.seeds),
            "pareto": self.pareto(),
            "candidates": list(self.rows),
            "notes": list(self.notes),
        }


def answer_with(search: Search, best: Candidate, rate: float, met: bool) -> CapacityPlan:
    """Return the answer that a search came to.

    Parameters
    ----------
    search : Search
        Everything that was looked at.
    best : Candidate
        Cluster of the answer.
    rate : float
        Its rate [1/s].
    met : bool
        Whether the search found it to hold.
    """
    simulated = search.simulated(best, rate)
    predicted = search.predicted_mean(best, rate, search.seeds)
    notes = []
    if search.policy is None:
        notes.append("never deflects: with deflection (policy thresholds) fewer GPUs may do, or carry more")
    if not predicted:
        notes.append("the queueing model does not cover this policy: candidates were ordered by simulation")
    if not met:
        share = simulated["slo_attainment"][0]
        notes.append(
            f"{best.gpus} GPUs do not serve {rate:.4g}/s: the best split, {best.name}, keeps the SLO for "
            f"{100 * share:.1f} % of requests, {100 * search.attainment:g} % are wanted; raise the number of GPUs"
        )
    return CapacityPlan(
        cluster=best.cluster(),
        name=best.name,
        gpus=best.gpus,
        cost=best.cost,
        meets_slo=met and simulated["slo_attainment"][0] >= search.attainment,
        rate_per_s=rate,
        attainment=search.attainment,
        policy=search.policy_for(best, rate) if search.policy == PLAN_POLICY and met else search.policy,
        predicted=predicted,
        simulated={name: value[0] for name, value in simulated.items()},
        half_widths={name: value[1] for name, value in simulated.items()},
        seeds=search.seeds,
        rows=tuple(search.rows(rate)),
        requests=search.requests,
        notes=tuple(notes),
    )

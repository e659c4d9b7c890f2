"""What a capacity search asks again and again: whether a cluster keeps the SLO at a rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InfeasibleError, InputError, UnstableError
from qmodel.simulation import simulate
from qmodel.studies.capacity_bounds import PoolLimits, deflection_carries, pool_limits
from qmodel.studies.capacity_types import Candidate, Kind, Mix
from qmodel.studies.metrics import measure, over_seeds
from qmodel.studies.replay import replayed
from qmodel.system import predict

if TYPE_CHECKING:
    from qmodel.scenario import SLO

__all__ = [
    "ATTAINMENT",
    "LEAST_SHARE",
    "PLAN_POLICY",
    "Search",
    "best_split",
    "full_splits",
    "highest_rate",
    "smallest",
]

PLAN_POLICY = "thresholds"
ATTAINMENT = 0.95  # share of requests that must meet the SLO unless another is asked for
# Rates are sought down to this share of a bound; a split that carries less is no answer beside the others.
LEAST_SHARE = 1 / 64
_CEILING_RATIO = 1.02  # accuracy of the bound by the linear program, which is then raised by as much


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Search:
    """Predictions and simulations of candidates, each made once.

    Parameters
    ----------
    mix : Mix
        Workloads.
    slo : SLO
        Objectives.
    policy : object
        Policy, None, or ``"thresholds"``: the plan derived for each cluster and rate.
    attainment : float
        Share of requests that must meet the SLO.
    seeds : tuple of int
        Replications of a simulated confirmation.
    requests : int, optional
        Requests of a run.
    """

    mix: Mix
    slo: SLO
    policy: Any
    attainment: float
    seeds: tuple[int, ...]
    requests: int | None
    _predicted: dict[Any, dict[str, float] | None] = field(default_factory=dict, init=False)
    _simulated: dict[Any, dict[str, float]] = field(default_factory=dict, init=False)
    _policies: dict[Any, Any] = field(default_factory=dict, init=False)
    _seen: dict[str, Candidate] = field(default_factory=dict, init=False)
    _limits: dict[Kind, PoolLimits] = field(default_factory=dict, init=False)

    def limits(self, kind: Kind) -> PoolLimits:
        """Return the tightest limits of one instance of each pool over the parts of the mix."""
        if kind not in self._limits:
            scale = [w.rate_per_s / self.mix.rate_per_s for w, _ in self.mix.parts]
            found = [pool_limits(kind.cluster(1, 1), w, self.slo) for w, _ in self.mix.parts]
            self._limits[kind] = PoolLimits(
                prefill_per_s=min(x.prefill_per_s / s for x, s in zip(found, scale, strict=True)),
                decode_per_s=min(x.decode_per_s / s for x, s in zip(found, scale, strict=True)),
            )
        return self._limits[kind]

    def ceiling_per_s(self, candidate: Candidate) -> float:
        """Return a rate that the candidate cannot exceed [1/s]: *bound* within the slack of `PoolLimits`."""
        limits = self.limits(candidate.kind)
        if self.policy is None:
            return limits.rate_per_s(candidate.prefill, candidate.decode)
        top = limits.rate_per_s(candidate.prefill + candidate.decode, candidate.decode)
        cluster = candidate.cluster()

        def carries(rate: float) -> bool:
            return deflection_carries(cluster, self.mix.at_rate(rate).peak, self.slo)

        if carries(top):
            return top
        return _CEILING_RATIO * highest_rate(carries, LEAST_SHARE * top, top, _CEILING_RATIO)

    def may_carry(self, candidate: Candidate, rate_per_s: float) -> bool:
        """Return False when the candidate cannot carry the rate: by the pools' limits, or by the linear program."""
        limits, k, d = self.limits(candidate.kind), candidate.prefill, candidate.decode
        if self.policy is None:
            return limits.rate_per_s(k, d) >= rate_per_s
        if limits.rate_per_s(10**9, d) < rate_per_s:
            return False
        return deflection_carries(candidate.cluster(), self.mix.at_rate(rate_per_s).peak, self.slo)

    def policy_for(self, candidate: Candidate, rate_per_s: float) -> Any:
        """Return the policy to run; raises InfeasibleError when no plan exists there."""
        if self.policy != PLAN_POLICY:
            return self.policy
        key = (candidate.name, rate_per_s)
        if key not in self._policies:
            from qmodel.optimization.plan import derive_plan

            peak = self.mix.at_rate(rate_per_s).peak
            # The order that meets the most SLOs, without judging others at every size and rate.
            self._policies[key] = derive_plan(candidate.cluster(), peak, self.slo, order="due", effort="none")
        return self._policies[key]

    def predicted(self, candidate: Candidate, rate_per_s: float) -> dict[str, float] | None:
        """Return the predicted metrics, or None where the model does not cover the policy."""
        self._seen[candidate.name] = candidate
        key = (candidate.name, rate_per_s)
        if key not in self._predicted:
            self._predicted[key] = self._predict(candidate, rate_per_s)
        return self._predicted[key]

    def _predict(self, candidate: Candidate, rate_per_s: float) -> dict[str, float] | None:
        mix, cluster = self.mix.at_rate(rate_per_s), candidate.cluster()
        try:
            policy = self.policy_for(candidate, rate_per_s)
            return mix.mean([measure(predict(cluster, w, self.slo, policy)) for w, _ in mix.parts])
        except (UnstableError, InfeasibleError):
            return {"slo_attainment": 0.0}
        except InputError:
            return None

    def predicted_mean(self, candidate: Candidate, rate_per_s: float, seeds: Iterable[int]) -> dict[str, float]:
        """Return the predicted metrics as means over the seeds' arrivals; empty where the policy is not covered."""
        if self.predicted(candidate, rate_per_s) is None:
            return {}
        mix, cluster = self.mix.at_rate(rate_per_s), candidate.cluster()
        try:
            policy = self.policy_for(candidate, rate_per_s)
            found = [
                mix.mean(
                    [
                        measure(predict(cluster, replayed(workload, seed, self.requests), self.slo, policy))
                        for workload, _ in mix.parts
                    ]
                )
                for seed in seeds
            ]
        except (UnstableError, InfeasibleError):
            return {"slo_attainment": 0.0}
        return {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}

    def screened(self, candidate: Candidate, rate_per_s: float) -> float:
        """Return the attainment by prediction, or by one simulated run where the model does not cover the policy."""
        found = self.predicted(candidate, rate_per_s)
        return (found or self.simulated_once(candidate, rate_per_s, self.seeds[0]))["slo_attainment"]

    def simulated_once(self, candidate: Candidate, rate_per_s: float, seed: int) -> dict[str, float]:
        """Return the metrics of one simulated run."""
        self._seen[candidate.name] = candidate
        key = (candidate.name, rate_per_s, seed)
        if key not in self._simulated:
            mix, cluster = self.mix.at_rate(rate_per_s), candidate.cluster()
            try:
                policy = self.policy_for(candidate, rate_per_s)
                runs = [simulate(cluster, w, self.slo, policy, seed, self.requests) for w, _ in mix.parts]
                self._simulated[key] = mix.mean([measure(run) for run in runs])
            except InfeasibleError:
                self._simulated[key] = {"slo_attainment": 0.0}
        return self._simulated[key]

    def simulated(self, candidate: Candidate, rate_per_s: float) -> dict[str, tuple[float, float]]:
        """Return mean and 95 % half-width of every metric over the seeds."""
        runs = [self.simulated_once(candidate, rate_per_s, seed) for seed in self.seeds]
        names = [name for name in runs[0] if all(name in run for run in runs)]
        return {name: over_seeds([run[name] for run in runs]) for name in names}

    def holds(self, candidate: Candidate, rate_per_s: float) -> bool:
        """Return whether the mean attainment over the seeds reaches the target; stops as soon as it cannot."""
        left, total = len(self.seeds), 0.0
        for seed in self.seeds:
            total += self.simulated_once(candidate, rate_per_s, seed)["slo_attainment"]
            left -= 1
            if total + left < self.attainment * len(self.seeds):
                return False
        return True

    def rows(self, rate_per_s: float) -> list[dict[str, Any]]:
        """Return what was found, one row per cluster and rate; simulated means are over the seeds that were run.

        Predictions at `rate_per_s` are means over the same arrivals, so that both can be compared; at other rates, and
        where nothing was simulated, they are those that ordered the candidates, of the workload as it is.
        """
        rows = []
        for name, rate in sorted({key[:2] for key in (*self._predicted, *self._simulated)}):
            seeds = [seed for seed in self.seeds if (name, rate, seed) in self._simulated]
            runs = [self._simulated[name, rate, seed] for seed in seeds]
            predicted = self._predicted.get((name, rate)) or {}
            same = rate == rate_per_s and bool(runs)
            if same:
                predicted = self.predicted_mean(self._seen[name], rate, seeds)
            tails = [m["p95_ttft_s"] for m in runs or [predicted] if "p95_ttft_s" in m]
            rows.append(
                _sizes(self._seen[name])
                | {
                    "rate_per_s": rate,
                    "predicted_attainment": predicted.get("slo_attainment"),
                    "predicted_runs": (len(runs) if same else 1) if predicted else 0,
                    "simulated_attainment": float(np.mean([m["slo_attainment"] for m in runs])) if runs else None,
                    "simulated_runs": len(runs),
                    "p95_ttft_s": float(np.mean(tails)) if tails else None,
                }
            )
        return rows


def highest_rate(holds: Callable[[float], bool], low: float, high: float, ratio: float) -> float:
    """Return the highest rate in [low, high] that holds, within a factor `ratio`, or 0 when `low` fails.

    Parameters
    ----------
    holds : callable
        Whether a rate holds; taken to be so up to some rate and not above.
    low, high : float
        Range [1/s].
    ratio : float
        Accuracy, > 1.
    """
    if not holds(low):
        return 0.0
    if holds(high):
        return high
    while high > low * ratio:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _sizes(candidate: Candidate) -> dict[str, Any]:
    sizes = {"prefill": candidate.prefill, "decode": candidate.decode}
    return {"cluster": candidate.name, **sizes, "gpus": candidate.gpus, "cost": candidate.cost}


def smallest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the smallest whole number in [low, high] that holds, or None; taken to hold from some number on.

    Parameters
    ----------
    holds : callable
        Whether a number holds.
    low, high : int
        Range.
    """
    if low > high or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def best_split(kind: Kind, search: Search, gpus: int) -> int:
    """Return the prefill instances of the split of all GPUs whose two pools have the same limit.

    Parameters
    ----------
    kind : Kind
        Instance types.
    search : Search
        Whose limits count.
    gpus : int
        GPUs to split.
    """
    p, d, limits = kind.prefill.tp, kind.decode.tp, search.limits(kind)
    share = limits.decode_per_s * p / (limits.decode_per_s * p + limits.prefill_per_s * d)
    if not math.isfinite(limits.decode_per_s):
        share = 1.0
    return min(max(1, round(share * gpus / p)), (gpus - d) // p)


def full_splits(kind: Kind, gpus: int) -> list[tuple[int, int]]:
    """Return (k, d) of every split of all GPUs.

    Parameters
    ----------
    kind : Kind
        Instance types.
    gpus : int
        GPUs to split.
    """
    p, d = kind.prefill.tp, kind.decode.tp
    return [(k, (gpus - k * p) // d) for k in range(1, (gpus - d) // p + 1)]

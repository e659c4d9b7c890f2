"""Capacity planning: the cheapest cluster for a rate, or the highest rate that some GPUs can serve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from qmodel.errors import InfeasibleError, InputError
from qmodel.laws import Calibration
from qmodel.scenario import SLO, Workload
from qmodel.scenario.cluster import MAX_INSTANCES
from qmodel.scenario.limits import check_kv_capacity
from qmodel.studies.capacity_bounds import check_reachable
from qmodel.studies.capacity_search import PLAN_POLICY, Candidate, Kind, Mix, Search, highest_rate, smallest

if TYPE_CHECKING:
    from qmodel.scenario import Cluster
    from qmodel.studies.comparison import Progress

__all__ = ["ATTAINMENT", "CapacityPlan", "plan_capacity"]

ATTAINMENT = 0.95
# How far a prediction of one replay may lie below the mean of several before its candidate is dropped.
SCREEN_MARGIN = 0.10
# Finalists of a goodput search: predicted within this factor of the best, and at most so many.
FINALIST_SHARE, FINALISTS = 0.93, 6
PREDICTED_RATIO, SIMULATED_RATIO = 1.02, 1.005
TIE = 0.99
LIGHTER = 0.8
COARSE = 16


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
    rows : tuple of dict
        Every candidate looked at: cluster, gpus, cost, rate_per_s, predicted and simulated attainment and P95 TTFT.
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
    notes: tuple[str, ...] = ()

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


def plan_capacity(
    calibrations: Calibration | Sequence[Calibration],
    workload: Workload | Sequence[tuple[Workload, float]],
    slo: SLO,
    *,
    gpus: int,
    rate_per_s: float | None = None,
    policy: Any = None,
    prices: Mapping[str, float] | None = None,
    attainment: float = ATTAINMENT,
    seeds: Iterable[int] = range(5),
    requests: int | None = None,
    cluster_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> CapacityPlan:
    """Find the cheapest kPdD for a rate or, without a rate, the one with the highest goodput.

    Bounds on each pool (with a deflecting policy: the linear program of the static split) remove what cannot work,
    predictions order the rest, and simulations over all seeds decide between the finalists.

    Parameters
    ----------
    calibrations : Calibration or sequence of Calibration
        Instance types; with several, each pool may be of another type.
    workload : Workload or sequence of (Workload, share of time)
        Where requests come from; several share the cluster at different times, e.g. day and night.
    slo : SLO
        Objectives of each request.
    gpus : int
        Most GPUs to use.
    rate_per_s : float, optional
        Mean arrival rate to serve [1/s]; without it the rate is maximised.
    policy : object, optional
        A policy; None never deflects; ``"thresholds"`` derives the plan of each cluster and rate.
    prices : mapping, optional
        GPU name to price; 1 for each GPU by default.
    attainment : float, optional
        Share of requests that must meet the SLO, in (0, 1).
    seeds : iterable of int, optional
        Simulated replications.
    requests : int, optional
        Requests per simulated run; the workload's own number by default.
    cluster_options : mapping, optional
        Other fields of `Cluster`, e.g. ``bandwidth_gb_s``.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    CapacityPlan
        The answer; `meets_slo` is False when no cluster within the GPUs serves the rate.

    Raises
    ------
    InfeasibleError
        When no number of GPUs can meet the SLO, with the nearest feasible value.
    InputError
        When a number is out of range.
    """
    kinds = _kinds(calibrations, prices, cluster_options)
    _check_numbers(gpus, rate_per_s, attainment, kinds)
    parts = ((workload, 1.0),) if isinstance(workload, Workload) else tuple(workload)
    runs = tuple(int(seed) for seed in seeds)
    if not runs:
        raise InputError("seeds", 0, "at least one", "e.g. range(5)")
    mix = Mix(parts=parts)
    kinds = _usable(kinds, mix, slo, attainment if policy is None else 0.5)
    search = Search(mix=mix, slo=slo, policy=policy, attainment=attainment, seeds=runs, requests=requests)
    say = progress or _silent
    if rate_per_s is not None:
        return _cheapest(search, kinds, gpus, float(rate_per_s), say)
    return _most(search, kinds, gpus, say)


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


def _kinds(
    calibrations: Calibration | Sequence[Calibration],
    prices: Mapping[str, float] | None,
    options: Mapping[str, Any] | None,
) -> list[Kind]:
    types = [calibrations] if isinstance(calibrations, Calibration) else list(calibrations)
    if not types:
        raise InputError("calibrations", 0, "at least one", "see list_calibrations()")
    for gpu, price in (prices or {}).items():
        if gpu not in {c.gpu for c in types}:
            raise InputError("price of a GPU", repr(gpu), f"one of {', '.join(sorted({c.gpu for c in types}))}")
        if not (math.isfinite(price) and price > 0):
            raise InputError(f"price of {gpu}", price, "finite and > 0")
    return [
        Kind(prefill=p, decode=d, prices=dict(prices or {}), options=dict(options or {}))
        for p, d in product(types, repeat=2)
    ]


def _check_numbers(gpus: int, rate_per_s: float | None, attainment: float, kinds: list[Kind]) -> None:
    least = min(kind.gpus(1, 1) for kind in kinds)
    if isinstance(gpus, bool) or not isinstance(gpus, int) or not least <= gpus <= MAX_INSTANCES:
        limit = f"a whole number in {least}..{MAX_INSTANCES}"
        raise InputError("gpus", gpus, limit, "one prefill and one decode instance are the least")
    if rate_per_s is not None and not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise InputError("rate", rate_per_s, "finite and > 0 [1/s]", "give e.g. 30/s, or none for the highest")
    if not 0 < attainment < 1:
        raise InputError("attainment", attainment, "in (0, 1)", "e.g. 0.95")


def _usable(kinds: list[Kind], mix: Mix, slo: SLO, attainment: float) -> list[Kind]:
    """Return the kinds whose empty cluster meets the SLO; raise the reason when there is none."""
    usable, reason = [], None
    for kind in kinds:
        try:
            for workload, _ in mix.parts:
                check_kv_capacity(kind.cluster(1, 1), workload)
                check_reachable(kind.cluster(1, 1), workload, slo, attainment)
            usable.append(kind)
        except (InfeasibleError, InputError) as error:
            reason = error
    if not usable:
        assert reason is not None
        raise reason
    return usable


def _sizes(kind: Kind, gpus: int) -> list[tuple[int, int]]:
    return [
        (k, d)
        for k in range(1, gpus // kind.prefill.tp + 1)
        for d in range(1, (gpus - k * kind.prefill.tp) // kind.decode.tp + 1)
    ]


def _floors(search: Search, kind: Kind, gpus: int, rate: float) -> tuple[int, int]:
    """Return the fewest prefill and decode instances that can be right, each with all other GPUs on the other pool."""
    p, d = kind.prefill.tp, kind.decode.tp
    most = (gpus - d) // p, (gpus - p) // d
    target = search.attainment - SCREEN_MARGIN

    def passes(candidate: Candidate) -> bool:
        return search.may_carry(candidate, rate) and search.screened(candidate, rate) >= target

    even = _best_split(kind, search, gpus)
    fewest_p = smallest(lambda k: passes(Candidate(kind=kind, prefill=k, decode=(gpus - k * p) // d)), 1, even)
    fewest_d = smallest(
        lambda n: passes(Candidate(kind=kind, prefill=(gpus - n * d) // p, decode=n)), 1, (gpus - even * p) // d
    )
    return (fewest_p or most[0] + 1), (fewest_d or most[1] + 1)


def _best_split(kind: Kind, search: Search, gpus: int) -> int:
    """Return the prefill instances of the split of all GPUs whose two pools have the same limit."""
    p, d, limits = kind.prefill.tp, kind.decode.tp, search.limits(kind)
    share = limits.decode_per_s * p / (limits.decode_per_s * p + limits.prefill_per_s * d)
    if not math.isfinite(limits.decode_per_s):
        share = 1.0
    return min(max(1, round(share * gpus / p)), (gpus - d) // p)


def _cheapest(search: Search, kinds: list[Kind], gpus: int, rate: float, say: Progress) -> CapacityPlan:
    candidates = []
    for number, kind in enumerate(kinds):
        say("bounding", number, len(kinds))
        fewest = _floors(search, kind, gpus, rate)
        sizes = [(k, d) for k, d in _sizes(kind, gpus) if k >= fewest[0] and d >= fewest[1]]
        candidates += [Candidate(kind=kind, prefill=k, decode=d) for k, d in sizes]
    levels: dict[float, list[Candidate]] = {}
    for candidate in candidates:
        levels.setdefault(round(candidate.cost, 9), []).append(candidate)
    for number, cost in enumerate(sorted(levels)):
        say(f"trying cost {cost:g}", number, len(levels))
        found = _holding(search, levels[cost], rate)
        if found:
            best = max(found, key=lambda c: search.simulated(c, rate)["slo_attainment"][0])
            cheaper = _check_below(search, kinds, best, rate)
            best = cheaper or best
            _look_above(search, best, rate, gpus)
            return _answer(search, best, rate, True)
    return _unmet(search, kinds, gpus, rate)


def _holding(search: Search, candidates: list[Candidate], rate: float) -> list[Candidate]:
    likely = [
        c
        for c in candidates
        if search.may_carry(c, rate) and search.screened(c, rate) >= search.attainment - SCREEN_MARGIN
    ]
    return [c for c in likely if search.holds(c, rate)]


def _check_below(search: Search, kinds: list[Kind], best: Candidate, rate: float) -> Candidate | None:
    """Simulate the likeliest candidate that costs one instance less; return it should it hold after all."""
    fewer = [
        Candidate(kind=kind, prefill=k, decode=d)
        for kind in kinds
        for k, d in _sizes(kind, best.gpus - 1)
        if best.cost > kind.cost(k, d) >= best.cost - max(kind.cost(1, 0), kind.cost(0, 1))
        and search.may_carry(Candidate(kind=kind, prefill=k, decode=d), rate)
    ]
    for candidate in sorted(fewer, key=lambda c: -search.screened(c, rate))[:2]:
        if search.holds(candidate, rate):
            return candidate
    return None


def _look_above(search: Search, best: Candidate, rate: float, gpus: int) -> None:
    """Predict the neighbours that cost one and two instances more, for the table of cost against P95."""
    for more_p, more_d in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2)):
        near = Candidate(kind=best.kind, prefill=best.prefill + more_p, decode=best.decode + more_d)
        if near.gpus <= gpus:
            search.predicted(near, rate)


def _unmet(search: Search, kinds: list[Kind], gpus: int, rate: float) -> CapacityPlan:
    splits = [Candidate(kind=kind, prefill=k, decode=d) for kind in kinds for k, d in _full(kind, gpus)]
    ranked = sorted(splits, key=lambda c: -search.ceiling_per_s(c))[:COARSE]
    best = max(ranked, key=lambda c: (search.screened(c, rate), search.ceiling_per_s(c)))
    return _answer(search, best, rate, False)


def _full(kind: Kind, gpus: int) -> list[tuple[int, int]]:
    p, d = kind.prefill.tp, kind.decode.tp
    return [(k, (gpus - k * p) // d) for k in range(1, (gpus - d) // p + 1)]


def _most(search: Search, kinds: list[Kind], gpus: int, say: Progress) -> CapacityPlan:
    predicted: dict[Candidate, float] = {}
    best = 0.0
    for candidate in _promising(search, kinds, gpus):
        say(f"predicting {candidate.name}", len(predicted), 0)
        best = max(best, _predicted_goodput(search, candidate, best, predicted))
    for candidate in _between(predicted):
        say(f"predicting {candidate.name}", len(predicted), 0)
        best = max(best, _predicted_goodput(search, candidate, best, predicted))
    if best == 0:
        raise InfeasibleError("SLO", "not met", "met at some rate", "give longer limits or another GPU type")
    likely = sorted((c for c in predicted if predicted[c] >= FINALIST_SHARE * best), key=lambda c: -predicted[c])
    rate = 0.0
    chosen: list[tuple[Candidate, float]] = []
    for number, candidate in enumerate(likely[:FINALISTS]):
        say(f"simulating {candidate.name}", number, min(len(likely), FINALISTS))
        found = _simulated_goodput(search, candidate, predicted[candidate], rate)
        if found > rate:
            rate = found
            chosen = [(c, r) for c, r in chosen if r >= TIE * rate]
        if found:
            chosen.append((candidate, found))
    if not chosen:
        raise InfeasibleError("SLO", "not met", "met at some rate", "give longer limits or another GPU type")
    winner, rate = max(chosen, key=lambda x: (search.simulated(x[0], LIGHTER * rate)["slo_attainment"][0], x[1]))
    return _answer(search, winner, rate, True)


def _promising(search: Search, kinds: list[Kind], gpus: int) -> list[Candidate]:
    """Return splits of all GPUs by falling ceiling; above `COARSE` of them, an even choice."""
    splits = [Candidate(kind=kind, prefill=k, decode=d) for kind in kinds for k, d in _thinned(_full(kind, gpus))]
    return sorted(splits, key=lambda c: -search.ceiling_per_s(c))


def _thinned(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    step = max(1, len(sizes) // COARSE)
    return sizes[step // 2 :: step]


def _between(predicted: Mapping[Candidate, float]) -> Iterable[Candidate]:
    """Yield the splits around the best of an even choice, with halving steps, until steps are of one instance."""
    if not predicted:
        return
    seen = {c.name for c in predicted}
    best = max(predicted, key=lambda c: predicted[c])
    total = best.gpus
    others = sorted({c.prefill for c in predicted if c.kind is best.kind})
    step = (others[1] - others[0]) // 2 if len(others) > 1 else 0
    while step >= 1:
        best = max(predicted, key=lambda c: predicted[c])
        for k in (best.prefill - step, best.prefill + step):
            d = (total - k * best.kind.prefill.tp) // best.kind.decode.tp
            near = Candidate(kind=best.kind, prefill=k, decode=d)
            if k >= 1 and d >= 1 and near.name not in seen:
                seen.add(near.name)
                yield near
        step //= 2


def _predicted_goodput(search: Search, candidate: Candidate, best: float, found: dict[Candidate, float]) -> float:
    """Return the predicted goodput [1/s], or 0 when it is below `FINALIST_SHARE` of the best so far."""
    ceiling = search.ceiling_per_s(candidate)
    floor = max(FINALIST_SHARE * best, ceiling / 64)
    rate = 0.0
    if ceiling > floor:
        rate = highest_rate(
            lambda r: search.screened(candidate, r) >= search.attainment, floor, ceiling, PREDICTED_RATIO
        )
    found[candidate] = rate
    return rate


def _simulated_goodput(search: Search, candidate: Candidate, predicted: float, best: float) -> float:
    """Return the simulated goodput [1/s], or 0 when it is below `TIE` times the best so far."""

    def holds(rate: float) -> bool:
        return search.holds(candidate, rate)

    if best:
        return highest_rate(holds, TIE * best, max(1.15 * predicted, best), SIMULATED_RATIO)
    low = next((s * predicted for s in (0.95, 0.8, 0.6, 0.3) if holds(s * predicted)), 0.0)
    return highest_rate(holds, low, 1.25 * predicted, SIMULATED_RATIO) if low else 0.0


def _answer(search: Search, best: Candidate, rate: float, met: bool) -> CapacityPlan:
    simulated = search.simulated(best, rate)
    predicted = search.predicted_mean(best, rate)
    notes = []
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
        rows=tuple(search.rows()),
        notes=tuple(notes),
    )

"""The cheapest cluster for a rate: floors by bisection, then levels of equal cost, upwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmodel.studies.capacity_answer import CapacityPlan, answer_with
from qmodel.studies.capacity_search import Search, best_split, full_splits, smallest
from qmodel.studies.capacity_types import Candidate, Kind

if TYPE_CHECKING:
    from qmodel.studies.comparison import Progress

__all__ = ["cheapest"]

# How far a prediction of one replay may lie below the mean of several before its candidate is dropped.
SCREEN_MARGIN = 0.10
# Splits of all GPUs compared when none serves the rate.
MOST_UNMET = 16


def cheapest(search: Search, kinds: list[Kind], gpus: int, rate: float, say: Progress) -> CapacityPlan:
    """Return the cheapest cluster that holds the rate, or the best split of all GPUs when none does.

    Parameters
    ----------
    search : Search
        Predictions and simulations.
    kinds : list of Kind
        Instance types to choose from.
    gpus : int
        Most GPUs to use.
    rate : float
        Rate to serve [1/s].
    say : callable
        Called with (what, done, total).
    """
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
            return answer_with(search, best, rate, True)
    return _unmet(search, kinds, gpus, rate)


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

    even = best_split(kind, search, gpus)
    fewest_p = smallest(lambda k: passes(Candidate(kind=kind, prefill=k, decode=(gpus - k * p) // d)), 1, even)
    fewest_d = smallest(
        lambda n: passes(Candidate(kind=kind, prefill=(gpus - n * d) // p, decode=n)), 1, (gpus - even * p) // d
    )
    return (fewest_p or most[0] + 1), (fewest_d or most[1] + 1)


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
    splits = [Candidate(kind=kind, prefill=k, decode=d) for kind in kinds for k, d in full_splits(kind, gpus)]
    ranked = sorted(splits, key=lambda c: -search.ceiling_per_s(c))[:MOST_UNMET]
    best = max(ranked, key=lambda c: (search.screened(c, rate), search.ceiling_per_s(c)))
    return answer_with(search, best, rate, False)

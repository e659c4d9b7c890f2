"""The highest goodput of some GPUs: every split predicted, the best simulated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from qmodel.errors import InfeasibleError
from qmodel.studies.capacity_answer import CapacityPlan, answer_with
from qmodel.studies.capacity_search import LEAST_SHARE, Search, full_splits, highest_rate
from qmodel.studies.capacity_types import Candidate, Kind

if TYPE_CHECKING:
    from qmodel.studies.comparison import Progress

__all__ = ["highest_goodput", "predicted_goodput"]

# Finalists of a goodput search: predicted within this factor of the best, and at most so many. Decision 0080 has what
# predicted and simulated goodput differ by, which this and the starts below allow for.
FINALIST_SHARE, FINALISTS = 0.93, 6
# Where the simulated goodput is sought, as factors of the predicted one: starts, tried in turn, and the highest.
STARTS, HIGHEST = (0.95, 0.8, 0.6, 0.3), 1.25
# Factors between the two rates that a bisection ends with: coarse for ranking, fine for the answer.
PREDICTED_RATIO, SIMULATED_RATIO = 1.02, 1.005
TIE = 0.99  # goodputs this close are one: twice what a bisection leaves open
LIGHTER = 0.8  # share of the best rate at which ties are told apart, where no split is at its limit
COARSE = 16  # splits predicted one by one; of more, an even choice first


def highest_goodput(
    search: Search, kinds: list[Kind], gpus: int, say: Progress, split: tuple[int, int] | None = None
) -> CapacityPlan:
    """Return the split of the GPUs with the highest goodput.

    Parameters
    ----------
    search : Search
        Predictions and simulations.
    kinds : list of Kind
        Instance types to choose from.
    gpus : int
        GPUs to use.
    say : callable
        Called with (what, done, total).
    split : tuple of int, optional
        Prefill and decode instances, when only that cluster is asked about.
    """
    predicted: dict[Candidate, float] = {}
    given = [] if split is None else [Candidate(kind=kind, prefill=split[0], decode=split[1]) for kind in kinds]
    candidates: Iterable[Candidate] = given or chain(_promising(search, kinds, gpus), _between(predicted))
    for candidate in candidates:
        say(f"predicting {candidate.name}", len(predicted), 0)
        predicted[candidate] = predicted_goodput(search, candidate, max(predicted.values(), default=0.0))
    chosen = _finalists(search, predicted, say)
    if not chosen:
        raise InfeasibleError("SLO", "not met", "met at some rate", "give longer limits or another GPU type")
    best = max(chosen.values())
    winner = max(chosen, key=lambda c: (search.simulated(c, LIGHTER * best)["slo_attainment"][0], chosen[c]))
    return answer_with(search, winner, chosen[winner], True)


def _finalists(search: Search, predicted: Mapping[Candidate, float], say: Progress) -> dict[Candidate, float]:
    """Return the simulated goodput [1/s] of the finalists within `TIE` of the best; empty when none has any."""
    floor = FINALIST_SHARE * max(predicted.values())
    likely = sorted((c for c, rate in predicted.items() if rate > 0 and rate >= floor), key=lambda c: -predicted[c])
    found: dict[Candidate, float] = {}
    for number, candidate in enumerate(likely[:FINALISTS]):
        say(f"simulating {candidate.name}", number, min(len(likely), FINALISTS))
        best = max(found.values(), default=0.0)
        found[candidate] = _simulated_goodput(search, candidate, predicted[candidate], best)
    best = max(found.values(), default=0.0)
    return {candidate: rate for candidate, rate in found.items() if rate > 0 and rate >= TIE * best}


def _promising(search: Search, kinds: list[Kind], gpus: int) -> list[Candidate]:
    """Return splits of all GPUs by falling ceiling; above `COARSE` of them, an even choice."""
    splits = [Candidate(kind=kind, prefill=k, decode=d) for kind in kinds for k, d in _thinned(full_splits(kind, gpus))]
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


def predicted_goodput(search: Search, candidate: Candidate, best: float) -> float:
    """Return the predicted goodput [1/s], or 0 when it is below `FINALIST_SHARE` of the best so far.

    Parameters
    ----------
    search : Search
        Predictions.
    candidate : Candidate
        Cluster to judge.
    best : float
        Highest goodput so far [1/s]; 0 for the first.
    """
    ceiling = search.ceiling_per_s(candidate)
    floor = max(FINALIST_SHARE * best, ceiling * LEAST_SHARE)
    if ceiling <= floor:
        return 0.0
    return highest_rate(lambda r: search.screened(candidate, r) >= search.attainment, floor, ceiling, PREDICTED_RATIO)


def _simulated_goodput(search: Search, candidate: Candidate, predicted: float, best: float) -> float:
    """Return the simulated goodput [1/s], or 0 when it is below `TIE` times the best so far."""

    def holds(rate: float) -> bool:
        return search.holds(candidate, rate)

    high = max(HIGHEST * predicted, best)
    if best:
        return highest_rate(holds, TIE * best, high, SIMULATED_RATIO)
    low = next((share * predicted for share in STARTS if holds(share * predicted)), 0.0)
    return highest_rate(holds, low, high, SIMULATED_RATIO) if low else 0.0

"""The highest goodput of some GPUs: every split predicted, the best simulated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qmodel.errors import InfeasibleError
from qmodel.studies.capacity_answer import CapacityPlan, answer_with
from qmodel.studies.capacity_search import Search, full_splits, highest_rate
from qmodel.studies.capacity_types import Candidate, Kind

if TYPE_CHECKING:
    from qmodel.studies.comparison import Progress

__all__ = ["highest_goodput", "predicted_goodput"]

# Finalists of a goodput search: predicted within this factor of the best, and at most so many.
FINALIST_SHARE, FINALISTS = 0.93, 6
PREDICTED_RATIO, SIMULATED_RATIO = 1.02, 1.005
TIE = 0.99
LIGHTER = 0.8
COARSE = 16


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
    best = 0.0
    splits = _promising(search, kinds, gpus)
    if split is not None:
        splits = [Candidate(kind=kind, prefill=split[0], decode=split[1]) for kind in kinds]
    for candidate in splits:
        say(f"predicting {candidate.name}", len(predicted), 0)
        best = max(best, predicted_goodput(search, candidate, best, predicted))
    for candidate in _between(predicted) if split is None else ():
        say(f"predicting {candidate.name}", len(predicted), 0)
        best = max(best, predicted_goodput(search, candidate, best, predicted))
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
    return answer_with(search, winner, rate, True)


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


def predicted_goodput(search: Search, candidate: Candidate, best: float, found: dict[Candidate, float]) -> float:
    """Return the predicted goodput [1/s], or 0 when it is below `FINALIST_SHARE` of the best so far.

    Parameters
    ----------
    search : Search
        Predictions.
    candidate : Candidate
        Cluster to judge.
    best : float
        Highest goodput so far [1/s]; 0 for the first.
    found : dict
        Gets the result.
    """
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

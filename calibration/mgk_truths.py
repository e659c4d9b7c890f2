"""Queues that `mgk_correction` learns from: random ones, solved exactly where they can be, else simulated."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed

from qmodel.distributions.phase_type import as_phase_type
from qmodel.queueing import ServiceTime, mgk
from qmodel.queueing.coupled import GRID_ERROR, STANDARD_ERRORS, solve_coupled
from qmodel.queueing.metrics import TabulatedTail, tabulated
from qmodel.studies.random_queues import KINDS, random_queue

#: Relative error of what is solved exactly, and points of its table.
EXACT, POINTS = 1e-4, 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """A queue: which one, its mean and tail in mean services, and relative standard errors."""

    reach: str
    kind: str
    number: int
    seed: int
    mean: float
    tail: TabulatedTail
    noise: dict[str, float]

    @property
    def queue(self) -> tuple[ServiceTime, int, float]:
        """Return law, servers and load."""
        return random_queue(self.reach, self.kind, self.number, self.seed)

    def wait(self, level: float) -> float:
        """Return t with P(W > t) = level."""
        return self.tail.quantile(1 - level, 1.0)


def solved(number: int, reach: str, seed: int, arrivals: tuple[int, int]) -> list[Truth]:
    """Return one queue of each kind: exact, or from as many arrivals as it needs between two powers of two."""
    truths = []
    for kind in KINDS:
        law, servers, load = random_queue(reach, kind, number, seed)
        which = {"reach": reach, "kind": kind, "number": number, "seed": seed}
        if as_phase_type(law) is not None:
            found = mgk(load * servers, servers, law)
            tail, noise = tabulated(found, points=POINTS), dict.fromkeys(("mean", "p95", "p99"), EXACT)
        else:
            lengths = {"first_arrivals": 1 << arrivals[0], "last_arrivals": 1 << arrivals[1]}
            found = solve_coupled(load * servers, servers, law, **lengths, seed=[seed * 7 + 1, number])
            noise = {name: max(e - GRID_ERROR, 0.0) / STANDARD_ERRORS for name, e in found.error_estimate.items()}
            tail = found.wait_law
        truths.append(Truth(**which, mean=found.mean_wait_s, tail=tail, noise=noise))
    return truths


def truths_of(
    reach: str, laws: int, seed: int, arrivals: tuple[int, int], folder: Path | None, jobs: int
) -> list[Truth]:
    """Return simulated queues, `laws` of each kind, from a file where they are there."""
    file = folder / f"mgk-{reach}-{seed}-{laws}.pkl" if folder else None
    if file and file.exists():
        return pickle.loads(file.read_bytes())
    rows = Parallel(jobs, verbose=1)(delayed(solved)(number, reach, seed, arrivals) for number in range(laws))
    truths = [truth for row in rows for truth in row]
    if file:
        file.write_bytes(pickle.dumps(truths))
    return truths

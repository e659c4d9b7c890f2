"""What people look at first: attainment of every split over a range of rates, and what more or less money buys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InfeasibleError
from qmodel.studies.capacity_bounds import check_reachable
from qmodel.studies.capacity_goodput import predicted_goodput
from qmodel.studies.capacity_search import ATTAINMENT, Search, best_split, full_splits
from qmodel.studies.capacity_types import Candidate, Kind, Mix
from qmodel.studies.sweep import Engine, run_grid

if TYPE_CHECKING:
    from qmodel.scenario import SLO, Cluster, Workload
    from qmodel.studies.comparison import Progress

__all__ = ["Question", "capacity_frontier", "capacity_map"]

MOST_SPLITS, RATES = 16, 9
MOST_SIZES = 10  # of the frontier, evenly spread over the GPUs allowed
LIKELY = 0.7  # kinds whose bound per money is below this share of the best are left out of the frontier
Parts = Sequence[tuple["Workload", float]]
_TAIL = ("fastest", "p95_ttft_s", "slo_attainment")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """What is asked of every cell of a grid over clusters and rates; it travels to the workers.

    Parameters
    ----------
    kinds : tuple of Kind
        Instance types.
    parts : tuple
        (workload, share of time) pairs.
    slo : SLO
        Objectives.
    policy : object
        As in `plan_capacity`.
    attainment : float
        Share of requests that must meet the SLO.
    seed : int
        Simulated where the queueing model does not cover the policy.
    requests : int, optional
        Requests of that run.
    """

    kinds: tuple[Kind, ...]
    parts: tuple[tuple[Workload, float], ...]
    slo: SLO
    policy: Any = None
    attainment: float = ATTAINMENT
    seed: int = 0
    requests: int | None = None

    def search(self) -> Search:
        """Return an empty search for this question."""
        return Search(
            mix=Mix(parts=self.parts),
            slo=self.slo,
            policy=self.policy,
            attainment=self.attainment,
            seeds=(self.seed,),
            requests=self.requests,
        )

    def attainment_at(self, cell: Mapping[str, Any]) -> dict[str, float]:
        """Return the attainment and goodput of a cell with ``kind``, ``prefill``, ``decode`` and ``rate_per_s``."""
        candidate = Candidate(kind=self.kinds[cell["kind"]], prefill=cell["prefill"], decode=cell["decode"])
        share = self.search().screened(candidate, cell["rate_per_s"])
        return {"slo_attainment": share, "goodput_per_s": cell["rate_per_s"] * share}

    def best_of_size(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """Return the best split of ``gpus`` GPUs of a ``kind``: its goodput, and the lowest P95 TTFT at the rate."""
        search, kind = self.search(), self.kinds[cell["kind"]]
        even = best_split(kind, search, cell["gpus"])
        splits = [s for s in full_splits(kind, cell["gpus"]) if abs(s[0] - even) <= 1 and s[1] >= 1]
        candidates = [Candidate(kind=kind, prefill=k, decode=d) for k, d in splits]
        goodput: dict[Candidate, float] = {}
        for candidate in sorted(candidates, key=lambda c: -search.ceiling_per_s(c)):
            goodput[candidate] = predicted_goodput(search, candidate, max(goodput.values(), default=0.0))
        best = max(candidates, key=lambda c: goodput[c])
        row = {"cluster": best.name, "cost": best.cost, "goodput_per_s": goodput[best]}
        tails = [self._tail(search, c, cell["rate_per_s"]) for c in candidates if goodput[c]]
        return row | min(tails, key=lambda t: t["p95_ttft_s"] or math.inf, default=dict.fromkeys(_TAIL))

    def _tail(self, search: Search, candidate: Candidate, rate: float) -> dict[str, Any]:
        found = search.predicted(candidate, rate) if search.may_carry(candidate, rate) else {"slo_attainment": 0.0}
        found = search.simulated_once(candidate, rate, self.seed) if found is None else found
        tail = found.get("p95_ttft_s")
        values = (None if tail is None else candidate.name), tail, found["slo_attainment"]
        return dict(zip(_TAIL, values, strict=True))


def capacity_map(
    cluster: Cluster,
    workload: Workload | Parts,
    slo: SLO,
    gpus: int,
    rate_per_s: float,
    *,
    policy: Any = None,
    most_splits: int = MOST_SPLITS,
    most_rates: int = RATES,
    engine: Engine = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Predict attainment for the splits of some GPUs at 0.4 to 1.4 times a rate; simulate what is not predictable.

    Parameters
    ----------
    cluster : Cluster
        Laws and network of every split; its pools may differ in GPU type.
    workload : Workload or sequence of (Workload, share of time)
        Lengths and arrivals, scaled to each rate.
    slo : SLO
        Objectives.
    gpus : int
        GPUs to split.
    rate_per_s : float
        Rate around which to look [1/s].
    policy : object, optional
        A policy, None, or ``"thresholds"``: the plan of each split and rate.
    most_splits : int, optional
        Splits shown; above it an even choice that holds the cluster's own.
    most_rates : int, optional
        Rates shown, 2 or more.
    engine, workers, address : optional
        Where cells run, as in `run_grid`.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of dict
        ``cluster``, ``prefill``, ``decode``, ``rate_per_s``, ``slo_attainment`` and ``goodput_per_s`` of each cell.
    """
    kind = _kind(cluster)
    parts = ((workload, 1.0),) if not isinstance(workload, Sequence) else tuple(workload)
    sizes = _chosen(full_splits(kind, gpus), cluster.prefill_count, most_splits)
    rates = [float(f"{rate_per_s * share:.3g}") for share in np.linspace(0.4, 1.4, most_rates)]
    cells = [{"kind": 0, "prefill": k, "decode": d, "rate_per_s": r} for k, d in sizes for r in rates]
    question = Question(kinds=(kind,), parts=parts, slo=slo, policy=policy)
    rows = run_grid(
        question.attainment_at,
        cells,
        engine=engine,
        workers=workers,
        address=address,
        progress=_named("drawing the map", progress),
    )
    return [{"cluster": kind.name(row["prefill"], row["decode"]), **_told(row)} for row in rows]


def capacity_frontier(
    question: Question,
    gpus: int,
    rate_per_s: float,
    *,
    engine: Engine = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Return what sizes up to some GPUs achieve: the best goodput, and the lowest P95 TTFT at a rate, by prediction.

    Parameters
    ----------
    question : Question
        Instance types, workloads, SLO and policy.
    gpus : int
        Most GPUs.
    rate_per_s : float
        Rate of the P95 TTFT [1/s].
    engine, workers, address : optional
        Where cells run, as in `run_grid`.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of dict
        ``gpus``, ``cluster``, ``cost``, ``goodput_per_s``, and ``fastest``, ``p95_ttft_s``, ``slo_attainment`` of the
        split with the lowest P95 TTFT at the rate (None where no split carries it), by cost; ``best_latency`` and
        ``best_goodput`` say whether no cheaper row is as good.
    """
    cells = [
        {"kind": number, "gpus": size, "rate_per_s": rate_per_s}
        for number in _likely(question, gpus)
        for size in _sizes(question.kinds[number], gpus)
    ]
    rows = run_grid(
        question.best_of_size,
        cells,
        engine=engine,
        workers=workers,
        address=address,
        progress=_named("comparing sizes", progress),
    )
    found = sorted((_told(row) for row in rows), key=lambda row: (row["cost"], row["gpus"]))
    fast, high = _unbeaten(found, "p95_ttft_s", -1), _unbeaten(found, "goodput_per_s", 1)
    return [row | {"best_latency": n in fast, "best_goodput": n in high} for n, row in enumerate(found)]


def _unbeaten(rows: Sequence[Mapping[str, Any]], metric: str, sense: int) -> set[int]:
    """Return the rows that no row of the same or a lower cost beats; more is better where `sense` is 1."""
    kept, best = set(), -math.inf
    known = [(row["cost"], -sense * row[metric], n) for n, row in enumerate(rows) if row.get(metric) is not None]
    for _, negated, number in sorted(known):
        if -negated > best:
            best = -negated
            kept.add(number)
    return kept


def _chosen(sizes: list[tuple[int, int]], prefill: int, most: int) -> list[tuple[int, int]]:
    """Return at most so many splits, evenly spread, the one with `prefill` prefill instances among them."""
    own = next((n for n, size in enumerate(sizes) if size[0] == prefill), 0)
    step = -(-len(sizes) // most)
    return sizes[own % step :: step]


def _sizes(kind: Kind, gpus: int) -> list[int]:
    least = kind.gpus(1, 1)
    return sorted({round(n) for n in np.linspace(least, gpus, min(MOST_SIZES, gpus - least + 1))})


def _likely(question: Question, gpus: int) -> list[int]:
    """Return the kinds worth following: those whose bound on goodput per money is not far below the best."""
    search, value = question.search(), {}
    for number, kind in enumerate(question.kinds):
        try:
            for workload, _ in question.parts:
                check_reachable(kind.cluster(1, 1), workload, question.slo, question.attainment)
            k = best_split(kind, search, gpus)
        except InfeasibleError:
            continue
        d = (gpus - k * kind.prefill.tp) // kind.decode.tp
        value[number] = search.limits(kind).rate_per_s(k, d) / kind.cost(k, d)
    return [number for number, worth in value.items() if worth >= LIKELY * max(value.values())]


def _kind(cluster: Cluster) -> Kind:
    """Return the kind of a cluster whose pools are each of one type."""
    options = {f.name: getattr(cluster, f.name) for f in fields(cluster)}
    for name in ("prefill", "decode", "calibration"):
        del options[name]
    pools = cluster.prefill_calibrations[0], cluster.decode_calibrations[0]
    return Kind(prefill=pools[0], decode=pools[1], prices={}, options=options)


def _named(what: str, progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda _, done, total: progress(what, done, total)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without bookkeeping; a cell that failed is an error of the whole here."""
    if row["error"]:
        raise InfeasibleError("map of clusters", row["error"], "predictable everywhere")
    return {name: value for name, value in row.items() if name not in ("kind", "error")}

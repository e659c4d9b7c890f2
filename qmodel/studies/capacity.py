"""Capacity planning: the cheapest cluster for a rate, or the highest rate that some GPUs can serve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from qmodel.errors import InfeasibleError, InputError
from qmodel.laws import Calibration
from qmodel.scenario import SLO, Workload
from qmodel.scenario.cluster import MAX_INSTANCES
from qmodel.scenario.limits import check_kv_capacity
from qmodel.studies.capacity_answer import CapacityPlan
from qmodel.studies.capacity_bounds import check_reachable
from qmodel.studies.capacity_cheapest import cheapest
from qmodel.studies.capacity_goodput import highest_goodput
from qmodel.studies.capacity_search import ATTAINMENT, Search
from qmodel.studies.capacity_types import Kind, Mix

if TYPE_CHECKING:
    from qmodel.studies.comparison import Progress

__all__ = ["CapacityPlan", "instance_kinds", "plan_capacity"]

# Deflected prompts need not take the zero-load path; as for plans, its TTFT must suit the median prompt at least.
_REACHED_WITH_DEFLECTION = 0.5


def plan_capacity(
    calibrations: Calibration | Sequence[Calibration],
    workload: Workload | Sequence[tuple[Workload, float]],
    slo: SLO,
    *,
    gpus: int | None = None,
    rate_per_s: float | None = None,
    cluster: tuple[int, int] | None = None,
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
    gpus : int, optional
        Most GPUs to use; either this or `cluster` is needed.
    rate_per_s : float, optional
        Mean arrival rate to serve [1/s]; without it the rate is maximised.
    cluster : tuple of int, optional
        Prefill and decode instances of a cluster whose highest rate is asked.
    policy : object, optional
        A policy; None never deflects, so that the answer holds whatever the router does; ``"thresholds"`` derives the
        plan of each cluster and rate and may need fewer GPUs.
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
    kinds = instance_kinds(calibrations, prices, cluster_options)
    if cluster is not None:
        gpus = _gpus_of(cluster, gpus, rate_per_s, kinds)
    _check_numbers(gpus, rate_per_s, attainment, kinds)
    assert gpus is not None
    parts = ((workload, 1.0),) if isinstance(workload, Workload) else tuple(workload)
    runs = tuple(int(seed) for seed in seeds)
    if not runs:
        raise InputError("seeds", 0, "at least one", "e.g. range(5)")
    mix = Mix(parts=parts)
    kinds = _usable(kinds, mix, slo, attainment if policy is None else _REACHED_WITH_DEFLECTION)
    search = Search(mix=mix, slo=slo, policy=policy, attainment=attainment, seeds=runs, requests=requests)
    say = progress or _silent
    if rate_per_s is not None:
        answer = cheapest(search, kinds, gpus, float(rate_per_s), say)
    else:
        answer = highest_goodput(search, kinds, gpus, say, cluster)
    return replace(answer, gpus_allowed=gpus)


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


def instance_kinds(
    calibrations: Calibration | Sequence[Calibration],
    prices: Mapping[str, float] | None,
    options: Mapping[str, Any] | None,
) -> list[Kind]:
    """Return every pair of instance types for the two pools.

    Parameters
    ----------
    calibrations : Calibration or sequence of Calibration
        Instance types.
    prices : mapping, optional
        GPU name to price.
    options : mapping, optional
        Other fields of `Cluster`.

    Returns
    -------
    list of Kind
        One per ordered pair of types, each pool's own first.

    Raises
    ------
    InputError
        When there is no type, or a price is unknown or not > 0.
    """
    types = [calibrations] if isinstance(calibrations, Calibration) else list(calibrations)
    if not types:
        raise InputError("calibrations", 0, "at least one", "see list_calibrations()")
    for gpu, price in (prices or {}).items():
        if gpu not in {c.gpu for c in types}:
            raise InputError("price of a GPU", repr(gpu), f"one of {', '.join(sorted({c.gpu for c in types}))}")
        if not (math.isfinite(price) and price > 0):
            raise InputError(f"price of {gpu}", price, "finite and > 0")
    return [
        Kind(prefill=p, decode=d, prices=dict(prices or {}), options=dict(options or {}), choice=len(types) > 1)
        for p, d in product(types, repeat=2)
    ]


def _gpus_of(cluster: tuple[int, int], gpus: int | None, rate_per_s: float | None, kinds: list[Kind]) -> int:
    """Return the GPUs of a given cluster; raise InputError where it is none, or GPUs or a rate are given too."""
    if gpus is not None:
        raise InputError("gpus", f"{gpus} beside a cluster", "one of the two", "gpus searches for the cluster")
    if rate_per_s is not None:
        raise InputError("rate", f"{rate_per_s:g}/s beside a cluster", "one of the two", "simulate says how it does")
    if not all(isinstance(n, int) and n >= 1 for n in cluster):
        raise InputError("cluster", cluster, "at least one instance of each pool", "e.g. (2, 2)")
    return max(kind.gpus(*cluster) for kind in kinds)


def _check_numbers(gpus: int | None, rate_per_s: float | None, attainment: float, kinds: list[Kind]) -> None:
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

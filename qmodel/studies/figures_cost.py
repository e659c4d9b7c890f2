"""Studies of the figures about what qmodel costs: one routing decision, and every job as the cluster grows.

Both are timed on the machine that makes them, so that, unlike every other table, they differ from run to run.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.studies.benchmark import fastest_s
from qmodel.studies.peers import simpy_waits_s
from qmodel.studies.published import PUBLISHED
from qmodel.studies.scenes import CENTRE, MODEL, Stage

if TYPE_CHECKING:
    from pandas import DataFrame

    from qmodel.laws import StepLaw
    from qmodel.runtime import RuntimePlan
    from qmodel.scenario import SLO, Cluster, Workload

__all__ = ["decision_cost", "job_cost"]

SIZES = (1, 4, 16, 64)
FINE_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
REQUESTS_PER_PREFILL = 1_000
REPEATS = 3  # the shortest counts: one run alone shows what else the machine did
PEER_REQUESTS = 4_000
PEERS = {"BLIS": "blis_request_s", "Vidur": "vidur_request_s", "splitwise-sim": "splitwise_sim_request_s"}
PEER_INSTANCES = 4  # their times are for 2P2D
SEED = 11
CONTEXT = 1500.0  # tokens per resident request in the random states
ROWS_A_LOOK_UP = 4  # two brackets of length, two of the decode batch
PREFILL_TOKEN_S = 5e-5  # turns seconds of backlog into tokens ahead, for the states of the search


def _case(size: int) -> tuple[Cluster, Workload, SLO]:
    from qmodel.io.calibrations import load_calibration
    from qmodel.scenario import SLO, Cluster, Workload

    cluster = Cluster.parse(f"{size}P{size}D", load_calibration(MODEL))
    return cluster, Workload.builtin("azure-conv").at_load(CENTRE, cluster), SLO()


def decision_cost(stage: Stage) -> DataFrame:
    """Return what a decision takes over the size of the decode pool, beside the search of Kairos.

    Kairos evaluates the step law for each candidate chunk of each step of the prompt's schedule on each idle decode
    instance; thresholds look up the host time of the prompt there, and its harm where that can still decide. Both are
    counted on the same random states; the standard-library runtime is timed too.

    Parameters
    ----------
    stage : Stage
        Says how many sizes and states.

    Returns
    -------
    DataFrame
        Columns decode_instances, quantity ("law evaluations, Kairos", "look-ups, thresholds" or "runtime [s]"), median,
        p99, states and published_s (the paper's bound on one decision).
    """
    import pandas as pd

    from qmodel.runtime import RuntimePlan
    from qmodel.studies.thresholds import derive_thresholds

    sizes = FINE_SIZES if stage.full else SIZES
    cluster, workload, slo = _case(2)
    data = derive_thresholds(cluster, workload, slo).to_dict()
    plan, counted = RuntimePlan(data), RuntimePlan(data)
    rows = []
    for number, size in enumerate(sizes):
        if stage.progress is not None:
            stage.progress(f"{size} decode instances", number, len(sizes))
        states = _states(size, 1000 if stage.full else 300)
        quantities: dict[str, list[int] | list[float]] = {
            "law evaluations, Kairos": _search_evaluations(size, states[:: 1 if stage.full else 5]),
            "look-ups, thresholds": _look_ups(counted, states),
            "runtime [s]": _decision_times(plan, states),
        }
        rows += [
            {
                "decode_instances": size, "quantity": name, "median": float(np.median(values)),
                "p99": float(np.quantile(values, 0.99)), "states": len(values),
                "published_s": PUBLISHED["decision_s"].high,
            }
            for name, values in quantities.items()
        ]  # fmt: skip
    return pd.DataFrame(rows)


States = list[tuple[int, float, list[tuple[float, float, float]]]]


def _states(size: int, count: int) -> States:
    """Return random (prompt tokens, prefill backlog [s], [(batch, context tokens, deflected work [s])])."""
    rng = np.random.default_rng(SEED)
    out = []
    for _ in range(count):
        batches, waits = rng.integers(0, 200, size), rng.exponential(0.2, size)
        decode = [(float(B), float(B) * CONTEXT, float(v)) for B, v in zip(batches, waits, strict=True)]
        out.append((int(rng.integers(64, 8000)), float(rng.exponential(1.0)), decode))
    return out


def _decision_times(plan: RuntimePlan, states: States) -> list[float]:
    times = []
    for prompt, backlog, decode in states:
        times.append(fastest_s(partial(plan.decide, prompt, 0, backlog, decode), 3))
    return times


class _CountingRows(list[list[float]]):
    """Rows of a table over the decode state that count how often one is read."""

    reads = 0

    def __getitem__(self, at: Any) -> Any:
        _CountingRows.reads += 1
        return super().__getitem__(at)


def _look_ups(plan: RuntimePlan, states: States) -> list[int]:
    """Return how many tables the runtime looks up for one decision, by the rows that it reads; changes the plan."""
    plan._kinds = [
        kind._replace(
            host=[_CountingRows(rows) for rows in kind.host], harm=[_CountingRows(rows) for rows in kind.harm]
        )
        for kind in plan._kinds
    ]
    counts = []
    for prompt, backlog, decode in states:
        _CountingRows.reads = 0
        plan.decide(prompt, 0, backlog, decode)
        counts.append(_CountingRows.reads // ROWS_A_LOOK_UP)
    return counts


class _CountingLaw:
    """A step law that counts how often it is asked."""

    def __init__(self, law: StepLaw) -> None:
        self.law, self.count = law, 0

    def step_time_s(self, *sums: Any) -> Any:
        """Return the time of a step [s]."""
        self.count += 1
        return self.law.step_time_s(*sums)


def _search_evaluations(size: int, states: States) -> list[int]:
    """Return how often Kairos evaluates the decode instances' law for one decision; all of them are idle."""
    from qmodel.policies import ClusterState, Kairos, RequestView

    cluster, _, slo = _case(1)
    law, prefill = _CountingLaw(cluster.decode_calibrations[0].step), cluster.prefill_calibrations[0].prefill
    as_law: Any = law
    counts = []
    for prompt, backlog, decode in states:
        B, K, _ = np.array(decode).T
        none, never = np.zeros(size), np.full(size, np.inf)
        state = ClusterState(
            time_s=0.0, prefill_work_s=np.array([backlog]), prefill_tokens=np.array([backlog / PREFILL_TOKEN_S]),
            prefill_requests=np.ones(1), link_free_s=np.zeros(1), deflected_work_s=none, batch=B, context_tokens=K,
            hosting=none > 0, decode_requests=B, step_rest_s=none, strictest_tbt_s=np.where(B > 0, slo.tbt_s, never),
            kv_share=none, slowdown=none + 1.0, prefill_laws=[prefill], decode_laws=[as_law] * size,
            budget=cluster.max_num_batched_tokens, transfer_s=np.zeros(1),
        )  # fmt: skip
        request = RequestView(
            arrival_s=0.0, prompt_tokens=prompt, cached_tokens=0, ttft_slo_s=slo.ttft_s, tbt_slo_s=slo.tbt_s
        )
        law.count = 0
        Kairos().decide(state, request)
        counts.append(law.count)
    return counts


def job_cost(stage: Stage) -> DataFrame:
    """Return what qmodel's jobs cost as the cluster grows, and what others' simulators take, at their fastest.

    Where simpy is installed, the prefill queue alone is played in it too.

    Parameters
    ----------
    stage : Stage
        Says how many sizes.

    Returns
    -------
    DataFrame
        Columns instances (prefill and decode together), job, seconds (of one job, or of one request where requests are
        simulated) and per ("job" or "request").
    """
    import pandas as pd

    sizes = FINE_SIZES if stage.full else SIZES
    rows = []
    for number, size in enumerate(sizes):
        if stage.progress is not None:
            stage.progress(f"{size}P{size}D", number, len(sizes))
        rows += [{"instances": 2 * size, "job": job, "seconds": s, "per": per} for job, s, per in _job_costs(size)]
    rows += [
        {"instances": PEER_INSTANCES, "job": f"{name}, elsewhere", "seconds": PUBLISHED[key].low, "per": "request"}
        for name, key in PEERS.items()
    ]
    return pd.DataFrame(rows)


def _job_costs(size: int) -> list[tuple[str, float, str]]:
    from qmodel.scenario import Workload
    from qmodel.simulation import simulate
    from qmodel.studies.thresholds import derive_thresholds
    from qmodel.system import predict

    cluster, workload, slo = _case(size)
    plan = derive_thresholds(cluster, workload, slo)
    requests = workload.requests(count=REQUESTS_PER_PREFILL * size)
    prompt, output, _, weights = workload.lengths()
    poisson = Workload.poisson(workload.rate_per_s, (prompt, weights), (output, weights))
    jobs = {
        "derive thresholds": (lambda: derive_thresholds(cluster, workload, slo), 0),
        "predict, Poisson": (lambda: predict(cluster, poisson, slo), 0),
        "simulate, disaggregated": (lambda: simulate(cluster, requests, slo), len(requests)),
        "simulate, thresholds": (lambda: simulate(cluster, requests, slo, plan), len(requests)),
    }
    if importlib.util.find_spec("simpy") is not None:
        work = np.asarray(cluster.work_s(requests.prompt_tokens.astype(float)))[:PEER_REQUESTS]
        arrival = requests.arrival_s[:PEER_REQUESTS]
        jobs["simpy, prefill queue alone"] = (lambda: simpy_waits_s(arrival, work, size), len(work))
    return [
        (name, fastest_s(job, REPEATS) / (count or 1), "request" if count else "job")
        for name, (job, count) in jobs.items()
    ]

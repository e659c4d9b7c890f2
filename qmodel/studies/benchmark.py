"""How fast qmodel is here: the jobs a user waits for, timed on built-in inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qmodel.studies.scenes import CENTRE, MODEL

if TYPE_CHECKING:
    from pandas import DataFrame

    from qmodel.studies.comparison import Progress

__all__ = ["benchmark", "fastest_s"]


def fastest_s(job: Callable[[], Any], repeats: int = 5, clock: Callable[[], float] = perf_counter) -> float:
    """Return the shortest of some runs of a job, after one that warms it up [s].

    Parameters
    ----------
    job : callable
        What to time.
    repeats : int, optional
        Timed runs; the shortest is the least disturbed by other work on the machine.
    clock : callable, optional
        What tells the time [s]; `time.process_time` leaves out the work of others.

    Returns
    -------
    float
        Time by that clock [s].
    """
    job()
    times = []
    for _ in range(repeats):
        start = clock()
        job()
        times.append(clock() - start)
    return min(times)


def benchmark(repeats: int = 5, progress: Progress | None = None) -> DataFrame:
    """Time the jobs a user waits for, warm, on one core: simulation, prediction, derivation, one queue.

    Parameters
    ----------
    repeats : int, optional
        Timed runs of each job.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    DataFrame
        Columns job, seconds, count (of requests, where the job handles some) and per_s.
    """
    import pandas as pd

    jobs = _jobs()
    rows = []
    for number, (name, (job, count)) in enumerate(jobs.items()):
        if progress is not None:
            progress(name, number, len(jobs))
        seconds = fastest_s(job, repeats)
        rows.append({"job": name, "seconds": seconds, "count": count, "per_s": count / seconds})
    return pd.DataFrame(rows)


def _jobs() -> dict[str, tuple[Callable[[], Any], int]]:
    """Return name -> (job, how many things it handles)."""
    from qmodel.io.calibrations import load_calibration
    from qmodel.policies import Disaggregated, EarliestCompletion, Kairos
    from qmodel.queueing import mgk
    from qmodel.scenario import SLO, Cluster, Workload
    from qmodel.simulation import simulate
    from qmodel.studies.thresholds import derive_thresholds
    from qmodel.system import predict

    cluster = Cluster.parse("2P2D", load_calibration(MODEL))
    workload = Workload.builtin("azure-conv").at_load(CENTRE, cluster)
    slo = SLO()
    plan = derive_thresholds(cluster, workload, slo)
    prompt, output, _, weights = workload.lengths()
    poisson = Workload.poisson(workload.rate_per_s, (prompt, weights), (output, weights)).at_load(CENTRE, cluster)
    count = len(workload.requests())
    policies = {
        "disaggregated": Disaggregated(), "kairos": Kairos(), "earliest completion": EarliestCompletion(), "plan": plan,
    }  # fmt: skip
    jobs: dict[str, tuple[Callable[[], Any], int]] = {
        f"simulate, {name}": (partial(simulate, cluster, workload, slo, policy), count)
        for name, policy in policies.items()
    }
    service = _service(cluster, prompt, weights)
    rate = poisson.rate_per_s
    jobs |= {
        "derive thresholds": (lambda: derive_thresholds(cluster, workload, slo), 1),
        "predict, Poisson": (lambda: predict(cluster, poisson, slo), 1),
        "wait of M/G/k": (lambda: mgk(rate, cluster.prefill_count, service).wait_quantile_s(0.95), 1),
    }
    return jobs


def _service(cluster: Any, prompt: Any, weights: Any) -> Any:
    from qmodel.distributions import ServiceTime

    return ServiceTime.from_samples(cluster.work_s(prompt.astype(float)), weights)

"""Studies of the figures about queues: the two pools over a burst, and how far M/G/k formulas are from the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qmodel.studies.scenes import Stage, policy_of

if TYPE_CHECKING:
    import numpy.typing as npt
    from pandas import DataFrame

    from qmodel.distributions import ServiceTime
    from qmodel.queueing.approximations import MethodRow
    from qmodel.simulation import SimulationResult
    from qmodel.studies.scenes import Scene

    FloatArray = npt.NDArray[np.float64]

__all__ = ["asymmetry", "backlog_per_instance_s", "decode_step_s", "mgk_errors"]

BURST_S = 600.0  # how much of the run is shown, around the longest queue
BIN_S = 10.0
BURSTY = "LT"
PATHS = {False: 12, True: 40}  # by whether grids are fine
PATH_ARRIVALS = 1_000_000
COMPARED = ("disaggregated", "thresholds")


def backlog_per_instance_s(scene: Scene, result: SimulationResult, times_s: FloatArray) -> FloatArray:
    """Return the prefill work that waits or runs, per prefill instance, at given times [s].

    A prompt counts with its work W(L) while it queues; during its prefill that falls to 0 in a straight line.

    Parameters
    ----------
    scene : Scene
        Gives the laws.
    result : SimulationResult
        A run of it.
    times_s : ndarray, shape (n,)
        When to look [s].

    Returns
    -------
    ndarray, shape (n,)
        Backlog [s].
    """
    table = result.requests[~result.requests["deflected"]]
    work = np.asarray(
        scene.cluster.work_s(table["prompt_tokens"].to_numpy(float), table["cached_tokens"].to_numpy(float))
    )
    begin = table["arrival_s"].to_numpy()
    run = begin + table["queue_s"].to_numpy()
    took = table["prefill_s"].to_numpy()
    rest = np.empty(len(times_s))
    for number, now in enumerate(times_s):
        here = (begin <= now) & (now < run + took)
        left = np.clip((run[here] + took[here] - now) / np.maximum(took[here], 1e-9), 0.0, 1.0)
        rest[number] = float(np.dot(work[here], left))
    return rest / scene.cluster.prefill_count


def decode_step_s(scene: Scene, result: SimulationResult, times_s: FloatArray) -> FloatArray:
    """Return the decode step at the mean state of the decode instances, without chunks, at given times [s].

    Parameters
    ----------
    scene : Scene
        Gives the laws.
    result : SimulationResult
        A run of it.
    times_s : ndarray, shape (n,)
        When to look [s].

    Returns
    -------
    ndarray, shape (n,)
        Step time at B residents and K tokens of context per instance; tokens of a request grow evenly [s].
    """
    table = result.requests
    begin = (table["arrival_s"] + table["ttft_s"]).to_numpy()
    end = table["finish_s"].to_numpy()
    prompt, output = (table[name].to_numpy(float) for name in ("prompt_tokens", "output_tokens"))
    law = scene.cluster.decode_calibrations[0]
    steps = np.empty(len(times_s))
    for number, now in enumerate(times_s):
        here = (begin <= now) & (now < end)
        share = (now - begin[here]) / np.maximum(end[here] - begin[here], 1e-9)
        B = here.sum() / scene.cluster.decode_count
        K = float(np.sum(prompt[here] + share * output[here])) / scene.cluster.decode_count
        steps[number] = float(law.decode_step_s(B, K)) if B > 0 else 0.0
    return steps


def _offered_load(scene: Scene, result: SimulationResult) -> FloatArray:
    """Return the prefill work that arrives, per instance and second, in bins of 10 s."""
    table = result.requests
    arrival = table["arrival_s"].to_numpy()
    prompt, cached = (table[name].to_numpy(float) for name in ("prompt_tokens", "cached_tokens"))
    work = np.asarray(scene.cluster.work_s(prompt, cached))
    bins = np.bincount((arrival / BIN_S).astype(int), weights=work)
    return bins / BIN_S / scene.cluster.prefill_count


def _bursty(stage: Stage) -> Scene:
    """Return the bursty panel of the evaluation at the centre; the busiest scene where it is absent."""
    return next((scene for scene in stage.at_centre() if scene.panel == BURSTY), stage.congested())


def asymmetry(stage: Stage) -> DataFrame:
    """Return both pools over the burst with the longest prefill queue, without deflection and with thresholds.

    Parameters
    ----------
    stage : Stage
        Its bursty panel at the centre is shown, the first run.

    Returns
    -------
    DataFrame
        Columns panel, sweep, source, policy, time_s (from the beginning of the burst), offered_load (prefill work that
        arrived around then, per instance and second), backlog_s, decode_step_s and slo_s (of TBT).
    """
    import pandas as pd

    from qmodel.simulation import simulate

    scene = _bursty(stage)
    runs = {
        name: simulate(
            scene.cluster,
            scene.workload,
            scene.slo,
            policy_of(scene, name),
            seed=stage.seeds[0],
            requests=stage.requests,
        )
        for name in COMPARED
    }
    arrivals = runs["disaggregated"].requests["arrival_s"].to_numpy()
    coarse = np.arange(0.0, float(arrivals[-1]), BIN_S)
    peak = coarse[int(np.argmax(backlog_per_instance_s(scene, runs["disaggregated"], coarse)))]
    start = float(np.clip(peak - 0.6 * BURST_S, 0.0, max(0.0, coarse[-1] + BIN_S - BURST_S)))
    times = np.arange(start, min(coarse[-1] + BIN_S, start + BURST_S), 1.0 if stage.full else 2.0)
    offered = _offered_load(scene, runs["disaggregated"])
    return pd.concat(
        [
            pd.DataFrame(
                scene.labels
                | {
                    "policy": name, "time_s": times - start, "offered_load": offered[(times // BIN_S).astype(int)],
                    "backlog_s": backlog_per_instance_s(scene, run, times),
                    "decode_step_s": decode_step_s(scene, run, times), "slo_s": scene.slo.tbt_s,
                }
            )
            for name, run in runs.items()
        ],
        ignore_index=True,
    )  # fmt: skip


def _service_laws(scene: Scene) -> dict[str, ServiceTime]:
    """Return service laws with mean 1, from constant to long-tailed, the scene's own prompts among them."""
    from qmodel.distributions import ServiceTime

    prompt, _, cached, weights = scene.workload.lengths()
    own = ServiceTime.from_samples(
        np.asarray(scene.cluster.work_s(prompt.astype(float), cached.astype(float))), weights
    )
    return {
        "constant": ServiceTime.deterministic(1.0),
        "Erlang 4": ServiceTime.erlang(4, 1.0),
        "exponential": ServiceTime.exponential(1.0),
        "hyperexponential": ServiceTime.hyperexponential([0.9, 0.1], [5 / 9, 5.0]),
        f"prompts of {scene.panel}": own.scaled(1.0 / own.mean_s),
    }


def mgk_errors(stage: Stage) -> DataFrame:
    """Return the error of each M/G/k method against the exact law, or sample paths where no method is exact.

    Parameters
    ----------
    stage : Stage
        The prompts of its busiest scene are one of the laws.

    Returns
    -------
    DataFrame
        Columns law, scv, servers, load, method, metric ("mean", "P95", "P99"), value_s, truth_s, truth_half_width_s
        (95 %, over paths; 0 where exact) and error (relative).
    """
    import pandas as pd

    from qmodel.queueing import compare_methods

    rows = []
    jobs = [
        (name, law, servers, load)
        for name, law in _service_laws(stage.congested()).items()
        for servers in ((1, 2, 8) if not stage.full else (1, 2, 4, 8, 16))
        for load in (0.7, 0.9)
    ]
    for number, (name, law, servers, load) in enumerate(jobs):
        if stage.progress is not None:
            stage.progress(f"{name}, k = {servers}, load {load}", number, len(jobs))
        methods = compare_methods(load * servers, servers, law)
        truth = _truth(methods[0], law, servers, load, PATHS[stage.full])
        for row in methods:
            for metric, value in _waits(row).items():
                if value is None or row.mean_error is None:  # does not apply, or is a bound
                    continue
                exact, half = truth[metric]
                rows.append(
                    {
                        "law": name, "scv": law.scv, "servers": servers, "load": load, "method": row.method,
                        "metric": metric, "value_s": value, "truth_s": exact, "truth_half_width_s": half,
                        "error": value / exact - 1,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _waits(row: MethodRow) -> dict[str, float | None]:
    return {"mean": row.mean_wait_s, "P95": row.p95_s, "P99": row.p99_s}


def _truth(best: MethodRow, law: ServiceTime, servers: int, load: float, paths: int) -> dict[str, tuple[float, float]]:
    """Return mean, P95 and P99 of the wait [s] and 95 % half-widths: exact where a method is, else sample paths."""
    from qmodel.queueing import kiefer_wolfowitz
    from qmodel.simulation.statistics import mean_interval

    if best.mean_error == 0:
        return {name: (float(value or 0.0), 0.0) for name, value in _waits(best).items()}
    count, cut = PATH_ARRIVALS, PATH_ARRIVALS // 20
    found = []
    for seed in range(paths):
        rng = np.random.default_rng(seed)
        arrival = np.cumsum(rng.exponential(1 / (load * servers), count))
        wait = kiefer_wolfowitz(arrival, law.sample(count, rng), servers)[cut:]
        found.append((wait.mean(), *np.quantile(wait, [0.95, 0.99])))
    columns = np.array(found).T
    return {name: mean_interval(column) for name, column in zip(("mean", "P95", "P99"), columns, strict=True)}

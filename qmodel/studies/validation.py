"""How far predictions are from simulation: one row per case, kept in a journal so that runs may stop and go on.

``python -m qmodel.studies.validation_page docs/validation.md`` writes the page; it needs the shared traces.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qmodel.errors import InfeasibleError, UnstableError
from qmodel.io.calibrations import load_calibration
from qmodel.policies import Disaggregated, EarliestCompletion, Kairos
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.scenario.sources import PoissonSource
from qmodel.simulation import SimulationResult, simulate
from qmodel.studies.panels import CELLS, Cell, cell_requests, trace_requests
from qmodel.studies.thresholds import derive_thresholds
from qmodel.system import Prediction, predict
from qmodel.system.predict import Method

__all__ = ["CLUSTERS", "SHARES", "TIMES", "Case", "Row", "cases", "covered", "validate"]

CLUSTERS = ("2P2D", "1P1D", "3P1D", "1P3D", "4P4D", "8P8D")
POISSON_LOADS = (0.5, 0.7, 0.85, 0.95)
POLICY_LOADS = (0.7, 0.95, 1.2)
TIMES = ("p50_ttft_s", "p95_ttft_s", "p99_ttft_s", "p99_tbt_s")
SHARES = ("ttft_attainment", "tbt_attainment", "slo_attainment", "deflected_share")
LIMITS = SLO(ttft_s=1.0, tbt_s=0.060)
MODEL, OTHER_MODEL = "deepseek-v2-lite", "llama-3.1-8b"
# Simulated runs and requests of each, by load: waits near saturation stay correlated over thousands of requests, and
# P95 is known to 1 % after ten million of them. With a policy, pools that may be overloaded run as `simulate` does.
_RUNS = {0.5: (12, 50_000), 0.7: (12, 80_000), 0.85: (24, 150_000), 0.95: (32, 400_000)}
_POLICY_RUNS, _OVERLOADED_RUNS = (12, 60_000), (24, 20_000)
_PREDICTING = ("_kernels", "distributions", "laws", "optimization", "policies", "queueing", "scenario", "system")
_WINDOWED = ("none", "kairos", "thresholds")
_OTHER_TRACES = ("mooncake_conversation_a", "servegen_bursty_a", "composite_code_lengths_on_conv_arrivals_h1")

Group = Literal["poisson", "poisson + policy", "panel", "trace", "built-in"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One comparison; what it needs is made only when it is run.

    Parameters
    ----------
    group : str
        Part of the grid.
    traffic : str
        Lengths, trace or panel.
    load : float
        Of the prefill pool, or t of a panel.
    model, cluster : str
        Calibrated model on A100, and kPdD.
    policy : str
        none, kairos, earliest, thresholds or late.
    method : str
        Of `predict`.
    replications, requests : int, optional
        Simulated runs, and requests of each; by default one run of all requests.
    """

    group: Group
    traffic: str
    load: float
    model: str = MODEL
    cluster: str = "2P2D"
    policy: str = "none"
    method: Method = "auto"
    replications: int = 1
    requests: int | None = None

    @property
    def scene(self) -> str:
        """What is simulated, whatever the method."""
        runs = f"{self.replications}x{self.requests or 'all'}"
        return " | ".join((self.group, self.traffic, f"{self.load:g}", self.model, self.cluster, self.policy, runs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A case's result.

    Parameters
    ----------
    case : Case
        What was compared.
    method : str
        As the prediction names it.
    predicted, simulated : Mapping
        By metric; times in seconds.
    noise : Mapping
        Standard error of the simulated metrics over replications.
    stated : Mapping
        Half-widths that the prediction gives: relative for times, absolute for shares.
    cpu_s : float
        Processor time of the prediction [s].
    """

    case: Case
    method: str
    predicted: Mapping[str, float]
    simulated: Mapping[str, float]
    noise: Mapping[str, float]
    stated: Mapping[str, float]
    cpu_s: float

    def error(self, metric: str) -> float:
        """Return the relative error of a time, or the difference of a share."""
        p, s = self.predicted[metric], self.simulated[metric]
        return p / s - 1.0 if metric in TIMES else p - s

    def truth_noise(self, metric: str) -> float:
        """Return the standard error of the truth, relative for a time."""
        return self.noise[metric] / (self.simulated[metric] if metric in TIMES else 1.0)


def cases(other_model: bool = True) -> Iterator[Case]:
    """Yield the grid: Poisson streams without and with a policy, panels, shared traces and built-in workloads.

    Parameters
    ----------
    other_model : bool
        Whether panels and traces are also run for Llama-3.1-8B.

    Yields
    ------
    Case
        In order of group.
    """
    yield from _poisson_cases()
    for cell in CELLS:
        for cluster in CLUSTERS:
            for policy in ("none", "kairos", "thresholds", "late", "earliest")[: 5 if cluster == "2P2D" else 3]:
                yield Case(group="panel", traffic=cell.panel, load=cell.sweep, cluster=cluster, policy=policy)
        for policy in _WINDOWED:
            yield Case(group="panel", traffic=cell.panel, load=cell.sweep, policy=policy, method="windows")
    for source in ("code", "conv", *_OTHER_TRACES):
        for load in (0.7, 0.9, 1.1):
            for policy in ("none", "kairos", "thresholds", "late"):
                yield Case(group="trace", traffic=source, load=load, policy=policy)
                if policy in _WINDOWED:
                    yield Case(group="trace", traffic=source, load=load, policy=policy, method="windows")
            for model, cluster in ((MODEL, "1P3D"), (MODEL, "4P4D"), (OTHER_MODEL, "2P2D")):
                for policy in ("none", "kairos", "thresholds"):
                    if other_model or model == MODEL:
                        yield Case(
                            group="trace", traffic=source, load=load, model=model, cluster=cluster, policy=policy
                        )


def _poisson_cases() -> Iterator[Case]:
    for cluster in CLUSTERS:
        for lengths in ("code", "conv"):
            for load in POISSON_LOADS:
                runs, count = _RUNS[load]
                yield Case(
                    group="poisson", traffic=lengths, load=load, cluster=cluster, replications=runs, requests=count
                )
            for load in POLICY_LOADS if cluster in ("2P2D", "8P8D", "3P1D", "1P3D") else (0.95,):
                runs, count = _OVERLOADED_RUNS if load > 1 or cluster == "3P1D" else _POLICY_RUNS
                for policy in ("kairos", "thresholds"):
                    yield Case(
                        group="poisson + policy", traffic=lengths, load=load, cluster=cluster, policy=policy,
                        replications=runs, requests=count,
                    )  # fmt: skip


@lru_cache(maxsize=1)
def _pair() -> Cluster:
    return Cluster.parse("2P2D", load_calibration(MODEL))


@lru_cache(maxsize=4)
def _requests(traffic: str, sweep: float | None, folder: Path | None) -> Requests:
    if sweep is None:
        return trace_requests(traffic, folder)
    return cell_requests(_cell(traffic, sweep), _pair(), folder)


def _cell(panel: str, sweep: float) -> Cell:
    return next(cell for cell in CELLS if (cell.panel, cell.sweep) == (panel, sweep))


def _scenario(case: Case, folder: Path | None) -> tuple[Cluster, Workload, Any]:
    cluster = Cluster.parse(case.cluster, load_calibration(case.model))
    if case.group.startswith("poisson"):
        trace = _requests(case.traffic, None, folder)
        workload = Workload.poisson(1.0, trace.prompt_tokens, trace.output_tokens).at_load(case.load, cluster)
    elif case.group == "panel":
        workload = Workload.from_requests(_requests(case.traffic, case.load, folder), f"{case.traffic} {case.load:g}")
        if case.cluster != "2P2D":
            workload = workload.at_load(_cell(case.traffic, case.load).load_prefill, cluster)
    else:
        workload = Workload.from_requests(_requests(case.traffic, None, folder), case.traffic)
        workload = workload.at_load(case.load, cluster)
    plain = {"none": Disaggregated, "kairos": Kairos, "earliest": EarliestCompletion}
    if case.policy in plain:
        return cluster, workload, plain[case.policy]()
    if case.policy == "late":
        return cluster, workload, derive_thresholds(cluster, workload, LIMITS, binding="late", order="spf")
    return cluster, workload, derive_thresholds(cluster, workload, LIMITS, binding="dispatch", order="fcfs")


def _numbers(outcome: Prediction | SimulationResult) -> dict[str, float]:
    times = {f"p{round(100 * q)}_ttft_s": float(outcome.ttft_s(q)) for q in (0.5, 0.95, 0.99)}
    shares = {name: float(getattr(outcome, name)) for name in SHARES}
    parts = {f"{part}_s": value for part, value in outcome.breakdown().items()}
    return {**times, "p99_tbt_s": float(outcome.tbt_s(0.99)), **shares, **parts}


def _replication(case: Case, workload: Workload, run: int) -> Workload:
    """Return what to simulate: a trace as it is, a Poisson stream as a Latin hypercube over gaps and lengths.

    Every marginal law is met exactly, which leaves the noise of the order alone: a stream of 500,000 free draws at
    load 0.95 whose rate is 0.1 % too high has a P95 that is 2 % too high. Cells share no draws, or all would err alike.
    """
    source, n = workload.source, case.requests
    if not isinstance(source, PoissonSource) or n is None:
        return workload
    rng = np.random.default_rng([*hashlib.sha256(case.scene.encode()).digest(), run])
    gaps, prompt, output = ((rng.permutation(n) + rng.random(n)) / n for _ in range(3))
    arrival = np.cumsum(-np.log1p(-gaps)) / workload.rate_per_s
    return Workload.from_requests(
        Requests.from_arrays(arrival, source.prompt.quantile(prompt), source.output.quantile(output))
    )


def _simulated(case: Case, cluster: Cluster, workload: Workload, policy: Any, run: int) -> dict[str, float]:
    return _numbers(simulate(cluster, _replication(case, workload, run), LIMITS, policy))


def _truth(case: Case, cluster: Cluster, workload: Workload, policy: Any) -> dict[str, dict[str, float]]:
    from joblib import Parallel, delayed

    workers = 1 if case.replications == 1 else -1
    each = (delayed(_simulated)(case, cluster, workload, policy, run) for run in range(case.replications))
    runs = Parallel(n_jobs=workers)(each)
    table = {name: np.array([run[name] for run in runs]) for name in runs[0]}
    spread = np.sqrt(max(case.replications - 1, 1) * case.replications)
    return {
        "simulated": {name: float(values.mean()) for name, values in table.items()},
        "noise": {name: float(np.linalg.norm(values - values.mean()) / spread) for name, values in table.items()},
    }


def validate(
    grid: Iterable[Case],
    journal: Path | None = None,
    folder: Path | None = None,
    seconds: float = float("inf"),
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], bool]:
    """Return predicted and simulated numbers of each case.

    Simulations are read back from the journal when case and policy are the same as then, whole rows when no code that
    predicts has changed since. Cases without a plan or a steady state are left out.

    Parameters
    ----------
    grid : iterable of Case
        What to compare.
    journal : Path, optional
        JSON lines of what is done, appended as they come.
    folder : Path, optional
        Folder of the shared data sets.
    seconds : float
        Time after which no further case is begun [s].
    report : callable
        Gets a line per case.

    Returns
    -------
    rows : list of Row
        One a case.
    complete : bool
        Whether no case was left for a later run.
    """
    begun = time.monotonic()
    rows: list[Row] = []
    known, code = _read(journal), _code()
    for case in grid:
        whole = f"{case.scene} | {case.method} | {code}"
        if whole not in known:
            if time.monotonic() - begun > seconds:
                return rows, False
            known |= _compared(case, whole, known, folder, journal)
        found = known[whole]
        if "left_out" in found:
            report(f"left out: {case.scene}: {found['left_out']}")
            continue
        rows.append(Row(case=case, **found))
        report(f"{case.scene} | {case.method}: P95 {rows[-1].error('p95_ttft_s'):+.1%}")
    return rows, True


_Entries = dict[str, dict[str, Any]]


def _compared(case: Case, whole: str, known: _Entries, folder: Path | None, journal: Path | None) -> _Entries:
    """Return the entries that a case adds to the journal: its simulation, if not yet known, and its row."""
    try:
        cluster, workload, policy = _scenario(case, folder)
        start = time.process_time()
        prediction = predict(cluster, workload, LIMITS, policy, case.method)
        cpu_s = time.process_time() - start
    except (InfeasibleError, UnstableError) as error:
        return _written({whole: {"left_out": str(error)}}, journal)
    scene = f"{case.scene} | {_digest(policy)}"
    added: _Entries = {}
    if scene not in known:
        added[scene] = _truth(case, cluster, workload, policy)
    added[whole] = {
        "method": prediction.method.split(":")[0],
        "predicted": _numbers(prediction),
        "stated": dict(prediction.error_estimate),
        "cpu_s": cpu_s,
        **(known | added)[scene],
    }
    return _written(added, journal)


def _written(entries: _Entries, journal: Path | None) -> _Entries:
    if journal is not None:
        with journal.open("a") as file:
            file.writelines(json.dumps({"key": key, **entry}) + "\n" for key, entry in entries.items())
    return entries


def _code() -> str:
    """Return a hash of all code that predictions and plans rest on."""
    root, sha = Path(__file__).parents[1], hashlib.sha256()
    for package in _PREDICTING:
        for path in sorted((root / package).glob("*.py")):
            sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def _digest(policy: Any) -> str:
    return hashlib.sha256(repr(policy).encode()).hexdigest()[:12] if not hasattr(policy, "rule") else _plan(policy)


def _plan(plan: Any) -> str:
    sha = hashlib.sha256()
    for name in plan.rule.__dataclass_fields__:
        value = getattr(plan.rule, name)
        sha.update(np.asarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return sha.hexdigest()[:12]


def _read(journal: Path | None) -> _Entries:
    if journal is None or not journal.exists():
        return {}
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    return {line.pop("key"): line for line in lines}


def covered(rows: Sequence[Row], metric: str) -> tuple[float, float]:
    """Return the share of rows whose stated half-width covers the error, and the median half-width.

    Parameters
    ----------
    rows : sequence of Row
        At least one.
    metric : str
        One of `TIMES` or `SHARES`.
    """
    stated = np.array([row.stated[metric] for row in rows])
    error = np.array([abs(row.error(metric)) for row in rows])
    return float(np.mean(error <= stated)), float(np.median(stated))

"""What the evaluation runs on: cells cut into a half to plan on and a half to run on, and what may go wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from qmodel.errors import InputError
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.simulation import Fault, Signals
from qmodel.studies.panels import CELLS, SWEEP, Cell, halves, multipliers, superpose, trace_requests

__all__ = [
    "CONDITIONS",
    "EXTRA_PANELS",
    "MODELS",
    "PANELS",
    "Case",
    "Condition",
    "Source",
    "case_of",
    "condition_named",
    "foreign_workload",
]

Source = Literal["shared traces", "built-in models"]

# The panels' multipliers are solved for the first model; the others replay the same requests.
MODELS = ("deepseek-v2-lite", "llama-3.1-8b")
PANELS = ("LL", "HL", "LH", "HH", "LT")
# Traces that no panel is made of, each alone at prefill load t: what the plans are not tuned on.
EXTRA_PANELS = {"mooncake": "mooncake_conversation_a", "bursty": "servegen_bursty_a"}
TTFT_FACTOR = 5.0
FAULT_S = 60.0
# Horizon of the stand-ins for the shared traces [s].
BUILTIN_SPAN_S = 1500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What differs between what a plan was made for and what it meets; the defaults differ in nothing.

    Parameters
    ----------
    name : str
        In the table.
    family : {"none", "fault", "signals", "laws", "rate", "trace"}
        What kind of thing differs.
    down, slow : {"prefill", "decode"}, optional
        Pool whose first instance is down for 60 s from a third of the run on, or at half speed all the time.
    bandwidth : float
        Factor on the network's bandwidth.
    age_s : float
        Age of the router's observations, at most [s].
    prefill_laws, decode_laws : float
        Factors on the step times that planner and router believe in.
    rate : float
        Arrival rate over the one planned for.
    planned_on : str, optional
        Trace that the plan was made for instead, at the cell's prefill load.
    """

    name: str
    family: Literal["none", "fault", "signals", "laws", "rate", "trace"]
    down: Literal["prefill", "decode"] | None = None
    slow: Literal["prefill", "decode"] | None = None
    bandwidth: float = 1.0
    age_s: float = 0.0
    prefill_laws: float = 1.0
    decode_laws: float = 1.0
    rate: float = 1.0
    planned_on: str | None = None

    def faults(self, span_s: float) -> Sequence[Fault]:
        """Return the faults of a run whose arrivals span `span_s` seconds."""
        if self.down is not None:
            begin = span_s / 3
            return [Fault(kind="down", pool=self.down, instance=0, from_s=begin, until_s=begin + FAULT_S)]
        if self.slow is not None:
            return [Fault(kind="slow", pool=self.slow, instance=0, from_s=0.0, until_s=span_s, factor=2.0)]
        return ()

    def believed(self, cluster: Cluster) -> Cluster:
        """Return the cluster that planner and router believe in."""
        from qmodel.optimization.robust import with_laws

        return with_laws(cluster, self.prefill_laws, self.decode_laws)

    def real(self, cluster: Cluster) -> Cluster:
        """Return the cluster that requests meet."""
        return cluster.with_(bandwidth_gb_s=cluster.bandwidth_gb_s * self.bandwidth)

    def signals(self, cluster: Cluster) -> Signals:
        """Return what the router sees, with its estimates from the believed laws."""
        return Signals(observation_interval_s=self.age_s, estimates=self.believed(cluster))


CONDITIONS = (
    Condition(name="as planned", family="none"),
    Condition(name="prefill instance down 60 s", family="fault", down="prefill"),
    Condition(name="decode instance down 60 s", family="fault", down="decode"),
    Condition(name="prefill instance at half speed", family="fault", slow="prefill"),
    Condition(name="decode instance at half speed", family="fault", slow="decode"),
    Condition(name="bandwidth / 10", family="fault", bandwidth=0.1),
    Condition(name="signals 100 ms old", family="signals", age_s=0.1),
    Condition(name="signals 1 s old", family="signals", age_s=1.0),
    Condition(name="laws +20 %", family="laws", prefill_laws=1.2, decode_laws=1.2),
    Condition(name="laws -20 %", family="laws", prefill_laws=0.8, decode_laws=0.8),
    Condition(name="prefill law +20 %, decode law -20 %", family="laws", prefill_laws=1.2, decode_laws=0.8),
    Condition(name="prefill law -20 %, decode law +20 %", family="laws", prefill_laws=0.8, decode_laws=1.2),
    Condition(name="rate +30 %", family="rate", rate=1.3),
    Condition(name="rate -30 %", family="rate", rate=0.7),
    Condition(name="plan of mooncake", family="trace", planned_on="mooncake"),
    Condition(name="plan of bursty", family="trace", planned_on="bursty"),
)


def condition_named(name: str) -> Condition:
    """Return the condition of a name in `CONDITIONS`."""
    return next(condition for condition in CONDITIONS if condition.name == name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One cell for one model.

    Parameters
    ----------
    cluster : Cluster
        2P2D of the model.
    planned, run : Workload
        First half of the cell, which a plan is made for, and second half, which it meets.
    load_prefill : float
        Prefill load that the cell is made for.
    zero_load_p90_s : float
        Zero-load TTFT of the whole cell's P90 prompt [s].
    """

    cluster: Cluster
    planned: Workload
    run: Workload
    load_prefill: float
    zero_load_p90_s: float

    def slo(self, ttft: str, tbt_s: float) -> SLO:
        """Return the SLO of a row: TTFT ``1 s`` or ``5 x zero load`` (of the P90 prompt), TBT in seconds."""
        return SLO(ttft_s=1.0 if ttft == "1 s" else TTFT_FACTOR * self.zero_load_p90_s, tbt_s=tbt_s)


def cluster_of(model: str) -> Cluster:
    """Return 2P2D of a model on A100, tensor parallelism 1."""
    from qmodel.io.calibrations import load_calibration

    return Cluster.parse("2P2D", load_calibration(model, "a100", tp=1))


@lru_cache(maxsize=16)
def case_of(source: Source, model: str, panel: str, sweep: float) -> Case:
    """Return a cell for a model; halves of one cell never share a request.

    Parameters
    ----------
    source : {"shared traces", "built-in models"}
        Where requests come from.
    model : str
        One of `MODELS`.
    panel : str
        One of `PANELS` or of `EXTRA_PANELS`.
    sweep : float
        t of the sweep.

    Returns
    -------
    Case
        Cluster and both halves.
    """
    cluster = cluster_of(model)
    requests, load = _cell(source, panel, sweep)
    if model != MODELS[0] or panel in EXTRA_PANELS:
        scaled = Workload.from_requests(requests).at_load(load, cluster)
        requests = scaled.requests(seed=0)
    early, late = halves(requests)
    tokens = float(np.quantile(requests.prompt_tokens, 0.9))
    return Case(
        cluster=cluster,
        planned=Workload.from_requests(early, f"{panel} {sweep:g}, first half"),
        run=Workload.from_requests(late, f"{panel} {sweep:g}, second half"),
        load_prefill=load,
        zero_load_p90_s=float(cluster.zero_load_ttft_s(tokens)),
    )


def foreign_workload(source: Source, trace: str, load: float, cluster: Cluster) -> Workload:
    """Return a trace that no panel is made of, at a prefill load; for plans made elsewhere.

    Parameters
    ----------
    source : {"shared traces", "built-in models"}
        Where requests come from.
    trace : str
        One of `EXTRA_PANELS`.
    load : float
        Prefill load.
    cluster : Cluster
        Gives W and k.

    Returns
    -------
    Workload
        All of the trace.
    """
    return Workload.from_requests(_trace(source, trace), trace).at_load(load, cluster)


def _cell(source: Source, panel: str, sweep: float) -> tuple[Requests, float]:
    """Return the requests of a cell as solved for the first model, and its prefill load."""
    if panel in EXTRA_PANELS:
        return _trace(source, panel), sweep
    cell = _panel_cell(panel, sweep)
    first, second = (_trace(source, name) for name in cell.sources)
    shares = multipliers(cell, cluster_of(MODELS[0]), first, second)
    return superpose(first, second, *shares), cell.load_prefill


def _panel_cell(panel: str, sweep: float) -> Cell:
    for cell in CELLS:
        if cell.panel == panel and cell.sweep == sweep:
            return cell
    raise InputError("cell", f"{panel} {sweep:g}", f"a panel of {', '.join(PANELS)} and t of {SWEEP}")


@lru_cache(maxsize=8)
def _trace(source: Source, name: str) -> Requests:
    if source == "shared traces":
        return trace_requests(EXTRA_PANELS.get(name, name))
    return _stand_in(name)


_STREAM_SEEDS = {"r1": 1, "bursty": 2}
_BUILTINS = {"conv": "azure-conv", "code": "azure-code", "mooncake": "mooncake-conversation"}


def _stand_in(name: str) -> Requests:
    """Return requests of the kind of a shared trace from what ships: a built-in model, or a stream made up here."""
    if name in _BUILTINS:
        drawn = Workload.builtin(_BUILTINS[name]).requests(seed=0)
        return _until(drawn, BUILTIN_SPAN_S)
    rng = np.random.default_rng(_STREAM_SEEDS[name])
    long_outputs = name == "r1"
    # Rates switch between two levels every 20 s on average: bursts longer than a prefill, shorter than the horizon.
    rate = np.repeat(rng.choice([4.0, 20.0], size=int(BUILTIN_SPAN_S / 20)), 20)
    second = np.repeat(np.arange(len(rate)), rng.poisson(rate))
    count = len(second)
    arrival = np.sort(second + rng.random(count))
    prompt = np.clip(rng.lognormal(6.5, 1.2, count), 1, 30_000).astype(int)
    output = np.clip(rng.lognormal(7.6 if long_outputs else 4.5, 0.8, count), 1, 20_000).astype(int)
    return Requests.from_arrays(arrival, prompt, output)


def _until(requests: Requests, span_s: float) -> Requests:
    early = requests.arrival_s < span_s
    return Requests.from_arrays(
        requests.arrival_s[early],
        requests.prompt_tokens[early],
        requests.output_tokens[early],
        requests.cached_tokens[early],
    )

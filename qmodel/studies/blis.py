"""Agreement with another simulator, BLIS (inference-sim): its rules as switches, its ties as its generator draws them.

A results file holds one row a request: arrival_s, prompt_tokens, output_tokens, ttft_s, e2e_s and mean_tbt_s, all of
Llama-2-7B in fp16 on one A100-80GB an instance, timed by BLIS' roofline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.laws import Calibration, ValidRange
from qmodel.laws.roofline import RooflineLaw
from qmodel.policies import ClusterState, KernelSpec, RequestView, Route
from qmodel.scenario import SLO, Cluster, Requests
from qmodel.simulation import SimulationResult, simulate_requests
from qmodel.studies.go_random import GoRandom, go_subsystem_seed

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["BlisRouting", "BlisScenario", "blis_agreement", "blis_cluster", "simulate_blis"]

_BUDGET, _SEQS, _BLOCK = 2048, 256, 16  # tokens and sequences of a step, tokens of a KV block: BLIS' defaults
_SEED = 42  # BLIS' default


@dataclass(frozen=True, slots=True, kw_only=True)
class BlisScenario:
    """What a results file was made with.

    Parameters
    ----------
    prefill, decode : int
        Instances of each pool; prefill 0: all of them do both.
    local_tokens : float
        Prompts of at most so many tokens are prefilled on their decode instance; 0: none, inf: all.
    """

    prefill: int = 2
    decode: int = 2
    local_tokens: float = 0.0

    @classmethod
    def parse(cls, name: str, cluster: str = "2P2D") -> BlisScenario:
        """Return what a file's name tells: ``blis_pd_...``, ``blis_static512_...`` or ``blis_colocated4_...``.

        Parameters
        ----------
        name : str
            File name or path.
        cluster : str, optional
            kPdD of the first two forms, unless the name holds it as ``_3p1d_``.
        """
        stem = Path(name).name
        kind = re.match(r"(?:blis_)?(pd|static|colocated)(\d*)_", stem)
        pools = re.search(r"(\d+)[Pp](\d+)[Dd]", stem) or re.fullmatch(r"(\d+)[Pp](\d+)[Dd]", cluster)
        if kind is None or pools is None or (kind[1] == "pd") != (kind[2] == ""):
            raise InputError("results file of BLIS", repr(stem), "named blis_pd_*, blis_staticN_* or blis_colocatedN_*")
        if kind[1] == "colocated":
            return cls(prefill=0, decode=int(kind[2]), local_tokens=np.inf)
        return cls(prefill=int(pools[1]), decode=int(pools[2]), local_tokens=float(kind[2] or 0))


def blis_cluster(scenario: BlisScenario, clock_tick_s: float = 1e-6) -> Cluster:
    """Return the cluster of a results file; without prefill instances one that no request is sent to stands in.

    Parameters
    ----------
    scenario : BlisScenario
        Number of instances.
    clock_tick_s : float, optional
        Tick of the clock [s]; BLIS counts microseconds, 0 is far faster.
    """
    law = RooflineLaw.of_transformer(
        layers=32, hidden=4096, heads=32, head_dim=128, feed_forward=11_008, value_bytes=2,
        prefill_flops_per_s=312e12 * 0.38, decode_flops_per_s=312e12 * 0.18, bytes_per_s=2.039e12,
    )  # fmt: skip
    calibration = Calibration(
        model="llama-2-7b", gpu="a100", tp=1, step=law, prefill=law, layers=32, kv_bytes_per_token=524_288,
        kv_capacity_tokens=200_000 * _BLOCK,
        valid_range=ValidRange(batch=_SEQS, context_tokens=10**6, chunk_tokens=_BUDGET, prompt_tokens=4096),
    )  # fmt: skip
    return Cluster(
        prefill=max(1, scenario.prefill), decode=scenario.decode, calibration=calibration,
        max_num_batched_tokens=_BUDGET, max_num_seqs=_SEQS, max_prefill_seqs=_SEQS, bandwidth_gb_s=25, efficiency=1.0,
        transfer_fixed_s=50e-6, transfer_block_tokens=_BLOCK, link_sharing="none", clock_tick_s=clock_tick_s,
    )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class BlisRouting:
    """BLIS' routing "least-loaded": a decode instance first, then one for the prefill, each with the fewest requests.

    Ties are drawn from the run's generator, in order of the decisions: one object serves one run. Requests of one
    microsecond are decided together: all choose a decode instance before any chooses one for its prefill, and a
    request that has been sent there but not queued yet weighs half.

    Parameters
    ----------
    requests : Requests
        All that will arrive.
    local_tokens : float
        Prompts of at most so many tokens are prefilled on their decode instance.
    seed : int
        Of BLIS' run.
    """

    requests: Requests
    local_tokens: float = 0.0
    seed: int = _SEED
    draws: GoRandom = field(init=False)
    routes: list[Route] = field(init=False, default_factory=list)
    decided: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.draws = GoRandom(go_subsystem_seed(self.seed, "router"))

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "BLIS"

    def decide(self, state: ClusterState, request: RequestView) -> Route:
        """Return where the prompt is prefilled, and the decode instance chosen before that."""
        if self.decided == len(self.routes):
            end = int(np.searchsorted(self.requests.arrival_s, request.arrival_s, side="right"))
            self.routes += self._together(state, self.requests.prompt_tokens[self.decided : end])
        self.decided += 1
        return self.routes[self.decided - 1]

    def _together(self, state: ClusterState, prompt_tokens: npt.NDArray[np.int64]) -> list[Route]:
        """Return the routes of requests that arrive at once."""
        decode, prefill = 2 * state.decode_requests, 2 * state.prefill_requests
        local = prompt_tokens <= self.local_tokens
        hosts = [self._fewest(decode, counts) for counts in local]
        first = [-1 if here else self._fewest(prefill, True) for here in local]
        return [
            Route(pool="decode", instance=j) if i < 0 else Route(pool="prefill", instance=i, decode_instance=j)
            for i, j in zip(first, hosts, strict=True)
        ]

    def _fewest(self, weights: npt.NDArray[np.float64], counts: bool) -> int:
        """Return an instance of least weight, on which the request weighs from now on if it counts there."""
        tied = np.flatnonzero(weights == weights.min())
        chosen = int(tied[self.draws.below(len(tied))] if len(tied) > 1 else tied[0])
        weights[chosen] += counts
        return chosen

    def kernel_spec(self) -> KernelSpec:
        """Return how requests count as load, and that a step's token budget is filled."""
        return KernelSpec(
            kind="external", host_budget=_BUDGET, decode_choice="arrival_landed", count_until="last_step_starts"
        )


def simulate_blis(requests: Requests, scenario: BlisScenario, seed: int = _SEED) -> SimulationResult:
    """Return our run of a scenario by BLIS' rules.

    Parameters
    ----------
    requests : Requests
        What arrives.
    scenario : BlisScenario
        Where.
    seed : int, optional
        Of BLIS' run.
    """
    routing = BlisRouting(requests=requests, local_tokens=scenario.local_tokens, seed=seed)
    return simulate_requests(blis_cluster(scenario), requests, SLO(), routing, warmup=0)


def blis_agreement(path: str | Path, scenario: BlisScenario | None = None, seed: int = _SEED) -> DataFrame:
    """Return means and P99 of a results file beside ours.

    Parameters
    ----------
    path : str or Path
        Results file (CSV, may be compressed).
    scenario : BlisScenario, optional
        By default as the file's name tells.
    seed : int, optional
        Of BLIS' run; with another one ties fall otherwise.

    Returns
    -------
    DataFrame
        One row a metric (ttft, e2e, tbt) and statistic (mean, p99): theirs and ours [s], the relative error, and the
        share of requests whose values are the same to the microsecond (for tbt: a hundredth of it, it is a mean).
    """
    import pandas as pd

    theirs: Any = pd.read_csv(path)
    requests = Requests.from_arrays(theirs.arrival_s, theirs.prompt_tokens, theirs.output_tokens)
    run = simulate_blis(requests, scenario or BlisScenario.parse(str(path)), seed)
    columns, several = run.columns, (theirs.output_tokens > 1).to_numpy()
    # Their mean TBT holds every decode step, the one that ends the TTFT of a moved request too, over output - 1.
    moved = np.where(columns["deflected"], 0.0, columns["first_step_s"])
    tbt = (columns["e2e_s"] - columns["ttft_s"] + moved)[several] / (theirs.output_tokens.to_numpy()[several] - 1)
    rows = []
    for metric, ours, other, unit in (
        ("ttft", columns["ttft_s"], theirs.ttft_s, 1e-6),
        ("e2e", columns["e2e_s"], theirs.e2e_s, 1e-6),
        ("tbt", tbt, theirs.mean_tbt_s[several], 1e-8),
    ):
        same = float(np.mean(np.abs(ours - other.to_numpy()) < 0.5 * unit))
        for statistic, of in (("mean", np.mean), ("p99", lambda values: np.quantile(values, 0.99))):
            a, b = float(of(other)), float(of(ours))
            rows.append({"metric": metric, "statistic": statistic, "theirs_s": a, "ours_s": b, "error": b / a - 1})
            rows[-1]["same"] = same
    return pd.DataFrame(rows)

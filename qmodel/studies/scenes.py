"""The scenes that the paper's figures play in, and the simulated runs that several figures share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InputError
from qmodel.io.traces import shared_data
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.studies.metrics import measure

if TYPE_CHECKING:
    from pandas import DataFrame

    from qmodel.laws import Calibration
    from qmodel.simulation import SimulationResult
    from qmodel.studies.comparison import Progress

__all__ = ["CENTRE", "MODEL", "POLICIES", "Job", "Scene", "Stage", "decode_state", "policy_of", "scenes"]

POLICIES = ("disaggregated", "kairos", "earliest completion", "thresholds at dispatch", "thresholds")
CENTRE = 0.9  # the sweep value that figures of a single load show
MODEL = "deepseek-v2-lite"
BUILTINS = ("azure-conv", "azure-code", "mooncake-conversation")
# Even up to 90 %, then even in the logarithm of the share above, which is what a picture of the tail shows.
TTFT_LEVELS = tuple(np.round(np.concatenate([np.arange(0.02, 0.9, 0.02), 1 - np.geomspace(0.1, 1e-3, 21)]), 5).tolist())
TBT_LEVELS = (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A cluster under a workload at one point of the sweep.

    Parameters
    ----------
    panel : str
        LL, HL, LH, HH or LT; the name of a built-in workload where the shared traces are absent.
    sweep : float
        t of the sweep: the load of the prefill pool, or of the panel's rule.
    source : str
        "shared traces" or "built-in models".
    cluster : Cluster
        Pools and link.
    workload : Workload
        What arrives.
    slo : SLO
        Objectives.
    """

    panel: str
    sweep: float
    source: str
    cluster: Cluster
    workload: Workload
    slo: SLO

    @property
    def labels(self) -> dict[str, Any]:
        """The columns that a tidy table names a scene by."""
        return {"panel": self.panel, "sweep": self.sweep, "source": self.source}


def scenes(calibration: Calibration | None = None, slo: SLO | None = None, folder: Path | None = None) -> list[Scene]:
    """Return the scenes of the evaluation on 2P2D: the panels, or built-in workloads without the shared traces.

    Parameters
    ----------
    calibration : Calibration, optional
        DeepSeek-V2-Lite on A100 by default.
    slo : SLO, optional
        TTFT 1 s and TBT 60 ms by default.
    folder : Path, optional
        Folder of shared data; found by itself when absent.

    Returns
    -------
    list of Scene
        One per cell of the evaluation; three loads of each built-in workload otherwise.
    """
    from qmodel.io.calibrations import load_calibration
    from qmodel.studies.panels import CELLS, SWEEP, cell_requests

    limits = slo or SLO()
    cluster = Cluster.parse("2P2D", calibration or load_calibration(MODEL))
    root = folder or shared_data()
    if root is None:
        return [
            Scene(
                panel=name, sweep=t, source="built-in models", cluster=cluster, slo=limits,
                workload=Workload.builtin(name).at_load(t, cluster),
            )
            for name in BUILTINS
            for t in SWEEP
        ]  # fmt: skip
    return [
        Scene(
            panel=cell.panel, sweep=cell.sweep, source="shared traces", cluster=cluster, slo=limits,
            workload=Workload.from_requests(cell_requests(cell, cluster, root), cell.name),
        )
        for cell in CELLS
    ]  # fmt: skip


Job = tuple[Scene, str, Callable[[], Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """What the studies of the figures work with: scenes, how long to run, and a folder where runs are kept.

    Parameters
    ----------
    scenes : tuple of Scene
        Where policies are compared.
    seeds : tuple of int
        Replications.
    requests : int, optional
        Requests per run; the workload's own by default.
    full : bool
        Whether studies use their fine grids.
    folder : Path, optional
        Keeps the runs, so that figures share them and an interrupted job resumes.
    progress : callable, optional
        Called with (what, done, total).
    """

    scenes: tuple[Scene, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    requests: int | None = None
    full: bool = False
    folder: Path | None = None
    progress: Progress | None = None

    def at_centre(self) -> list[Scene]:
        """Return one scene per panel: the one at the centre of the sweep, or nearest to it."""
        panels = dict.fromkeys(scene.panel for scene in self.scenes)
        return [
            min((s for s in self.scenes if s.panel == p), key=lambda scene: abs(scene.sweep - CENTRE)) for p in panels
        ]

    def congested(self) -> Scene:
        """Return the scene at the centre with the busiest prefill pool."""
        return max(self.at_centre(), key=lambda scene: scene.workload.load(scene.cluster))

    def runs(self, policies: Iterable[str] = POLICIES, chosen: Iterable[Scene] | None = None) -> DataFrame:
        """Return simulated metrics of policies in scenes, from the folder where they are there.

        Parameters
        ----------
        policies : iterable of str
            Some of `POLICIES`.
        chosen : iterable of Scene, optional
            All scenes by default.

        Returns
        -------
        DataFrame
            Columns panel, sweep, source, policy, seed, metric, value; times in seconds.
        """
        wanted = tuple(policies)
        where = self.scenes if chosen is None else tuple(chosen)
        return self.runs_of((scene, policy, partial(policy_of, scene, policy)) for scene in where for policy in wanted)

    def runs_of(self, jobs: Iterable[Job]) -> DataFrame:
        """Return simulated metrics of policies by any name, from the folder where they are there.

        Parameters
        ----------
        jobs : iterable of (Scene, str, callable)
            Where, the name that goes into the column policy and tells this run from others in its scene, and what
            returns the policy.

        Returns
        -------
        DataFrame
            As `runs`.
        """
        import pandas as pd

        wanted = list(jobs)
        tables = []
        for number, (scene, name, make) in enumerate(wanted):
            if self.progress is not None:
                self.progress(f"{scene.panel} {scene.sweep:g}, {name}", number, len(wanted))
            tables.append(self._kept(scene, name, make))
        return pd.concat(tables, ignore_index=True)

    def _kept(self, scene: Scene, name: str, make: Callable[[], Any]) -> DataFrame:
        from qmodel.io.tables import read_table, save_table

        if self.folder is None:
            return self._run(scene, name, make())
        path = self.folder / f"{self._key(scene)}_{re.sub(r'[^a-z0-9.+-]+', '-', name.lower())}.csv"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_table(self._run(scene, name, make()), path)
        return read_table(path)

    def _key(self, scene: Scene) -> str:
        """Return a name that changes with anything the runs depend on, the source of the package included."""
        parts = (
            source_digest(), scene.workload.fingerprint, scene.cluster.name, scene.slo, self.seeds, self.requests,
            *(c.fingerprint for c in scene.cluster.prefill_calibrations + scene.cluster.decode_calibrations),
        )  # fmt: skip
        return f"{scene.panel}_{scene.sweep:g}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"

    def _run(self, scene: Scene, name: str, policy: Any) -> DataFrame:
        import pandas as pd

        from qmodel.simulation import simulate

        rows = []
        for seed in self.seeds:
            result = simulate(scene.cluster, scene.workload, scene.slo, policy, seed=seed, requests=self.requests)
            labels = scene.labels | {"policy": name, "seed": seed}
            rows += [labels | {"metric": metric, "value": value} for metric, value in _run_metrics(result).items()]
        return pd.DataFrame(rows)

    def digest(self) -> str:
        """Return a hash of the scenes and of how long they are run."""
        names = [self._key(scene) for scene in self.scenes]
        return hashlib.sha256(repr((names, self.seeds, self.requests, self.full)).encode()).hexdigest()

    def smaller(self, **changes: Any) -> Stage:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


def policy_of(scene: Scene, policy: str) -> Any:
    """Return the policy that a name in `POLICIES` means in a scene; thresholds are derived for it.

    Parameters
    ----------
    scene : Scene
        Where it is to run.
    policy : str
        One of `POLICIES`.

    Returns
    -------
    Policy
        For `simulate`.

    Raises
    ------
    InputError
        When the name is another one.
    """
    from qmodel import policies
    from qmodel.studies.thresholds import derive_thresholds

    plain: Mapping[str, Callable[[], Any]] = {
        "disaggregated": policies.Disaggregated,
        "kairos": policies.Kairos,
        "earliest completion": policies.EarliestCompletion,
    }
    if policy in plain:
        return plain[policy]()
    if policy not in POLICIES:
        raise InputError("policy", repr(policy), f"one of {', '.join(POLICIES)}")
    plan = derive_thresholds(scene.cluster, scene.workload, scene.slo)
    return policies.Thresholds(plan.dispatch_rule) if policy == "thresholds at dispatch" else plan.policy()


def _run_metrics(result: SimulationResult) -> dict[str, float]:
    """Return the metrics of every comparison, quantiles (``ttft_q0.9``, ``tbt_q0.9``) [s] and the mean decode batch."""
    numbers = measure(result)
    numbers |= {f"ttft_q{q:g}": result.ttft_s(q) for q in TTFT_LEVELS}
    numbers |= {f"tbt_q{q:g}": result.tbt_s(q) for q in TBT_LEVELS}
    units = result.instances
    decode = units[units["pool"] == "decode"]
    numbers["mean_batch"] = float((decode["mean_batch"] * decode["utilisation"]).mean())
    return numbers


def decode_state(scene: Scene, mean_batch: float) -> tuple[float, float]:
    """Return the mean decode state of an instance: batch B and context K = B*E[O*(L + O/2)]/E[O] [tokens].

    Parameters
    ----------
    scene : Scene
        Gives the joint law of lengths.
    mean_batch : float
        Mean decode batch of an instance.

    Returns
    -------
    tuple of float
        B and K [tokens].
    """
    prompt, output, _, weights = scene.workload.lengths()
    held = float(np.dot(weights, output * (prompt + output / 2.0))) / float(np.dot(weights, output))
    return mean_batch, mean_batch * held


@cache
def source_digest() -> str:
    """Return a hash of the package's source, calibrations included: what numbers may depend on."""
    import qmodel

    root = Path(qmodel.__file__).parent
    beside = root.parent / "calibration"
    files = sorted(root.rglob("*.py")) + sorted(root.rglob("*.json")) + sorted(beside.glob("*.json"))
    digest = hashlib.sha256()
    for path in files:
        if {"plotting", "cli"} & set(path.relative_to(root.parent).parts):
            continue
        digest.update(path.read_bytes())
    return digest.hexdigest()

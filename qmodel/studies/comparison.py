"""Compare policies on the same arrivals, paired by seed, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InputError
from qmodel.simulation import simulate
from qmodel.studies.metrics import measure, over_seeds

if TYPE_CHECKING:
    from qmodel.scenario import SLO, Cluster, Requests, Workload

__all__ = ["Comparison", "Progress", "compare"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Metrics of several policies over the same seeds.

    Parameters
    ----------
    policies : tuple of str
        Names, in the order given.
    seeds : tuple of int
        Seeds each policy was run with.
    requests : int
        Requests of one run.
    values : Mapping
        Policy to metric to one value per seed.
    ttft_samples : Mapping
        Policy to TTFT [s] of the first seed's requests after warm-up, for a CDF.
    """

    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    requests: int
    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    ttft_samples: Mapping[str, np.ndarray[Any, Any]]

    def mean(self, policy: str, metric: str) -> float:
        """Return the mean of a metric over the seeds."""
        return float(np.mean(self._values(policy, metric)))

    def interval(self, policy: str, metric: str) -> tuple[float, float]:
        """Return mean and half-width of the 95 % Student interval over the seeds (half-width 0 for one seed).

        Parameters
        ----------
        policy, metric : str
            Names, see `policies` and `METRICS`.
        """
        return over_seeds(self._values(policy, metric))

    def ratio(self, policy: str, baseline: str, metric: str) -> tuple[float, float]:
        """Return mean and 95 % half-width of the paired ratio policy / baseline over the seeds.

        Parameters
        ----------
        policy, baseline : str
            Names, see `policies`.
        metric : str
            Name, see `METRICS`.

        Raises
        ------
        InputError
            When the baseline is 0 for some seed.
        """
        top, bottom = (np.asarray(self._values(name, metric)) for name in (policy, baseline))
        if np.any(bottom == 0):
            raise InputError(f"{metric} of {baseline}", 0.0, "> 0 to form a ratio", "compare differences instead")
        return over_seeds(top / bottom)

    def rows(self) -> list[dict[str, Any]]:
        """Return the tidy table: one row per policy and metric with mean and 95 % half-width."""
        return [
            {"policy": p, "metric": m, "mean": self.interval(p, m)[0], "half_width": self.interval(p, m)[1]}
            for p in self.policies
            for m in self.values[p]
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: seeds, requests, and per policy every metric by seed with its interval."""
        return {
            "seeds": list(self.seeds),
            "requests": self.requests,
            "policies": {
                p: {
                    m: {
                        "mean": self.interval(p, m)[0],
                        "half_width_95": self.interval(p, m)[1],
                        "by_seed": list(self.values[p][m]),
                    }
                    for m in self.values[p]
                }
                for p in self.policies
            },
        }

    def _values(self, policy: str, metric: str) -> tuple[float, ...]:
        if policy not in self.values:
            raise InputError("policy", repr(policy), f"one of {', '.join(self.policies)}")
        if metric not in self.values[policy]:
            raise InputError("metric", repr(metric), f"one of {', '.join(self.values[policy])}")
        return tuple(self.values[policy][metric])


def compare(
    cluster: Cluster,
    workload: Workload | Requests,
    slo: SLO | Sequence[SLO],
    policies: Mapping[str, Any],
    seeds: Iterable[int] = range(5),
    requests: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Simulate several policies on the same arrivals.

    Parameters
    ----------
    cluster : Cluster
        Instances and network.
    workload : Workload or Requests
        Where requests come from; seed n of a trace is its n-th circular shift.
    slo : SLO or sequence of SLO
        Objectives; with several, one per SLO class.
    policies : mapping
        Name to policy, plan or None (never deflect).
    seeds : iterable of int, optional
        Replications; every policy sees the same ones.
    requests : int, optional
        Requests per run; the workload's own number by default.
    progress : callable, optional
        Called with (policy name, runs done, runs in all).

    Returns
    -------
    Comparison
        Metrics by policy and seed.

    Raises
    ------
    InputError
        When there is no policy or no seed.
    """
    chosen = tuple(int(seed) for seed in seeds)
    if not chosen or not policies:
        raise InputError("policies and seeds", f"{len(policies)} and {len(chosen)}", "at least one of each")
    values: dict[str, dict[str, tuple[float, ...]]] = {}
    samples: dict[str, np.ndarray[Any, Any]] = {}
    count = 0
    for number, (name, policy) in enumerate(policies.items()):
        measured = []
        for step, seed in enumerate(chosen):
            if progress is not None:
                progress(f"simulating {name}", number * len(chosen) + step, len(policies) * len(chosen))
            result = simulate(cluster, workload, slo, policy, seed=seed, requests=requests)
            measured.append(measure(result))
            if step == 0:
                samples[name], count = result.ttft_values_s, result.count
        values[name] = {metric: tuple(m[metric] for m in measured) for metric in measured[0]}
    if progress is not None:
        total = len(policies) * len(chosen)
        progress("", total, total)
    return Comparison(policies=tuple(policies), seeds=chosen, requests=count, values=values, ttft_samples=samples)

"""Instance types, sizes and mixes of workloads that a capacity search looks at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import InputError
from qmodel.scenario import Cluster, Workload
from qmodel.scenario.cluster import InstanceGroup

if TYPE_CHECKING:
    from qmodel.laws import Calibration

__all__ = ["Candidate", "Kind", "Mix"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """Instance types of the two pools.

    Parameters
    ----------
    prefill, decode : Calibration
        Laws of every instance of the pool.
    prices : Mapping
        GPU name to price of one GPU, in any unit.
    options : Mapping
        Other fields of `Cluster`.
    choice : bool
        Whether it is one of several types, so that its clusters' names must say which.
    """

    prefill: Calibration
    decode: Calibration
    prices: Mapping[str, float]
    options: Mapping[str, Any]
    choice: bool = False

    def cluster(self, prefill: int, decode: int) -> Cluster:
        """Return the cluster with k prefill and d decode instances."""
        if self.prefill is self.decode:
            return Cluster(prefill=prefill, decode=decode, calibration=self.prefill, **self.options)
        pools = [(InstanceGroup(count=n, calibration=c),) for n, c in ((prefill, self.prefill), (decode, self.decode))]
        return Cluster(prefill=pools[0], decode=pools[1], calibration=self.prefill, **self.options)

    def name(self, prefill: int, decode: int) -> str:
        """Return the cluster's text: ``3P2D``, or ``3P@h100+2D@a100`` where there is a choice."""
        if self.prefill is self.decode and not self.choice:
            return f"{prefill}P{decode}D"
        return f"{prefill}P@{self.prefill.gpu}+{decode}D@{self.decode.gpu}"

    def gpus(self, prefill: int, decode: int) -> int:
        """Return the GPUs of k prefill and d decode instances."""
        return prefill * self.prefill.tp + decode * self.decode.tp

    def cost(self, prefill: int, decode: int) -> float:
        """Return the price of k prefill and d decode instances."""
        unit = [c.tp * self.prices.get(c.gpu, 1.0) for c in (self.prefill, self.decode)]
        return prefill * unit[0] + decode * unit[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A kPdD of some kind.

    Parameters
    ----------
    kind : Kind
        Instance types.
    prefill, decode : int
        Instances k and d.
    """

    kind: Kind
    prefill: int
    decode: int

    @property
    def name(self) -> str:
        """The cluster's text."""
        return self.kind.name(self.prefill, self.decode)

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.kind.gpus(self.prefill, self.decode)

    @property
    def cost(self) -> float:
        """Price of all instances."""
        return self.kind.cost(self.prefill, self.decode)

    def cluster(self) -> Cluster:
        """Return the cluster."""
        return self.kind.cluster(self.prefill, self.decode)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mix:
    """Workloads that share a cluster at different times, e.g. day and night.

    Parameters
    ----------
    parts : tuple
        (workload, share of time) pairs; shares are > 0.
    """

    parts: tuple[tuple[Workload, float], ...]

    def __post_init__(self) -> None:
        if not self.parts or not all(math.isfinite(share) and share > 0 for _, share in self.parts):
            raise InputError("shares of the workloads", [share for _, share in self.parts], "finite and > 0")

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate over all times [1/s]."""
        return sum(w.rate_per_s * share for w, share in self.parts) / sum(share for _, share in self.parts)

    @property
    def peak(self) -> Workload:
        """The part with the highest rate."""
        return max((w for w, _ in self.parts), key=lambda w: w.rate_per_s)

    def at_rate(self, per_s: float) -> Mix:
        """Return the mix with every rate scaled so that the mean rate is `per_s`."""
        scale = per_s / self.rate_per_s
        return Mix(parts=tuple((w.at_rate(w.rate_per_s * scale), share) for w, share in self.parts))

    def mean(self, metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return metrics averaged over the parts' requests; percentiles are those of the worst part."""
        weights = np.array([w.rate_per_s * share for w, share in self.parts])
        return {
            name: float(
                max(m[name] for m in metrics)
                if name.endswith("_s")
                else np.dot(weights, [m[name] for m in metrics]) / weights.sum()
            )
            for name in metrics[0]
        }

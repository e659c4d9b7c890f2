"""What a composition asks of kernel profiles: one small protocol, whatever the profiles' format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from qmodel.fitting.curves import Curve, Surface
from qmodel.fitting.models import ModelShape

__all__ = ["CleaningReport", "KernelSource"]


@dataclass(slots=True)
class CleaningReport:
    """What was done to the tables before they were used; counts by kernel, and notes for people.

    Parameters
    ----------
    merged, smoothed, rejected : dict
        Kernel name to rows merged as duplicates, moved to become monotone, or rejected.
    outliers : list of str
        Rows that were rejected for standing out, named.
    scaled : list of str
        Shapes that were not measured, and what they were scaled from.
    """

    merged: dict[str, int] = field(default_factory=dict)
    smoothed: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    outliers: list[str] = field(default_factory=list)
    scaled: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as short lines for people."""
        parts = [
            ("duplicates merged", self.merged),
            ("points smoothed", self.smoothed),
            ("rows rejected", self.rejected),
        ]
        out = [f"{what}: " + ", ".join(f"{k} {v}" for k, v in sorted(by.items())) for what, by in parts if by]
        return out + [f"outlier: {text}" for text in self.outliers] + [f"scaled: {text}" for text in self.scaled]


class KernelSource(Protocol):
    """Kernel times [s] of one GPU and engine; shapes that were not measured are scaled and reported."""

    @property
    def description(self) -> dict[str, str]:
        """Return provenance: source, version, engine, GPU."""
        ...

    @property
    def report(self) -> CleaningReport:
        """Return what was cleaned and scaled so far."""
        ...

    def gemm(self, role: str, n: int, k: int) -> Curve:
        """Return the time of an (m, n, k) matrix product against m, for the layer part `role`."""
        ...

    def context_attention(self, model: ModelShape, tp: int) -> Curve:
        """Return the prefill attention of one prompt on one GPU and layer, against its tokens."""
        ...

    def generation_attention(self, model: ModelShape, tp: int) -> Surface:
        """Return the decode attention on one GPU and layer, against batch and context of each request."""
        ...

    def latent_projection(self, model: ModelShape, tp: int) -> Curve:
        """Return the absorbed projections of latent attention in decode on one GPU and layer, against the batch."""
        ...

    def experts(self, model: ModelShape, tp: int) -> Curve:
        """Return the routed experts of one layer on one GPU, against tokens."""
        ...

    def all_reduce(self, gpus: int) -> Curve:
        """Return the all-reduce over `gpus` GPUs of one node, against message bytes."""
        ...

    def elementwise(self, role: str, kernels: int, bytes_per_token: float) -> Curve:
        """Return the time of `kernels` memory-bound kernels that move `bytes_per_token` in all, against tokens."""
        ...

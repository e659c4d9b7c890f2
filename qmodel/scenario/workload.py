"""A workload: where requests come from, at what rate, and with which lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.scenario.replications import replication
from qmodel.scenario.requests import Requests
from qmodel.scenario.sources import JointLengths, LengthLaw, PoissonSource, Source, TraceSource
from qmodel.scenario.workload_model import MODEL_VERSION, described, source_from_model

if TYPE_CHECKING:
    from qmodel.scenario.cluster import Cluster

__all__ = ["Workload", "WorkloadKind"]

FloatArray = npt.NDArray[np.float64]
WorkloadKind = Literal["trace", "windows", "poisson"]

MAX_COUNT = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """Requests from a trace, a windowed model or a Poisson stream, at any rate.

    Build one with `from_trace`, `builtin`, `poisson` or `from_requests`. Scaling changes times only: the same seed
    gives the same requests at every load.

    Parameters
    ----------
    name : str
        Name for people.
    source : Source
        Where requests come from, on its own clock.
    time_scale : float
        Seconds per second of the source; 0.5 doubles the rate.
    notices : tuple of str
        What the user should know about the input: format, dropped rows, sorting, units.
    """

    name: str
    source: Source
    time_scale: float = 1.0
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1e-9 <= self.time_scale <= 1e9:
            raise InputError("time scale of the workload", self.time_scale, "in [1e-9, 1e9]", "give a usual rate")

    @classmethod
    def from_trace(
        cls,
        path_or_frame: str | Path | object,
        format: str = "auto",  # the public contract's name
        *,
        cached: str | None = None,
        time_unit: Literal["s", "ms", "us", "ns"] | None = None,
    ) -> Workload:
        """Return the workload of a trace file or data frame.

        Parameters
        ----------
        path_or_frame : str, Path or DataFrame
            File in a known format, gzipped or not, or a frame with the columns of one.
        format : str
            Name of the format; "auto" recognises it by content.
        cached : str, optional
            Column of prompt tokens found in a prefix cache, e.g. ``prefix_hit_lru5m``; none by default.
        time_unit : {"s", "ms", "us", "ns"}, optional
            Unit of the time column where the format leaves it open, or to override it.

        Returns
        -------
        Workload
            Of kind "trace"; `notices` says what was recognised, dropped, sorted or assumed.

        Raises
        ------
        InputError
            When the file is missing, empty or of no known format, or a value is impossible: names file and line.
        """
        from qmodel.io.traces import read_trace

        trace = read_trace(path_or_frame, format=format, cached=cached, time_unit=time_unit)
        return cls(name=trace.name, source=TraceSource(requests=trace.requests), notices=trace.notices)

    @classmethod
    def builtin(cls, name: str) -> Workload:
        """Return a workload that ships with qmodel: a compact model fitted to a published trace.

        Parameters
        ----------
        name : str
            ``azure-conv``, ``azure-code`` or ``mooncake-conversation``.

        Returns
        -------
        Workload
            Of kind "windows".

        Raises
        ------
        InputError
            When there is none of that name.

        Examples
        --------
        >>> w = Workload.builtin("azure-conv")
        >>> w.kind, len(w.requests(seed=0))
        ('windows', 20000)
        """
        from qmodel.io.workloads import read_builtin

        return cls.from_model(read_builtin(name))

    @classmethod
    def poisson(
        cls,
        rate_per_s: float,
        prompt_tokens: npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike],
        output_tokens: npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike],
    ) -> Workload:
        """Return Poisson arrivals with independent lengths.

        Parameters
        ----------
        rate_per_s : float
            Arrival rate [1/s].
        prompt_tokens, output_tokens : float, array_like or tuple
            Lengths [tokens]: a number, samples, or (values, weights).

        Returns
        -------
        Workload
            Of kind "poisson".

        Raises
        ------
        InputError
            When the rate or a length is not finite and positive.

        Examples
        --------
        >>> w = Workload.poisson(5.0, prompt_tokens=([500, 4000], [0.9, 0.1]), output_tokens=200)
        >>> w.rate_per_s, w.lengths()[0].tolist()
        (5.0, [500, 4000])
        """
        prompt, output = LengthLaw.of(prompt_tokens, "prompt_tokens"), LengthLaw.of(output_tokens, "output_tokens")
        return cls(name="poisson", source=PoissonSource(rate_per_s=rate_per_s, prompt=prompt, output=output))

    @classmethod
    def from_requests(cls, requests: Requests, name: str = "requests") -> Workload:
        """Return the workload that replays `requests`.

        Parameters
        ----------
        requests : Requests
            Recorded or made elsewhere.
        name : str
            Name for people.

        Returns
        -------
        Workload
            Of kind "trace".
        """
        return cls(name=name, source=TraceSource(requests=requests))

    @classmethod
    def from_model(cls, model: Mapping[str, Any]) -> Workload:
        """Return the workload that `model()` described.

        Parameters
        ----------
        model : Mapping
            Plain values, e.g. from a plan file.

        Returns
        -------
        Workload
            Of kind "windows" or "poisson".

        Raises
        ------
        InputError
            When an entry is missing or out of range.
        """
        try:
            source, time_scale = source_from_model(model), float(model.get("time_scale", 1.0))
            return cls(name=str(model.get("name", source.kind)), source=source, time_scale=time_scale)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            raise InputError("workload model", f"broken ({error})", "as Workload.model() writes it") from error

    @property
    def kind(self) -> WorkloadKind:
        """Where requests come from: "trace", "windows" or "poisson"."""
        return self.source.kind  # type: ignore[return-value]

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate [1/s]."""
        return self.source.rate_per_s / self.time_scale

    @property
    def span_s(self) -> float:
        """Time after which the workload repeats, or that 20,000 Poisson requests take [s]."""
        return self.source.span_s * self.time_scale

    @property
    def fingerprint(self) -> str:
        """Hash (sha256) of the content: source and time scale, not the name."""
        return hashlib.sha256(f"{self.source.digest()} {self.time_scale!r}".encode()).hexdigest()

    def at_rate(self, per_s: float) -> Workload:
        """Return the same requests at another mean rate.

        Parameters
        ----------
        per_s : float
            Mean arrival rate [1/s].

        Returns
        -------
        Workload
            Time scaled, all draws the same.

        Raises
        ------
        InputError
            When the rate is not finite and > 0.
        """
        _check_positive("rate", per_s, "finite and > 0 [1/s]", "give e.g. 30/s")
        return replace(self, time_scale=float(self.source.rate_per_s / per_s))

    def at_load(self, rho: float, cluster: Cluster) -> Workload:
        """Return the same requests at rate rho*k/E[W], so that the prefill pool has load rho.

        Parameters
        ----------
        rho : float
            Load rate * mean W(L) / k; above 1 the queue grows without bound.
        cluster : Cluster
            Gives W and k.

        Returns
        -------
        Workload
            Time scaled, all draws the same.

        Raises
        ------
        InputError
            When rho is not finite and > 0.
        """
        _check_positive("load", rho, "finite and > 0", "give e.g. 0.9")
        return self.at_rate(float(rho) * cluster.prefill_count / self.mean_work_s(cluster))

    def mean_work_s(self, cluster: Cluster) -> float:
        """Return E[W(L)] on the cluster's prefill instances [s].

        Parameters
        ----------
        cluster : Cluster
            Gives W.
        """
        prompt, _, cached, weights = self.lengths()
        return float(np.dot(weights, cluster.work_s(prompt.astype(float), cached.astype(float))))

    def load(self, cluster: Cluster) -> float:
        """Return rho = rate * mean W(L) / k.

        Parameters
        ----------
        cluster : Cluster
            Gives W and k.
        """
        return self.rate_per_s * self.mean_work_s(cluster) / cluster.prefill_count

    def requests(self, seed: int = 0, count: int | None = None) -> Requests:
        """Return the requests of one replication.

        Parameters
        ----------
        seed : int
            Replication, >= 0. A trace is replayed as it is for 0 and turned in time by the fractional part of
            seed*0.618... of its span otherwise; models also redraw arrivals and lengths with `default_rng(seed)`.
        count : int, optional
            Requests wanted; by default all of a trace, 20,000 of a model. Beyond its length a trace is prolonged by
            random blocks of an eighth of its span. The first requests do not depend on `count`.

        Returns
        -------
        Requests
            In order of arrival.

        Raises
        ------
        InputError
            When the seed or the count is out of range.
        """
        if not (isinstance(seed, (int, np.integer)) and seed >= 0):
            raise InputError("seed", seed, "a whole number >= 0")
        wanted = self.source.default_count if count is None else _checked_count(count)
        return self._scaled(replication(self.source, wanted, int(seed)))

    def sample(self, n: int, rng: np.random.Generator) -> Requests:
        """Return n requests from a random time on.

        Parameters
        ----------
        n : int
            Requests wanted.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        Requests
            In order of arrival.
        """
        return self._scaled(self.source.draw(_checked_count(n), float(rng.random()), rng))

    def _scaled(self, drawn: Requests) -> Requests:
        return replace(drawn, arrival_s=drawn.arrival_s * self.time_scale)

    def lengths(self) -> JointLengths:
        """Return the joint law of lengths over the whole workload.

        Returns
        -------
        tuple of ndarray
            Prompt, output and cached tokens, and weights that sum to 1.
        """
        return self.source.lengths()

    def windows(self, cluster: Cluster, width_s: float = 60.0) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return offered arrivals and work in equal windows over `span_s`.

        Parameters
        ----------
        cluster : Cluster
            Gives W.
        width_s : float
            Wished width on the workload's own clock [s]; the nearest width that divides the span is taken, so
            windows are ``span_s / len(start_s)`` wide.

        Returns
        -------
        tuple of ndarray
            Window starts [s], arrivals [1/s] and work [s of prefill per s].
        """

        def work_of(prompt: FloatArray, cached: FloatArray) -> FloatArray:
            return np.asarray(cluster.work_s(prompt, cached), dtype=float)

        start, arrivals, work = self.source.windows(work_of, width_s / self.time_scale)
        return start * self.time_scale, arrivals / self.time_scale, work / self.time_scale

    def describe(self, cluster: Cluster) -> str:
        """Return the workload in a line, for people.

        Parameters
        ----------
        cluster : Cluster
            Gives W and k for load and peak.

        Returns
        -------
        str
            Name, rate, load and its busiest minute, prompt and output lengths.
        """
        return described(self, cluster)

    def model(self) -> dict[str, Any]:
        """Return a compact model as plain JSON values, for plan files; a trace is fitted to windows.

        Returns
        -------
        dict
            `from_model` turns it back into a workload; models make the round trip unchanged.
        """
        own = {"version": MODEL_VERSION, "name": self.name, "time_scale": float(self.time_scale)}
        return own | self.source.model()


def _check_positive(name: str, value: Any, limit: str, remedy: str) -> None:
    if not (isinstance(value, (int, float, np.number)) and np.isfinite(value) and value > 0):
        raise InputError(name, value, limit, remedy)


def _checked_count(count: int) -> int:
    if not (isinstance(count, (int, np.integer)) and 1 <= count <= MAX_COUNT):
        raise InputError("number of requests", count, f"a whole number in [1, {MAX_COUNT:,}]")
    return int(count)

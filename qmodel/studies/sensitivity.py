"""What an operator should change first: how P95 TTFT and attainment answer to each input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from qmodel.errors import InputError, UnstableError
from qmodel.laws import PNormLaw
from qmodel.laws.step import StepLaw
from qmodel.scenario import SLO, Cluster, InstanceGroup, Requests, Workload
from qmodel.scenario.sources import LengthLaw, PoissonSource, TraceSource
from qmodel.scenario.windowed import WindowedSource
from qmodel.system import predict

__all__ = ["Effect", "Response", "first_change", "responses", "sensitivity", "tidy"]

# What an operator can change; the others describe the traffic.
_ACTIONS = ("prefill instances", "decode instances", "bandwidth", "laws (step times)", "tokens per step")
_TRIFLING = 0.005  # relative changes of P95 below it are the prediction's own noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Answer of the prediction to one change.

    Parameters
    ----------
    change : str
        What was changed, e.g. ``rate +10 %``.
    p95_ttft_s : float
        P95 TTFT after it [s].
    p95_change : float
        Relative change of P95 TTFT.
    attainment_change : float
        Change of SLO attainment.
    """

    change: str
    p95_ttft_s: float
    p95_change: float
    attainment_change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Answer of the prediction to one input, changed down and up; all cases share the same random numbers.

    Parameters
    ----------
    what : str
        The input, e.g. ``rate``.
    factors : tuple of float
        By what it is multiplied, down and up; 1 where it cannot be changed.
    labels : tuple of str
        The two changes in words, e.g. ``-10 %`` and ``+10 %``.
    p95_ttft_s, slo_attainment : tuple of float or None
        Predictions after each change [s], as a share; None where there is no steady state.
    base_p95_ttft_s, base_slo_attainment : float
        Unchanged [s], as a share.
    """

    what: str
    factors: tuple[float, float]
    labels: tuple[str, str]
    p95_ttft_s: tuple[float | None, float | None]
    slo_attainment: tuple[float | None, float | None]
    base_p95_ttft_s: float
    base_slo_attainment: float

    @property
    def elasticity(self) -> float:
        """Derivative d ln(P95 TTFT) / d ln(input), by differences over the sides that have a steady state."""
        return _slope(self.factors, [None if t is None else np.log(t) for t in self._sides(self.p95_ttft_s)])

    @property
    def attainment_slope(self) -> float:
        """Derivative of SLO attainment by the input's logarithm."""
        return _slope(self.factors, self._sides(self.slo_attainment))

    @property
    def p95_changes(self) -> tuple[float | None, float | None]:
        """Relative changes of P95 TTFT, down and up."""
        low, high = (None if t is None else t / self.base_p95_ttft_s - 1.0 for t in self.p95_ttft_s)
        return low, high

    @property
    def swing(self) -> float:
        """Largest relative change of P95 TTFT; infinite where a change leaves no steady state."""
        return max(np.inf if change is None else abs(change) for change in self.p95_changes)

    def _sides(self, pair: tuple[float | None, float | None]) -> list[float | None]:
        base = self.base_p95_ttft_s if pair is self.p95_ttft_s else self.base_slo_attainment
        return [pair[0], base, pair[1]]


def _slope(factors: tuple[float, float], values: Sequence[float | None]) -> float:
    x = np.log([factors[0], 1.0, factors[1]])
    known = [(at, value) for at, value in zip(x, values, strict=True) if value is not None]
    (low, first), (high, last) = known[0], known[-1]
    return float((last - first) / (high - low)) if high > low else 0.0


def responses(cluster: Cluster, workload: Workload, slo: SLO, policy: Any = None, step: float = 0.1) -> list[Response]:
    """Return the effects of single inputs, largest effect on P95 TTFT first; the rows of a tornado plot.

    Parameters
    ----------
    cluster : Cluster
        Pools and network.
    workload : Workload
        Traffic.
    slo : SLO
        Limits.
    policy : policy, plan or None
        Kept as it is throughout.
    step : float
        Relative size of the changes of continuous inputs, in (0, 1); instances change by one.

    Returns
    -------
    list of Response
        One row an input.

    Raises
    ------
    InputError
        When `step` is out of range.
    UnstableError
        When the unchanged case has no steady state.

    Examples
    --------
    >>> from qmodel.io.calibrations import load_calibration
    >>> cluster = Cluster.parse("2P2D", load_calibration("deepseek-v2-lite"))
    >>> workload = Workload.poisson(1.0, prompt_tokens=([500, 4000], [0.8, 0.2]), output_tokens=100)
    >>> effects = responses(cluster, workload.at_load(0.85, cluster), SLO())
    >>> effects[0].what, effects[0].elasticity < -2.0
    ('prefill instances', True)
    """
    if not 0 < step < 1:
        raise InputError("step of sensitivity", step, "in (0, 1)", "0.1 changes inputs by 10 %")
    base = predict(cluster, workload, slo, policy)

    def outcome(make: Callable[[float], _Inputs | None], factor: float) -> tuple[float | None, float | None]:
        inputs = make(factor) if factor != 1.0 else None
        if inputs is None:
            return base.ttft_s(0.95), base.slo_attainment
        try:
            found = predict(*inputs, policy)
        except UnstableError:
            return None, None
        return found.ttft_s(0.95), found.slo_attainment

    effects = []
    for what, factors, labels, make in _changes(cluster, workload, slo, step):
        (low_p95, low_share), (high_p95, high_share) = (outcome(make, factor) for factor in factors)
        effects.append(
            Response(
                what=what,
                factors=factors,
                labels=labels,
                p95_ttft_s=(low_p95, high_p95),
                slo_attainment=(low_share, high_share),
                base_p95_ttft_s=base.ttft_s(0.95),
                base_slo_attainment=base.slo_attainment,
            )
        )
    return sorted(effects, key=lambda effect: -effect.swing)


def sensitivity(cluster: Cluster, workload: Workload, slo: SLO, policy: Any = None, step: float = 0.1) -> list[Effect]:
    """Return the effects of single changes, largest effect on P95 TTFT first.

    Parameters
    ----------
    cluster, workload, slo, policy, step
        As for `responses`.

    Returns
    -------
    list of Effect
        One row a change; those without a steady state are left out.
    """
    rows = tidy(responses(cluster, workload, slo, policy, step))
    effects = [
        Effect(
            change=f"{row['what']} {row['change']}",
            p95_ttft_s=row["p95_ttft_s"],
            p95_change=row["p95_change"],
            attainment_change=row["attainment_change"],
        )
        for row in rows
        if row["p95_ttft_s"] is not None
    ]
    return sorted(effects, key=lambda effect: -abs(effect.p95_change))


def first_change(effects: Sequence[Response]) -> str:
    """Return in a sentence which change within an operator's hands lowers P95 TTFT most.

    Parameters
    ----------
    effects : sequence of Response
        Result of `responses`.
    """
    gains = [
        (change, effect, side)
        for effect in effects
        if effect.what in _ACTIONS
        for side, change in enumerate(effect.p95_changes)
        if change is not None and change < -_TRIFLING
    ]
    if not gains:
        return "None of the changes tried lowers P95 TTFT by more than 0.5 %."
    change, effect, side = min(gains, key=lambda gain: gain[0])
    after = effect.p95_ttft_s[side]
    return (
        f"Change first: {effect.what} {effect.labels[side]}, P95 TTFT {100 * change:+.0f} % "
        f"({effect.base_p95_ttft_s:.3g} s -> {after:.3g} s)."
    )


def tidy(effects: Sequence[Response]) -> list[dict[str, Any]]:
    """Return effects as plain rows, two for each input.

    Parameters
    ----------
    effects : sequence of Response
        Result of `responses`.

    Returns
    -------
    list of dict
        ``what``, ``change``, ``p95_ttft_s``, ``p95_change``, ``slo_attainment``, ``attainment_change``,
        ``elasticity`` and ``attainment_slope``; values None where there is no steady state.
    """
    return [
        {
            "what": effect.what,
            "change": effect.labels[side],
            "p95_ttft_s": effect.p95_ttft_s[side],
            "p95_change": effect.p95_changes[side],
            "slo_attainment": effect.slo_attainment[side],
            "attainment_change": _minus(effect.slo_attainment[side], effect.base_slo_attainment),
            "elasticity": effect.elasticity,
            "attainment_slope": effect.attainment_slope,
        }
        for effect in effects
        for side in (0, 1)
        if effect.factors[side] != 1.0
    ]


_Inputs = tuple[Cluster, Workload, SLO]
_Change = tuple[str, tuple[float, float], tuple[str, str], Callable[[float], _Inputs | None]]


def _changes(cluster: Cluster, workload: Workload, slo: SLO, step: float) -> Iterator[_Change]:
    share, both = f"{100 * step:g} %", (1.0 - step, 1.0 + step)
    budget = cluster.max_num_batched_tokens
    continuous: Mapping[str, Callable[[float], _Inputs | None]] = {
        "rate": lambda f: (cluster, workload.at_rate(workload.rate_per_s * f), slo),
        "SCV of prompt lengths": lambda f: _with_spread(cluster, workload, slo, f),
        "bandwidth": lambda f: (cluster.with_(bandwidth_gb_s=cluster.bandwidth_gb_s * f), workload, slo),
        "laws (step times)": lambda f: _with_laws(cluster, workload, slo, f),
        "tokens per step": lambda f: (cluster.with_(max_num_batched_tokens=max(1, round(budget * f))), workload, slo),
        "TTFT SLO": lambda f: (cluster, workload, replace(slo, ttft_s=slo.ttft_s * f)),
        "TBT SLO": lambda f: (cluster, workload, replace(slo, tbt_s=slo.tbt_s * f)),
    }
    for what, make in continuous.items():
        yield what, both, (f"-{share}", f"+{share}"), make
    for what, pool, n in (
        ("prefill instances", "prefill", cluster.prefill_count), ("decode instances", "decode", cluster.decode_count)
    ):  # fmt: skip
        factors = ((n - 1) / n if n > 1 else 1.0, (n + 1) / n)
        yield what, factors, ("-1", "+1"), partial(_resized, cluster, workload, slo, pool)


def _resized(cluster: Cluster, workload: Workload, slo: SLO, pool: str, factor: float) -> _Inputs:
    """Return the inputs with one instance more or less, of the last group of a pool."""
    value, by = getattr(cluster, pool), 1 if factor > 1 else -1
    if not isinstance(value, tuple):
        return cluster.with_(**{pool: value + by}), workload, slo
    *others, last = value
    kept = (replace(last, count=last.count + by),) if last.count + by > 0 else ()
    return cluster.with_(**{pool: (*others, *kept)}), workload, slo


def _with_laws(cluster: Cluster, workload: Workload, slo: SLO, factor: float) -> _Inputs | None:
    """Return the inputs with all steps `factor` times as long; None for laws that cannot be scaled."""

    def pool(calibrations: tuple[Any, ...]) -> tuple[InstanceGroup, ...]:
        scaled = {
            id(c): replace(c, step=_scaled(c.step, factor), prefill=_scaled(c.prefill, factor)) for c in calibrations
        }
        return tuple(InstanceGroup(count=1, calibration=scaled[id(c)]) for c in calibrations)

    try:
        slower = cluster.with_(prefill=pool(cluster.prefill_calibrations), decode=pool(cluster.decode_calibrations))
    except TypeError:  # not a dataclass of coefficients in seconds
        return None
    return slower, workload, slo


def _scaled(law: StepLaw, factor: float) -> StepLaw:
    """Return a law whose steps all take `factor` times as long."""
    if isinstance(law, PNormLaw):
        floors = {name: getattr(law, name) * factor for name in ("floor_s", "floor_per_request_s")}
        return replace(law, gain=law.gain * factor, **floors)
    seconds = {field.name: getattr(law, field.name) * factor for field in fields(law)}  # type: ignore[arg-type]
    return replace(law, **seconds)  # type: ignore[type-var]


def _with_spread(cluster: Cluster, workload: Workload, slo: SLO, factor: float) -> _Inputs | None:
    """Return the inputs with the variance of prompt lengths multiplied, their mean kept; None for other sources."""
    source = _spread(workload.source, factor)
    return None if source is None else (cluster, replace(workload, source=source), slo)


def _spread(source: Any, factor: float) -> Any:
    """Return a source whose prompts lie sqrt(factor) times as far from their mean; None for unknown kinds."""

    def wider(tokens: Any, mean: float) -> Any:
        moved = np.maximum(mean + (np.asarray(tokens, dtype=float) - mean) * np.sqrt(factor), 1.0)
        return np.maximum(np.rint(moved), 1).astype(np.int64)

    if isinstance(source, PoissonSource):
        law = source.prompt
        prompt = LengthLaw.of((wider(law.values, float(law.values @ law.weights)), law.weights), "prompt tokens")
        return replace(source, prompt=prompt)
    if isinstance(source, TraceSource):
        r = source.requests
        moved = wider(r.prompt_tokens, float(r.prompt_tokens.mean()))
        cached = np.minimum(r.cached_tokens, moved - 1)
        return TraceSource(requests=Requests.from_arrays(r.arrival_s, moved, r.output_tokens, cached, r.slo_class))
    if isinstance(source, WindowedSource):
        prompt_tokens, _, _, weights = source.lengths()
        levels = wider(source.prompt_tokens, float(prompt_tokens @ weights)).astype(float)
        return replace(source, prompt_tokens=levels)
    return None


def _minus(value: float | None, base: float) -> float | None:
    return None if value is None else value - base

"""A deflection plan: the rule, why it is what it is, and how it fares; a frozen input of simulation and prediction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.policies.rule import ThresholdRule
from qmodel.scenario.slo import SLO

if TYPE_CHECKING:
    from qmodel.policies import LateThresholds, Thresholds

__all__ = ["KIND_TABLES", "RULE_TABLES", "SCHEMA_VERSION", "Plan", "ShadowPrice"]

SCHEMA_VERSION = 2
# Fields of a rule that do not depend on when and in which order it is applied; both rules of a plan share them.
RULE_TABLES = (
    "chunks", "tbt_limit_s", "lengths", "batches", "contexts", "work_s", "execution_s", "transfer_s", "host_s",
    "harm_s", "step_s",
)  # fmt: skip
# A shadow price this small is said to be none [s].
_NOTHING_S = 1e-6
KIND_TABLES = ("contexts", "host_s", "harm_s", "step_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPrice:
    """What one more unit of a resource is worth at the margin of the static split.

    Parameters
    ----------
    resource : str
        E.g. ``prefill instance``.
    unit : str
        Unit of the resource.
    mean_ttft_s : float
        Fall of the mean TTFT (before the first step) per unit [s].
    sentence : str
        The same in words.
    """

    resource: str
    unit: str
    mean_ttft_s: float
    sentence: str

    @classmethod
    def of(cls, resource: str, unit: str, mean_ttft_s: float, subject: str) -> ShadowPrice:
        """Return a price with its sentence about `subject`, e.g. ``One more prefill instance``."""
        verb = "save" if mean_ttft_s >= 0 else "cost"
        sentence = (
            f"{subject} would {verb} about {abs(mean_ttft_s) * 1e3:.3g} ms of mean TTFT per request, at the margin."
        )
        if abs(mean_ttft_s) < _NOTHING_S:
            sentence = f"{subject} would not change the mean TTFT at this load."
        return cls(resource=resource, unit=unit, mean_ttft_s=mean_ttft_s, sentence=sentence)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Everything derived for a cluster, a workload and an SLO.

    Parameters
    ----------
    qmodel_version : str
        Version that derived it.
    objective : str
        What it optimises.
    slo : SLO
        Objectives.
    cluster : Mapping
        Name, instances, options and calibration hashes.
    workload : Mapping
        Name, fingerprint, rate, load and compact model.
    split : Mapping
        Static split by prompt bin, loads, waits and duals.
    shadow_prices : tuple of ShadowPrice
        What more of each resource is worth.
    constants : Mapping
        Numbers of the threshold formula, for adaptive use.
    dispatch_rule : ThresholdRule
        Rule to apply at arrival.
    late_rule : ThresholdRule, optional
        Pull rule, when the plan binds late.
    thresholds : Mapping
        ``prompt_tokens``, ``decode_backlog_s`` and the matrix ``threshold_s`` at the mean decode state; ``kinds`` with
        ``name`` and ``threshold_s`` where decode instances are of several.
    chunk_table : Mapping
        ``batches``, ``contexts``, ``done`` and the array ``chunk_tokens``, 0 where no chunk is TBT-safe; ``kinds`` with
        ``name``, ``contexts`` and ``chunk_tokens`` where decode instances are of several.
    predicted : Mapping
        Metrics of the queueing model, with method and error estimate.
    simulated : Mapping, optional
        Metrics of the simulated check, with intervals, per policy.
    better : bool, optional
        Whether the check found the plan better than every rival; None when it was not checked.
    options : Mapping
        Options of the command that made the plan, so that another command can repeat its scenario.
    warnings : tuple of str
        What the user should know.
    calibration_interval : Mapping, optional
        Where predicted metrics and thresholds lie over draws of the calibration; see `studies.uncertainty`.
    """

    qmodel_version: str
    objective: str
    slo: SLO
    cluster: Mapping[str, Any]
    workload: Mapping[str, Any]
    split: Mapping[str, Any]
    shadow_prices: tuple[ShadowPrice, ...]
    constants: Mapping[str, float]
    dispatch_rule: ThresholdRule
    late_rule: ThresholdRule | None
    thresholds: Mapping[str, Any]
    chunk_table: Mapping[str, Any]
    predicted: Mapping[str, Any] = field(default_factory=dict)
    simulated: Mapping[str, Any] | None = None
    better: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    calibration_interval: Mapping[str, Any] | None = None

    @property
    def rule(self) -> ThresholdRule:
        """The rule that the plan recommends: late when there is one, else at dispatch."""
        return self.late_rule or self.dispatch_rule

    def policy(self) -> Thresholds | LateThresholds:
        """Return the policy object that applies the plan's rule."""
        from qmodel import policies

        return policies.Thresholds(self.dispatch_rule) if self.late_rule is None else policies.LateThresholds(self.rule)

    @property
    def title(self) -> str:
        """The plan in a line."""
        limits = f"TTFT {self.slo.ttft_s * 1e3:g} ms, TBT {self.slo.tbt_s * 1e3:g} ms"
        what = f"{self.cluster['model']} on {self.cluster['name']} {self.cluster['gpu']}"
        load = f"{self.workload['name']} at load {self.workload['load']:.2f}"
        return f"{what}, {load}, {limits}: {self.rule.binding} binding, {self.rule.order}"

    @property
    def prefill_instances(self) -> int:
        """Prefill instances of the cluster."""
        return int(self.cluster["prefill"])

    @property
    def scenario_options(self) -> dict[str, Any]:
        """Options of the command that made the plan."""
        return dict(self.options)

    def threshold_table(self) -> dict[str, Any]:
        """Return the threshold table: ``prompt_tokens``, ``decode_backlog_s`` and ``threshold_s`` (rows by prompt) [s].

        A threshold is inf where a prompt is never deflected.
        """
        return dict(self.thresholds)

    def split_table(self) -> dict[str, Any]:
        """Return the static split: ``bins``, one row per prompt bin, and the pools' loads and waits."""
        return dict(self.split)

    def shadow_price_sentences(self) -> list[str]:
        """Return one sentence per shadow price."""
        return [price.sentence for price in self.shadow_prices]

    def with_simulated(self, simulated: Mapping[str, Any], lost: Iterable[str] = ()) -> Plan:
        """Return the plan with the metrics of a simulated check.

        Parameters
        ----------
        simulated : Mapping
            Metrics per policy.
        lost : iterable of str
            A sentence for each comparison that the plan lost; they become warnings.

        Returns
        -------
        Plan
            A copy.
        """
        lines = tuple(lost)
        return replace(self, simulated=dict(simulated), better=not lines, warnings=self.warnings + lines)

    def with_options(self, options: Mapping[str, Any]) -> Plan:
        """Return the plan with the options of the command that made it."""
        return replace(self, options=dict(options))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON data, in the layout of its schema; thresholds of inf become null."""
        shared = {name: _plain(getattr(self.dispatch_rule, name)) for name in RULE_TABLES}
        return {
            "schema_version": SCHEMA_VERSION,
            "qmodel_version": self.qmodel_version,
            "objective": self.objective,
            "inputs": _plain(
                {
                    "cluster": self.cluster,
                    "workload": self.workload,
                    "slo": dataclasses.asdict(self.slo),
                    "options": self.options,
                }
            ),
            "split": _plain(self.split),
            "shadow_prices": [dataclasses.asdict(price) for price in self.shadow_prices],
            "constants": _plain(self.constants),
            "tables": shared,
            "decode_kinds": _kinds(self.dispatch_rule),
            "dispatch_rule": _scalars(self.dispatch_rule),
            "late_rule": None if self.late_rule is None else _scalars(self.late_rule),
            "threshold_table": _plain(self.thresholds),
            "chunk_table": _plain(self.chunk_table),
            "predicted": _plain(self.predicted),
            "simulated": _plain(self.simulated),
            "better": self.better,
            "calibration_interval": _plain(self.calibration_interval),
            "warnings": list(self.warnings),
        }


def _kinds(rule: ThresholdRule) -> dict[str, Any] | None:
    """Return the tables of each kind of decode instance; None where there is one kind."""
    if not rule.kinds:
        return None
    tables = [{name: _plain(getattr(kind, name)) for name in KIND_TABLES} for kind in rule.kinds]
    return {"kind_of": list(rule.kind_of), "tables": tables}


def _scalars(rule: ThresholdRule) -> dict[str, Any]:
    names = (f.name for f in dataclasses.fields(rule) if f.name not in (*RULE_TABLES, "kinds", "kind_of"))
    return {name: _plain(getattr(rule, name)) for name in names}


def _plain(value: Any) -> Any:
    """Return JSON data: arrays as lists, numbers of numpy as Python's, infinite numbers as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""Deflection by prices: decided when a request arrives, or while it waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.policies.rule import ThresholdRule
from qmodel.policies.state import UNAVAILABLE, ClusterState, KernelSpec, RequestView, Route
from qmodel.policies.tables import lookup_curve, lookup_table

__all__ = ["LateThresholds", "Thresholds", "rule_of"]


def rule_of(plan_or_rule: Any) -> ThresholdRule:
    """Return the rule of a plan (its ``.rule``) or the rule itself.

    Raises
    ------
    InputError
        When the object is neither.
    """
    rule = plan_or_rule if isinstance(plan_or_rule, ThresholdRule) else getattr(plan_or_rule, "rule", None)
    if not isinstance(rule, ThresholdRule):
        raise InputError("plan", type(plan_or_rule).__name__, "a Plan or a ThresholdRule", "derive one first")
    return rule


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """Deflect iff the prefill path costs more than the best decode instance; decided when a request arrives.

    The rule and its symbols are those of `ThresholdRule`. Lengths are uncached prompt tokens; beyond the tables
    they are extrapolated, batch and context are held to the grid. An instance that is down or slow hosts nothing.

    Parameters
    ----------
    plan : Plan or ThresholdRule
        Prices and tables.
    """

    plan: Any

    def __post_init__(self) -> None:
        rule_of(self.plan)

    @property
    def rule(self) -> ThresholdRule:
        """Prices and tables."""
        return rule_of(self.plan)

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "thresholds" if self.rule.order == "fcfs" else f"thresholds {self.rule.order}"

    def decide(self, state: ClusterState, request: RequestView) -> Route:
        """Return the cheaper path; a tie goes to prefill."""
        rule = self.rule
        n = request.prompt_tokens - request.cached_tokens
        best = int(np.argmin(state.prefill_work_s))
        w, gp, gd = float(state.prefill_work_s[best]), rule.price_prefill_per_s, rule.price_decode_per_s
        s, x = lookup_curve(rule, rule.work_s, n), lookup_curve(rule, rule.transfer_s, n)
        at_prefill = w + s + gp * ((w + s) ** 2 - w**2) + x
        host, at_decode, own = -1, np.inf, 0.0
        down = state.deflected_work_s >= UNAVAILABLE
        slow = (rule.slow_factor > 0) & (state.slowdown > rule.slow_factor)
        price = rule.harm_weight * (rule.fault_harm if np.any(down | slow) else 1.0)
        for j in np.flatnonzero(~down & ~slow):
            B, K, v = float(state.batch[j]), float(state.context_tokens[j]), float(state.deflected_work_s[j])
            of = rule.tables_of(int(j))
            if 0 < rule.max_batch <= B or K + request.prompt_tokens > of.contexts[-1]:
                continue
            h = lookup_table(rule, of.contexts, of.host_s, n, B, K)
            if 0 < rule.deadline_s < v + h:
                continue
            cost = v + h + gd * ((v + h) ** 2 - v**2)
            if price > 0:
                cost += price * lookup_table(rule, of.contexts, of.harm_s, n, B, K)
            if cost < at_decode:
                host, at_decode, own = int(j), cost, h
        if host >= 0 and at_prefill > at_decode:
            return Route(pool="decode", instance=host, host_s=own)
        return Route(pool="prefill", instance=best)

    def kernel_spec(self) -> KernelSpec:
        """Return the policy as data."""
        return _spec("thresholds", self.rule)


@dataclass(frozen=True, slots=True, eq=False)
class LateThresholds:
    """The same prices bound late: requests wait in one queue from which decode instances pull.

    A free prefill instance fills its step from the head of the queue. A decode instance takes, at each arrival, end
    of a prefill step and end of a hosting step, waiting prompts while it has less than `max_waiting_tokens` deflected
    prompt tokens and fewer residents than `max_batch`. Of the prompts whose gain, with the rule's weight of the relief,
    is positive and whose v + h is within `deadline_s`, it is the first in the queue's order, or in a queue first come
    first served the one of most value:

        gain = expected wait + s + x - v - h - harm,   value = (gain + (requests behind)*s/k)/h

    with expected wait = (rest of running steps and begun prompts + work ahead in the queue)/k. There is no decision
    at arrival, so the simulator's compiled rule is the only form.

    A decode instance whose steps take `slow_factor` times what its law says pulls nothing. While one is that slow, or
    down, harm counts `fault_harm` times. In order "due" those who have waited for `patience_s` go first, in order of
    arrival, from when an instance is down or slow and no other has room until nobody has waited for so long.

    Parameters
    ----------
    plan : Plan or ThresholdRule
        Prices and tables.
    """

    plan: Any

    def __post_init__(self) -> None:
        rule_of(self.plan)

    @property
    def rule(self) -> ThresholdRule:
        """Prices and tables."""
        return rule_of(self.plan)

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"late {self.rule.order}"

    def kernel_spec(self) -> KernelSpec:
        """Return the policy as data."""
        return _spec("late", self.rule)


def _spec(kind: Any, rule: ThresholdRule) -> KernelSpec:
    return KernelSpec(
        kind=kind,
        order=rule.order,
        ageing_per_s=rule.ageing_per_s,
        chunks=tuple(rule.chunks),
        host_packing=True,
        limit_s=rule.tbt_limit_s,
        rule=rule,
    )

"""Who prefills where: routing policies as frozen objects with numbers and no state."""

from __future__ import annotations

from typing import Any

from qmodel.errors import InputError
from qmodel.policies.compiled import Compiled
from qmodel.policies.estimating import EarliestCompletion, Kairos
from qmodel.policies.rule import ThresholdRule
from qmodel.policies.simple import Colocated, Disaggregated, StaticLength
from qmodel.policies.state import CHUNKS, ClusterState, KernelSpec, Policy, RequestView, Route
from qmodel.policies.thresholds import LateThresholds, Thresholds

__all__ = [
    "CHUNKS",
    "ClusterState",
    "Colocated",
    "Compiled",
    "Disaggregated",
    "EarliestCompletion",
    "Kairos",
    "KernelSpec",
    "LateThresholds",
    "Policy",
    "RequestView",
    "Route",
    "StaticLength",
    "ThresholdRule",
    "Thresholds",
    "as_policy",
]


def as_policy(policy: Any) -> Any:
    """Return the policy that an argument means.

    Parameters
    ----------
    policy : None, Policy, ThresholdRule or Plan
        None means `Disaggregated`; a rule gives `Thresholds` or `LateThresholds` by its binding; anything with a
        ``policy()`` method, such as a plan, gives what that returns.

    Returns
    -------
    Policy
        Object with ``kernel_spec()`` or ``decide(state, request)``.

    Raises
    ------
    InputError
        When the argument is none of these.

    Examples
    --------
    >>> as_policy(None).name
    'disaggregated'
    """
    if policy is None:
        return Disaggregated()
    if isinstance(policy, ThresholdRule):
        return LateThresholds(policy) if policy.binding == "late" else Thresholds(policy)
    if callable(getattr(policy, "policy", None)):
        return as_policy(policy.policy())
    if isinstance(policy, type) or not (hasattr(policy, "kernel_spec") or hasattr(policy, "decide")):
        raise InputError(
            "policy", repr(policy), "a policy object, a Plan or None", "give e.g. qmodel.policies.Kairos()"
        )
    return policy

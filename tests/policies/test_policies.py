"""Policies as objects: what they accept, and what `as_policy` makes of its argument."""

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.policies import (
    Colocated,
    Disaggregated,
    EarliestCompletion,
    Kairos,
    LateThresholds,
    StaticLength,
    ThresholdRule,
    Thresholds,
    as_policy,
)


def rule():
    """Return a rule with one-cell tables."""
    one = np.ones(1)
    return ThresholdRule(
        binding="dispatch", order="fcfs", price_prefill_per_s=1.0, price_decode_per_s=1.0, harm_weight=0.0,
        chunks=(512,), tbt_limit_s=0.06, max_waiting_tokens=2000, ageing_per_s=0.0, lengths=one, batches=one,
        contexts=one, work_s=one, execution_s=one, transfer_s=one, host_s=np.ones((1, 1, 1)),
        harm_s=np.zeros((1, 1, 1)),
    )  # fmt: skip


class Planned:
    """Something with a policy, like a plan."""

    def __init__(self, found):
        self.rule = found

    def policy(self):
        """Return the rule's policy."""
        return LateThresholds(self.rule)


def test_as_policy():
    found = rule()
    assert as_policy(None) == Disaggregated()
    assert isinstance(as_policy(found), Thresholds)
    assert isinstance(as_policy(Planned(found)), LateThresholds)
    assert Thresholds(Planned(found)).rule is found
    for policy in (Kairos(), EarliestCompletion(), StaticLength(512), Colocated(256)):
        assert as_policy(policy) is policy


@pytest.mark.parametrize("wrong", ["kairos", 3, Kairos, object()])
def test_what_is_no_policy(wrong):
    with pytest.raises(InputError, match="policy"):
        as_policy(wrong)


@pytest.mark.parametrize(
    "make", [lambda: Kairos(alpha=0), lambda: Kairos(beta=np.nan), lambda: StaticLength(-1), lambda: Colocated(0)]
)
def test_numbers_out_of_range(make):
    with pytest.raises(InputError):
        make()

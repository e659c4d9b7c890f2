"""Robust plans: the split with the least worst cost against random splits, the scenario set, and what it protects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qmodel.optimization import derive_plan, static_split
from qmodel.optimization.robust import SCENARIOS, robust_prices, robust_split, scenario_set
from qmodel.optimization.thresholds import threshold_rule
from qmodel.scenario import Workload


@pytest.fixture(scope="module")
def traffic(prompts):
    return Workload.poisson(24.0, prompt_tokens=prompts.prompt, output_tokens=prompts.output)


@pytest.fixture(scope="module")
def problems(cluster, traffic, slo):
    """The nominal problem, one with more traffic, and one with slow decode instances."""
    nominal = static_split(cluster, traffic, slo).problem
    more = replace(nominal, bins=replace(nominal.bins, rate_per_s=1.3 * nominal.bins.rate_per_s))
    return [nominal, more, replace(nominal, host_s=1.5 * nominal.host_s)]


def worst(problems, z):
    return max(float(one.cost(z)) for one in problems)


def test_no_split_has_a_lower_worst_cost(problems, cluster, traffic, slo):
    start = static_split(cluster, traffic, slo).kept
    found = robust_split(problems, start)
    assert found.worst_cost == pytest.approx(worst(problems, found.kept))
    assert found.worst_cost <= worst(problems, start)
    rng = np.random.default_rng(1)
    others = np.clip(found.kept + rng.normal(0, 0.2, (20_000, len(start))), 0, 1)
    lowest = min(np.max([one.cost(others) for one in problems], axis=0))
    assert found.worst_cost <= lowest * (1 + 1e-3)


def test_one_problem_gives_its_own_optimum(problems, cluster, traffic, slo):
    split = static_split(cluster, traffic, slo)
    alone = robust_split(problems[:1], split.kept)
    assert alone.worst_cost == pytest.approx(split.cost, rel=2e-3)
    assert alone.weights.tolist() == [1.0]


def test_multipliers_are_a_mixture_of_the_scenarios_that_bind(problems, cluster, traffic, slo):
    found = robust_split(problems, static_split(cluster, traffic, slo).kept)
    assert found.weights.sum() == pytest.approx(1)
    costs = np.array([float(one.cost(found.kept)) for one in problems])
    assert np.all(found.weights[costs < 0.95 * found.worst_cost] < 0.05)


def test_prices_rise_when_more_traffic_must_be_expected(cluster, traffic, slo):
    split = static_split(cluster, traffic, slo)
    rule = threshold_rule(cluster, traffic, slo, split)
    wary = robust_prices(cluster, traffic, slo, split, rule)
    assert wary.price_prefill_per_s > rule.price_prefill_per_s


def test_scenarios(cluster, chat):
    found = scenario_set(cluster, chat, 2000, [Workload.builtin("azure-code")])
    assert [one.name for one in found] == [name for name, *_ in SCENARIOS] + ["azure-code"]
    named = {one.name: one for one in found}
    assert named["rate +30 %"].requests.span_s == pytest.approx(named["as planned"].requests.span_s / 1.3)
    slow, usual = (named[name].cluster.calibration for name in ("laws +20 %", "as planned"))
    assert slow.decode_step_s(40, 60_000) == pytest.approx(1.2 * usual.decode_step_s(40, 60_000))


def test_a_robust_plan_is_judged_by_its_worst_scenario(cluster, chat, slo):
    plan = derive_plan(cluster, chat, slo, robust=True)
    table = plan.predicted["candidates"]
    assert {"robust dispatch, deadline", "late due", "kairos"} <= set(table)
    nominal = derive_plan(cluster, chat, slo).predicted["candidates"]
    assert table["kairos"]["p95_ttft_s"] > nominal["kairos"]["p95_ttft_s"]

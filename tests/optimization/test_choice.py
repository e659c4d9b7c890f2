"""Stage 3: what is chosen, by which outcome, and from which part of the traffic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qmodel.optimization import derive_plan, static_split
from qmodel.optimization.choice import (
    Outcome,
    Scenario,
    _ranks,
    best_rule,
    bounded_rules,
    busiest,
    hosts_outlast,
    late_rules,
    outcome,
)
from qmodel.policies import LateThresholds
from qmodel.scenario import Requests, Workload
from qmodel.simulation import simulate


@pytest.fixture(scope="module")
def rule(cluster, chat, slo):
    return derive_plan(cluster, chat, slo).rule


def chosen(objective, **candidates):
    kairos = Outcome(2.0, 4.0, 0.5, 0.90, 1.0)
    outcomes = {name: [Outcome(*values)] for name, values in candidates.items()} | {"kairos": [kairos]}
    ranks = _ranks(candidates, outcomes, objective)
    return min(ranks, key=lambda name: ranks[name])


def test_each_objective_takes_its_own_best():
    fast, safe, quick = (0.5, 3.0, 0.40, 0.95, 1.0), (0.8, 2.0, 0.45, 0.99, 1.0), (0.9, 3.0, 0.20, 0.93, 1.0)
    table = {"fast": fast, "safe": safe, "quick": quick}
    assert chosen("p95", **table) == "fast"
    assert chosen("slo", **table) == "safe"
    assert chosen("goodput", **table) == "safe"
    assert chosen("mean", **table) == "quick"


def test_p95_never_below_kairos_attainment_nor_starving():
    losing, fine = (0.3, 1.0, 0.3, 0.85, 1.0), (1.5, 3.0, 0.5, 0.92, 1.0)
    assert chosen("p95", losing=losing, fine=fine) == "fine"
    starving = (0.5, 9.0, 0.3, 0.95, 1.0)
    assert chosen("p95", starving=starving, fine=(0.9, 1.0, 0.5, 0.96, 1.0)) == "fine"
    assert chosen("p95", starving=starving, fine=(0.9, 1.0, 0.5, 0.94, 1.0)) == "starving"  # it keeps more SLOs


def test_equal_p95_is_decided_by_attainment():
    assert chosen("p95", first=(1.00, 3, 0.5, 0.95, 1.0), second=(1.08, 3, 0.5, 0.97, 1.0)) == "second"
    assert chosen("p95", first=(1.00, 3, 0.5, 0.95, 1.0), second=(1.20, 3, 0.5, 0.97, 1.0)) == "first"


def test_the_worst_scenario_decides():
    rival = [Outcome(2.0, 4.0, 0.5, 0.9, 1.0), Outcome(4.0, 8.0, 1.0, 0.8, 1.0)]
    steady = [Outcome(1.2, 3.0, 0.5, 0.95, 1.0), Outcome(2.4, 5.0, 0.8, 0.90, 1.0)]
    daring = [Outcome(0.4, 3.0, 0.5, 0.95, 1.0), Outcome(3.9, 5.0, 0.8, 0.90, 1.0)]
    ranks = _ranks({"daring": None, "steady": None}, {"daring": daring, "steady": steady, "kairos": rival}, "p95")
    assert ranks["steady"] < ranks["daring"]


def test_busiest_stretch():
    gaps = np.concatenate([np.full(3000, 1.0), np.full(1000, 0.1), np.full(3000, 1.0)])
    workload = Workload.from_requests(Requests.from_arrays(np.cumsum(gaps), np.full(7000, 500), 10))
    part = busiest(workload, 1000)
    assert len(part) == 1000
    assert part.arrival_s[0] == 0
    assert part.span_s == pytest.approx(100, rel=0.01)
    assert len(busiest(workload, 10_000)) == 7000


@pytest.mark.parametrize("order", ["due", "spf", "fcfs"])
def test_outcomes_are_near_the_simulator(cluster, chat, slo, rule, order):
    scenario = Scenario("nominal", cluster, chat.requests(seed=0, count=5000))
    policy = LateThresholds(replace(rule, order=order))
    predicted, simulated = outcome(scenario, slo, policy), simulate(cluster, scenario.requests, slo, policy)
    assert predicted.p95_ttft_s == pytest.approx(simulated.ttft_s(0.95), rel=0.1)
    assert predicted.p99_ttft_s == pytest.approx(simulated.ttft_s(0.99), rel=0.15)
    assert predicted.slo_attainment == pytest.approx(simulated.slo_attainment, abs=0.01)
    assert predicted.tbt_attainment == pytest.approx(simulated.tbt_attainment, abs=0.01)


def test_due_order_meets_more_and_starves_less_than_shortest_first(cluster, chat, slo, rule):
    requests = chat.at_load(1.1, cluster).requests(seed=0, count=6000)
    runs = {o: simulate(cluster, requests, slo, LateThresholds(replace(rule, order=o))) for o in ("due", "spf")}
    assert runs["due"].slo_attainment > runs["spf"].slo_attainment
    assert runs["due"].ttft_s(0.99) < runs["spf"].ttft_s(0.99)


def test_full_batches_host_nothing(cluster, chat, slo, rule):
    # With 150 slots batches fill now and then; a prompt pulled by a full one waits for a slot behind all that lands.
    small = cluster.with_(max_num_seqs=150)
    requests = chat.requests(seed=0, count=4000)
    without, limited = (
        simulate(small, requests, slo, LateThresholds(replace(rule, max_batch=most))) for most in (0, 142)
    )
    assert limited.ttft_s(0.99) < 0.85 * without.ttft_s(0.99)
    assert limited.slo_attainment > without.slo_attainment + 0.1


def test_plan_says_what_it_chose_among(cluster, chat, slo):
    plan = derive_plan(cluster, chat, slo)
    candidates = plan.predicted["candidates"]
    assert {"kairos", "late due", "late spf", "late fcfs"} <= set(candidates)
    ours = candidates[f"late {plan.rule.order}"]
    assert ours["slo_attainment"] >= candidates["kairos"]["slo_attainment"] - 0.002
    assert derive_plan(cluster, chat, slo, objective="slo").rule.order == max(
        ("due", "spf", "fcfs"), key=lambda order: candidates[f"late {order}"]["slo_attainment"]
    )


def test_halving_keeps_the_best(cluster, chat, slo, rule):
    scenario = [Scenario("nominal", cluster, chat.requests(seed=0, count=4000))]
    many = late_rules(rule, effort="high")
    few = best_rule(many, scenario, slo, "p95")
    assert len(many) == 18
    assert len(few.outcomes) < len(many)
    assert few.outcomes[few.name][0].p95_ttft_s <= 1.1 * outcome(scenario[0], slo, LateThresholds(rule)).p95_ttft_s


def long_prompts(cluster, seed=4):
    """Return traffic whose prompts are mostly longer than a decode instance can take within the TTFT SLO."""
    rng = np.random.default_rng(seed)
    n = 4000
    prompt = np.where(rng.random(n) < 0.5, rng.integers(200, 2000, n), rng.integers(10_000, 60_000, n))
    requests = Requests.from_arrays(np.cumsum(rng.exponential(1.0, n)), prompt, rng.integers(50, 400, n))
    return Workload.from_requests(requests).at_load(1.0, cluster)


def test_long_prompts_are_hosted_only_where_they_end_soon(cluster, chat, slo):
    long = long_prompts(cluster)
    assert hosts_outlast(static_split(cluster, long, slo), slo.ttft_s)
    assert not hosts_outlast(static_split(cluster, chat, slo), slo.ttft_s)
    plan = derive_plan(cluster, long, slo)
    judged = plan.predicted["candidates"]
    bound = [name for name in judged if "hosted within" in name]
    assert {name.split(",")[0] for name in bound} == {"late due", "dispatch"}
    free = replace(plan.late_rule, deadline_s=0.0)
    rules = bounded_rules({"late due": replace(free, order="due")}, slo.ttft_s)
    assert [rule.deadline_s for rule in rules.values()] == [slo.ttft_s, 2 * slo.ttft_s]
    met = {
        name: simulate(cluster, long, slo, LateThresholds(rule), seed=1).slo_attainment
        for name, rule in {"free": replace(free, order="due"), **rules}.items()
    }
    assert met["late due, hosted within 1 SLO"] > met["free"] + 0.02


def test_a_late_rule_hosts_nothing_beyond_its_deadline(cluster, slo, rule):
    long = long_prompts(cluster).requests(seed=0, count=1500)
    bounded = replace(rule, deadline_s=1.0)
    run = simulate(cluster, long, slo, LateThresholds(bounded)).requests
    hosted = run[run.deflected]
    assert len(hosted) > 20
    assert (hosted.prefill_s < 2.0).all()  # a second as planned; residents may slow it
    free = simulate(cluster, long, slo, LateThresholds(replace(rule, deadline_s=0.0))).requests
    assert (free[free.deflected].prefill_s > 2.0).any()

"""Stage 1 over several kinds of instances and SLO classes: optimal, consistent, honest, and good in simulation."""

from __future__ import annotations

import re
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmodel.errors import InfeasibleError, InputError
from qmodel.optimization import derive_plan, static_split
from qmodel.optimization.chunks import CHUNKS
from qmodel.optimization.pool_search import bound_at, solve_at, solve_pools
from qmodel.optimization.pools import ClassLoad, decode_rates, pool_problem
from qmodel.policies import Disaggregated, Kairos, Thresholds
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.scenario.cluster import InstanceGroup
from qmodel.simulation import simulate


def faster(calibration, factor):
    """Return laws of a GPU that is `factor` times as fast."""
    laws = {name: replace(getattr(calibration, name), gain=1 / factor) for name in ("step", "prefill")}
    return replace(calibration, gpu=f"x{factor:g}", **laws)


def groups(*pairs):
    return tuple(InstanceGroup(count=n, calibration=c) for n, c in pairs)


@pytest.fixture(scope="module")
def mixed(calibration):
    quick = faster(calibration, 2.0)
    pools = groups((1, calibration), (1, quick))
    return Cluster(prefill=pools, decode=pools, calibration=calibration)


@pytest.fixture(scope="module")
def problem(mixed, prompts, slo):
    return pool_problem(mixed, [ClassLoad(workload=prompts, slo=slo)], prompts, CHUNKS)


@pytest.fixture(scope="module")
def solution(problem):
    return solve_pools(problem)


def test_shares_keep_every_constraint(problem, solution):
    x = solution.shares
    assert x.sum(axis=0) == pytest.approx(np.ones(x.shape[1]))
    rows, limits = problem.rows(solution.waits_s)
    assert np.all(rows @ x.ravel() <= limits + 1e-6 * np.maximum(np.abs(limits), 1))
    assert len(problem.row_names) == len(limits)
    assert np.all(problem.waits_s(x) <= solution.waits_s * (1 + 1e-5))


def test_the_program_is_held_to_cvxpy(problem, solution):
    rows, limits = problem.rows(solution.waits_s)
    cost = problem.cost_of(solution.waits_s)
    pools, n = len(problem.pools), len(problem.rate_per_s)
    x = cp.Variable((pools, n), nonneg=True)
    flat = cp.hstack([x[g] for g in range(pools)])
    scale = np.abs(rows).max(axis=1)
    usable = np.array([pool.usable for pool in problem.pools], dtype=float)
    limit = [rows / scale[:, None] @ flat <= limits / scale, cp.sum(x, axis=0) == 1, x <= usable]
    reference = cp.Problem(cp.Minimize(cost @ flat), limit)
    reference.solve(solver="CLARABEL")
    assert solution.cost == pytest.approx(reference.value, rel=1e-5)
    # Duals are not unique, but each optimal set gives the value as a bound from below.
    assert bound_at(problem, solution.waits_s, solution.duals[None]) == pytest.approx(solution.cost, rel=1e-6)


def test_duals_bound_the_programs_at_other_waits(problem, solution):
    rng, tight = np.random.default_rng(4), []
    for _ in range(40):
        waits = solution.waits_s * np.exp(rng.normal(0, 0.7, len(solution.waits_s)))
        found = solve_at(problem, waits)
        bound = bound_at(problem, waits, np.stack([0 * solution.duals, solution.duals]))
        if found is not None:
            assert bound <= found[0] * (1 + 1e-9)
            tight.append(bound > 0.9 * found[0])
    assert sum(tight) > 10
    assert bound_at(problem, solution.waits_s, np.empty((0, len(solution.duals)))) == -np.inf


def test_search_is_optimal_on_a_grid_of_waits(problem, solution):
    best = np.inf
    for prefill in solution.waits_s[1] * np.geomspace(0.2, 5, 7):
        for decode in solution.waits_s[3] * np.geomspace(0.2, 5, 7):
            for other in (0.1, 1.0, 10.0):
                waits = np.array([solution.waits_s[0] * other, prefill, solution.waits_s[2] * other, decode])
                found = solve_at(problem, waits)
                best = min(best, np.inf if found is None else found[0])
    assert solution.cost <= best * 1.01


def test_no_random_shares_are_better(problem, solution):
    rng = np.random.default_rng(1)
    raw = rng.dirichlet([0.3] * len(problem.pools), size=(5000, len(problem.rate_per_s))).transpose(0, 2, 1)
    assert float(problem.cost(raw).min()) >= solution.cost * (1 - 1e-3)
    assert float(problem.cost(solution.shares)) == pytest.approx(solution.cost, rel=2e-3)


def test_one_kind_of_instance_costs_no_more_when_cut_in_two(calibration, cluster, prompts, slo):
    # Two pools may also sort prompts by size between them, so they cost at most as much as one.
    twin = replace(calibration, kv_capacity_tokens=calibration.kv_capacity_tokens - 1)
    halves = groups((1, calibration), (1, twin))
    two = Cluster(prefill=halves, decode=halves, calibration=calibration)
    classes = [ClassLoad(workload=prompts, slo=slo)]
    one, cut = (solve_pools(pool_problem(c, classes, prompts, CHUNKS)) for c in (cluster, two))
    assert cut.cost <= one.cost * (1 + 1e-3)
    plain = static_split(cluster, prompts, slo)
    again = pool_problem(cluster, classes, prompts, CHUNKS, slowdowns={"decode a100": plain.problem.slowdown})
    assert solve_pools(again).cost == pytest.approx(plain.cost, rel=5e-3)


def test_decode_instances_hold_equal_batches(calibration, prompts):
    quick = faster(calibration, 2.0)
    rates = decode_rates([calibration, quick, quick], 30.0, prompts)
    assert rates.sum() == pytest.approx(30.0)
    assert rates[1] == pytest.approx(rates[2])
    assert rates[1] == pytest.approx(2 * rates[0], rel=1e-6)
    assert decode_rates([calibration] * 3, 30.0, prompts) == pytest.approx([10.0] * 3)


def test_faster_instances_are_worth_more(mixed, prompts, slo):
    split = static_split(mixed, prompts, slo)
    prices = {price.resource: price.mean_ttft_s for price in split.pools.prices}
    assert prices["x2 prefill instance"] >= prices["a100 prefill instance"] >= -1e-6
    assert all(price.sentence for price in split.pools.prices)


def test_weights_move_the_split_towards_those_who_matter(cluster):
    rng = np.random.default_rng(3)
    count = 4000
    prompt = np.where(rng.random(count) < 0.5, 300, 3000)
    requests = Requests.from_arrays(np.sort(rng.random(count)) * 120, prompt, 100, 0, (prompt == 3000).astype(int))
    workload = Workload.from_requests(requests, "two classes").at_load(0.9, cluster)
    wait = {}
    for weight in (0.1, 1.0, 10.0):
        split = static_split(cluster, workload, [SLO(ttft_s=0.5, weight=weight), SLO(ttft_s=5.0)])
        data, solution = split.pools.problem, split.pools.solution
        waits = solution.waits_s @ solution.shares + sum(
            x * (np.where(pool.usable, pool.service_s, 0.0) + pool.after_s)
            for x, pool in zip(solution.shares, data.pools, strict=True)
        )
        short = data.of_class == 0
        wait[weight] = float(waits[short] @ data.rate_per_s[short]) / float(data.rate_per_s[short].sum())
    assert wait[10.0] <= wait[1.0] * 1.001
    assert wait[1.0] <= wait[0.1] * 1.001


def test_classes_without_objectives_are_refused(cluster):
    requests = Requests.from_arrays([0.0, 1.0, 2.0], 100, 10, 0, [0, 2, 1])
    with pytest.raises(InputError, match="SLO classes"):
        static_split(cluster, Workload.from_requests(requests, "three"), [SLO(), SLO(ttft_s=2.0)])


@settings(max_examples=4, deadline=None)
@given(
    speeds=st.tuples(st.floats(0.5, 3.0), st.floats(0.5, 3.0)),
    counts=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    rate=st.floats(1.0, 60.0),
    ttft_s=st.floats(1e-3, 2.0),
    tbt_s=st.floats(2e-3, 0.2),
)
def test_nearest_feasible_slo_is_feasible_on_mixed_clusters(calibration, prompts, speeds, counts, rate, ttft_s, tbt_s):
    kinds = groups(*((n, faster(calibration, speed)) for n, speed in zip(counts, speeds, strict=True)))
    cluster = Cluster(prefill=kinds, decode=kinds[::-1], calibration=calibration)
    load, slo = replace(prompts, rate_per_s=rate), SLO(ttft_s=ttft_s, tbt_s=tbt_s)
    for _ in range(4):  # both limits, then the pools' capacity, then the state that the new limit leads to
        try:
            static_split(cluster, load, slo)
        except InfeasibleError as refused:
            assert refused.exit_code == 1
            lower = re.search(r"rate to ([\d.e+-]+)/s", refused.remedy)
            if lower:
                load = replace(load, rate_per_s=float(lower[1]))
                continue
            given = dict(re.findall(r"(ttft|tbt)_slo >= ([\d.e+]+)ms", refused.remedy))
            assert given, refused.remedy
            slo = replace(slo, **{f"{name}_s": float(value) * 1e-3 for name, value in given.items()})
        else:
            return
    pytest.fail(f"still infeasible at {slo}")


def test_overload_names_the_pool_that_binds(mixed, prompts):
    with pytest.raises(InfeasibleError, match=r"exceeded by [\d.e+]+%") as refused:
        static_split(mixed, replace(prompts, rate_per_s=500.0), SLO(ttft_s=1.0, tbt_s=0.1))
    assert re.search(r"(load|step|cache) of (prefill|decode) (a100|x2)", refused.value.remedy)


@pytest.mark.parametrize("load", [1.0, 1.1])
def test_plans_of_mixed_clusters_win_in_simulation(mixed, load):
    workload, slo = Workload.builtin("azure-conv").at_load(load, mixed), SLO()
    plan = derive_plan(mixed, workload, slo)
    assert len(plan.split["pools"]) == 4
    for seed in range(2):
        requests = workload.requests(seed=seed, count=5000)
        mine, dispatch, never, kairos = (
            simulate(mixed, requests, slo, policy)
            for policy in (plan, Thresholds(plan.dispatch_rule), Disaggregated(), Kairos())
        )
        assert mine.ttft_s(0.95) < 0.8 * never.ttft_s(0.95)
        assert mine.ttft_s(0.95) < kairos.ttft_s(0.95)
        assert dispatch.ttft_s(0.95) < never.ttft_s(0.95)
        assert mine.tbt_attainment >= kairos.tbt_attainment - 0.002


@pytest.mark.parametrize("binding", ["late", "dispatch"])
def test_tables_by_kind_beat_those_of_a_mean_instance(calibration, binding):
    decode = groups((1, calibration), (1, faster(calibration, 2.0)))
    target, slo = Cluster(prefill=2, decode=decode, calibration=calibration), SLO()
    workload = Workload.builtin("azure-conv").at_load(0.9, target)
    rule = derive_plan(target, workload, slo, binding=binding).rule
    assert rule.kind_of == (0, 1)
    mean = replace(rule, kinds=(), kind_of=())
    for seed in range(3):
        runs = [simulate(target, workload, slo, policy, seed=seed, requests=5000) for policy in (rule, mean)]
        assert runs[0].ttft_s(0.95) < 0.95 * runs[1].ttft_s(0.95)
        assert runs[0].tbt_attainment >= runs[1].tbt_attainment


def test_tables_of_a_kind_are_those_of_a_cluster_of_that_kind(mixed, prompts, slo):
    rule = derive_plan(mixed, prompts, slo).dispatch_rule
    for place, calibration in enumerate(mixed.decode_calibrations):
        alone = Cluster(prefill=mixed.prefill, decode=2, calibration=calibration)
        one, of = derive_plan(alone, prompts, slo).dispatch_rule, rule.tables_of(place)
        for name in ("contexts", "host_s", "harm_s", "step_s"):
            np.testing.assert_array_equal(getattr(of, name), getattr(one, name))


def test_groups_of_equal_instances_are_one_kind(calibration, prompts, slo):
    apart = Cluster(prefill=2, decode=groups((1, calibration), (1, calibration)), calibration=calibration)
    plans = [derive_plan(c, prompts, slo) for c in (apart, Cluster(prefill=2, decode=2, calibration=calibration))]
    assert plans[0].to_dict() == plans[1].to_dict()
    assert plans[0].to_dict()["decode_kinds"] is None
    assert "kinds" not in plans[0].thresholds


def test_plans_for_two_classes_win_in_simulation(cluster):
    base = Workload.builtin("azure-conv").at_load(0.9, cluster).requests(seed=0, count=8000)
    chat = (base.prompt_tokens < 1500).astype(int)
    slos = [SLO(ttft_s=5.0, tbt_s=0.1), SLO(ttft_s=0.5, tbt_s=0.06, weight=3.0)]
    requests = replace(base, slo_class=chat)
    plan = derive_plan(cluster, Workload.from_requests(requests, "two classes"), slos)
    assert plan.slo == SLO(ttft_s=0.5, tbt_s=0.06)
    assert set(plan.split["slo_class"]) == {0, 1}
    mine, kairos, never = (simulate(cluster, requests, slos, p) for p in (plan, Kairos(), Disaggregated()))
    assert mine.slo_attainment > kairos.slo_attainment
    assert mine.slo_attainment > never.slo_attainment
    assert mine.tbt_attainment >= kairos.tbt_attainment - 0.002

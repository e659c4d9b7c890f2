"""Stage 1: the linear program, its outer search, its duals and its refusals."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmodel.errors import InfeasibleError
from qmodel.optimization import static_split
from qmodel.optimization.bins import prompt_bins, weighted_quantile
from qmodel.optimization.chunks import CHUNKS
from qmodel.optimization.problem import MAX_LOAD, ROW_NAMES, split_problem
from qmodel.optimization.program import DIRECT, BoxProgram, Status, solve_box_lp, solve_elastic
from qmodel.optimization.shadow import shadow_prices
from qmodel.scenario import SLO


@pytest.fixture(scope="module")
def split(cluster, prompts, slo):
    return static_split(cluster, prompts, slo)


def test_bins_keep_the_moments_of_the_work(cluster, prompts):
    bins = prompt_bins(cluster, prompts)
    work = np.asarray(cluster.work_s(prompts.prompt))
    share = bins.rate_per_s / prompts.rate_per_s
    assert share.sum() == pytest.approx(1)
    assert share @ bins.work_s == pytest.approx(work.mean(), rel=1e-12)
    assert share @ bins.work2_s2 == pytest.approx((work**2).mean(), rel=1e-12)
    assert np.all(np.diff(bins.work_s) > 0)


def test_bins_of_one_length(cluster, prompts):
    one = replace(prompts, prompt=np.array([500.0]), output=np.array([10.0]), weights=np.array([1.0]))
    bins = prompt_bins(cluster, one)
    assert len(bins) == 1
    assert bins.work_s[0] == pytest.approx(cluster.work_s(500.0))


def test_weighted_quantile_is_a_point():
    assert weighted_quantile([3, 1, 2], [1, 1, 1], 0.5) == 2
    assert weighted_quantile([3, 1, 2], [0.1, 0.8, 0.1], 0.8) == 1


def test_textbook_knapsack_with_primal_and_dual():
    # max 3x + 2y, 2x + 3y <= 3: x = 1, y = 1/3, dual = 2/3 per unit of the limit (value 11/3).
    program = BoxProgram(
        cost=np.array([-3.0, -2.0]), rows=np.array([[2.0, 3.0]]), limits=np.array([3.0]), lower=np.zeros(2)
    )
    for solver in (DIRECT, "CLARABEL", "HIGHS"):
        solution = solve_box_lp(program, solver)
        assert solution.status is Status.OPTIMAL
        assert solution.value == pytest.approx(-11 / 3, rel=1e-6)
        assert solution.z == pytest.approx([1, 1 / 3], abs=1e-6)
        assert solution.duals == pytest.approx([2 / 3], abs=1e-6)


def test_infeasible_program_says_so_and_is_relaxed_by_the_least():
    program = BoxProgram(
        cost=np.ones(2), rows=np.array([[-1.0, -1.0], [1.0, 0.0]]), limits=np.array([-2.5, 1.0]), lower=np.zeros(2)
    )
    assert solve_box_lp(program).status is Status.INFEASIBLE
    z, relaxed = solve_elastic(program, np.ones(2))
    assert z == pytest.approx([1, 1], abs=1e-5)
    assert relaxed == pytest.approx([0.5, 0.0], abs=1e-5)


def test_split_keeps_its_constraints(split):
    problem = split.problem
    program, _ = problem.program(split.wait_prefill_s, split.wait_decode_s)
    assert np.all(program.rows @ split.kept <= program.limits + 1e-6 * program.scale)
    assert 0 <= split.load_prefill <= MAX_LOAD
    assert 0 <= split.load_decode <= MAX_LOAD
    wP, wD = problem.waits_s(split.kept)
    assert wP <= split.wait_prefill_s * (1 + 1e-5)
    assert wD <= split.wait_decode_s * (1 + 1e-5)


def test_value_is_the_cost_of_the_shares(split):
    assert split.cost == pytest.approx(float(split.problem.cost(split.kept)), rel=2e-3)
    assert split.cost >= float(split.problem.cost(split.kept)) * (1 - 1e-6)


def test_outer_search_is_optimal_on_a_grid(split):
    best = np.inf
    for wP in split.wait_prefill_s * np.geomspace(0.05, 20, 15):
        for wD in split.wait_decode_s * np.geomspace(0.05, 20, 15):
            program, constant = split.problem.program(wP, wD)
            best = min(best, constant + solve_box_lp(program, "HIGHS").value)
    assert split.cost <= best * 1.002


def test_split_beats_random_shares(split):
    rng = np.random.default_rng(0)
    n = len(split.kept)
    random = rng.random((20_000, n))
    whole = (rng.random((20_000, n)) < 0.5).astype(float)
    assert float(np.min(split.problem.cost(np.concatenate([random, whole])))) >= split.cost * (1 - 1e-3)


@pytest.mark.parametrize("solver", ["CLARABEL", "HIGHS"])
def test_second_solver_agrees(cluster, prompts, slo, split, solver):
    other = static_split(cluster, prompts, slo, solver=solver)
    assert other.cost == pytest.approx(split.cost, rel=1e-3)
    assert other.load_prefill == pytest.approx(split.load_prefill, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(waits=st.tuples(st.floats(1e-3, 10.0), st.floats(1e-3, 10.0)), rate=st.floats(5.0, 45.0))
def test_the_direct_solver_is_held_to_cvxpy(cluster, prompts, slo, waits, rate):
    law = prompt_bins(cluster, replace(prompts, rate_per_s=rate))
    problem = split_problem(cluster, law, replace(prompts, rate_per_s=rate), slo, CHUNKS)
    program, _ = problem.program(*waits)
    mine, reference = solve_box_lp(program, DIRECT), solve_box_lp(program, "CLARABEL")
    assert mine.status is reference.status
    if mine.status is Status.OPTIMAL:
        assert mine.value == pytest.approx(reference.value, rel=1e-5, abs=1e-6 * np.abs(program.cost).sum())
        # Duals of degenerate rows are not unique, but every optimal set gives the same bound.
        box = np.minimum(program.cost + mine.duals @ program.rows, 0.0) + program.lower * np.maximum(
            program.cost + mine.duals @ program.rows, 0.0
        )
        assert box.sum() - mine.duals @ program.limits == pytest.approx(mine.value, rel=1e-6, abs=1e-9)


def test_few_fractional_bins(split):
    fractional = np.sum((split.kept > 1e-4) & (split.kept < 1 - 1e-4))
    assert fractional <= 2 + len(split.binding)


def test_duals_are_stage_two_prices(split):
    # mu_P = sum(lam*z)/(2*(1 - rho_P)) = k*g_P
    assert split.duals["prefill_wait"] == pytest.approx(
        split.problem.prefill * split.rate_prefill_per_s / (2 * (1 - split.load_prefill))
    )
    assert all(value >= 0 for value in split.duals.values())


def test_fractional_bins_have_no_reduced_cost(cluster, prompts, slo):
    found = 0
    for rate in (20.0, 28.0, 36.0, 40.0, 44.0):
        split = static_split(cluster, replace(prompts, rate_per_s=rate), slo)
        free = (split.kept > 0.01) & (split.kept < 0.99)
        program, _ = split.problem.program(split.wait_prefill_s, split.wait_decode_s)
        reduced = program.cost + solve_box_lp(program, "HIGHS").duals @ program.rows
        found += int(free.sum())
        assert np.all(np.abs(reduced[free]) <= 1e-5 * np.abs(program.cost).max())
    assert found


def test_shadow_prices_are_derivatives(cluster, prompts, slo, split):
    prices = {p.resource: p.mean_ttft_s for p in shadow_prices(cluster, prompts, slo, split, CHUNKS)}
    rate = prompts.rate_per_s

    def cost(**changes):
        law = prompt_bins(changes.pop("cluster", cluster), prompts)
        problem = split_problem(cluster, law, prompts, slo, CHUNKS, split.problem.slowdown, changes.pop("decode", None))
        return float(replace(problem, **changes).cost(split.kept))

    eps = 1e-4
    prefill = (cost(prefill=2 - eps) - cost(prefill=2 + eps)) / (2 * eps) / rate
    decode = (cost(decode=2 - eps) - cost(decode=2 + eps)) / (2 * eps) / rate
    faster, slower = (cluster.with_(bandwidth_gb_s=25 + sign * 0.1) for sign in (1, -1))
    bandwidth = (cost(cluster=slower) - cost(cluster=faster)) / 0.2 / rate
    assert prices["prefill instance"] == pytest.approx(prefill, rel=0.02)
    assert prices["decode instance"] == pytest.approx(decode, rel=0.05)
    assert prices["bandwidth"] == pytest.approx(bandwidth, rel=0.02)
    assert prices["TBT SLO"] >= 0


def test_shadow_prices_where_a_few_lengths_hold_most_of_the_work(cluster, prompts, slo):
    lengths = np.concatenate([np.arange(50.0, 90.0), [9_000.0, 30_000.0]])
    heavy = replace(prompts, prompt=lengths, output=np.full(42, 10.0), weights=np.full(42, 1 / 42), rate_per_s=1.0)
    bins = prompt_bins(cluster, heavy)
    assert len(prompt_bins(cluster, heavy, len(bins))) < len(bins)  # as many as there are is not as many as were asked
    split = static_split(cluster, heavy, slo)
    assert all(np.isfinite(p.mean_ttft_s) for p in shadow_prices(cluster, heavy, slo, split, CHUNKS))


def test_low_load_deflects_nothing(cluster, prompts, slo):
    split = static_split(cluster, replace(prompts, rate_per_s=0.01), slo)
    assert split.deflected_share < 0.01


def test_cost_rises_with_the_rate(cluster, prompts, slo):
    costs = [static_split(cluster, replace(prompts, rate_per_s=r), slo).cost / r for r in (5.0, 15.0, 25.0, 35.0)]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("limits", "name"), [((0.001, 0.06), "TTFT SLO"), ((1.0, 0.001), "TBT SLO"), ((1e-4, 1e-4), "TTFT SLO")]
)
def test_slo_below_the_empty_cluster(cluster, prompts, limits, name):
    with pytest.raises(InfeasibleError) as refused:
        static_split(cluster, prompts, SLO(ttft_s=limits[0], tbt_s=limits[1]))
    assert refused.value.what == name
    assert refused.value.exit_code == 1
    static_split(cluster, prompts, nearest(refused.value, SLO(ttft_s=limits[0], tbt_s=limits[1])))


def nearest(error, slo):
    """The SLO that an infeasible plan's message offers."""
    given = dict(re.findall(r"(ttft|tbt)_slo >= ([\d.e+]+)ms", error.remedy))
    assert given
    return replace(slo, **{f"{name}_s": float(value) * 1e-3 for name, value in given.items()})


@settings(max_examples=15, deadline=None)
@given(
    ttft_s=st.floats(1e-5, 2.0),
    tbt_s=st.floats(1e-4, 0.2),
    rate=st.floats(0.5, 30.0),
)
def test_nearest_feasible_slo_is_feasible(cluster, prompts, ttft_s, tbt_s, rate):
    slo, load = SLO(ttft_s=ttft_s, tbt_s=tbt_s), replace(prompts, rate_per_s=rate)
    for _ in range(3):  # at most: both limits, then the pools' capacity
        try:
            static_split(cluster, load, slo)
        except InfeasibleError as refused:
            slo = nearest(refused, slo)
        else:
            return
    pytest.fail(f"still infeasible at {slo}")


def test_overload_that_no_slo_mends_names_a_rate(cluster, prompts, slo):
    with pytest.raises(InfeasibleError, match="lower the rate to") as refused:
        static_split(cluster, replace(prompts, rate_per_s=120.0), SLO(ttft_s=1.0, tbt_s=1.0))
    rate = float(re.search(r"rate to ([\d.]+)/s", refused.value.remedy)[1])
    static_split(cluster, replace(prompts, rate_per_s=rate), SLO(ttft_s=1.0, tbt_s=1.0))


def test_mild_overload_is_not_infeasible(cluster, prompts, slo):
    work = float(np.mean(np.asarray(cluster.work_s(prompts.prompt))))
    split = static_split(cluster, replace(prompts, rate_per_s=1.05 * 2 / work), slo)
    assert split.load_prefill < 1
    assert split.deflected_share > 0.1


def test_row_names_match_the_rows(split):
    program, _ = split.problem.program(1.0, 1.0)
    assert len(program.limits) == len(ROW_NAMES)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_duals_of_similar_programs_bound_the_optimum_from_below(seed):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    lower = rng.integers(0, 2, n) * rng.random(n)
    rows, cost = rng.normal(size=(m, n)), rng.normal(size=n)
    limits = rows @ (lower + (1 - lower) * rng.random(n)) + 0.1 * rng.random(m)  # so that there is a solution
    program = BoxProgram(cost=cost, rows=rows, limits=limits, lower=lower)
    near = replace(program, rows=rows * (1 + 0.05 * rng.normal(size=(m, n))))
    found, other = solve_box_lp(program), solve_box_lp(near)
    assert program.bound(np.empty((0, m))) == -np.inf
    prices = [found.duals] + ([other.duals] if other.status is Status.OPTIMAL else [])
    assert program.bound(found.duals[None]) == pytest.approx(found.value, rel=1e-6, abs=1e-7)
    assert program.bound(np.array([*prices, rng.random(m)])) <= found.value + 1e-7 * (1 + abs(found.value))


def test_bounds_spare_solves_and_change_nothing(cluster, prompts, slo, monkeypatch):
    found = static_split(cluster, prompts, slo)
    monkeypatch.setattr(BoxProgram, "bound", lambda self, duals: -np.inf)
    plain = static_split(cluster, prompts, slo)
    assert np.array_equal(found.kept, plain.kept)
    assert found.cost == plain.cost
    assert found.solves < 0.8 * plain.solves

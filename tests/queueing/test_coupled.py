"""The coupled path: against exact queues, independent simulation and its own Python source."""

import math
from dataclasses import replace

import numpy as np
import pytest

from qmodel._kernels.queueing_lanes import count_lanes, fcfs_lanes, look_up, mean_by_rank, unlimited_lanes
from qmodel._kernels.queueing_paths import balking_path
from qmodel.errors import InputError
from qmodel.queueing import ServiceTime, kiefer_wolfowitz, mgk
from qmodel.queueing.controls import LANES, Start, controls_of, exponential_table, service_table
from qmodel.queueing.coupled import GRID_ERROR, STANDARD_ERRORS, blended, solve_coupled
from qmodel.queueing.sampling import Choice, regressed
from qmodel.queueing.traits import law_facts

H2 = ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5])
FAR_APART = ServiceTime.from_samples([0.6, 9.0], [0.95, 0.05])


@pytest.mark.parametrize("law", [H2, ServiceTime.deterministic(1.0), ServiceTime.erlang(2, 1.0)], ids=lambda x: x.name)
@pytest.mark.parametrize(("servers", "load"), [(2, 0.9), (3, 0.6), (8, 0.85)])
def test_exact_queues_are_within_the_error_estimate(law, servers, load):
    rate = load * servers / law.mean_s
    exact, path = mgk(rate, servers, law), solve_coupled(rate, servers, law, last_arrivals=1 << 19)
    assert exact.exact
    errors = path.error_estimate
    assert max(errors.values()) < 0.06
    assert path.mean_wait_s == pytest.approx(exact.mean_wait_s, rel=1.2 * errors["mean"])
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        assert path.wait_quantile_s(q) == pytest.approx(exact.wait_quantile_s(q), rel=1.2 * errors[name])


@pytest.mark.parametrize(("servers", "load", "gain"), [(2, 0.95, 8), (8, 0.8, 2), (12, 0.5, 1.8)])
def test_the_coupling_saves_most_of_the_noise(servers, load, gain):
    count = 1 << 17
    waits = kiefer_wolfowitz(*arrivals(FAR_APART, servers, load, 16 * count, seed=1), servers)
    plain = waits.reshape(32, -1).mean(axis=1).std() / math.sqrt(2) / waits.mean()  # of 131,072 arrivals
    rate = load * servers / FAR_APART.mean_s
    path = solve_coupled(rate, servers, FAR_APART, first_arrivals=count, last_arrivals=count)
    assert (path.error_estimate["mean"] - GRID_ERROR) / STANDARD_ERRORS < plain / gain


@pytest.mark.parametrize(
    ("law", "servers", "load"),
    [
        (ServiceTime.from_samples([0.35, 0.36, 1.5], [0.2, 0.2, 0.6]), 8, 0.94),
        (FAR_APART, 3, 0.9),
        (ServiceTime.lognormal(1.0, 4.0, upper_s=30.0), 6, 0.7),
    ],
)
def test_paths_start_near_their_steady_state(law, servers, load):
    # Half the arrivals of a short path are within 2,000 of its start: a wrong start shows against long ones.
    rate = load * servers / law.mean_s
    long = solve_coupled(rate, servers, law, first_arrivals=1 << 21, last_arrivals=1 << 21, seed=5)
    short = [solve_coupled(rate, servers, law, last_arrivals=1 << 17, seed=s).mean_wait_s for s in range(8)]
    noise = np.std(short) / math.sqrt(8) + long.mean_wait_s * long.error_estimate["mean"] / 2.5
    assert np.mean(short) == pytest.approx(long.mean_wait_s, abs=3 * noise)


def arrivals(law, servers, load, count, seed):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.exponential(law.mean_s / (load * servers), count)), law.sample(count, rng)


@pytest.mark.parametrize("servers", [2, 6])
@pytest.mark.parametrize(
    "law",
    [
        FAR_APART,
        ServiceTime.from_samples([0.1, 4.6], [0.8, 0.2]),
        ServiceTime.from_samples(0.4 * (1 - (np.arange(400) + 0.5) / 400 * (1 - 60**-1.5)) ** (-1 / 1.5)),
    ],
    ids=["0.6 or 9", "0.1 or 4.6", "bounded Pareto"],
)
def test_laws_unlike_any_solvable_one(law, servers):
    load = 0.7
    metrics = mgk(load * servers / law.mean_s, servers, law)
    waits = kiefer_wolfowitz(*arrivals(law, servers, load, 3_000_000, seed=servers), servers).reshape(30, -1)
    noise = waits.mean(axis=1).std() / math.sqrt(30) / waits.mean()
    assert metrics.mean_wait_s == pytest.approx(waits.mean(), rel=0.01 + 2 * noise)
    for q in (0.95, 0.99):
        assert metrics.wait_quantile_s(q) == pytest.approx(np.quantile(waits, q), rel=0.02 + 4 * noise)


def test_only_queues_unlike_any_learnt_from_follow_a_path():
    for law in (ServiceTime.lognormal(1.0, 1.5, upper_s=12.0), FAR_APART):
        for servers in (2, 8):
            metrics = mgk(0.8 * servers * 0.99 / law.mean_s, servers, law)
            assert "path" not in metrics.method
            assert metrics.error_estimate["mean"] < 0.01
    # SCV 990 is none of them.
    wild = ServiceTime.from_samples([1.0, 1e4], [1 - 1e-5, 1e-5])
    rate = 0.6 * 3 / wild.mean_s
    analytic, both = mgk(rate, 3, wild, "analytic"), mgk(rate, 3, wild)
    assert "path" not in analytic.method
    assert analytic.error_estimate["mean"] >= 0.05
    assert "path" in both.method


def test_answers_repeat():
    one, two = (solve_coupled(1.2, 2, FAR_APART.scaled(1 / FAR_APART.mean_s), last_arrivals=1 << 18) for _ in range(2))
    assert one.mean_wait_s == two.mean_wait_s
    assert one.wait_quantile_s(0.99) == two.wait_quantile_s(0.99)


def test_a_path_without_waits_claims_nothing():
    metrics = solve_coupled(0.16, 16, ServiceTime.gamma(1.0, 0.4), last_arrivals=1 << 18)
    assert metrics.mean_wait_s == 0.0
    assert metrics.error_estimate["mean"] > 1.0
    assert metrics.wait_quantile_s(0.99) == 0.0


def test_blends_lean_to_the_better_answer():
    law = ServiceTime.gamma(1.0, 0.4)
    first, second = mgk(1.4, 2, law, "analytic"), solve_coupled(1.4, 2, law, last_arrivals=1 << 18)
    both = blended(first, second)
    low, high = sorted((first.mean_wait_s, second.mean_wait_s))
    assert low <= both.mean_wait_s <= high
    for name, error in both.error_estimate.items():
        assert error < min(first.error_estimate[name], second.error_estimate[name])


def test_choice_draws_its_law():
    choice = Choice(np.array([1.0, 2.0, 7.0]), np.array([0.5, 0.499, 0.001]))
    drawn = choice.sample(400_000, np.random.default_rng(3))
    assert (drawn == 1.0).mean() == pytest.approx(0.5, abs=0.004)
    assert (drawn == 7.0).mean() == pytest.approx(0.001, rel=0.2)


@pytest.mark.parametrize("servers", [1, 3])
def test_kernels_are_their_python_source(servers):
    rng = np.random.default_rng(5)
    gaps, ranks = rng.exponential(1.0 / servers, 300), rng.random(300)
    choice = Choice(np.array([0.5, 1.5]), np.array([0.6, 0.4]))
    found = []
    for balking in (balking_path, balking_path.py_func):
        fine, coarse = np.zeros(30), np.zeros(10)
        law, limits = (choice.cumulative, choice.first), np.array([1.0, 0.3])
        ends = balking(gaps, ranks, law, choice.values, limits, np.zeros(servers), 0.0, (1.0, 29.0, 5.0), fine, coarse)
        found.append([fine, coarse, ends])
    for compiled, plain in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-12)
    assert found[0][0].sum() + found[0][1].sum() == 300


@pytest.mark.parametrize("servers", [1, 3])
def test_lanes_are_queues_side_by_side(servers):
    rng = np.random.default_rng(7)
    gaps, works = rng.exponential(1.0, (80, 6)), rng.exponential(0.9 * servers, (80, 6))
    waits, longest = np.empty_like(gaps), np.empty_like(gaps)
    fcfs_lanes(gaps, works, np.zeros((servers, 6)), waits)
    unlimited_lanes(gaps, works, np.zeros((servers, 6)), longest)
    for lane in range(6):
        arrival = np.cumsum(gaps[:, lane])
        want = kiefer_wolfowitz(arrival, works[:, lane], servers, free_at_s=np.zeros(servers))
        np.testing.assert_allclose(waits[:, lane], want, atol=1e-12)
        left = np.maximum((arrival + works[:, lane])[None, :] - arrival[:, None], 0.0) * np.tri(80, k=-1)
        np.testing.assert_allclose(longest[:, lane], np.sort(left, axis=1)[:, -servers], atol=1e-12)
    assert np.all(longest <= waits + 1e-12)


def test_lane_kernels_are_their_python_source():
    rng = np.random.default_rng(9)
    gaps, ranks = rng.exponential(1.0, (40, 4)), rng.integers(0, 1 << 16, (40, 4), dtype=np.uint16)
    found = []
    for source in (lambda f: f, lambda f: f.py_func):
        table, works, waits = np.empty(1 << 16), np.empty((40, 4)), np.empty((40, 4))
        source(mean_by_rank)(np.array([0.0, 0.3, 1.0]), np.array([0.0, 0.1, 2.0]), table)
        source(look_up)(ranks, table, 1.5, works)
        free, counts, sums = np.zeros((2, 4)), np.zeros((2, 20), np.int32), np.zeros(2)
        source(fcfs_lanes)(gaps, works, free, waits)
        source(count_lanes)(waits, 2.0, counts, sums)
        source(unlimited_lanes)(gaps, works, free, waits)
        found.append([table, works, waits, free, counts, sums])
    for compiled, plain in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-12)
    assert found[0][4].sum() == 160


@pytest.mark.parametrize(
    "law",
    [FAR_APART, H2, ServiceTime.gamma(1.0, 0.3), ServiceTime.lognormal(1.0, 4.0, upper_s=30.0)],
    ids=lambda x: x.name,
)
def test_tables_of_ranks_have_their_law(law):
    table = service_table(law)
    assert np.all(np.diff(table) >= -1e-9)
    assert table.mean() == pytest.approx(law.mean_s, rel=1e-9)
    assert (table**2).mean() == pytest.approx(law.moment(2), rel=2e-3)
    for t in (0.4, 0.7, 3.0):
        assert (table > t).mean() == pytest.approx(float(law.tail(t)), abs=2e-3)
    gaps = exponential_table()
    assert (gaps.mean(), (gaps**2).mean()) == pytest.approx((1.0, 2.0), rel=1e-4)


def test_states_to_start_from_go_beyond_the_table_of_a_law():
    law = ServiceTime.from_samples([0.0, 0.76547969, 3.07381509], [0.35, 0.43, 0.22])
    law = law.scaled(1 / law.mean_s)
    fast = mgk(0.99, 1, law)
    start = Start(0.99, 1, service_table(law), np.random.default_rng(0))
    levels = (np.arange(LANES) + 0.5) / LANES
    np.testing.assert_allclose(np.sort(start.waits(fast)), [fast.wait_quantile_s(q) for q in levels], rtol=1e-9)


def test_controls_are_what_is_known_of_them():
    law = FAR_APART.scaled(1 / FAR_APART.mean_s)
    rng = np.random.default_rng(2)
    own, controls = controls_of(6.0, 10, law_facts(law), rng)
    assert [control.name for control in controls] == ["M/G/1", "M/H2/10", "M/G/infinity"]
    gaps, ranks = rng.exponential(1 / 6.0, (20_000, 64)), rng.integers(0, 1 << 16, (20_000, 64), dtype=np.uint16)
    own_waits = own.waits(gaps, ranks)
    for control in controls:
        waits = control.queue.waits(gaps, ranks)
        noise = waits.mean(axis=0).std() / 8
        assert waits.mean() == pytest.approx(control.mean, abs=4 * noise)
        for t in (0.05, 0.4):
            beyond = (waits > t).mean(axis=0)
            assert beyond.mean() == pytest.approx(float(control.tail(np.array([t]))[0]), abs=4 * beyond.std() / 8)
        close = np.corrcoef(waits.mean(axis=0), own_waits.mean(axis=0))[0, 1]
        assert close > 0.2


def test_regression_takes_off_what_controls_explain():
    rng = np.random.default_rng(4)
    controls = rng.normal(size=(2, 32, 3))
    own = 5.0 + 2.0 * controls[0] - 3.0 * controls[1] + 0.01 * rng.normal(size=(32, 3))
    mean, error = regressed(own, controls)
    np.testing.assert_allclose(mean, 5.0, atol=0.01)
    assert np.all(error < 0.004)
    twice, _ = regressed(own, np.stack([controls[0], controls[1], controls[1]]))
    np.testing.assert_allclose(twice, mean, atol=0.01)


@pytest.mark.parametrize(("scv", "servers", "load"), [(0.19, 9, 0.52), (0.34, 9, 0.54)])
def test_percentiles_just_above_no_wait_are_right(scv, servers, load):
    # P(W > 0) is 5.6 and 6.7 %: half a per cent of it moves P95 by several.
    law, rate = ServiceTime.gamma(1.0, scv), load * servers
    long = solve_coupled(rate, servers, law, first_arrivals=1 << 22, last_arrivals=1 << 22, seed=8)
    found = mgk(rate, servers, law)
    assert found.wait_probability == pytest.approx(long.wait_probability, rel=0.003)
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        assert found.error_estimate[name] < 0.03
        error = found.error_estimate[name] + long.error_estimate[name]
        assert found.wait_quantile_s(q) == pytest.approx(long.wait_quantile_s(q), rel=error)


def test_a_short_path_knows_that_it_has_not_seen_long_waits():
    # 2,048 arrivals a lane are a fraction of the time in which nine servers at load .95 forget: no lane waited for P99.
    law = FAR_APART.scaled(1 / FAR_APART.mean_s)
    for load in (0.93, 0.94, 0.95):
        short = solve_coupled(9 * load, 9, law, last_arrivals=1 << 17)
        long = solve_coupled(9 * load, 9, law, seed=8)
        for name, q in (("p95", 0.95), ("p99", 0.99)):
            error = short.error_estimate[name] + long.error_estimate[name]
            assert short.error_estimate[name] > long.error_estimate[name]
            assert short.wait_quantile_s(q) == pytest.approx(long.wait_quantile_s(q), rel=error)
    waits = [mgk(9 * load, 9, law).wait_quantile_s(0.99) for load in (0.93, 0.94, 0.95)]
    assert 1.1 < waits[1] / waits[0] < waits[2] / waits[1] < 1.3


@pytest.mark.parametrize("method", ["path", "interpolation"])
def test_more_servers_than_matrices_hold_are_refused(method):
    with pytest.raises(InputError, match="at most 128"):
        mgk(100.0, 129, FAR_APART.scaled(0.5), method)


def test_an_interpolation_that_a_path_refutes_counts_less():
    law = ServiceTime.from_samples([0.34024, 6.39187], [0.89097775, 0.10902225])
    rate = 4 * 0.756 / law.mean_s
    alone, path = mgk(rate, 4, law, "analytic"), solve_coupled(rate, 4, law)
    wrong = replace(
        alone, mean_wait_s=1.05 * path.mean_wait_s, error_estimate={"mean": 0.004, "p95": 0.01, "p99": 0.01}
    )
    best = blended(wrong, path)
    assert path.error_estimate["mean"] < 0.02
    assert best.mean_wait_s / path.mean_wait_s - 1 < 0.25 * 0.05
    assert best.error_estimate["mean"] > path.error_estimate["mean"] / 2

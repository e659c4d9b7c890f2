"""The coupled path: against exact queues, independent simulation and its own Python source."""

import math

import numpy as np
import pytest

from qmodel._kernels.queueing_paths import balking_path, coupled_path
from qmodel.queueing import ServiceTime, kiefer_wolfowitz, mgk
from qmodel.queueing.coupled import Choice, blended, solve_coupled

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


def test_the_coupling_saves_most_of_the_noise():
    waits = kiefer_wolfowitz(*arrivals(FAR_APART, 2, 0.95, 1 << 19, seed=1), 2).reshape(32, -1).mean(axis=1)
    plain = waits.std() / math.sqrt(32) / waits.mean()
    rate = 0.95 * 2 / FAR_APART.mean_s
    path = solve_coupled(rate, 2, FAR_APART, first_arrivals=1 << 19, last_arrivals=1 << 19)
    assert path.error_estimate["mean"] < plain


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
    assert "path" in metrics.method
    waits = kiefer_wolfowitz(*arrivals(law, servers, load, 3_000_000, seed=servers), servers).reshape(30, -1)
    noise = waits.mean(axis=1).std() / math.sqrt(30) / waits.mean()
    assert metrics.mean_wait_s == pytest.approx(waits.mean(), rel=0.01 + 2 * noise)
    for q in (0.95, 0.99):
        assert metrics.wait_quantile_s(q) == pytest.approx(np.quantile(waits, q), rel=0.02 + 4 * noise)


def test_smooth_laws_need_no_path_and_say_so():
    law = ServiceTime.lognormal(1.0, 1.5, upper_s=12.0)
    for servers in (2, 8):
        metrics = mgk(0.8 * servers * 0.99, servers, law)
        assert "path" not in metrics.method
        assert metrics.error_estimate["mean"] < 0.01
    rough = mgk(0.7 * 4 / FAR_APART.mean_s, 4, FAR_APART, "analytic")
    assert "path" not in rough.method
    assert max(rough.error_estimate.values()) > 0.03


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
    gaps, works, ranks = rng.exponential(1.0 / servers, 300), rng.exponential(0.9, 300), rng.random(300)
    choice = Choice(np.array([0.5, 1.5]), np.array([0.6, 0.4]))
    found = []
    for coupled, balking in ((coupled_path, balking_path), (coupled_path.py_func, balking_path.py_func)):
        free, state, sums = np.zeros(servers), np.zeros(2), np.zeros(2)
        own, pooled, fine, coarse = np.zeros(40), np.zeros(40), np.zeros(30), np.zeros(10)
        coupled(gaps, works, free, state, 8.0, own, pooled, sums)
        law, limits = (choice.cumulative, choice.first), np.array([1.0, 0.3])
        ends = balking(gaps, ranks, law, choice.values, limits, np.zeros(servers), 0.0, (1.0, 29.0, 5.0), fine, coarse)
        found.append([free, state, sums, own, pooled, fine, coarse, ends])
    for compiled, plain in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-12)
    assert found[0][3].sum() == found[0][5].sum() + found[0][6].sum() == 300
    if servers == 1:
        np.testing.assert_array_equal(found[0][3], found[0][4])

"""M/G/k against closed forms and simple facts; the reference file is tested elsewhere."""

import math

import numpy as np
import pytest
from scipy.linalg import expm

from qmodel.distributions.phase_type import fit_phase_type
from qmodel.errors import InputError, UnstableError
from qmodel.queueing import ServiceTime, decode_batch, mgk
from qmodel.queueing.matrix import _uniformised, solve_mphk


def erlang_c(k, a):
    blocking = 1.0
    for j in range(1, k + 1):
        blocking = a * blocking / (j + a * blocking)
    return blocking / (1 - a / k * (1 - blocking))


@pytest.mark.parametrize("k", [1, 2, 7, 16])
@pytest.mark.parametrize("rho", [0.3, 0.8, 0.95])
def test_mmk_is_erlang_c(k, rho):
    mean = 0.25
    lam = rho * k / mean
    metrics = mgk(lam, k, ServiceTime.exponential(mean))
    delay = erlang_c(k, rho * k)
    assert metrics.wait_probability == pytest.approx(delay, rel=1e-10)
    assert metrics.mean_wait_s == pytest.approx(delay * mean / (k * (1 - rho)), rel=1e-10)
    times = np.array([0.0, 0.1, 1.0])
    np.testing.assert_allclose(metrics.wait_tail(times), delay * np.exp(-k * (1 - rho) * times / mean), rtol=1e-9)


@pytest.mark.parametrize(
    "service",
    [
        ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5]),
        ServiceTime.hypoexponential(0.3, 0.7),
        ServiceTime.erlang(2, 1.0),
        ServiceTime.deterministic(1.0),
        ServiceTime.from_samples([0.1, 0.5, 4.0], [5, 3, 2]),
        ServiceTime.from_samples([0.6, 1.4]),
    ],
    ids=lambda law: law.name,
)
def test_one_server_is_pollaczek_khinchine(service):
    lam = 0.8 / service.mean_s
    want = lam * service.moment(2) / (2 * (1 - 0.8))
    metrics = mgk(lam, 1, service)
    assert metrics.mean_wait_s == pytest.approx(want, rel=1e-9)
    assert metrics.wait_probability == pytest.approx(0.8, rel=1e-9)


def test_quantiles_invert_the_tail():
    for service in (ServiceTime.deterministic(1.0), ServiceTime.erlang(8, 1.0), ServiceTime.gamma(1.0, 3.0)):
        metrics = mgk(3.4, 4, service)
        for q in (0.5, 0.9, 0.99, 0.9999):
            wait = metrics.wait_quantile_s(q)
            assert float(metrics.wait_cdf(wait)) == pytest.approx(q, rel=1e-6)
        assert metrics.wait_quantile_s(0.01) == 0.0


def test_overload_is_an_error_with_a_remedy():
    with pytest.raises(UnstableError, match=r"load of the queue is 1\.33333; .*at least 5 servers"):
        mgk(4.0, 3, ServiceTime.exponential(1.0))
    with pytest.raises(UnstableError):
        mgk(3.0, 3, ServiceTime.deterministic(1.0))
    with pytest.raises(UnstableError, match="full batch"):
        decode_batch(100.0, 200.0, lambda n: 0.012 + 0.0004 * n, 64)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_absurd_rates_are_refused(rate):
    with pytest.raises(InputError):
        mgk(rate, 2, ServiceTime.exponential(1.0))


@pytest.mark.parametrize("servers", [0, -2, 1.5, math.nan])
def test_absurd_servers_are_refused(servers):
    with pytest.raises(InputError):
        mgk(0.1, servers, ServiceTime.exponential(1.0))


def test_decode_batch_of_linear_steps_is_poisson_like():
    # T(n) = c*n makes the instance an M/M/1 queue in n: geometric law.
    batch = decode_batch(0.5, 10.0, lambda n: 0.1 * n, 400)
    np.testing.assert_allclose(batch.time_law[:20], 0.5 * 0.5 ** np.arange(20), rtol=1e-12)
    # T constant: an M/G/infinity-like law, Poisson.
    batch = decode_batch(2.0, 100.0, np.full(200, 0.05), 200)
    poisson = [math.exp(-10) * 10.0**n / math.factorial(n) for n in range(20)]
    np.testing.assert_allclose(batch.time_law[:20], poisson, rtol=1e-12)
    assert batch.step_quantile_s(0.5) == 0.05
    # With a cap, requests of exponential length at a constant step time are M/M/k.
    capped, queue = decode_batch(2.0, 100.0, np.full(12, 0.05), 12), mgk(2.0, 12, ServiceTime.exponential(5.0))
    assert capped.mean_join_wait_s == pytest.approx(queue.mean_wait_s, rel=1e-9)
    assert capped.mean_in_system == pytest.approx(2.0 * (queue.mean_wait_s + 5.0), rel=1e-9)


@pytest.mark.parametrize(
    "law", [ServiceTime.deterministic(1.0), ServiceTime.from_samples([0.5, 1.5])], ids=lambda x: x.name
)
@pytest.mark.parametrize("rate", [1e-300, 1e-100, 1e-9])
def test_hardly_any_arrivals_hardly_wait(law, rate):
    metrics = mgk(rate, 3, law)
    assert 0 <= metrics.mean_wait_s < 1e-12
    assert metrics.wait_quantile_s(0.99) == 0.0
    assert np.all(metrics.density_per_s([0.1, 1.0]) < 1e-8)


@pytest.mark.parametrize("servers", [1, 2, 5, 16, 128])
@pytest.mark.parametrize("load", [1e-9, 1e-3, 0.03])
def test_light_load_is_exact_too(servers, load):
    # Few meet k others in service; those wait for the least of k uniform residual services, 1/(k + 1).
    metrics = mgk(load * servers, servers, ServiceTime.deterministic(1.0))
    a = load * servers
    if servers * math.log(load) > -650:
        log_full = servers * math.log(a) - a - math.lgamma(servers + 1)
        assert metrics.wait_probability == pytest.approx(math.exp(log_full), rel=3 * load)
        assert metrics.mean_wait_s * (servers + 1) == pytest.approx(metrics.wait_probability, rel=1.1 * load)


@pytest.mark.parametrize(("servers", "load"), [(256, 0.645), (41, 0.05), (16, 1e-3), (3, 1e-6), (33, 0.128)])
@pytest.mark.parametrize("law", [ServiceTime.gamma(1.0, 2.5), ServiceTime.gamma(1.0, 0.3)], ids=["SCV 2.5", "SCV .3"])
def test_where_nobody_waits_the_tail_starts_at_the_probability_of_waiting(law, servers, load):
    metrics = mgk(load * servers, servers, law)
    assert float(metrics.wait_tail(0.0)) == pytest.approx(metrics.wait_probability, rel=1e-6)
    assert metrics.mean_wait_s < metrics.wait_probability * law.moment(2)


@pytest.mark.parametrize("servers", [24, 32, 40])
def test_tails_of_many_regular_servers_have_no_eigenvectors(servers):
    # Erlang-2 on many lightly loaded servers is marched; its mean comes from the number that wait.
    metrics = mgk(0.5 * servers, servers, ServiceTime.erlang(2, 1.0))
    grid = np.linspace(0.0, 2.0, 4001)
    tail = metrics.wait_tail(grid)
    assert np.all(np.diff(tail) <= 0)
    assert float(np.trapezoid(tail, grid)) == pytest.approx(metrics.mean_wait_s, rel=1e-4)
    assert tail[0] == pytest.approx(metrics.wait_probability, rel=1e-9)


def test_the_march_is_the_exponential_of_the_generator():
    rng = np.random.default_rng(0)
    for size, rate in ((3, 0.2), (12, 40.0)):
        generator = rate * rng.random((size, size))
        np.fill_diagonal(generator, 0.0)
        np.fill_diagonal(generator, -1.1 * generator.sum(axis=1))
        np.testing.assert_allclose(_uniformised(generator), expm(generator), rtol=1e-12)


@pytest.mark.parametrize("servers", [65, 100])
@pytest.mark.parametrize(("law", "load"), [
    (ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5]), 0.85),
    (ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0]), 0.95),
    (ServiceTime.erlang(2, 1.0), 0.9),
    (ServiceTime.hypoexponential(0.2, 0.8), 0.8),
], ids=lambda x: x.name if isinstance(x, ServiceTime) else f"{x:g}")  # fmt: skip
def test_what_is_scaled_to_many_servers_is_the_exact_solution(law, load, servers):
    rate = load * servers / law.mean_s
    scaled, exact = mgk(rate, servers, law), solve_mphk(rate, servers, fit_phase_type(law))
    assert "scaled" in scaled.method
    assert scaled.mean_wait_s == pytest.approx(exact.mean_wait_s, rel=0.004)
    assert scaled.wait_probability == pytest.approx(exact.wait_probability, rel=0.002)
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        assert scaled.wait_quantile_s(q) == pytest.approx(exact.wait_quantile_s(q), rel=0.005)
        if scaled.wait_probability > 1 - q:
            assert scaled.error_estimate[name] >= 0.015


@pytest.mark.parametrize("servers", [2, 64, 300])
def test_exact_solutions_are_taken_with_many_servers_too(servers):
    rate = 0.9 * servers
    exponential = mgk(rate, servers, ServiceTime.exponential(1.0))
    constant = mgk(rate, servers, ServiceTime.deterministic(1.0))
    assert exponential.exact
    assert constant.exact
    delay = erlang_c(servers, rate)
    assert exponential.wait_probability == pytest.approx(delay, rel=1e-10)
    assert exponential.mean_wait_s == pytest.approx(delay / (servers - rate), rel=1e-10)
    # Half the mean wait of exponential services in heavy traffic, more of it with much idle room.
    assert 0.5 < constant.mean_wait_s / exponential.mean_wait_s < 0.66


def test_scaling_does_not_forget_the_errors_of_what_is_scaled():
    wild = ServiceTime.from_samples([1.0, 1e4], [1 - 1e-5, 1e-5])
    found = mgk(0.9 * 100 / wild.mean_s, 100, wild)
    assert "scaled" in found.method
    assert found.error_estimate["mean"] >= 0.05
    assert found.error_estimate["p95"] >= 0.1

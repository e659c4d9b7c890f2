"""The Kiefer-Wolfowitz recursion against a plain event loop, and models against it."""

import numpy as np
import pytest

from qmodel._kernels.queueing_paths import fcfs_waits
from qmodel.errors import InputError
from qmodel.queueing import ServiceTime, kiefer_wolfowitz, map_k, mgk, mmpp_k


def plain_waits(arrival, work, servers):
    free = [arrival[0]] * servers
    waits = []
    for now, need in zip(arrival, work, strict=True):
        j = free.index(min(free))
        start = max(free[j], now)
        waits.append(start - now)
        free[j] = start + need
    return waits


@pytest.mark.parametrize("servers", [1, 2, 3, 8, 40])
def test_recursion_is_the_plain_loop(servers):
    rng = np.random.default_rng(servers)
    arrival = np.cumsum(rng.exponential(1 / servers, 600))
    work = rng.lognormal(-0.5, 1.0, 600)
    np.testing.assert_allclose(kiefer_wolfowitz(arrival, work, servers), plain_waits(arrival, work, servers), atol=1e-9)


def test_compiled_kernel_is_its_python_source():
    rng = np.random.default_rng(1)
    arrival, work = np.cumsum(rng.exponential(1.0, 200)), rng.exponential(1.5, 200)
    for servers in (2, 3):
        compiled, plain = np.empty(200), np.empty(200)
        limit = np.array([2.0])
        fcfs_waits(arrival, work, limit, np.zeros(servers), compiled)
        fcfs_waits.py_func(arrival, work, limit, np.zeros(servers), plain)
        np.testing.assert_array_equal(compiled, plain)
        assert (compiled == -1).any()


def test_balking_and_backlog():
    waits = kiefer_wolfowitz([0.0, 0.0, 0.0], [2.0, 2.0, 2.0], 1, balk_above_s=[9.0, 1.0, 9.0])
    assert waits.tolist() == [0.0, -1.0, 2.0]
    assert kiefer_wolfowitz([0.0], [1.0], 2, free_at_s=[3.0, 5.0]).tolist() == [3.0]
    assert kiefer_wolfowitz([], [], 2).size == 0


@pytest.mark.parametrize(
    ("arrival", "work"), [([1.0, 0.0], [1.0, 1.0]), ([0.0, 1.0], [1.0, -1.0]), ([0.0], [1.0, 1.0]), ([np.nan], [1.0])]
)
def test_bad_arrivals_are_refused(arrival, work):
    with pytest.raises(InputError):
        kiefer_wolfowitz(arrival, work, 1)


def simulated(service, servers, load, seed, count=800_000):
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(service.mean_s / (load * servers), count))
    return kiefer_wolfowitz(arrival, service.sample(count, rng), servers)[count // 20 :]


@pytest.mark.parametrize("servers", [2, 3, 6, 12])
@pytest.mark.parametrize(
    "service",
    [
        ServiceTime.gamma(1.0, 0.4),
        ServiceTime.gamma(1.0, 0.8),
        ServiceTime.lognormal(1.0, 1.5, upper_s=12.0),
        ServiceTime.from_samples([0.5, 1.0, 1.5]),
    ],
    ids=["gamma 0.4", "gamma 0.8", "lognormal 1.5", "three atoms"],
)
def test_interpolation_agrees_with_simulation(service, servers):
    load = 0.75
    metrics = mgk(load * servers / service.mean_s, servers, service)
    batches = simulated(service, servers, load, seed=servers, count=200_000 * (servers + 2)).reshape(20, -1)
    noise = batches.mean(axis=1).std() / np.sqrt(20) / batches.mean()
    assert noise < 0.03
    assert metrics.mean_wait_s == pytest.approx(batches.mean(), rel=0.01 + 3 * noise)
    for q in (0.95, 0.99):
        assert metrics.wait_quantile_s(q) == pytest.approx(np.quantile(batches, q), rel=0.02 + 5 * noise)


def test_off_lattice_single_server_agrees_with_simulation():
    service = ServiceTime.from_samples([0.3137, 1.0, 2.7182], [0.4, 0.5, 0.1])
    metrics = mgk(0.7 / service.mean_s, 1, service)
    waits = simulated(service, 1, 0.7, seed=5, count=2_000_000)
    for t in (0.2, 1.0, 3.0, 8.0):
        assert float(metrics.wait_tail(t)) == pytest.approx((waits > t).mean(), rel=0.02)
    # The mean of the table is the exact one.
    grid = np.linspace(0.0, 80.0, 200_001)
    assert np.trapezoid(metrics.wait_tail(grid), grid) == pytest.approx(metrics.mean_wait_s, rel=2e-4)


def test_many_servers_scale():
    service = ServiceTime.gamma(1.0, 0.4)
    metrics = mgk(0.95 * 100, 100, service)
    waits = simulated(service, 100, 0.95, seed=2, count=2_000_000)
    assert metrics.mean_wait_s == pytest.approx(waits.mean(), rel=0.06)
    assert metrics.wait_probability == pytest.approx((waits > 0).mean(), rel=0.04)


def test_bursts_of_equal_rate_are_poisson():
    for service in (ServiceTime.erlang(2, 1.0), ServiceTime.hyperexponential([0.7, 0.3], [0.5, 2.0])):
        plain, bursty = mgk(3.0, 4, service), mmpp_k([3.0, 3.0], [0.2, 0.5], 4, service)
        assert bursty.mean_wait_s == pytest.approx(plain.mean_wait_s, rel=1e-9)
        np.testing.assert_allclose(bursty.wait_tail([0.0, 0.5, 3.0]), plain.wait_tail([0.0, 0.5, 3.0]), rtol=1e-8)


def test_regular_services_under_bursts_agree_with_simulation():
    rates, switch, servers = np.array([1.0, 4.0]), np.array([0.05, 0.1]), 3
    service = ServiceTime.gamma(1.0, 0.25)
    rng = np.random.default_rng(11)
    stays = rng.exponential(1.0, 120_000) / np.tile(switch, 60_000)
    ends = np.cumsum(stays)
    counts = rng.poisson(stays * np.tile(rates, 60_000))
    arrival = np.sort(np.repeat(ends - stays, counts) + rng.random(counts.sum()) * np.repeat(stays, counts))
    waits = kiefer_wolfowitz(arrival, service.sample(arrival.size, rng), servers)
    metrics = mmpp_k(rates, switch, servers, service)
    assert metrics.mean_wait_s == pytest.approx(waits.mean(), rel=0.04)
    assert metrics.wait_quantile_s(0.95) == pytest.approx(np.quantile(waits, 0.95), rel=0.04)


def test_erlang_renewal_arrivals_are_a_map():
    # E2/M/1: P(W > t) = sigma exp(-(1 - sigma) t), sigma = (2 lam/(2 lam + 1 - sigma))^2.
    lam = 0.8
    d0, d1 = np.array([[-2 * lam, 2 * lam], [0.0, -2 * lam]]), np.array([[0.0, 0.0], [2 * lam, 0.0]])
    sigma = 0.5
    for _ in range(2000):
        sigma = (2 * lam / (2 * lam + 1 - sigma)) ** 2
    metrics = map_k(d0, d1, 1, ServiceTime.exponential(1.0))
    assert metrics.mean_wait_s == pytest.approx(sigma / (1 - sigma), rel=1e-9)
    np.testing.assert_allclose(metrics.wait_tail([0.0, 2.0]), sigma * np.exp(-(1 - sigma) * np.array([0.0, 2.0])))


def test_bad_arrival_processes_are_refused():
    law = ServiceTime.exponential(1.0)
    for rates, switch in [([1.0, -1.0], [1.0, 1.0]), ([1.0, 2.0], [1.0]), ([1.0, 2.0], [0.0, 0.0])]:
        with pytest.raises(InputError):
            mmpp_k(rates, switch, 4, law)

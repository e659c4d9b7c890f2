"""Any arrivals, and what goes with the wait: queue length, busy periods, departures, density."""

import numpy as np
import pytest

from qmodel.distributions import MmppArrivals, PoissonArrivals, RenewalArrivals, WindowedArrivals
from qmodel.errors import InputError, OutOfRangeError, UnstableError
from qmodel.queueing import (
    ServiceTime,
    busy_period,
    departure_scv,
    ggk,
    ggk_bounds_s,
    kiefer_wolfowitz,
    mgk,
    mmk,
    mmpp_k,
    mtgk,
    queue_length_tail,
)

H2 = ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0])


def test_each_arrival_law_takes_its_method():
    assert ggk(PoissonArrivals(rate_per_s=1.2), 2, H2).mean_wait_s == mgk(1.2, 2, H2).mean_wait_s
    bursts = MmppArrivals(rates_per_s=(0.5, 3.0), switch_per_s=(0.1, 0.2))
    assert ggk(bursts, 2, H2).mean_wait_s == mmpp_k([0.5, 3.0], [0.1, 0.2], 2, H2).mean_wait_s
    windows = WindowedArrivals(edges_s=np.array([5.0, 65.0, 125.0]), rates_per_s=np.array([0.5, 1.5]))
    assert ggk(windows, 2, H2).mean_wait_s == mtgk([0.0, 60.0, 120.0], [0.5, 1.5], H2, 2).mean_wait_s
    with pytest.raises(InputError, match="one of the laws"):
        ggk(3.0, 2, H2)
    with pytest.raises(UnstableError):
        ggk(RenewalArrivals.gamma(3.0, 2.0), 2, H2)


@pytest.mark.parametrize(("scv", "servers"), [(4.0, 2), (0.3, 3), (0.7, 1)])
def test_gamma_gaps_agree_with_simulation(scv, servers):
    arrivals = RenewalArrivals.gamma(0.8 * servers, scv)
    service, rng = ServiceTime.exponential(1.0), np.random.default_rng(3)
    waits = kiefer_wolfowitz(arrivals.sample(1_000_000, rng), service.sample(1_000_000, rng), servers)
    found = ggk(arrivals, servers, service)
    noise = waits.reshape(20, -1).mean(axis=1).std(ddof=1) / np.sqrt(20)
    assert not found.exact
    assert abs(found.mean_wait_s - waits.mean()) < found.error_estimate["mean"] * waits.mean() + 3 * noise
    bound, _ = ggk_bounds_s(arrivals, servers, service)
    assert bound > waits.mean()


def test_heavy_traffic_is_the_limit_for_bursts():
    arrivals = MmppArrivals(rates_per_s=(0.78, 1.18), switch_per_s=(0.4, 0.4))
    bound, heavy = ggk_bounds_s(arrivals, 1, ServiceTime.exponential(1.0))
    assert bound is None
    assert ggk(arrivals, 1, ServiceTime.exponential(1.0)).mean_wait_s == pytest.approx(heavy, rel=0.03)


@pytest.mark.parametrize(
    ("servers", "service"), [(1, ServiceTime.deterministic(1.0)), (3, H2), (2, ServiceTime.gamma(1.0, 0.4))]
)
def test_queue_length_obeys_both_little_laws(servers, service):
    rate = 0.8 * servers / service.mean_s
    metrics = mgk(rate, servers, service)
    tail = queue_length_tail(metrics, np.arange(400))
    assert tail.sum() == pytest.approx(metrics.mean_queue, rel=2e-3)
    assert np.all(np.diff(tail) <= 0)
    # Against the queue found by simulation over time.
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(1 / rate, 400_000))
    starts = np.sort(arrival + kiefer_wolfowitz(arrival, service.sample(arrival.size, rng), servers))
    waiting = np.arange(1, arrival.size + 1) - np.searchsorted(starts, arrival, side="right") - 1
    seen = waiting[arrival.size // 20 :]
    for n in (0, 2, 5):
        assert tail[n] == pytest.approx((seen > n).mean(), rel=0.08)


def test_queue_length_of_mmk_far_out():
    metrics, n = mmk(2.4, 3, 1.0), np.arange(200)
    np.testing.assert_allclose(queue_length_tail(metrics, n), metrics.wait_probability * 0.8 ** (n + 1), rtol=1e-12)


def test_queue_length_of_mm1_is_geometric():
    tail = queue_length_tail(mmk(0.7, 1, 1.0), np.arange(20))
    np.testing.assert_allclose(tail, 0.7 ** (np.arange(20) + 2), rtol=2e-3)
    with pytest.raises(InputError, match="Poisson"):
        queue_length_tail(mmpp_k([0.2, 0.9], [1.0, 1.0], 1, ServiceTime.exponential(1.0)), [0])
    with pytest.raises(InputError):
        queue_length_tail(mmk(0.7, 1, 1.0), [-1])


def test_busy_periods():
    # M/G/1 with two atoms, by simulation of busy periods.
    service, rng = ServiceTime.from_samples([0.5, 2.0]), np.random.default_rng(0)
    arrival = np.cumsum(rng.exponential(2.0, 400_000))
    work = service.sample(arrival.size, rng)
    waits = kiefer_wolfowitz(arrival, work, 1)
    first = np.flatnonzero(waits == 0)
    lengths = np.add.reduceat(work, first)[:-1]
    found = busy_period(0.5, 1, service)
    assert lengths.mean() == pytest.approx(found.mean_s, rel=0.02)
    assert (lengths**2).mean() == pytest.approx(found.second_moment_s2, rel=0.08)
    # M/M/k from the birth-death chain: E[B] = (1/p0 - 1)/lam.
    for servers, rate in ((2, 1.5), (40, 36.0)):
        mass = np.cumprod(np.concatenate([[1.0], rate / np.minimum(np.arange(1, 3000), servers)]))
        found = busy_period(rate, servers, ServiceTime.exponential(1.0))
        assert found.mean_s == pytest.approx((mass.sum() - 1) / rate, rel=1e-9)
        assert found.full_s == pytest.approx(1 / (servers - rate))
    with pytest.raises(OutOfRangeError):
        busy_period(1.0, 2, ServiceTime.deterministic(1.0))
    with pytest.raises(UnstableError):
        busy_period(1.0, 1, ServiceTime.deterministic(1.0))


@pytest.mark.parametrize(
    ("servers", "service", "gaps"),
    [
        (1, ServiceTime.deterministic(1.0), 1.0),
        (1, H2, 1.0),
        (3, H2, 1.0),
        (3, ServiceTime.gamma(1.0, 0.4), 3.0),
        (2, ServiceTime.exponential(1.0), 1.0),
        (16, ServiceTime.gamma(1.0, 0.4), 3.0),
        (8, ServiceTime.deterministic(1.0), 0.5),
    ],
)
def test_departures_agree_with_simulation(servers, service, gaps):
    rate = 0.7 * servers / service.mean_s
    rng = np.random.default_rng(2)
    arrival = RenewalArrivals.gamma(rate, gaps).sample(600_000, rng)
    work = service.sample(arrival.size, rng)
    left = np.diff(np.sort(arrival + kiefer_wolfowitz(arrival, work, servers) + work))
    seen = left.var() / left.mean() ** 2
    found = departure_scv(rate, servers, service, gaps)
    assert found.exact == (gaps == 1.0 and (servers == 1 or service.scv == pytest.approx(1.0)))
    assert found.value == pytest.approx(seen, abs=found.error + 0.02 * seen)


@pytest.mark.parametrize(
    "metrics",
    [
        mmk(1.5, 2, 1.0),
        mgk(1.2, 2, H2),
        mgk(0.7, 1, ServiceTime.deterministic(1.0)),
        mgk(3.0, 4, ServiceTime.gamma(1.0, 0.4)),
    ],
    ids=["M/M/2", "M/H2/2", "M/D/1", "M/G/4"],
)
def test_the_density_integrates_to_the_probability_of_waiting(metrics):
    reach = 40 * metrics.mean_wait_s / metrics.wait_probability
    grid = np.concatenate([np.linspace(0, reach / 20, 4001), np.linspace(reach / 20, reach, 8001)[1:]])
    density = metrics.density_per_s(grid)
    assert np.all(density >= 0)
    assert np.trapezoid(density, grid) == pytest.approx(metrics.wait_probability, rel=3e-3)
    assert np.trapezoid(density * grid, grid) == pytest.approx(metrics.mean_wait_s, rel=3e-3)
    assert metrics.density_per_s(-1.0) == 0

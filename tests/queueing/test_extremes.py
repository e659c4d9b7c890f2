"""Far tails, light loads, deep overload and huge numbers: where rounding would give a number that is wrong."""

import math

import numpy as np
import pytest

from qmodel.errors import ConvergenceError, InputError
from qmodel.queueing import (
    ServiceTime,
    approximate,
    busy_period,
    departure_scv,
    erlang_b,
    erlang_c,
    fcfs_link,
    lundberg_rate,
    map_k,
    mgk,
    mmk,
    mmkn,
    mmpp_k,
    queue_length_tail,
    shared_link,
)

ONE = ServiceTime.exponential(1.0)


@pytest.mark.parametrize(("servers", "load"), [(10**8, 1.004e8), (10**6, 1.04e6), (1000.5, 1500.0), (0.5, 900.0)])
def test_erlang_b_far_above_the_servers(servers, load):
    # 1/B = sum_j k (k - 1) ... (k - j + 1)/a^j, as far as it falls.
    terms = np.cumprod((servers - np.arange(min(200_000, max(servers, 50) + 1))) / load)
    assert erlang_b(servers, load) == pytest.approx(1 / (1 + terms[np.abs(terms) > 1e-18].sum()), rel=1e-11)


def test_erlang_b_of_many_servers_loses_nothing_to_large_terms():
    # By quadrature with 50 digits; and k = a = 10^12, where 1/B = sqrt(pi a/2) + 2/3 + ... (Jagerman 1974, thm 14).
    assert erlang_c(10**6, 995_000.0) == pytest.approx(2.85164370751e-07, rel=1e-9)
    assert 1 / erlang_b(1e12, 1e12) == pytest.approx(math.sqrt(math.pi * 1e12 / 2) + 2 / 3, rel=1e-11)


@pytest.mark.parametrize("load", [1e14, 1e17, 1e200, 1e308])
def test_finite_queues_in_deep_overload_are_full(load):
    queue = mmkn(load, 2, 7, 1.0)
    assert queue.wait_probability == pytest.approx(1.0, abs=1e-12)
    assert queue.mean_wait_s == pytest.approx(5 / 2, rel=1e-12)
    assert queue.wait_tail(0.0) == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(InputError, match="at most"):
        mmkn(1.0, 2, 10**12, 1.0)


@pytest.mark.parametrize(("rate", "servers"), [(0.01, 200), (1e-3, 128), (1e-300, 2)])
def test_busy_periods_of_hardly_any_load(rate, servers):
    # A customer that nobody joins: its service, longer by those who come meanwhile.
    assert busy_period(rate, servers, ONE).mean_s == pytest.approx(math.expm1(rate) / rate, rel=1e-10)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_links_take_times_that_can_be(bad):
    for link in (shared_link(0.5, ONE), fcfs_link(0.5, ONE)):
        with pytest.raises(InputError, match="finite and >= 0"):
            link.transfer_s([1.0, bad])


@pytest.mark.parametrize(("load", "servers"), [(0.05, 1), (0.3, 1), (0.5, 3), (0.9, 8)])
def test_far_tail_of_the_queue_length(load, servers):
    waiting = np.array([0, 3, 10, 30])
    plain = mmk(load * servers, servers, 1.0)
    want = plain.wait_probability * load ** (waiting + 1)
    np.testing.assert_allclose(queue_length_tail(plain, waiting), want, rtol=1e-12)
    # M/D/k knows the law of those who wait besides that of the wait.
    fixed = mgk(load * servers, servers, ServiceTime.deterministic(1.0))
    want = fixed.wait_law.beyond[waiting]
    some = want > 1e-20
    np.testing.assert_allclose(queue_length_tail(fixed, waiting)[some], want[some], rtol=1e-8)


@pytest.mark.parametrize(("load", "servers"), [(0.9, 8), (0.85, 22), (0.95, 4), (0.97, 4), (0.96, 30), (0.97, 90)])
def test_far_tail_of_deterministic_services_is_exponential(load, servers):
    tails = mgk(load * servers, servers, ServiceTime.deterministic(1.0), "deterministic").wait_tail(np.arange(300.0))
    some = (tails < 1e-9) & (tails > 1e-16)
    # Within a service time k customers go: the tail falls by tau^k = exp(a (tau - 1)).
    low, high = 1 + 1e-9, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if math.exp(load * (middle - 1)) > middle else (middle, high)
    np.testing.assert_allclose(tails[1:][some[1:]] / tails[:-1][some[1:]], low**-servers, rtol=1e-6)


def test_bursts_at_light_load_have_a_tail():
    d1 = np.array([[0.0, 0.0], [3.0, 0.0]])
    queue = map_k([[-3.0, 3.0], [0.0, -3.0]], d1, 30, ONE)
    assert 0 < queue.wait_probability < 1e-30
    np.testing.assert_allclose(queue.wait_tail(0.0), queue.wait_probability, rtol=1e-9)


@pytest.mark.parametrize(
    ("queue", "density"),
    [
        # In M/G/1 the density begins at rate*(1 - load), whatever the services.
        (mgk(0.9, 1, ServiceTime.deterministic(1.0)), 0.09),
        (mgk(0.45, 1, ServiceTime.from_samples([1.0, 2.0, 100.0], [0.9, 0.09, 0.01]).scaled(2 / 2.08)), 0.045),
        (mmpp_k([0.9, 0.9], [0.1, 0.3], 1, ServiceTime.hyperexponential([0.99, 0.01], [0.5, 50.5])), 0.09),
    ],
    ids=["deterministic", "rare long ones", "bursts that are none"],
)
def test_the_density_just_above_zero(queue, density):
    assert queue.density_per_s(0.0) == pytest.approx(density, rel=1e-4)
    assert queue.density_per_s(1e-5) == pytest.approx(density, rel=1e-3)


@pytest.mark.parametrize("spare", [1e-4, 1e-6, 1e-9])
def test_decay_rates_next_to_saturation(spare):
    assert lundberg_rate(3 * (1 - spare), 3, ONE) == pytest.approx(3 * spare, rel=1e-6)
    # A rare long service: the first term in 1 - rho is 2 (1 - rho) m/(rho E[S^2]).
    law = ServiceTime.from_samples([1e-6, 1e3], [0.999, 0.001])
    first = 2 * spare / (1 - spare) * law.mean_s / law.moment(2)
    assert lundberg_rate((1 - spare) / law.mean_s, 1, law) == pytest.approx(first, rel=spare + 1e-6)


def test_loads_that_are_all_but_1():
    law = ServiceTime.from_samples([1.0, 2.0**0.5], [0.5, 0.5])
    assert mgk((1 - 1e-12) / law.mean_s, 1, law).mean_wait_s > 1e11
    with pytest.raises(ConvergenceError, match="load of M/D/k"):
        mgk(2 * (1 - 1e-16), 2, ServiceTime.deterministic(1.0))
    with pytest.raises(ConvergenceError, match="table of delays"):
        approximate(1 - 1e-9, 1, ServiceTime.exponential(1.0), "tijms-van-hoorn")


@pytest.mark.parametrize("load", [1e-9, 0.3, 0.9])
def test_phases_very_far_apart(load):
    far = ServiceTime.hyperexponential([1e-6, 1 - 1e-6], [1e9, 1e-9])
    # Only long services make anyone wait: their own M/M/k.
    long = mmk(1e-6 * load * 3 / far.mean_s, 3, 1e9)
    found = mgk(load * 3 / far.mean_s, 3, far)
    assert found.wait_probability == pytest.approx(long.wait_probability, rel=1e-6, abs=0)
    assert found.mean_wait_s == pytest.approx(long.mean_wait_s, rel=1e-6, abs=0)
    assert ServiceTime.hypoexponential(1.0, 1e-150).scv == pytest.approx(1.0)


def test_the_tail_of_a_table_falls_for_good():
    found = approximate(0.01 / 600, 1, ServiceTime.lognormal(700.0, 0.3, 1000.0), "tijms-van-hoorn")
    assert found.wait_tail(1e7) < 1e-30
    assert math.isfinite(found.wait_std_s)


def test_departures_are_never_less_than_regular():
    assert departure_scv(41e-9, 41, ServiceTime.deterministic(1.0), 0.0).value >= 0

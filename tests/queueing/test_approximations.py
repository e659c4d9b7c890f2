"""Approximations where they are exact, within their stated error elsewhere; bounds bound; links."""

import numpy as np
import pytest

from qmodel.errors import InputError, OutOfRangeError, UnstableError
from qmodel.queueing import (
    ServiceTime,
    approximate,
    compare_methods,
    fcfs_link,
    heavy_traffic_mean_s,
    kingman_bound_s,
    lundberg_rate,
    mgk,
    mmk,
    shared_link,
)
from qmodel.queueing.approximations import APPROXIMATIONS

H2 = ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5])


@pytest.mark.parametrize("formula", APPROXIMATIONS)
@pytest.mark.parametrize("k", [1, 3, 9])
def test_all_are_exact_for_exponential_services(formula, k):
    law = ServiceTime.exponential(0.5)
    exact, found = mgk(1.6 * k, k, law), approximate(1.6 * k, k, law, formula)
    assert found.mean_wait_s == pytest.approx(exact.mean_wait_s, rel=2e-3)
    assert found.wait_quantile_s(0.99) == pytest.approx(exact.wait_quantile_s(0.99), rel=1e-2)


@pytest.mark.parametrize("formula", [name for name in APPROXIMATIONS if name != "lundberg"])
def test_all_are_exact_for_one_server(formula):
    for law in (ServiceTime.deterministic(1.0), ServiceTime.gamma(1.0, 0.4), ServiceTime.gamma(1.0, 1.8)):
        if formula == "kimura" and law.scv > 1:
            continue  # not exact there
        assert approximate(0.7, 1, law, formula).mean_wait_s == pytest.approx(mgk(0.7, 1, law).mean_wait_s, rel=1e-3)


@pytest.mark.parametrize("formula", APPROXIMATIONS)
@pytest.mark.parametrize("k", [2, 5, 16])
def test_stated_errors_hold_against_exact_solutions(formula, k):
    laws = [ServiceTime.erlang(2, 1.0), ServiceTime.deterministic(1.0), ServiceTime.hypoexponential(0.2, 0.8)]
    laws += [H2, ServiceTime.gamma(1.0, 3.0), ServiceTime.lognormal(1.0, 4.0, upper_s=30.0)]
    held, stated = [], []
    for law in laws:
        for load in (0.8, 0.9, 0.95):
            rate = load * k / law.mean_s
            exact, found = mgk(rate, k, law), approximate(rate, k, law, formula)
            held.append(abs(found.mean_wait_s / exact.mean_wait_s - 1) <= found.error_estimate["mean"] + 0.01)
            p99 = found.wait_quantile_s(0.99) / exact.wait_quantile_s(0.99) - 1
            held.append(abs(p99) <= found.error_estimate["p99"] + 0.01)
            stated.append(found.error_estimate["mean"])
    assert np.mean(held) >= 0.9
    assert np.all(np.reshape(stated, (-1, 3))[:, 0] > np.reshape(stated, (-1, 3))[:, 2])


def test_decay_rate_is_that_of_the_exact_tail():
    law = ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0])
    exact, eta = mgk(2.4, 3, law), lundberg_rate(2.4, 3, law)
    low, high = exact.wait_tail([40.0, 50.0])
    assert np.log(low / high) / 10 == pytest.approx(eta, rel=1e-6)
    with pytest.raises(OutOfRangeError):
        lundberg_rate(0.5, 1, ServiceTime.lognormal(1.0, 2.0))


@pytest.mark.parametrize("k", [1, 2, 8])
@pytest.mark.parametrize("rho", [0.3, 0.7, 0.95, 0.999])
def test_bounds_and_heavy_traffic(k, rho):
    for law in (
        ServiceTime.deterministic(1.0),
        ServiceTime.erlang(2, 1.0),
        ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5]),
    ):
        wait = mgk(rho * k, k, law).mean_wait_s
        assert wait <= kingman_bound_s(rho * k, 1.0, k, 1.0, law.scv) * (1 + 1e-12)
        if rho == 0.999:
            assert heavy_traffic_mean_s(rho * k, 1.0, k, 1.0, law.scv) == pytest.approx(wait, rel=0.02)


def test_comparison_says_what_does_not_apply():
    rows = compare_methods(1.6, 2, ServiceTime.lognormal(1.0, 2.0))
    by_name = {row.method: row for row in rows}
    assert by_name["lundberg"].mean_wait_s is None
    # Two phases stand for the law: exact for them, not for it.
    assert by_name["phase-type"].mean_error > 0.02
    assert {row.method: row for row in compare_methods(1.6, 2, H2)}["phase-type"].mean_error == 0
    assert "bound the service times" in by_name["lundberg"].note
    assert by_name["auto"].mean_wait_s == pytest.approx(2.61, rel=0.03)
    order = [by_name[name].mean_wait_s for name in ("auto", "whitt bound", "daley bound", "kingman bound")]
    assert order == sorted(order)
    assert by_name["heavy traffic"].mean_wait_s == pytest.approx(heavy_traffic_mean_s(1.6, 1.0, 2, 1.0, 2.0))
    assert by_name["whitt bound"].p95_s is None
    with pytest.raises(UnstableError):
        compare_methods(2.0, 2, ServiceTime.exponential(1.0))
    with pytest.raises(InputError):
        approximate(1.0, 2, ServiceTime.exponential(1.0), "guess")


def test_links():
    transfer = ServiceTime.from_samples([0.1, 0.4], [0.8, 0.2])
    shared, queued = shared_link(3.0, transfer, 0.002), fcfs_link(3.0, transfer, 0.002)
    assert shared.mean_s == pytest.approx(0.002 + 0.16 / 0.52)
    assert queued.mean_s == pytest.approx(0.002 + 0.16 + 3.0 * transfer.moment(2) / (2 * 0.52))
    # Little's law: transfers in progress are geometric.
    assert 3.0 * (shared.mean_s - 0.002) == pytest.approx(0.48 / 0.52)
    with pytest.raises(UnstableError):
        shared_link(7.0, transfer)
    with pytest.raises(InputError):
        fcfs_link(1.0, transfer, -1.0)


@pytest.mark.parametrize("servers", [1, 2, 16])
def test_the_table_of_delays_is_fine_enough_near_saturation(servers):
    # Exponential services: the renewal equation is exact.
    rate = 0.995 * servers
    found = approximate(rate, servers, ServiceTime.exponential(1.0), "tijms-van-hoorn")
    exact = mmk(rate, servers, 1.0)
    for q in (0.5, 0.95, 0.99):
        assert found.wait_quantile_s(q) == pytest.approx(exact.wait_quantile_s(q), rel=2e-3)


@pytest.mark.parametrize("formula", APPROXIMATIONS)
def test_servers_that_nobody_waits_for(formula):
    with pytest.raises(OutOfRangeError, match="nobody waits"):
        approximate(50.0, 1000, ServiceTime.exponential(1.0), formula)

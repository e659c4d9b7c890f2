"""Bounds of the mean wait against exact queues and simulation."""

import numpy as np
import pytest

from qmodel.distributions import MmppArrivals, PoissonArrivals, RenewalArrivals
from qmodel.errors import InputError, UnstableError
from qmodel.queueing import (
    ServiceTime,
    daley_bound_s,
    ggk_bounds_s,
    ggk_lower_bound_s,
    heavy_traffic_mean_s,
    kiefer_wolfowitz,
    kingman_bound_s,
    mgk,
    whitt_bound_s,
)

LAWS = {
    "exponential": ServiceTime.exponential(1.0),
    "deterministic": ServiceTime.deterministic(1.0),
    "H2": ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5]),
}


@pytest.mark.parametrize("service", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("servers", [1, 2, 5, 16])
@pytest.mark.parametrize("load", [0.3, 0.8, 0.97])
def test_poisson_queues_lie_between_the_bounds(service, servers, load):
    arrivals = PoissonArrivals(rate_per_s=load * servers / service.mean_s)
    exact = mgk(arrivals.rate_per_s, servers, service).mean_wait_s
    low, (high, _) = ggk_lower_bound_s(arrivals, servers, service), ggk_bounds_s(arrivals, servers, service)
    assert low <= exact * (1 + 1e-9)
    assert exact <= high
    if servers == 1:
        assert low == pytest.approx(exact)


@pytest.mark.parametrize("service", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize(("scv", "servers"), [(0.3, 1), (3.0, 2), (0.5, 4)])
def test_renewal_queues_lie_between_the_bounds(service, scv, servers):
    arrivals, rng = RenewalArrivals.gamma(0.9 * servers / service.mean_s, scv), np.random.default_rng(5)
    waits = kiefer_wolfowitz(arrivals.sample(400_000, rng), service.sample(400_000, rng), servers)
    noise = waits.reshape(20, -1).mean(axis=1).std(ddof=1) / np.sqrt(20)
    high, _ = ggk_bounds_s(arrivals, servers, service)
    assert ggk_lower_bound_s(arrivals, servers, service) <= waits.mean() + 3 * noise
    assert waits.mean() - 3 * noise <= high


def test_the_lower_bound_is_sharp_in_heavy_traffic():
    arrivals = PoissonArrivals(rate_per_s=1.998)
    exact = mgk(1.998, 2, LAWS["exponential"]).mean_wait_s
    assert ggk_lower_bound_s(arrivals, 2, LAWS["exponential"]) == pytest.approx(exact, rel=1e-3)


def test_bounds_need_independent_gaps_and_a_stable_queue():
    bursts = MmppArrivals(rates_per_s=(0.2, 0.9), switch_per_s=(1.0, 1.0))
    with pytest.raises(InputError, match="independent gaps"):
        ggk_lower_bound_s(bursts, 1, LAWS["exponential"])
    with pytest.raises(UnstableError):
        ggk_lower_bound_s(PoissonArrivals(rate_per_s=2.0), 2, LAWS["exponential"])


@pytest.mark.parametrize("servers", [1, 2, 7, 40])
@pytest.mark.parametrize("load", [1e-3, 0.3, 0.8, 0.999])
@pytest.mark.parametrize(("arrival_scv", "scv"), [(0.0, 0.5), (1.0, 0.0), (0.4, 5.0), (9.0, 1.0)])
def test_bounds_come_in_order(servers, load, arrival_scv, scv):
    case = (load * servers / 2.0, arrival_scv, servers, 2.0, scv)
    whitt, daley, kingman = whitt_bound_s(*case), daley_bound_s(*case), kingman_bound_s(*case)
    assert 0 <= whitt <= daley * (1 + 1e-9)
    assert daley <= kingman * (1 + 1e-9)
    # Scaling time scales them.
    assert whitt_bound_s(case[0] / 3, arrival_scv, servers, 6.0, scv) == pytest.approx(3 * whitt)
    if servers == 1 and arrival_scv > 0 and load == 0.999:
        assert whitt == pytest.approx(heavy_traffic_mean_s(*case), rel=3e-3)


def test_one_server_has_the_published_forms():
    # Gaps of mean 1: Daley's first term is rho (2 - rho) ca2, Kingman's ca2 (Chen & Whitt 2020, section 1).
    rho, ca2, cs2 = 0.5, 4.0, 4.0
    assert kingman_bound_s(1.0, ca2, 1, rho, cs2) == pytest.approx(5.0)
    assert daley_bound_s(1.0, ca2, 1, rho, cs2) == pytest.approx(4.0)
    root = 0.20318787  # exp(-(1 - root)/0.5)
    assert whitt_bound_s(1.0, ca2, 1, rho, cs2) == pytest.approx(2 / (1 - root) + 1.0, rel=1e-7)


@pytest.mark.parametrize(("arrival_scv", "load", "slack"), [(0.5, 0.5, 0.12), (1.0, 0.8, 0.08), (4.0, 0.5, 0.04)])
def test_whitts_bound_is_near_the_extremal_laws(arrival_scv, load, slack):
    # Gaps of 0 or 1 + ca2 before services of one length: the extremal queue, less the term of the service variance.
    rng = np.random.default_rng(11)
    gaps = np.where(rng.random(1_600_000) < arrival_scv / (1 + arrival_scv), 0.0, 1 + arrival_scv)
    waits = kiefer_wolfowitz(np.cumsum(gaps), np.full(gaps.size, load), 1)
    noise = waits.reshape(32, -1).mean(axis=1).std(ddof=1) / np.sqrt(32)
    bound = whitt_bound_s(1.0, arrival_scv, 1, load, 0.0)
    assert waits.mean() - 4 * noise <= bound <= (waits.mean() + 4 * noise) * (1 + slack)


@pytest.mark.parametrize("servers", [2, 5])
@pytest.mark.parametrize("load", [0.4, 0.9])
def test_several_servers_stay_below_whitts_bound(servers, load):
    # Batches make the worst gaps, and rare long services the worst services.
    rng, rate = np.random.default_rng(servers), load * servers
    gaps = np.where(rng.random(1_200_000) < 0.8, 0.0, 5.0) / rate
    for service in (LAWS["deterministic"], LAWS["H2"], ServiceTime.from_samples([0.8, 20.8], [0.99, 0.01])):
        works = service.scaled(1 / service.mean_s).sample(gaps.size, rng)
        waits = kiefer_wolfowitz(np.cumsum(gaps), works, servers)
        noise = waits.reshape(32, -1).mean(axis=1).std(ddof=1) / np.sqrt(32)
        assert waits.mean() - 3 * noise <= whitt_bound_s(rate, 4.0, servers, 1.0, service.scv)
    case = (rate, 1.0, servers, 1.0, 1.0)
    assert mgk(rate, servers, LAWS["exponential"]).mean_wait_s <= whitt_bound_s(*case)


@pytest.mark.parametrize("bound", [daley_bound_s, whitt_bound_s])
def test_new_bounds_refuse_overload(bound):
    with pytest.raises(UnstableError):
        bound(2.0, 1.0, 2, 1.0, 1.0)

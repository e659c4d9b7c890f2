"""Bounds of the mean wait against exact queues and simulation."""

import numpy as np
import pytest

from qmodel.distributions import MmppArrivals, PoissonArrivals, RenewalArrivals
from qmodel.errors import InputError, UnstableError
from qmodel.queueing import ServiceTime, ggk_bounds_s, ggk_lower_bound_s, kiefer_wolfowitz, mgk

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

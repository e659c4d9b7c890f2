"""Variance of the wait, time in the system, and what a queue shows of itself."""

import numpy as np
import pytest

from qmodel import queueing
from qmodel.errors import InputError
from qmodel.queueing import (
    RenewalArrivals,
    ServiceTime,
    decode_batch,
    ggk,
    kiefer_wolfowitz,
    mgk,
    mgk_balking,
    mmk,
    mmkn,
    mtgk,
    sojourn_quantile_s,
    sojourn_tail,
    two_pools,
    two_pools_over_time,
)

ONE = ServiceTime.exponential(1.0)
LAWS = {
    "exponential": ONE,
    "deterministic": ServiceTime.deterministic(1.0),
    "gamma": ServiceTime.gamma(1.0, 0.4),
    "lognormal": ServiceTime.lognormal(1.0, 2.0, upper_s=20.0),
    "H2": ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0]),
    "atoms": ServiceTime.from_samples([1.0, 2.0, 5.0], [5, 3, 2]),
    "many phases": ServiceTime.erlang(50, 1.0),
    "all sorts": ServiceTime.mixture([0.5, 0.5], [ServiceTime.deterministic(0.5), ServiceTime.gamma(2.0, 3.0)]),
}


@pytest.mark.parametrize("load", [0.3, 0.9])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_variance_of_one_server_is_takacs(law, load):
    # E[W^2] = 2 E[W]^2 + lam E[S^3]/(3 (1 - rho)).
    rate = load / law.mean_s
    metrics = mgk(rate, 1, law)
    want = metrics.mean_wait_s**2 + rate * law.moment(3) / (3 * (1 - load))
    assert metrics.wait_variance_s2 == pytest.approx(want, rel=5e-5)
    assert metrics.wait_std_s == pytest.approx(want**0.5, rel=5e-5)


def test_variance_of_others():
    # M/M/k: C (2 - C)/theta^2.
    metrics = mmk(8.0, 10, 1.0)
    delayed = metrics.wait_probability
    assert metrics.wait_variance_s2 == pytest.approx(delayed * (2 - delayed) / 2.0**2, rel=1e-12)
    assert metrics.mean_delay_s == pytest.approx(0.5)
    assert mgk(60.0, 100, ServiceTime.gamma(1.0, 2.0)).wait_variance_s2 >= 0
    assert mmk(1e-9, 200, 1.0).wait_std_s == 0
    # Renewal arrivals, exponential services: the delay of those who wait is exponential.
    metrics = ggk(RenewalArrivals.hyperexponential(1.6, 4.0), 2, ONE)
    delayed, mean = metrics.wait_probability, metrics.mean_delay_s
    assert metrics.wait_variance_s2 == pytest.approx(delayed * (2 - delayed) * mean**2, rel=1e-6)


def test_time_in_mm1_and_in_mmk():
    t = np.linspace(0.0, 20.0, 41)
    np.testing.assert_allclose(sojourn_tail(mmk(0.5, 1, 1.0), ONE, t), np.exp(-0.5 * t), atol=1e-9)
    metrics = mmk(2.4, 3, 1.0)  # delay rate .6: exp(-t) + C .6/.4 ... by partial fractions
    delayed, slow = metrics.wait_probability, 0.6
    want = (1 - delayed) * np.exp(-t) + delayed * (np.exp(-slow * t) - slow * np.exp(-t)) / (1 - slow)
    np.testing.assert_allclose(sojourn_tail(metrics, ONE, t), want, atol=1e-8)
    assert sojourn_tail(metrics, ONE, -1.0) == 1


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_time_in_system_has_its_mean_and_that_of_simulation(law, servers):
    metrics = mgk(0.8 * servers / law.mean_s, servers, law)
    grid = np.linspace(0.0, 1.0, 3001) ** 2 * 200.0 * law.mean_s
    tail = sojourn_tail(metrics, law, grid)
    assert np.all(np.diff(tail) <= 1e-7)
    mean = np.trapezoid(tail, grid)
    assert mean == pytest.approx(metrics.mean_sojourn_s, rel=3e-3 + metrics.error_estimate.get("mean", 0.0))
    rng = np.random.default_rng(1)
    work = law.sample(400_000, rng)
    waits = kiefer_wolfowitz(np.cumsum(rng.exponential(1 / metrics.arrival_rate_per_s, work.size)), work, servers)
    for q in (0.5, 0.95):
        found = sojourn_quantile_s(metrics, law, q)
        # Laws with atoms may jump over the level.
        assert ((waits + work) > found * 1.04).mean() <= 1 - q <= ((waits + work) >= found * 0.96).mean()


def test_time_in_system_needs_the_queue_and_its_services():
    metrics = mmk(0.5, 1, 1.0)
    with pytest.raises(InputError, match="mean service time is 2; it must be that of the queue, 1"):
        sojourn_tail(metrics, ServiceTime.exponential(2.0), 1.0)
    with pytest.raises(InputError, match="take those that mgk or ggk returns"):
        sojourn_tail(mtgk([0.0, 9.0], [0.5], ONE, 1), ONE, 1.0)
    with pytest.raises(InputError, match="quantile level"):
        sojourn_quantile_s(metrics, ONE, 1.0)


def test_a_queue_shows_itself_in_a_line_and_as_a_table():
    metrics = mgk(3.0, 4, ServiceTime.gamma(1.0, 0.4))
    assert len(repr(metrics)) < 300
    assert "servers=4, utilisation=0.75" in repr(metrics)
    summary = metrics.summary()
    assert summary["p95_wait_s"] == metrics.wait_quantile_s(0.95)
    assert summary["mean_number"] == pytest.approx(3.0 * (metrics.mean_wait_s + 1.0))
    assert summary["mean_error"] == metrics.error_estimate["mean"]
    assert "<th style='text-align:left'>mean_wait_s</th>" in metrics._repr_html_()
    assert [name for name in summary if name.endswith("_error")] == ["mean_error", "p95_error", "p99_error"]


@pytest.mark.parametrize(
    "answer",
    [
        mmkn(2.0, 1, 300, 1.0),
        mgk_balking([0.5, 0.2], [1.0, 2.0], [3.0, 1.0], 1),
        mtgk(np.arange(101.0), np.full(100, 0.5), ONE, 1),
        two_pools([2.0, 0.4], [0.2, 1.0], [0.3, 2.5], [0.5, 2.0], cells=24),
        two_pools_over_time([0.0, 5.0], [[2.0, 0.4]], [0.2, 1.0], [0.3, 2.5], [0.5, 2.0], cells=24),
        decode_batch(5.0, 20.0, 0.01, 64),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_every_answer_shows_itself_in_a_line(answer):
    assert len(repr(answer)) < 300
    assert repr(answer).startswith(f"{type(answer).__name__}(")
    assert "array" not in repr(answer)


def test_tab_shows_the_public_names_alone():
    assert {name for name in dir(queueing) if not name.startswith("_")} == set(queueing.__all__)

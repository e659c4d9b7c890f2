"""Intervals cover what they claim to, on queues whose means are known."""

import numpy as np
import pytest
from scipy import stats

from qmodel.errors import InputError
from qmodel.simulation import mean_interval
from qmodel.simulation.statistics import batch_means_interval, quantile_interval


def lindley(arrivals, services):
    """Return FCFS waits of one server."""
    steps = services[:-1] - np.diff(arrivals)
    walk = np.concatenate(([0.0], np.cumsum(steps)))
    return walk - np.minimum.accumulate(walk)


def mm1(rng, n, load):
    """Return waits of M/M/1 with mean service 1; the mean is load/(1 - load)."""
    return lindley(np.cumsum(rng.exponential(1 / load, n)), rng.exponential(1.0, n))


def two_servers(rng, n, load, p=0.2, slow=3.0, fast=0.5):
    """Return waits of M/H2/2 with mean service 1, by the Kiefer-Wolfowitz recursion."""
    arrivals = np.cumsum(rng.exponential(1 / (2 * load), n))
    services = rng.exponential(np.where(rng.random(n) < p, slow, fast))
    free, waits = [0.0, 0.0], np.empty(n)
    for i, (t, s) in enumerate(zip(arrivals, services, strict=True)):
        at = 0 if free[0] <= free[1] else 1
        begin = max(t, free[at])
        waits[i], free[at] = begin - t, begin + s
    return waits


def test_student_interval_is_scipys():
    values = np.array([1.0, 2.5, 2.0, 4.0, 3.5])
    low, high = stats.t.interval(0.9, 4, values.mean(), stats.sem(values))
    assert mean_interval(values, 0.9) == pytest.approx((values.mean(), (high - low) / 2))


def test_batch_means_cover_the_mean_of_mm1():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        mean, half = batch_means_interval(mm1(rng, 30_000, 0.6)[3000:], batches=20)
        hits += abs(mean - 1.5) <= half
    assert 0.90 <= hits / 300 <= 0.985


def test_replications_cover_the_mean_of_mh22():
    from qmodel.queueing import ServiceTime, mgk

    exact = mgk(1.4, 2, ServiceTime.hyperexponential([0.2, 0.8], [3.0, 0.5])).mean_wait_s
    rng, hits = np.random.default_rng(2), 0
    for _ in range(60):
        mean, half = mean_interval([two_servers(rng, 4000, 0.7)[400:].mean() for _ in range(5)])
        hits += abs(mean - exact) <= half
    assert hits >= 51  # of 60 at 95 %: fewer has probability 0.001


def test_quantile_interval_covers():
    rng, hits, exact = np.random.default_rng(3), 0, np.log(0.6 / 0.05) / 0.4  # P(W > t) = 0.6 exp(-0.4 t)
    for _ in range(200):
        value, half = quantile_interval(mm1(rng, 30_000, 0.6)[3000:], 0.95, batches=20)
        hits += abs(value - exact) <= half
    assert 0.88 <= hits / 200 <= 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: mean_interval([1.0]),
        lambda: mean_interval([1.0, np.nan]),
        lambda: mean_interval([1.0, 2.0], level=1.0),
        lambda: batch_means_interval(np.ones(10)),
        lambda: quantile_interval(np.ones(1000), 0.99),
        lambda: quantile_interval(np.ones(1000), 1.5),
    ],
)
def test_too_little_to_say(make):
    with pytest.raises(InputError):
        make()

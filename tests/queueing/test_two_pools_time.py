"""Two pools over time: the long run is the stationary law, a burst is what simulation of it gives."""

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.queueing import two_pools, two_pools_over_time
from qmodel.queueing.pool_grid import checked_inputs
from qmodel.queueing.two_pools_time import _replayed

WORK, HOST, LIMITS = [0.2, 0.8], [0.3, 1.5], [0.5, 1.5]
EDGES, RATES = [0.0, 20.0, 35.0, 60.0], np.array([[1.5, 0.3], [6.0, 1.2], [0.5, 0.1]])


def test_constant_rates_settle_at_the_stationary_law():
    rates = [2.0, 0.4]
    still = two_pools(rates, WORK, HOST, LIMITS, cells=48, reach_s=(4.0, 6.0))
    moving = two_pools_over_time([0.0, 200.0, 260.0], [rates, rates], WORK, HOST, LIMITS, cells=48, reach_s=(4.0, 6.0))
    last = moving.windows[1]
    assert last.mean_wait_s == pytest.approx(still.mean_wait_s, rel=1e-3)
    np.testing.assert_allclose(last.law, still.law, atol=1e-4)


def one_run(rng, servers=1, hosts=1):
    """Return (window, wait, deflected) of each arrival of a run from empty backlogs."""
    rows, near, far, now = [], [0.0] * servers, [0.0] * hosts, 0.0
    for w, rate in enumerate(RATES * servers):
        count = rng.poisson(rate.sum() * (EDGES[w + 1] - EDGES[w]))
        for at in np.sort(rng.uniform(EDGES[w], EDGES[w + 1], count)):
            near, far = ([max(left - (at - now), 0.0) for left in pool] for pool in (near, far))
            now, b = at, int(rng.random() < rate[1] / rate.sum())
            kept = min(near) <= LIMITS[b]
            pool, work = (near, WORK[b]) if kept else (far, HOST[b])
            rows.append((w, min(pool), float(not kept)))
            pool[pool.index(min(pool))] += work
    return np.array(rows)


def ratio(totals, counts):
    """Return a ratio of sums over runs, and its standard error."""
    mean = totals.sum() / counts.sum()
    return mean, np.std(totals - mean * counts) * np.sqrt(totals.size) / counts.sum()


@pytest.mark.parametrize(("servers", "hosts", "count"), [(1, 1, 1500), (2, 1, 800), (2, 2, 800)])
def test_a_burst_agrees_with_simulation(servers, hosts, count):
    pools = {"prefill_servers": servers, "decode_servers": hosts}
    found = two_pools_over_time(EDGES, RATES * servers, WORK, HOST, LIMITS, **pools)
    rng = np.random.default_rng(0)
    runs = [one_run(rng, servers, hosts) for _ in range(count)]
    for w in range(3):
        mine = [run[run[:, 0] == w] for run in runs]
        counts = np.array([len(run) for run in mine])
        for column, value in ((1, found.window_mean_wait_s[w]), (2, found.window_deflected[w])):
            mean, error = ratio(np.array([run[:, column].sum() for run in mine]), counts)
            assert value == pytest.approx(mean, abs=4 * error + 0.01 * mean)
    everyone = np.concatenate(runs)[:, 1]
    assert found.overall.mean_wait_s == pytest.approx(everyone.mean(), rel=0.05)
    assert found.overall.wait_quantile_s(0.95) == pytest.approx(np.quantile(everyone, 0.95), rel=0.05)


def test_the_long_run_of_several_servers_is_their_steady_state():
    rates, pools = [4.0, 0.8], {"prefill_servers": 2, "decode_servers": 2}
    still = two_pools(rates, WORK, HOST, LIMITS, **pools)
    moving = two_pools_over_time([0.0, 200.0, 5000.0], [rates, rates], WORK, HOST, LIMITS, **pools)
    last = moving.windows[1]
    assert last.mean_wait_s == pytest.approx(still.mean_wait_s, rel=0.01)
    assert last.deflected == pytest.approx(still.deflected, abs=0.003)
    assert last.time_quantile_s(0.95) == pytest.approx(still.time_quantile_s(0.95), rel=0.01)
    assert moving.overall.error_estimate["mean"] < 0.01


@pytest.mark.parametrize("servers", [1, 2])
def test_windows_without_arrivals(servers):
    edges, rates = [0.0, 5.0, 10.0], [[2.0, 0.1], [0.0, 0.0]]
    found = two_pools_over_time(edges, rates, WORK, HOST, LIMITS, cells=32, prefill_servers=servers)
    assert found.windows[1] is None
    assert found.window_deflected[1] == 0
    assert found.overall.mean_wait_s > 0


@pytest.mark.parametrize(
    ("edges", "rates"),
    [
        ([0.0, 0.0], [[1.0, 1.0]]),
        ([0.0, 1.0], [[1.0, -1.0]]),
        ([0.0, 1.0], [1.0, 1.0]),
        ([0.0, 1.0], [[0.0, 0.0]]),
        ([0.0, 1.0, 2.0], [[1.0, 1.0]]),
    ],
)
def test_bad_input_is_refused(edges, rates):
    with pytest.raises(InputError, match="must be"):
        two_pools_over_time(edges, rates, WORK, HOST, LIMITS)


def along_paths(edges, rates, work, host, limits):
    mean = np.diff(edges) @ rates / (edges[-1] - edges[0])
    inputs = checked_inputs(mean, work, host, limits, 0.0, 1, 1, None, None, stable=False)
    return _replayed(inputs, np.array(edges), rates, None, None)


def test_windows_between_the_steps_of_the_lattice_lose_no_arrivals():
    # Half of the arrivals come within a second, some fifteen steps: edges rounded to steps made 4 to 12 % more of them.
    work = np.exp(1.2 * np.linspace(-1.8, 1.8, 12))
    work *= 0.2 / work.mean()
    limits, edges = np.maximum(1 - 0.5 * work, 0.3), [0.0, 20.0, 30.0, 60.0, 61.0, 120.0]
    rates = np.outer([0.1, 0.1, 0.1, 6.0, 0.3], np.full(12, 1 / 0.2 / 12))
    found, want = (f(edges, rates, work, 1.5 * work, limits) for f in (two_pools_over_time, along_paths))
    assert found.overall.method.startswith("chain")
    np.testing.assert_allclose(found.window_mean_wait_s, want.window_mean_wait_s, rtol=0.025)
    assert found.overall.time_quantile_s(0.95) == pytest.approx(want.overall.time_quantile_s(0.95), rel=0.025)


def test_thresholds_within_a_cell_are_replayed():
    rates = np.array([[3.0], [0.6]])
    found = two_pools_over_time([0.0, 300.0, 330.0], rates, [0.2], [0.3], 0.0)
    assert found.overall.method.startswith("path")
    # A loss system in steady state.
    assert found.window_deflected[0] == pytest.approx(0.375, abs=0.003)

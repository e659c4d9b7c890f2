"""Two coupled pools: against exact balking, the Erlang formulas and a plain simulation of the same rules."""

import numpy as np
import pytest

from qmodel.errors import InputError, OutOfRangeError, UnstableError
from qmodel.queueing import ServiceTime, mgk, mgk_balking, mmk, priced_thresholds, two_pools
from qmodel.queueing.pool_answer import SEVERAL_SERVERS
from qmodel.queueing.pool_axis import PoolAxis, ResidualLaw
from qmodel.queueing.pool_grid import keep_share

RATES, WORK, HOST = [2.0, 0.4], [0.2, 1.0], [0.3, 2.5]


def simulated(rates, work, host, transfer, theta, servers, hosts, count, seed):
    """Return (class, wait, time to the end of prefill, deflected) of each arrival, by a plain event loop."""
    rng = np.random.default_rng(seed)
    rates = np.asarray(rates)
    kinds = rng.choice(rates.size, count, p=rates / rates.sum())
    gaps = rng.exponential(1 / rates.sum(), count)
    near, far = [0.0] * servers, [0.0] * hosts
    waits, times, moved = np.empty(count), np.empty(count), np.zeros(count, dtype=bool)
    for n in range(count):
        near = [max(w - gaps[n], 0.0) for w in near]
        far = [max(v - gaps[n], 0.0) for v in far]
        b, w, v = kinds[n], min(near), min(far)
        if w <= theta(v)[b]:
            near[near.index(w)] += work[b]
            waits[n], times[n] = w, w + work[b] + transfer[b]
        else:
            far[far.index(v)] += host[b]
            waits[n], times[n], moved[n] = v, v + host[b], True
    keep = slice(count // 20, None)
    return kinds[keep], waits[keep], times[keep], moved[keep]


def noise(values):
    """Return the standard error of a mean from 20 batches."""
    batches = values[: values.size // 20 * 20].reshape(20, -1).mean(axis=1)
    return batches.std(ddof=1) / np.sqrt(20)


@pytest.mark.parametrize("load", [0.7, 1.3])
def test_one_server_without_coupling_is_exact_balking(load):
    rates = np.array(RATES) * load / 0.8
    exact = mgk_balking(rates, WORK, [0.5, 2.0], 1)
    pools = two_pools(rates, WORK, HOST, [0.5, 2.0], reach_s=(3.2, 12.0), cells=400)
    assert pools.deflected_share == pytest.approx(1 - exact.accept, abs=3e-4)
    kept = pools.kept @ pools.prefill_wait_s / pools.kept.sum(axis=1)
    assert kept == pytest.approx(exact.mean_wait_s, rel=4e-3)
    assert pools.prefill_utilisation == pytest.approx(exact.utilisation, rel=1e-3)
    assert pools.exact


def test_the_error_falls_with_the_square_of_the_step():
    exact = 1 - mgk_balking(RATES, WORK, [0.5, 2.0], 1).accept
    found = [two_pools(RATES, WORK, HOST, [0.5, 2.0], cells=n, reach_s=(3.2, 3.2)) for n in (64, 128, 256)]
    raw = [abs(pools.moved.sum(axis=1)[0] - exact[0]) for pools in found]
    assert raw[0] / raw[1] == pytest.approx(4, rel=0.3)
    assert raw[1] / raw[2] == pytest.approx(4, rel=0.3)
    # Extrapolation leaves less than the change that is reported as the error.
    for pools in found:
        assert abs(pools.deflected_share[0] - exact[0]) < pools.error_estimate["deflected"]


def test_coupled_thresholds_agree_with_simulation():
    rates, work, host, transfer = (
        np.array([2.6, 0.7]),
        np.array([0.2, 0.8]),
        np.array([0.3, 1.5]),
        np.array([0.01, 0.05]),
    )
    rule = priced_thresholds(work, host, transfer, 1.5, 1.0)
    kinds, waits, times, moved = simulated(
        rates, work, host, transfer, lambda v: rule(np.array([v]))[:, 0], 1, 1, 120_000, 3
    )
    pools = two_pools(rates, work, host, rule, transfer_s=transfer)
    assert pools.mean_wait_s == pytest.approx(waits.mean(), abs=4 * noise(waits) + 0.01 * waits.mean())
    assert pools.mean_time_s == pytest.approx(times.mean(), abs=4 * noise(times) + 0.01 * times.mean())
    for b in range(2):
        share = moved[kinds == b].astype(float)
        assert pools.deflected_share[b] == pytest.approx(share.mean(), abs=4 * noise(share) + 0.01)
    assert pools.time_quantile_s(0.95) == pytest.approx(np.quantile(times, 0.95), rel=0.05)


def test_several_servers_with_exponential_work_are_erlang():
    share = (np.arange(60) + 0.5) / 60
    work = -np.log1p(-share)
    work /= work.mean()
    for servers, load in ((2, 0.7), (3, 0.8)):
        rates = np.full(60, load * servers / 60)
        pools = two_pools(
            rates, work, 1.0, np.inf, prefill_servers=servers, cells=200, reach_s=(16.0, 1.5), method="chain"
        )
        exact = mmk(load * servers, servers, 1.0)
        assert pools.mean_wait_s == pytest.approx(exact.mean_wait_s, rel=0.03)
        assert float(pools.wait_cdf(1.0)) == pytest.approx(float(exact.wait_cdf(1.0)), abs=0.01)


@pytest.mark.full
@pytest.mark.parametrize(("servers", "hosts"), [(2, 2), (2, 4)])
def test_the_chain_of_several_servers_agrees_roughly_with_simulation(servers, hosts):
    rates, work, host = np.array([2.2, 0.6]) * servers, np.array([0.2, 0.8]), np.array([0.3, 1.5])
    rule = priced_thresholds(work, host, [0.0, 0.0], 1.5, 1.0)
    _, waits, times, moved = simulated(
        rates, work, host, [0.0, 0.0], lambda v: rule(np.array([v]))[:, 0], servers, hosts, 300_000, 5
    )
    pools = two_pools(rates, work, host, rule, prefill_servers=servers, decode_servers=hosts, method="chain")
    assert pools.deflected == pytest.approx(moved.mean(), abs=0.02)
    assert pools.mean_wait_s == pytest.approx(waits.mean(), rel=0.12)
    assert pools.mean_time_s == pytest.approx(times.mean(), rel=0.05)
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        assert pools.time_quantile_s(q) == pytest.approx(np.quantile(times, q), rel=pools.error_estimate[name])


def heavy(load, servers):
    """Return rates, work and host time of prompts with a long tail, work of mean 1 and SCV 3.4, and priced limits."""
    prompts = np.geomspace(16, 65_536, 24)
    share = np.exp(-0.5 * (np.log(prompts / 700) / 1.3) ** 2)
    share /= share.sum()
    work = 0.015 + 4.5e-5 * prompts
    work = work / (share @ work)
    return load * servers * share, work, 0.2 + 1.6 * work


@pytest.mark.full
@pytest.mark.parametrize("limits", ["prices", "common", "by length"])
@pytest.mark.parametrize(("servers", "hosts", "load"), [(2, 2, 1.2), (2, 1, 0.9), (4, 4, 1.2)])
def test_several_servers_agree_with_simulation(servers, hosts, load, limits):
    rates, work, host = heavy(load, servers)
    fixed = np.full(24, 2.0) if limits == "common" else 5 / (1 + work)
    rule = priced_thresholds(work, host, 0.0 * work, 1.0, 0.5) if limits == "prices" else fixed
    at = (lambda v: rule(np.array([v]))[:, 0]) if limits == "prices" else (lambda v: fixed)
    _, _, times, moved = simulated(rates, work, host, 0.0 * work, at, servers, hosts, 1_000_000, 9)
    pools = two_pools(rates, work, host, rule, prefill_servers=servers, decode_servers=hosts)
    assert pools.method.startswith("path")
    mean_off = 4 * noise(times) / times.mean()
    assert pools.mean_time_s == pytest.approx(times.mean(), rel=pools.error_estimate["mean"] + mean_off)
    assert pools.error_estimate["mean"] < 0.03
    assert pools.deflected == pytest.approx(moved.mean(), abs=0.01)
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        assert pools.error_estimate[name] < 0.06
        batches = [np.quantile(part, q) for part in np.array_split(times, 20)]
        off = 4 * np.std(batches, ddof=1) / np.sqrt(20) / np.quantile(times, q)
        assert pools.time_quantile_s(q) == pytest.approx(np.quantile(times, q), rel=pools.error_estimate[name] + off)


def test_the_path_of_one_server_a_pool_is_the_chain():
    for limits in ([0.5, 2.0], priced_thresholds(WORK, HOST, [0.0, 0.0], 1.5, 1.0)):
        chain, path = (two_pools(RATES, WORK, HOST, limits, method=method) for method in ("chain", "path"))
        for name in ("mean", "p95", "p99"):
            assert path.error_estimate[name] < 0.04
        off = {name: chain.error_estimate[name] + path.error_estimate[name] for name in chain.error_estimate}
        assert path.mean_time_s == pytest.approx(chain.mean_time_s, rel=off["mean"])
        assert path.time_quantile_s(0.95) == pytest.approx(chain.time_quantile_s(0.95), rel=off["p95"])
        assert path.time_quantile_s(0.99) == pytest.approx(chain.time_quantile_s(0.99), rel=off["p99"])
        assert path.deflected == pytest.approx(chain.deflected, abs=off["deflected"])
        assert path.wait_cdf(0.0) == pytest.approx(chain.wait_cdf(0.0), abs=0.01)
        assert path.prefill_utilisation == pytest.approx(chain.prefill_utilisation, abs=0.005)


@pytest.mark.parametrize("servers", [2, 4])
def test_thresholds_that_never_bind_leave_m_g_k(servers):
    work = ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5]).sample(200, np.random.default_rng(1))
    work /= work.mean()
    exact = mgk(0.85 * servers, servers, ServiceTime.from_samples(work), "analytic")
    pools = two_pools(np.full(200, 0.85 * servers / 200), work, 1.0, np.inf, prefill_servers=servers, decode_servers=2)
    assert pools.deflected == 0
    assert pools.mean_wait_s == pytest.approx(exact.mean_wait_s, rel=0.03)
    for q in (0.95, 0.99):
        assert pools.wait_quantile_s(q) == pytest.approx(exact.wait_quantile_s(q), rel=0.04)


def test_a_free_second_pool_leaves_balking():
    queue = mgk_balking(np.array(RATES) * 2, WORK, [0.5, 2.0], 2)
    pools = two_pools(np.array(RATES) * 2, WORK, 0.0, [0.5, 2.0], prefill_servers=2, decode_servers=3)
    assert 1 - pools.deflected_share == pytest.approx(queue.accept, rel=0.01)
    kept = pools.kept @ pools.prefill_wait_s / pools.kept.sum(axis=1)
    assert kept == pytest.approx(queue.mean_wait_s, rel=0.02)
    assert pools.decode_utilisation == 0


def test_coarse_work_follows_a_path_and_fine_work_the_chain():
    rates, work, host = heavy(0.9, 1)
    rule = priced_thresholds(work, host, 0.0 * work, 1.0, 0.5)
    assert two_pools(rates, work, host, rule).method.startswith("path")
    assert two_pools([0.8], [1.0], [1.5], 2.0).method.startswith("chain")
    assert two_pools(rates, work, host, rule, cells=48).method.startswith("chain")


def test_waits_that_pile_up_along_the_thresholds_are_told_apart():
    # Two kinds of work and prices drive both waits along the thresholds, where cells of counts would blur decisions.
    rates, work, host = np.array([1.28, 0.32]), np.array([0.25, 4.0]), np.array([0.6, 6.6])
    rule = priced_thresholds(work, host, [0.0, 0.0], 0.9, 0.2)
    _, _, times, moved = simulated(rates, work, host, [0.0, 0.0], lambda v: rule(np.array([v]))[:, 0], 2, 1, 150_000, 4)
    pools = two_pools(rates, work, host, rule, prefill_servers=2)
    assert pools.mean_time_s == pytest.approx(times.mean(), rel=0.007 + 4 * noise(times) / times.mean())
    assert pools.deflected == pytest.approx(moved.mean(), abs=0.001 + 4 * noise(moved.astype(float)))


def test_rare_classes_have_laws_too():
    rates = np.array([2.0, 0.4, 1e-7, 0.0])
    pools = two_pools(rates, [0.2, 1.0, 0.2, 1.0], [0.3, 1.2, 0.3, 1.2], [0.5, 2.0, 0.5, 2.0], prefill_servers=2)
    np.testing.assert_allclose(pools.kept.sum(axis=1) + pools.moved.sum(axis=1), 1.0)
    np.testing.assert_allclose(pools.deflected_share[2:], pools.deflected_share[:2], atol=0.01)
    np.testing.assert_allclose(pools.class_mean_wait_s[2:], pools.class_mean_wait_s[:2], rtol=0.02)


def test_answers_of_a_path_repeat_and_scale_with_time():
    options = {"prefill_servers": 2, "decode_servers": 2}
    rates = 2 * np.array(RATES)
    one, same = (two_pools(rates, WORK, HOST, [0.5, 2.0], **options) for _ in range(2))
    np.testing.assert_array_equal(one.law, same.law)
    far = two_pools(rates / 50, 50 * np.array(WORK), 50 * np.array(HOST), [25.0, 100.0], **options)
    assert far.mean_time_s == pytest.approx(50 * one.mean_time_s, rel=1e-3)
    np.testing.assert_allclose(one.kept.sum(axis=1) + one.moved.sum(axis=1), 1.0)
    np.testing.assert_allclose(one.kept.sum(axis=1), 1 - one.deflected_share)
    assert one.law.sum() == pytest.approx(1)
    assert one.law.shape == (one.prefill_wait_s.size, one.decode_wait_s.size)
    assert one.time_quantile_s(0.5) < one.time_quantile_s(0.95) < one.time_quantile_s(0.99)


def test_the_chain_of_several_servers_says_that_it_is_rough():
    one, two = (two_pools(RATES, WORK, HOST, [0.5, 2.0], cells=32, prefill_servers=k, method="chain") for k in (1, 2))
    assert one.exact
    assert not two.exact
    for name in ("mean", "p95", "p99", "deflected"):
        assert two.error_estimate[name] >= SEVERAL_SERVERS[name]


def test_growth_with_several_servers_is_seen():
    with pytest.raises(UnstableError, match="decode server"):
        two_pools([5.0], [1.0], [1.0], 0.5, prefill_servers=2, decode_servers=2)


def test_the_chain_is_one_and_keeps_the_mean_of_jumps():
    pools = two_pools(RATES, WORK, HOST, [0.5, 2.0], cells=32, reach_s=(3.0, 6.0), prefill_servers=2)
    chain = pools.chain
    one = np.ones(chain.states)
    for matrix in (chain.fall(), *(step(b) for step in (chain.keep, chain.deflect) for b in range(2))):
        assert matrix.min() >= 0
        np.testing.assert_allclose(matrix @ one, 1.0, atol=1e-12)
    # Away from idle states and the border a deflected arrival raises the decode wait by its host time.
    rise = (chain.deflect(0) @ chain.decode_wait_s - chain.decode_wait_s).reshape(chain.shape)
    np.testing.assert_allclose(rise[:, 1:20], HOST[0], rtol=1e-9)
    # The policy's transition is the mix of the actions'.
    rng = np.random.default_rng(0)
    share = rng.random((2, *chain.shape))
    mix = chain.rates_per_s / chain.rates_per_s.sum()
    law = rng.random(chain.states)
    want = sum(
        mix[b] * ((law * share[b].ravel()) @ chain.keep(b) + (law * (1 - share[b].ravel())) @ chain.deflect(b))
        for b in range(2)
    )
    np.testing.assert_allclose(law @ chain.routed(share), want, rtol=1e-10)
    assert chain.keep_cost_s(1)[0] == pytest.approx(WORK[1])
    assert chain.deflect_cost_s(1)[0] == pytest.approx(HOST[1])


def test_the_law_is_stationary_and_small_and_large_chains_agree():
    pools = two_pools(RATES, WORK, HOST, [0.5, 2.0], cells=32, reach_s=(3.0, 4.0))
    assert pools.chain.states > 700
    from qmodel.queueing.pool_grid import checked_inputs

    inputs = checked_inputs(RATES, WORK, HOST, [0.5, 2.0], 0.0, 1, 1, None, None)
    share = keep_share(inputs, pools.chain)
    carried = pools.chain.step(share)(pools.law.ravel())
    np.testing.assert_allclose(carried, pools.law.ravel(), atol=1e-9)
    dense = np.eye(pools.chain.states) - pools.chain.step(share)(np.eye(pools.chain.states)) + 1.0
    law = np.linalg.solve(dense, np.ones(pools.chain.states))
    np.testing.assert_allclose(pools.law.ravel(), law, atol=1e-6)


def test_results_are_laws_and_scale_with_time():
    one = two_pools(RATES, WORK, HOST, [0.5, 2.0])
    two = two_pools(np.array(RATES) / 50, np.array(WORK) * 50, np.array(HOST) * 50, np.array([0.5, 2.0]) * 50)
    assert two.mean_time_s == pytest.approx(50 * one.mean_time_s, rel=1e-4)
    assert two.time_quantile_s(0.99) == pytest.approx(50 * one.time_quantile_s(0.99), rel=1e-3)
    grid = np.linspace(-1.0, 20.0, 200)
    cdf = one.time_cdf(grid)
    assert cdf[0] == 0
    assert cdf[-1] == pytest.approx(1, abs=1e-4)
    assert np.all((cdf >= 0) & (cdf <= 1))
    for q in (0.0, 0.5, 0.9, 0.99):
        assert float(one.time_cdf(one.time_quantile_s(q) + 1e-6)) >= q - 1e-6
    np.testing.assert_allclose(one.kept.sum(axis=1) + one.moved.sum(axis=1), 1.0)


def test_ends_of_the_range_of_thresholds():
    kept = two_pools([1.0], [0.5], [np.inf], np.inf)
    assert kept.deflected == 0
    assert kept.mean_wait_s == pytest.approx(0.25, rel=1e-3)
    moved = two_pools([1.0], [0.5], [0.4], -1.0)
    assert moved.deflected == 1
    assert moved.mean_wait_s == pytest.approx(0.4 * 0.4 / (2 * 0.6), rel=1e-3)


def test_the_least_residual_integrates_its_power():
    law = ResidualLaw.of(np.array([1.0, 3.0]), np.array([2.0, 1.0]), 3)
    grid = np.linspace(0.0, 3.0, 30_001)
    beyond = (2 * np.maximum(1 - grid, 0) + np.maximum(3 - grid, 0)) / 5
    want = np.concatenate([[0.0], np.cumsum((beyond[1:] ** 3 + beyond[:-1] ** 3) / 2 * np.diff(grid))])
    np.testing.assert_allclose(law.integral(grid), want, atol=1e-8)
    axis = PoolAxis(step_s=0.1, cells=80, servers=4, mean_work_s=5 / 3, residual=law)
    # Work of any class raises the wait by 1/k of it on average, over the mix.
    rises = [float(axis.rise(work) @ np.arange(81) * 0.1) for work in (1.0, 3.0)]
    assert (2 * rises[0] + rises[1]) / 3 == pytest.approx(5 / 3 / 4, rel=1e-9)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (UnstableError, ([3.0], [0.5], [0.5], np.inf)),
        (UnstableError, ([3.0], [0.5], [0.5], -1.0)),
        (UnstableError, ([5.0], [0.5], [0.5], 1.0)),
        (InputError, ([1.0, np.nan], [0.5], [0.5], 1.0)),
        (InputError, ([1.0], [-0.5], [0.5], 1.0)),
        (InputError, ([1.0], [0.5], [np.inf], 1.0)),
        (InputError, ([1.0], [0.5], [0.5], np.nan)),
        (InputError, ([1.0], [0.0], [0.5], 1.0)),
        (InputError, ([1.0], [0.5], [0.5], [1.0, 2.0])),
        (InputError, ([1.0], [0.5], [0.5], lambda v: v)),
        (UnstableError, ([1.0, 0.001], [0.5, 1e5], [0.5, 1e5], 1.0)),
    ],
)
def test_bad_input_is_refused(error, arguments):
    with pytest.raises(error, match="must be"):
        two_pools(*arguments)


def test_a_lattice_that_is_far_too_coarse_is_refused():
    with pytest.raises(OutOfRangeError, match="must be"):
        two_pools([1.0, 0.001], [0.5, 1e5], [0.5, 1e5], 1.0, method="chain")


@pytest.mark.parametrize(
    "options", [{"cells": 3}, {"prefill_servers": 0}, {"reach_s": (1.0, -1.0)}, {"cells": 1000}, {"method": "best"}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(InputError):
        two_pools([1.0], [0.5], [0.5], 1.0, **({"reach_s": (5.0, 5.0)} | options))


@pytest.mark.parametrize("sigma", [0.5, 1.2])
def test_thresholds_within_a_cell_of_the_lattice_follow_a_path(sigma):
    # Prefill that keeps only what finds it idle is a loss system: it deflects load/(1 + load), whatever the work.
    work = np.exp(sigma * np.linspace(-2, 2, 15))
    work *= 0.2 / work.mean()
    rates = np.full(15, 0.6 / 0.2 / 15)
    found = two_pools(rates, work, 1.5 * work, 0.0)
    assert found.method.startswith("path")
    assert found.deflected == pytest.approx(0.375, abs=0.002)
    rough = two_pools(rates, work, 1.5 * work, 0.0, method="chain")
    assert abs(rough.deflected - 0.375) < rough.error_estimate["deflected"]
    assert two_pools(rates, work, 1.5 * work, 0.4).method.startswith("chain")


@pytest.mark.parametrize("load", [1.3, 4.0])
def test_long_thresholds_in_overload_need_cells_finer_than_the_work(load):
    # Prefill never idles: it keeps one unit of work a second, and its wait stays a little below the threshold.
    found = two_pools([load], [1.0], [0.3], 50.0)
    assert found.method.startswith("path")
    assert found.deflected == pytest.approx(1 - 1 / load, abs=0.003)
    assert found.prefill_utilisation == pytest.approx(1.0, abs=0.01)

"""Prices over a finite horizon: a path by hand, the M/G/1 limit, overload, and what plans make of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmodel.errors import InputError
from qmodel.optimization import derive_plan, static_split
from qmodel.optimization.chunks import CHUNKS, capped
from qmodel.optimization.horizon import _spread, horizon_price_per_s, horizon_prices
from qmodel.optimization.thresholds import backlog_price_per_s


def brute_price(arrival, work, servers):
    """Replay the queue once more for every job with a little more work in it."""

    def total_wait(extra_at, extra):
        backlog, last, total = 0.0, 0.0, 0.0
        for i, (t, s) in enumerate(zip(arrival, work, strict=True)):
            backlog = max(0.0, backlog - servers * (t - last))
            total += backlog / servers
            backlog += s + (extra if i == extra_at else 0.0)
            last = t
        return total

    base, small, waits, backlog, last = total_wait(-1, 0.0), 1e-7, 0.0, 0.0, 0.0
    for t, s in zip(arrival, work, strict=True):
        backlog = max(0.0, backlog - servers * (t - last)) + s
        waits += backlog / servers
        last = t
    slopes = sum((total_wait(i, small) - base) / small for i in range(len(work)))
    return slopes / (2 * waits)


@pytest.mark.parametrize("servers", [1, 3])
def test_equals_the_derivative_of_the_replayed_queue(servers):
    rng = np.random.default_rng(2)
    arrival, work = np.cumsum(rng.exponential(1.0, 60)), rng.exponential(0.9 * servers, 60)
    assert horizon_price_per_s(arrival, work, servers) == pytest.approx(brute_price(arrival, work, servers), rel=1e-5)


@pytest.mark.parametrize(("load", "servers"), [(0.5, 1), (0.8, 1), (0.7, 4)])
def test_tends_to_the_mg1_price(load, servers):
    rng = np.random.default_rng(3)
    n = 1_000_000
    arrival, work = np.cumsum(rng.exponential(1 / (load * servers), n)), rng.gamma(2.0, 0.5, n)
    assert horizon_price_per_s(arrival, work, servers) == pytest.approx(backlog_price_per_s(load, load), rel=0.05)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3.0), st.floats(0.01, 100.0))
def test_finite_under_overload_and_scales_with_time(seed, load, scale):
    rng = np.random.default_rng(seed)
    arrival, work = np.cumsum(rng.exponential(1.0, 100)), rng.exponential(load, 100)
    price = horizon_price_per_s(arrival, work)
    assert 0 <= price < np.inf
    assert horizon_price_per_s(scale * arrival, scale * work) == pytest.approx(price / scale, rel=1e-6, abs=1e-12)


def test_nobody_to_wait():
    assert horizon_price_per_s([], []) == 0.0
    assert horizon_price_per_s([1.0], [5.0]) == 0.0
    assert horizon_price_per_s([0.0, 10.0], [1.0, 1.0]) == 0.0


def test_bursts_cost_more_than_their_mean_load():
    rng = np.random.default_rng(5)
    n, load = 200_000, 0.6
    gaps, work = rng.exponential(1 / load, n), rng.exponential(1.0, n)
    speed = np.repeat(np.tile([0.6, 2.0], n // 2000), 1000)  # calm and crowded stretches, of loads .39 and 1.3
    speed *= np.mean(1 / speed)
    steady, bursty = (horizon_price_per_s(np.cumsum(gaps / one), work) for one in (np.ones(n), speed))
    assert steady == pytest.approx(backlog_price_per_s(load, load), rel=0.05)
    assert bursty > 2 * steady


def test_prices_of_a_split_follow_its_shares(cluster, chat, slo):
    split = static_split(cluster, chat, slo)
    requests = chat.requests(seed=0, count=4000)
    g_P, g_D = horizon_prices(cluster, requests, split)
    assert g_P > 0
    assert g_D > 0
    everything = replace(split, kept=np.ones_like(split.kept))
    assert horizon_prices(cluster, requests, everything)[0] > g_P
    assert horizon_prices(cluster, requests, everything)[1] == 0.0


@given(st.lists(st.integers(0, 2), max_size=200), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_shares_are_kept_evenly(at, kept):
    bins = np.array(at, dtype=np.intp)
    stays = _spread(bins, np.array(kept))
    for b, share in enumerate(kept):
        inside = stays[bins == b]
        counts = np.cumsum(inside)
        assert np.all(np.abs(counts - share * np.arange(1, len(inside) + 1)) <= 0.5 + 1e-9)


def test_a_thorough_search_judges_horizon_prices_and_chunk_caps(cluster, chat, slo):
    plan = derive_plan(cluster, chat, slo, effort="high")
    judged = plan.predicted["candidates"]
    assert any("horizon g_P and g_D" in name for name in judged) or len(judged) > 3
    fixed = derive_plan(cluster, chat, slo, objective="slo", chunk_cap=512)
    assert max(fixed.rule.chunks) == max(fixed.dispatch_rule.chunks) == 512
    assert "dispatch, deadline, horizon g_P and g_D" in fixed.predicted["candidates"]


def test_both_rules_of_a_plan_share_tables(cluster, chat, slo):
    for cap in (None, 256):
        plan = derive_plan(cluster, chat, slo, effort="high", chunk_cap=cap)
        assert plan.late_rule.chunks == plan.dispatch_rule.chunks
        assert np.array_equal(plan.late_rule.host_s, plan.dispatch_rule.host_s)


def test_smaller_chunks_take_longer_and_cost_the_split_more(cluster, chat, slo):
    costs = [static_split(cluster, chat, slo, chunks=capped(cap)).cost for cap in (None, 512, 256, 128)]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]
    assert capped(None) == CHUNKS
    for bad in (0, 127, -5):
        with pytest.raises(InputError, match="chunk_cap"):
            capped(bad)

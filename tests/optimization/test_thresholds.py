"""Stage 2: the closed form against its derivation, the tables against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmodel.optimization import host_tables, static_split, threshold_rule, thresholds_s
from qmodel.optimization.chunks import CHUNKS, NO_SCHEDULE_S, chunk_schedule, safe_chunks
from qmodel.optimization.thresholds import HARM_WEIGHT, backlog_price_per_s, threshold_s

seconds = st.floats(1e-4, 20.0)
prices = st.floats(0.0, 50.0)


def admission_cost(w, s, g):
    return w + s + g * ((w + s) ** 2 - w**2)


@given(s=seconds, x=seconds, h=seconds, v=st.floats(0, 20.0), g_P=prices, g_D=prices, harm=st.floats(0, 5.0))
def test_threshold_balances_the_two_costs(s, x, h, v, g_P, g_D, harm):
    theta = float(threshold_s(s, x, h, v, g_P, g_D, harm))
    kept = admission_cost(theta, s, g_P) + x
    moved = admission_cost(v, h, g_D) + harm
    assert kept == pytest.approx(moved, rel=1e-7, abs=1e-7 * (moved + s + g_P * (s**2 + 2 * abs(theta) * s)))


@given(s=seconds, x=seconds, h=seconds, v=st.floats(0, 20.0), g_P=prices, g_D=prices)
def test_threshold_rises_with_decode_backlog_and_host_time(s, x, h, v, g_P, g_D):
    at = float(threshold_s(s, x, h, v, g_P, g_D))
    assert float(threshold_s(s, x, h, v + 0.1, g_P, g_D)) > at
    assert float(threshold_s(s, x, h + 0.1, v, g_P, g_D)) > at


def test_code_matches_the_sympy_derivation():
    sympy = pytest.importorskip("sympy")
    from qmodel.optimization import derivations

    theta = derivations.threshold()
    numeric = sympy.lambdify([theta.symbols[n] for n in ["s", "x", "h", "v", "g_P", "g_D", "harm"]], theta.expression)
    rng = np.random.default_rng(1)
    for _ in range(50):
        s, x, h, v, g_P, g_D, harm = rng.uniform(0.01, 5, 7)
        assert float(threshold_s(s, x, h, v, g_P, g_D, harm)) == pytest.approx(numeric(s, x, h, v, g_P, g_D, harm))


def test_price_matches_the_sympy_derivation():
    pytest.importorskip("sympy")
    from qmodel.optimization import derivations

    price = derivations.backlog_price()
    value = price.expression.subs({price.symbols["lam"]: 3, price.symbols["rho"]: 0.7})
    assert backlog_price_per_s(3.0, 0.7) == pytest.approx(float(value))


def test_backlog_price_against_the_mg1_relative_value():
    # Differences of expected total wait from backlog w and 0, by value iteration on a discretised M/D/1 workload.
    lam, s, step = 0.6, 1.0, 0.05
    load = lam * s
    grid = np.arange(0, 60, step)
    arrive = lam * step
    jump = round(s / step)
    value = np.zeros(len(grid))
    for _ in range(20_000):
        rest = np.concatenate([value[:1], value[:-1]])
        joined = np.concatenate([rest[jump:], np.full(jump, rest[-1])])
        value = arrive * (grid + joined) + (1 - arrive) * rest
        value = value - value[0]
    w = 5.0
    got = value[round(w / step)]
    assert got == pytest.approx(backlog_price_per_s(lam, load) * w**2, rel=0.05)


def brute_host(calibration, prompt, B, K, limit_s, chunks):
    done = host = 0.0
    while done < prompt:
        for candidate in chunks:
            chi = min(candidate, prompt - done)
            t = calibration.decode_step_s(B, K, chi, done)
            if t <= limit_s:
                break
        else:
            return NO_SCHEDULE_S
        host, done = host + t, done + chi
    return host


def test_schedules_equal_brute_force(calibration):
    lengths = [1, 129, 600, 2049, 5000, 12_345]
    states = [(0, 0), (40, 60_000), (240, 400_000)]
    for limit_s in (0.03, 0.06):
        B, K = np.array(states, dtype=float).T
        host = chunk_schedule(calibration, lengths, B, K, limit_s).host_s
        for i, prompt in enumerate(lengths):
            for j, (batch, context) in enumerate(states):
                expected = brute_host(calibration, prompt, batch, context, limit_s, CHUNKS)
                assert host[i, j] == pytest.approx(expected, rel=1e-9), (prompt, batch, limit_s)


def test_harm_is_the_residents_delay(calibration):
    schedule = chunk_schedule(calibration, [700], [40.0], [60_000.0], 1.0, chunks=(2048,))
    with_chunk = calibration.decode_step_s(40, 60_000, 700, 0)
    assert schedule.harm_s[0, 0] == pytest.approx(40 * (with_chunk - calibration.decode_step_s(40, 60_000)))


def test_safe_chunk_is_safe_and_largest(calibration):
    rng = np.random.default_rng(2)
    for _ in range(200):
        B, K, done = float(rng.integers(0, 257)), float(rng.integers(0, 1_000_000)), float(rng.integers(0, 60_000))
        limit_s = rng.uniform(0.01, 0.2)
        chunk = int(safe_chunks(calibration, B, K, done, limit_s))
        if chunk:
            assert calibration.decode_step_s(B, K, chunk, done) <= limit_s
        larger = [c for c in CHUNKS if c > chunk]
        assert all(calibration.decode_step_s(B, K, c, done) > limit_s for c in larger)


def test_tables_equal_schedules_at_grid_points(cluster, calibration, prompts, slo):
    split = static_split(cluster, prompts, slo)
    rule = threshold_rule(cluster, prompts, slo, split)
    host, harm = host_tables(calibration, rule.lengths, rule.batches, rule.contexts, slo)
    assert np.array_equal(host, rule.host_s)
    assert np.array_equal(harm, rule.harm_s)
    i, j, k = 20, 5, 4
    expected = brute_host(calibration, rule.lengths[i], rule.batches[j], rule.contexts[k], slo.tbt_s, CHUNKS)
    assert rule.host_s[i, j, k] == pytest.approx(expected, rel=1e-9)
    theta = thresholds_s(rule, rule.lengths[i], 0.2, rule.batches[j], rule.contexts[k])
    assert rule.harm_weight == HARM_WEIGHT["dispatch"]
    prices = rule.price_prefill_per_s, rule.price_decode_per_s, rule.harm_weight * harm[i, j, k]
    by_hand = threshold_s(rule.work_s[i], rule.transfer_s[i], expected, 0.2, *prices)
    assert float(theta) == pytest.approx(float(by_hand))


def test_threshold_is_infinite_where_no_chunk_is_safe(cluster, prompts, slo):
    split = static_split(cluster, prompts, slo)
    rule = threshold_rule(cluster, prompts, slo, split)
    assert np.isinf(thresholds_s(rule, 4000, 0.0, 256, 1_380_000))


def test_deadlines_are_valued_under_load(cluster, prompts, slo):
    def rule(rate, **options):
        load = replace(prompts, rate_per_s=rate)
        return threshold_rule(cluster, load, slo, static_split(cluster, load, slo), **options)

    work = float(np.mean(np.asarray(cluster.work_s(prompts.prompt))))
    assert rule(0.7 * 2 / work).deadline_s == 0
    busy = rule(0.95 * 2 / work)
    assert busy.deadline_s == pytest.approx(0.7 * slo.ttft_s)
    assert rule(0.95 * 2 / work, value_deadlines=False).deadline_s == 0
    assert np.isfinite(thresholds_s(busy, 500, 0.3, 20, 30_000))
    assert np.isinf(thresholds_s(busy, 500, 0.7, 20, 30_000))

"""Properties that every queue has, on random parameters."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qmodel.queueing import ServiceTime, mgk, mmpp_k

loads = st.floats(0.2, 0.97)
servers = st.integers(1, 16)
means = st.floats(1e-3, 1e3)


@st.composite
def laws(draw):
    mean = draw(means)
    kind = draw(st.sampled_from(["exponential", "deterministic", "erlang", "gamma", "h2", "samples", "lognormal"]))
    if kind == "exponential":
        return ServiceTime.exponential(mean)
    if kind == "deterministic":
        return ServiceTime.deterministic(mean)
    if kind == "erlang":
        return ServiceTime.erlang(draw(st.integers(1, 9)), mean)
    if kind == "gamma":
        return ServiceTime.gamma(mean, draw(st.floats(0.05, 5.0)))
    if kind == "h2":
        return ServiceTime.hyperexponential([0.7, 0.3], [mean, mean * draw(st.floats(0.01, 20.0))])
    if kind == "lognormal":
        return ServiceTime.lognormal(mean, draw(st.floats(0.1, 5.0)), upper_s=mean * draw(st.floats(2.0, 60.0)))
    values = draw(st.lists(st.floats(0.01, 30.0), min_size=1, max_size=12))
    return ServiceTime.from_samples(np.array(values) * mean)


@settings(max_examples=60, deadline=None)
@given(law=laws(), k=servers, rho=loads)
def test_results_are_laws(law, k, rho):
    metrics = mgk(rho * k / law.mean_s, k, law)
    assert np.isfinite(metrics.mean_wait_s)
    assert metrics.mean_wait_s >= 0
    assert 0 <= metrics.wait_probability <= 1
    scale = metrics.mean_wait_s / max(metrics.wait_probability, 1e-300)
    tails = metrics.wait_tail(np.linspace(0, 12, 40) * scale)
    assert np.all(np.isfinite(tails))
    assert np.all((tails >= 0) & (tails <= 1))
    assert np.all(np.diff(tails) <= 1e-9)
    quantiles = [metrics.wait_quantile_s(q) for q in (0.1, 0.5, 0.9, 0.99)]
    assert np.all(np.isfinite(quantiles))
    assert np.all(np.diff(quantiles) >= 0)
    for q, wait in zip((0.1, 0.5, 0.9, 0.99), quantiles, strict=True):
        if wait > 0:
            assert abs(float(metrics.wait_cdf(wait)) - q) < 1e-4


@settings(max_examples=30, deadline=None)
@given(law=laws(), k=servers, rho=st.floats(0.2, 0.9), factor=st.floats(1e-3, 1e3))
def test_scaling_time_scales_waits(law, k, rho, factor):
    rate = rho * k / law.mean_s
    one, two = mgk(rate, k, law), mgk(rate / factor, k, law.scaled(factor))
    np.testing.assert_allclose(two.mean_wait_s, one.mean_wait_s * factor, rtol=1e-5)
    np.testing.assert_allclose(two.wait_probability, one.wait_probability, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(law=laws(), k=servers, rho=st.floats(0.3, 0.85))
def test_waits_rise_with_load(law, k, rho):
    low, high = (mgk(r * k / law.mean_s, k, law) for r in (rho, rho * 1.1))
    assert high.mean_wait_s > low.mean_wait_s
    assert high.wait_probability >= low.wait_probability


@settings(max_examples=30, deadline=None)
@given(law=laws(), k=st.integers(1, 12), rho=st.floats(0.2, 0.95))
def test_waits_fall_with_servers_at_equal_load(law, k, rho):
    few, many = (mgk(rho * n / law.mean_s, n, law) for n in (k, k + 1))
    assert many.mean_wait_s < few.mean_wait_s


@settings(max_examples=30, deadline=None)
@given(k=servers, rho=st.floats(0.2, 0.95))
def test_waits_rise_in_convex_order(k, rho):
    chain = [
        ServiceTime.deterministic(1.0),
        ServiceTime.erlang(2, 1.0),
        ServiceTime.exponential(1.0),
        ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0]),
    ]
    waits = [mgk(rho * k, k, law).mean_wait_s for law in chain]
    assert np.all(np.diff(waits) > 0)


@settings(max_examples=20, deadline=None)
@given(law=laws(), rho=st.floats(0.05, 0.95))
def test_one_server_is_pollaczek_khinchine(law, rho):
    lam = rho / law.mean_s
    want = lam * law.moment(2) / (2 * (1 - rho))
    np.testing.assert_allclose(mgk(lam, 1, law).mean_wait_s, want, rtol=1e-7)


@settings(max_examples=20, deadline=None)
@given(k=st.integers(1, 6), rho=st.floats(0.2, 0.9), switch=st.floats(0.01, 10.0), peak=st.floats(1.0, 1.8))
def test_bursts_never_help(k, rho, switch, peak):
    rates = [rho * k * peak, rho * k * (2 - peak)]
    law = ServiceTime.exponential(1.0)
    bursty = mmpp_k(rates, [switch, switch], k, law)
    assert bursty.mean_wait_s >= mgk(rho * k, k, law).mean_wait_s * (1 - 1e-9)
    np.testing.assert_allclose(bursty.utilisation, rho, rtol=1e-9)

"""Little's law, also for the whole law, and quantiles that invert, on random queues."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qmodel.distributions import MmppArrivals
from qmodel.queueing import ServiceTime, ggk, mgk, queue_length_tail, two_pools

exact_laws = st.sampled_from(
    [
        ServiceTime.exponential(1.0),
        ServiceTime.erlang(2, 1.0),
        ServiceTime.hypoexponential(0.3, 0.7),
        ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0]),
        ServiceTime.deterministic(1.0),
    ]
)


@settings(max_examples=6, deadline=None)
@given(law=exact_laws, k=st.integers(1, 8), rho=st.floats(0.3, 0.7))
def test_both_little_laws(law, k, rho):
    metrics = mgk(rho * k / law.mean_s, k, law)
    n = np.arange(int(40 / (1 - rho) * max(law.scv, 1.0)) + 30)
    tail = queue_length_tail(metrics, n)
    np.testing.assert_allclose(tail.sum(), metrics.mean_queue, rtol=3e-3)
    # The second factorial moment of the queue is that of the arrivals in a wait: E[N(N - 1)] = lam^2 E[W^2].
    factorial = 2 * (n * tail).sum()
    grid = np.linspace(0.0, 60 * metrics.mean_wait_s / metrics.wait_probability, 20_001)
    second = np.trapezoid(2 * grid * metrics.wait_tail(grid), grid)
    np.testing.assert_allclose(factorial, metrics.arrival_rate_per_s**2 * second, rtol=5e-3)


@settings(max_examples=30, deadline=None)
@given(law=exact_laws, k=st.integers(1, 8), rho=st.floats(0.3, 0.95), q=st.floats(0.01, 0.999))
def test_quantiles_invert_the_distribution(law, k, rho, q):
    metrics = mgk(rho * k / law.mean_s, k, law)
    wait = metrics.wait_quantile_s(q)
    assert float(metrics.wait_cdf(wait)) >= q - 1e-9
    if wait > 0:
        assert float(metrics.wait_cdf(wait * (1 - 1e-6))) <= q + 1e-9


@settings(max_examples=20, deadline=None)
@given(k=st.integers(1, 6), rho=st.floats(0.2, 0.9), slow=st.floats(0.02, 1.0), factor=st.floats(1e-3, 1e3))
def test_bursty_waits_scale_with_time_and_grow_with_burst_length(k, rho, slow, factor):
    law = ServiceTime.exponential(1.0)

    def waits(switch, scale=1.0):
        rates = (1.7 * rho * k / scale, 0.3 * rho * k / scale)
        arrivals = MmppArrivals(rates_per_s=rates, switch_per_s=(switch / scale, switch / scale))
        return ggk(arrivals, k, law.scaled(scale)).mean_wait_s

    np.testing.assert_allclose(waits(slow, factor), factor * waits(slow), rtol=1e-6)
    assert waits(slow) > waits(2 * slow)


@settings(max_examples=6, deadline=None)
@given(load=st.floats(0.3, 0.9), limit=st.floats(0.1, 2.0))
def test_two_pools_keep_the_load_and_shift_it(load, limit):
    rates = np.array([2.0, 0.4]) * load / 0.8
    low, high = (two_pools(rates, [0.2, 1.0], [0.1, 0.5], value, cells=48) for value in (limit, limit + 0.5))
    assert low.deflected >= high.deflected
    for pools in (low, high):
        assert pools.prefill_utilisation <= load + 1e-9
        kept = float(rates * (1 - pools.deflected_share) @ [0.2, 1.0])
        # Little's law for the server: its share of busy time is the load of what is kept.
        busy = 1 - float(pools.law[0].sum() - pools.law[1].sum() / 2)
        assert abs(busy - kept) < 0.03
        hosting = 1 - float(pools.law[:, 0].sum() - pools.law[:, 1].sum() / 2)
        assert abs(hosting - pools.decode_utilisation) < 0.03

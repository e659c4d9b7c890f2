"""Erlang's formulas: published values, the loss integral for fractional servers, and finite rooms."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad

from qmodel.errors import InputError, UnstableError
from qmodel.queueing import ServiceTime, erlang_b, erlang_c, mgk, mmk, mmkn


@pytest.mark.parametrize(
    ("servers", "load", "blocking"),
    # Standard Erlang B tables: offered load at 1 % blocking.
    [(1, 0.0101, 0.01), (5, 1.361, 0.01), (10, 4.461, 0.01), (20, 12.031, 0.01), (100, 84.064, 0.01)],
)
def test_erlang_b_tables(servers, load, blocking):
    assert erlang_b(servers, load) == pytest.approx(blocking, rel=2e-3)


@pytest.mark.parametrize("servers", [0.0, 0.5, 3.7, 20.25, 150.5])
@pytest.mark.parametrize("load", [0.4, 9.0, 140.0])
def test_fractional_servers_satisfy_the_integral(servers, load):
    # 1/B = integral of exp(-u) (1 + u/a)^k
    peak = max(servers - load, 0.0)
    top = -peak + servers * math.log1p(peak / load)
    edges = [0.0, *(peak + d for d in (-60.0, -20.0, -5.0, 0.0, 5.0, 20.0, 60.0, 200.0, 700.0) if peak + d > 0)]
    area = math.fsum(
        quad(lambda u: math.exp(-u + servers * math.log1p(u / load) - top), a, b, epsrel=1e-11)[0]
        for a, b in itertools.pairwise(edges)
    )
    assert erlang_b(servers, load) == pytest.approx(math.exp(-top) / area, rel=1e-8)


def test_recursion_holds_across_methods():
    for k in (200.0, 201.0, 1000.0, 20000.0):
        load = 0.97 * k
        lower = erlang_b(k - 1, load)
        assert erlang_b(k, load) == pytest.approx(load * lower / (k + load * lower), rel=1e-9)
    assert 0 < erlang_b(10.5, 5000.0) < 1


def test_mmk_agrees_with_the_matrix_method():
    exact, matrix = mmk(14.4, 16, 1.0), mgk(14.4, 16, ServiceTime.exponential(1.0))
    assert exact.mean_wait_s == pytest.approx(matrix.mean_wait_s, rel=1e-10)
    assert exact.wait_quantile_s(0.99) == pytest.approx(matrix.wait_quantile_s(0.99), rel=1e-9)


def test_finite_room_limits():
    # No waiting room: Erlang B. A large room: Erlang C.
    assert mmkn(8.0, 10, 10, 1.0).loss_probability == pytest.approx(erlang_b(10, 8.0), rel=1e-12)
    big = mmkn(8.0, 10, 4000, 1.0)
    assert big.mean_wait_s == pytest.approx(mmk(8.0, 10, 1.0).mean_wait_s, rel=1e-9)
    assert big.wait_probability == pytest.approx(erlang_c(10, 8.0), rel=1e-9)
    overloaded = mmkn(50.0, 2, 30, 1.0)
    assert overloaded.loss_probability == pytest.approx(1 - 2 / 50, rel=1e-6)
    assert np.isclose(overloaded.number_law.sum(), 1.0)


def test_waits_with_finite_room():
    big, whole = mmkn(8.0, 10, 4000, 1.0), mmk(8.0, 10, 1.0)
    t = np.array([-1.0, 0.0, 0.3, 1.0, 4.0])
    np.testing.assert_allclose(big.wait_tail(t), whole.wait_tail(t), rtol=1e-9)
    assert big.wait_quantile_s(0.95) == pytest.approx(whole.wait_quantile_s(0.95), rel=1e-9)
    assert big.mean_number == pytest.approx(whole.mean_number, rel=1e-9)
    assert big.utilisation == pytest.approx(0.8, rel=1e-9)
    small = mmkn(12.0, 3, 9, 0.5)
    grid = np.linspace(0, 12, 24_001)
    assert np.trapezoid(small.wait_tail(grid), grid) == pytest.approx(small.mean_wait_s, rel=1e-6)
    assert float(small.wait_tail(0.0)) == pytest.approx(small.wait_probability, rel=1e-12)
    assert small.wait_quantile_s(1 - small.wait_probability) == 0
    assert float(small.wait_cdf(small.wait_quantile_s(0.9))) == pytest.approx(0.9, rel=1e-9)
    none = mmkn(8.0, 10, 10, 1.0)
    assert none.wait_tail(0.0) == 0
    assert none.wait_quantile_s(0.99) == 0
    assert len(repr(big)) < 200


def test_errors():
    with pytest.raises(UnstableError):
        erlang_c(2, 2.0)
    with pytest.raises(InputError):
        erlang_b(-1, 2.0)
    with pytest.raises(InputError):
        mmkn(1.0, 4, 3, 1.0)

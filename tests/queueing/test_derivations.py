"""Closed forms derived with sympy, and the code beside them."""

import numpy as np
import pytest

from qmodel.queueing import ServiceTime, decode_batch, mgk

sympy = pytest.importorskip("sympy")


def test_pollaczek_khinchine_from_the_transform():
    # W*(s) = (1 - rho) s/(s - lam (1 - B*(s))): E[W] is minus its derivative at 0.
    s, lam, m1, m2, m3 = sympy.symbols("s lam m1 m2 m3", positive=True)
    transform = 1 - m1 * s + m2 * s**2 / 2 - m3 * s**3 / 6
    wait = (1 - lam * m1) * s / (s - lam * (1 - transform))
    mean = sympy.simplify(-sympy.diff(sympy.simplify(wait), s).subs(s, 0))
    assert sympy.simplify(mean - lam * m2 / (2 * (1 - lam * m1))) == 0
    second = sympy.simplify(sympy.diff(sympy.simplify(wait), s, 2).subs(s, 0))
    law, rate = ServiceTime.from_samples([1.0, 2.0, 5.0], [5, 3, 2]), 0.35
    values = {lam: rate, m1: law.moment(1), m2: law.moment(2), m3: law.moment(3)}
    metrics = mgk(rate, 1, law)
    assert metrics.mean_wait_s == pytest.approx(float(mean.subs(values)), rel=1e-12)
    # The second moment checks the tail: E[W^2] = integral of 2 t P(W > t).
    grid = np.linspace(0.0, 250.0, 100_001)
    assert np.trapezoid(2 * grid * metrics.wait_tail(grid), grid) == pytest.approx(float(second.subs(values)), rel=1e-4)


def test_value_of_backlog_solves_its_equation():
    # Relative value v(w) of M/G/1 backlog, cost = waits of later arrivals: v'(w) = lam*w + lam*E[v(w+S) - v(w)] - cost rate.
    w, lam, m1, m2 = sympy.symbols("w lam m1 m2", positive=True)
    rho = lam * m1
    curve = lam / (2 * (1 - rho))
    grow = curve * (2 * w * m1 + m2)
    mean_cost = lam * lam * m2 / (2 * (1 - rho))
    assert sympy.simplify(2 * curve * w - (lam * w + lam * grow - mean_cost)) == 0


def test_product_form_balances():
    # pi(n) mu(n) = pi(n - 1) lam with mu(n) = n/(E[O] T(n)).
    batch = decode_batch(3.0, 150.0, lambda n: 0.01 + 0.0003 * n, 48)
    n = np.arange(1, 40)
    rate = n / (150.0 * batch.step_s[n])
    np.testing.assert_allclose(batch.time_law[n] * rate, batch.time_law[n - 1] * 3.0, rtol=1e-12)


def test_erlang_two_single_server_by_its_roots():
    # M/E2/1: P(W > t) is a sum over the two roots of s^2 + (2 mu - lam) s + mu^2 - 2 lam mu (mu = 2).
    s, lam, t = sympy.symbols("s lam t", positive=True)
    mu = sympy.Integer(2)
    transform = (mu / (mu + s)) ** 2
    wait = sympy.simplify((1 - lam) * s / (s - lam * (1 - transform)))
    tail = sympy.apart(sympy.simplify((1 - wait.subs(lam, sympy.Rational(1, 2))) / s), s, full=True).doit()
    in_time = sympy.inverse_laplace_transform(tail, s, t)
    metrics = mgk(0.5, 1, ServiceTime.erlang(2, 1.0))
    for at in (0.3, 1.7, 4.0):
        assert float(metrics.wait_tail(at)) == pytest.approx(float(sympy.re(in_time.subs(t, at).evalf())), rel=1e-9)

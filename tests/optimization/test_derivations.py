"""Closed forms derived from first principles with sympy, and the code that uses them."""

import numpy as np
import pytest

from qmodel._kernels.laws import span_switch, span_time
from qmodel.optimization import derivations
from qmodel.queueing import ServiceTime, decode_batch, mgk

pytest.importorskip("sympy")


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.44])
def test_pollaczek_khinchine(rate):
    law = ServiceTime.from_samples([1.0, 2.0, 5.0], [5, 3, 2])
    derived = derivations.pollaczek_khinchine()
    values = {"lam": rate, "m1": law.moment(1), "m2": law.moment(2)}
    want = float(derived.expression.subs({derived.symbols[name]: value for name, value in values.items()}))
    assert mgk(rate, 1, law).mean_wait_s == pytest.approx(want, rel=1e-12)


def test_product_form():
    derived = derivations.product_form(5)
    step = np.array([0.02, 0.021, 0.025, 0.03, 0.04])
    batch = decode_batch(0.4, 150.0, step, 5)
    values = {"lam": 0.4, "tokens": 150.0} | {f"T{n}": t for n, t in enumerate(step, start=1)}
    chosen = {derived.symbols[name]: value for name, value in values.items()}
    ratios = np.array([float(term.subs(chosen)) for term in derived.expression])
    # At the cap the code adds the waiting room; below it the ratios are the same.
    np.testing.assert_allclose(batch.time_law[:5] / batch.time_law[0], ratios[:5], rtol=1e-12)
    room = 1 / (1 - 0.4 * 150.0 * step[-1] / 5)
    assert batch.time_law[5] / batch.time_law[0] == pytest.approx(ratios[5] * room, rel=1e-12)


@pytest.mark.parametrize("line", [(0.03, 1e-5, 0.028, 4e-5), (0.03, 2e-5, 0.01, 1e-6), (0.02, 0.0, 0.0199, 1e-4)])
@pytest.mark.parametrize("steps", [1, 7, 200])
def test_step_span(line, steps):
    derived = derivations.step_span()
    switch = span_switch(*line, steps)
    values = dict(zip("xsyzcm", (*line, switch, steps), strict=True))
    want = float(derived.expression.subs({derived.symbols[name]: value for name, value in values.items()}))
    assert span_time(*line, steps) == pytest.approx(want, rel=1e-12)
    x, s, y, z = line
    assert want == pytest.approx(sum(max(x + s * i, y + z * i) for i in range(steps)), rel=1e-12)

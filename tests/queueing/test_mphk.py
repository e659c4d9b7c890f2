"""M/PH/k by decay rates against logarithmic reduction, Pollaczek-Khinchine and its own plain source."""

import numpy as np
import pytest

from qmodel._kernels import queueing_mphk as kernels
from qmodel.distributions.phase_type import fit_phase_type, h2_of_shape
from qmodel.queueing import ServiceTime, mgk
from qmodel.queueing.matrix import _expanded, _mean, _reduced, phase_tail, solve_mphk
from qmodel.queueing.metrics import FunctionTail

LAWS = {
    "M": fit_phase_type(ServiceTime.exponential(0.7)),
    "E2": fit_phase_type(ServiceTime.erlang(2, 1.0)),
    "hypo": fit_phase_type(ServiceTime.hypoexponential(0.3, 0.7)),
    "nearly M": fit_phase_type(ServiceTime.hyperexponential([0.5, 0.5], [0.99, 1.01])),
    "H2": fit_phase_type(ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5])),
    "far": fit_phase_type(ServiceTime.hyperexponential([0.999, 0.001], [0.5, 500.5])),
    "probe": h2_of_shape(1.0, 2.5, 1.02),
}


@pytest.mark.parametrize("servers", [1, 2, 7, 16])
@pytest.mark.parametrize("load", [0.1, 0.6, 0.95])
@pytest.mark.parametrize("phases", LAWS.values(), ids=LAWS)
def test_decay_rates_and_logarithmic_reduction_agree(phases, load, servers):
    mean = _mean(phases)
    rate = load * servers / mean
    coefficients, rates, good = _expanded(rate, servers, phases, mean)
    above, generator, queue = _reduced(rate, servers, phases, mean)
    assert good
    assert coefficients.sum() == pytest.approx(above.sum(), rel=1e-9)
    assert (coefficients / rates).sum() * mean == pytest.approx(queue / rate, rel=1e-9)
    times = np.array([0.2, 1.0, 4.0]) / servers / (1 - load)
    tail = np.exp(-np.multiply.outer(times, rates)) @ coefficients
    np.testing.assert_allclose(tail, phase_tail(above, generator, 1.0).tail(times), rtol=1e-7)


@pytest.mark.parametrize("load", [0.3, 0.999, 0.99999])
@pytest.mark.parametrize("phases", LAWS.values(), ids=LAWS)
def test_one_server_is_pollaczek_khinchine_even_near_saturation(phases, load):
    law = phases.law
    rate = load / law.mean_s
    metrics = solve_mphk(rate, 1, phases)
    assert metrics.mean_wait_s == pytest.approx(rate * law.moment(2) / (2 * (1 - load)), rel=1e-8)
    assert metrics.wait_probability == pytest.approx(load, rel=1e-9)


def test_dependent_eigenvectors_are_left_to_logarithmic_reduction():
    phases = LAWS["E2"]
    assert not _expanded(0.2 * 40, 40, phases, 1.0)[2]
    metrics = solve_mphk(0.2 * 40, 40, phases)
    assert "logarithmic reduction" in metrics.method
    assert isinstance(metrics.wait_law, FunctionTail)
    # Hardly anybody waits: with one more server still fewer do, by about load*(servers/(servers + 1)).
    assert 0 < solve_mphk(0.2 * 40, 41, phases).wait_probability < 0.5 * metrics.wait_probability


def test_two_phases_in_place_of_a_law_are_not_called_exact():
    law = ServiceTime.gamma(1.0, 3.0)
    fitted, best = mgk(3.2, 4, law, "phase-type"), mgk(3.2, 4, law)
    assert not fitted.exact
    assert "3 moments of the law" in fitted.method
    for name, q in (("p95", 0.95), ("p99", 0.99)):
        assert fitted.wait_quantile_s(q) == pytest.approx(best.wait_quantile_s(q), rel=fitted.error_estimate[name])
    assert fitted.mean_wait_s == pytest.approx(best.mean_wait_s, rel=fitted.error_estimate["mean"])
    own = mgk(3.2, 4, ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0]), "phase-type")
    assert own.exact
    assert own.error_estimate == {}


def test_kernels_are_their_python_source():
    shape = (0.8, 1.7, 0.6, 0.0)
    for kernel in (kernels.decay, kernels.decay.py_func):
        theta = kernel(4.0, 5, 3, *shape)
        one, two, *_ = kernels.eigenvalues.py_func(4.0, theta, *shape)
        assert 3 * one + 2 * two + theta == pytest.approx(0.0, abs=1e-12)
    matrix = np.array([[4.0, -1.0, -0.5], [-1.0, 3.0, -0.5], [-0.2, -0.3, 5.0]])
    down = np.array([[1.0, 0.0], [0.5, 2.0], [0.1, 0.3]])
    for factorise, solve, row_of in (
        (kernels.factorise, kernels.solve_factored, kernels.solve_row),
        (kernels.factorise.py_func, kernels.solve_factored.py_func, kernels.solve_row.py_func),
    ):
        factors, x, row = matrix.copy(), down.copy(), down[:, 0].copy()
        factorise(factors)
        solve(factors, x)
        row_of(factors, row)
        np.testing.assert_allclose(matrix @ x, down, atol=1e-14)
        np.testing.assert_allclose(row @ matrix, down[:, 0], atol=1e-14)

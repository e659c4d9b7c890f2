"""M/G/1 by phases, on a lattice and on a grid: each against another way to the same law."""

import math

import numpy as np
import pytest
from scipy.linalg import expm

from qmodel.distributions.phase_type import phases_of
from qmodel.queueing import ServiceTime, mgk, single
from qmodel.queueing.deterministic import solve_mdk
from qmodel.queueing.lattice import find_lattice
from qmodel.queueing.metrics import _moments
from qmodel.queueing.single import _on_a_grid, solve_mg1

PHASES = {
    "Erlang-3": ServiceTime.erlang(3, 1.0),
    "H3": ServiceTime.hyperexponential([0.7, 0.25, 0.05], [0.2, 1.0, 8.0]),
    "mixture": ServiceTime.mixture([0.5, 0.3, 0.2], [
        ServiceTime.erlang(9, 1.0), ServiceTime.exponential(3.0), ServiceTime.hypoexponential(0.2, 0.5)
    ]),
}  # fmt: skip
LATTICES = {
    "far atoms": ServiceTime.from_samples([1, 2, 5, 20], [0.5, 0.3, 0.15, 0.05]),
    "some without work": ServiceTime.from_samples([0, 1, 3], [0.3, 0.3, 0.4]),
    "many": ServiceTime.from_samples(np.arange(1, 41) / 7),
    "few and far apart": ServiceTime.from_samples([1, 2, 5, 1990], [0.5, 0.3, 0.195, 0.005]),
}


def lattice_tail(rate, law, t):
    """Return P(W > t) from the power series of (1 - rho)(1 - z)/(A(z) - z) and Panjer's recursion: small t only."""
    lattice = find_lattice(law)
    count = math.floor(t / lattice.cell_s) + 1

    def arriving(mean):
        pmf = np.zeros(count + 1)
        pmf[0] = math.exp(-mean * (1 - lattice.weights[lattice.sizes == 0].sum()))
        for n in range(1, count + 1):
            fits = (lattice.sizes > 0) & (lattice.sizes <= n)
            sizes = lattice.sizes[fits]
            pmf[n] = mean / n * (sizes * lattice.weights[fits]) @ pmf[n - sizes]
        return pmf

    a = arriving(rate * lattice.cell_s)
    a[1] -= 1.0
    waiting = np.zeros(count)
    for n in range(count):
        right = (1 - rate * law.mean_s) * ((n == 0) - (n == 1))
        waiting[n] = (right - a[1 : n + 1] @ waiting[n - np.arange(1, n + 1)]) / a[0]
    meanwhile = arriving(rate * (count * lattice.cell_s - t))
    return 1.0 - meanwhile[:count] @ np.cumsum(waiting)[::-1]


@pytest.mark.parametrize("load", [0.05, 0.6, 0.95])
@pytest.mark.parametrize("law", PHASES.values(), ids=PHASES)
def test_phases_are_the_residual_phases_geometrically_often(law, load):
    start, rates = phases_of(law)
    assert start @ np.linalg.solve(-rates, np.ones(len(start))) == pytest.approx(law.mean_s, rel=1e-12)
    metrics = mgk(load / law.mean_s, 1, law)
    residual = np.linalg.solve(-rates.T, start) / law.mean_s
    for t in (0.0, 0.7, 4.0):
        law_of_busy = expm((rates - load * np.outer(rates.sum(axis=1), residual)) * t)
        assert float(metrics.wait_tail(t)) == pytest.approx(load * (residual @ law_of_busy).sum(), rel=1e-10)
    assert metrics.exact
    times = np.array([metrics.wait_quantile_s(q) for q in (0.97, 0.99, 0.999)])
    np.testing.assert_allclose(
        _on_a_grid(load / law.mean_s, load, law)[0].tail(times), metrics.wait_tail(times), rtol=1e-4
    )


@pytest.mark.parametrize("load", [0.01, 0.3, 0.85, 0.99])
@pytest.mark.parametrize("law", LATTICES.values(), ids=LATTICES)
def test_lattices_agree_with_their_power_series_and_with_a_grid(law, load):
    rate = load / law.mean_s
    metrics = solve_mg1(rate, law)
    assert metrics.method.endswith("lattice)")
    for t in np.array([0.0, 0.13, 1.0, 2.51, 5.0]) * find_lattice(law).cell_s * 4:
        assert float(metrics.wait_tail(t)) == pytest.approx(lattice_tail(rate, law, t), rel=1e-9, abs=1e-14)
    for q in (0.9, 0.99, 0.999):
        wait = metrics.wait_quantile_s(q)
        if wait > 0:
            assert float(metrics.wait_tail(wait)) == pytest.approx(1 - q, rel=1e-9)
            assert float(_on_a_grid(rate, load, law)[0].tail(np.array([wait]))[0]) == pytest.approx(1 - q, rel=1e-4)


@pytest.mark.parametrize("load", [0.01, 0.3, 0.85, 0.999])
def test_one_cell_is_mdk(load):
    ours, theirs = solve_mg1(load, ServiceTime.deterministic(1.0)), solve_mdk(load, 1, 1.0)
    times = np.array([0.0, 0.3, 1.0, 1.3, 2.5, 4.0])
    # Each knows probabilities to rounding, the transform of the lattice to some 1e-14.
    np.testing.assert_allclose(ours.wait_tail(times), theirs.wait_tail(times), rtol=1e-9, atol=2e-14)
    assert ours.wait_quantile_s(0.995) == pytest.approx(theirs.wait_quantile_s(0.995), rel=1e-8)
    assert ours.wait_quantile_s(1 - 1e-16) >= 0.0


def test_a_grid_keeps_its_accuracy_close_to_saturation():
    law = ServiceTime.from_samples([0.3, 1.0, 0.1 * math.e**3])
    assert find_lattice(law) is None
    near = ServiceTime.from_samples([0.3, 1.0, 2.01])
    for load in (0.5, 0.99):
        ours, theirs = mgk(load / law.mean_s, 1, law), mgk(load / near.mean_s, 1, near)
        assert "renewal" in ours.method
        assert "lattice" in theirs.method
        # The third atom is 2.0086 s: waits differ by as much as those of the lattice's neighbours do.
        assert ours.wait_quantile_s(0.99) == pytest.approx(theirs.wait_quantile_s(0.99), rel=2e-3)
        area = np.linspace(0, 60 * ours.mean_wait_s, 200_001)
        assert np.trapezoid(ours.wait_tail(area), area) == pytest.approx(ours.mean_wait_s, rel=1e-4)


@pytest.mark.parametrize(("scv", "load"), [(0.5, 0.9), (1.0, 0.98), (4.0, 0.9), (4.0, 0.98)])
def test_tails_without_a_rate_are_as_right_as_said_near_saturation(scv, load, monkeypatch):
    service = ServiceTime.lognormal(1.0, scv)
    found = solve_mg1(load, service)
    levels = (0.9, 0.95, 0.99)
    said = found.error_estimate["p95"]
    assert said < 2e-4
    # Mean of a delayed wait over a wide table: the area under its tail, against Pollaczek and Khinchine's mean.
    at = np.concatenate([[0.0], np.geomspace(1e-4, 400.0 * found.mean_wait_s, 40_000)])
    assert np.trapezoid(found.wait_tail(at), at) == pytest.approx(found.mean_wait_s, rel=3e-3)
    monkeypatch.setattr(single, "APART", 1 / 256)
    monkeypatch.setattr(single, "MOST_POINTS", 1 << 20)
    fine = solve_mg1(load, service)
    for level in levels:
        assert found.wait_quantile_s(level) == pytest.approx(fine.wait_quantile_s(level), rel=said)


@pytest.mark.parametrize("load", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("scv", [4.0, 20.0, 50.0])
def test_tails_without_exponential_moments_go_on_as_a_residual_service(load, scv):
    law = ServiceTime.lognormal(1.0, scv)
    queue = mgk(load, 1, law)
    # P(W > t) ~ load/(1 - load) P(residual service > t) (Embrechts & Veraverbeke 1982), from above.
    times = 30 * scv * np.array([10.0, 30.0]) / (1 - load)
    far = load / (1 - load) * law.residual_tail(times)
    ratio = queue.wait_tail(times)[far > 1e-10] / far[far > 1e-10]
    assert np.all((ratio > 0.9) & (ratio < 2.0))
    # The mean by Pollaczek-Khinchine is the integral of the tail.
    first, _ = _moments(queue.wait_law, queue.mean_wait_s, queue.wait_probability)
    assert first == pytest.approx(queue.mean_wait_s, rel=0.01)

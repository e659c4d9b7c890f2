"""What the networks add to the interpolation: little where a law is solved, much where it is not, nothing wild."""

import json
import math
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from scipy.integrate import quad

from qmodel.queueing import ServiceTime, mgk
from qmodel.queueing.correction import LEVELS, NETWORKS, OUTSIDE, networks, solve_mgk, with_head
from qmodel.queueing.coupled import solve_coupled
from qmodel.queueing.interpolation import sketched
from qmodel.queueing.traits import FREQUENCIES, TIMES, law_facts, percentile_inputs

GAMMA = ServiceTime.gamma(1.0, 3.0)


def of_mean_one(law):
    return law.scaled(1 / law.mean_s)


@pytest.mark.parametrize(
    ("law", "servers", "load"),
    [
        # Laws that neither the fit nor the networks were made from; the plain interpolation misses them by 3 to 17 %.
        (ServiceTime.from_samples([0.6, 9.0], [0.95, 0.05]), 4, 0.7),
        (ServiceTime.from_samples([0.2, 1.0, 7.0], [0.6, 0.3, 0.1]), 6, 0.7),
        (ServiceTime.from_samples((1 - (np.arange(500) + 0.5) / 500 * (1 - 90**-1.2)) ** (-1 / 1.2)), 8, 0.75),
    ],
    ids=["two atoms", "three atoms", "Pareto"],
)
def test_corrections_bring_the_interpolation_nearer_the_truth(law, servers, load):
    law = of_mean_one(law)
    rate = load * servers
    truth = solve_coupled(rate, servers, law, first_arrivals=1 << 21, last_arrivals=1 << 21, seed=5)
    sketch, found = sketched(rate, servers, law_facts(law)), mgk(rate, servers, law)
    assert "path" not in found.method
    noise = truth.error_estimate["mean"]
    assert abs(found.wait_probability / truth.wait_probability - 1) < 0.002 + noise
    assert abs(found.mean_wait_s / truth.mean_wait_s - 1) < 0.005 + noise
    for q in (0.9, 0.95, 0.99):
        want = truth.wait_quantile_s(q)
        assert abs(found.wait_quantile_s(q) / want - 1) < 0.012 + truth.error_estimate["p99"]
    plain = [sketch.mean_wait / truth.mean_wait_s]
    plain += [sketch.tail.quantile(q, 1.0) / truth.wait_quantile_s(q) for q in (0.95, 0.99)]
    assert max(abs(ratio - 1) for ratio in plain) > 0.025


@pytest.mark.parametrize(
    "law",
    [
        ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5]),
        ServiceTime.hyperexponential([0.99, 0.01], [0.8, 12.0]),
        ServiceTime.hyperexponential([0.5, 0.5], [0.3, 1.7]),
        ServiceTime.hypoexponential(0.3, 0.7),
        ServiceTime.erlang(2, 1.0),
        ServiceTime.exponential(1.0),
        ServiceTime.deterministic(1.0),
    ],
    ids=lambda law: f"{law.name} {law.scv:.2g}",
)
@pytest.mark.parametrize(("servers", "load"), [(2, 0.6), (3, 0.95), (7, 0.8), (16, 0.9)])
def test_laws_with_exact_solutions_come_out_as_these(law, servers, load):
    # None of them is among the simulated queues that the networks were made from.
    rate = load * servers / law.mean_s
    exact, found = mgk(rate, servers, law), solve_mgk(rate, servers, law)
    assert exact.exact
    assert found.wait_probability == pytest.approx(exact.wait_probability, rel=0.002)
    assert found.mean_wait_s == pytest.approx(exact.mean_wait_s, rel=0.005)
    for q in (0.9, 0.95, 0.99):
        assert found.wait_quantile_s(q) == pytest.approx(exact.wait_quantile_s(q), rel=0.015)


def test_percentiles_at_which_nobody_waits_are_zero_and_say_so():
    metrics = mgk(0.3 * 12, 12, GAMMA)
    assert metrics.wait_probability < 0.01
    assert metrics.wait_quantile_s(0.99) == 0.0
    assert metrics.error_estimate["p95"] == metrics.error_estimate["p99"] == 0.0
    # P(W > 0) a little above 5 % makes P95 ill-conditioned.
    low, high = 0.2, 0.9
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if mgk(8 * middle, 8, GAMMA).wait_probability > 0.0505 else (middle, high)
    assert mgk(8 * high, 8, GAMMA).error_estimate["p95"] > 0.05


def test_nothing_is_extrapolated():
    # Inputs far outside those that the networks learnt from count as the nearest that they did.
    head, inputs = networks()["head"], sketched(6.0, 8, law_facts(GAMMA)).traits.inputs
    assert head.knows(inputs)
    wild = inputs + 1000 * head.scale
    assert not head.knows(wild)
    np.testing.assert_array_equal(head(wild), head(head.high))
    found = mgk(0.6 * 3, 3, of_mean_one(ServiceTime.from_samples([1.0, 1e4], [1 - 1e-5, 1e-5])), "analytic")
    assert found.error_estimate["mean"] >= OUTSIDE["mean"]


def test_networks_are_their_formula():
    data = json.loads(files("qmodel").joinpath("data", "mgk_correction.json").read_text(encoding="utf-8"))
    assert set(data["networks"]) == set(NETWORKS)
    assert data["provenance"]["queues"] > 100_000
    inputs = sketched(6.0, 8, law_facts(GAMMA)).traits.inputs
    parts = data["networks"]["head"]
    values = [
        (min(max(x, low), high) - centre) / scale
        for x, low, high, centre, scale in zip(
            inputs, *(parts[name] for name in ("low", "high", "centre", "scale")), strict=True
        )
    ]
    for layer, (weight, bias) in enumerate(zip(parts["weights"], parts["biases"], strict=True)):
        sums = [bias[j] + sum(x * row[j] for x, row in zip(values, weight, strict=True)) for j in range(len(bias))]
        values = [x / (1 + math.exp(-x)) for x in sums] if layer < 2 else sums
    np.testing.assert_allclose(networks()["head"](inputs), values, rtol=1e-10)


def test_inputs_are_what_they_are_called():
    # Exponential services have exponential residual services, the least of n of which is 1/n on average.
    sketch = sketched(3.0, 4, law_facts(ServiceTime.exponential(1.0)))
    inputs, count = sketch.traits.inputs, len(TIMES) + 5
    np.testing.assert_allclose(inputs[-count:-5], np.exp(-TIMES), rtol=1e-12)
    np.testing.assert_allclose(inputs[-5:], -np.log([2, 2, 4, 5, 8]), atol=3e-3)
    law = of_mean_one(ServiceTime.from_samples([0.2, 1.0, 7.0], [0.6, 0.3, 0.1]))
    least, _ = quad(lambda t: float(law.residual_tail(t)) ** 5, 0, law.upper_s, limit=400, points=law.atoms()[0])
    assert sketched(3.0, 4, law_facts(law)).traits.inputs[-2] == pytest.approx(math.log(least), abs=1e-3)
    # The solved law is the law itself: no differences.
    np.testing.assert_allclose(sketch.traits.differences, np.zeros(len(FREQUENCIES)), atol=1e-9)


def test_a_head_is_its_factors():
    sketch = sketched(6.0, 8, law_facts(GAMMA))
    tail = with_head(sketch, 0.03, -0.02)
    assert tail.log_tail[0] == pytest.approx(sketch.tail.log_tail[0] - 0.02)

    def area(table):
        return np.trapezoid(np.exp(table.log_tail), table.grid)

    assert math.log(area(tail) / area(sketch.tail)) == pytest.approx(0.03, abs=1e-9)
    certain = with_head(replace(sketch, tail=replace(sketch.tail, log_tail=sketch.tail.log_tail * 0)), 0.0, 0.1)
    assert certain.log_tail[0] == 0.0


def test_networks_fit_their_inputs():
    sketch = sketched(6.0, 8, law_facts(GAMMA))
    inputs, levels = sketch.traits.inputs, np.array(LEVELS)
    waits = np.array([sketch.tail.quantile(1 - level, 1.0) for level in levels])
    seen = percentile_inputs(sketch.traits, inputs, levels, waits, sketch.tail, sketch.renewal_at(waits))
    for name, network in networks().items():
        wanted = seen if name.startswith("percentile") else inputs
        assert network(wanted).shape[:-1] == wanted.shape[:-1]
    # What the tail falls by from t is nothing at t itself.
    falls = np.array([np.interp(1.0, [0.9, 1.1], row[-5:-3]) for row in seen])
    np.testing.assert_allclose(falls, 0.0, atol=0.02)

"""What the networks add to the interpolation: little where a law is solved, much where it is not, nothing wild."""

import json
import math
from importlib.resources import files

import numpy as np
import pytest

from qmodel.queueing import ServiceTime, mgk
from qmodel.queueing.correction import FREQUENCIES, LEVELS, Traits, error_estimates, log_corrections, output
from qmodel.queueing.coupled import solve_coupled
from qmodel.queueing.interpolation import law_facts, plain_answer


def traits(**changes):
    usual = {"servers": 4, "load": 0.8, "scv": 2.0, "wait_probability": 0.6, "fitted": True, "exponent": 0.0}
    return Traits(**(usual | {"largest_atom": 0.0, "residual": 0.0, "differences": np.zeros(7)} | changes))


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
    law = law.scaled(1 / law.mean_s)
    rate = load * servers
    truth = solve_coupled(rate, servers, law, first_arrivals=1 << 21, last_arrivals=1 << 21, seed=5)
    base, table, _ = plain_answer(rate, servers, law_facts(law))
    found = mgk(rate, servers, law, "analytic")
    assert "path" not in found.method
    noise = truth.error_estimate["mean"]
    assert abs(found.wait_probability / truth.wait_probability - 1) < 0.006 + noise
    assert abs(found.mean_wait_s / truth.mean_wait_s - 1) < 0.01 + noise
    for q in (0.95, 0.99):
        want = truth.wait_quantile_s(q)
        assert abs(found.wait_quantile_s(q) / want - 1) < 0.025 + truth.error_estimate[f"p{round(q * 100)}"]
    plain = [base.mean_wait / truth.mean_wait_s] + [
        table.quantile(q, 1.0) / truth.wait_quantile_s(q) for q in (0.95, 0.99)
    ]
    assert max(abs(ratio - 1) for ratio in plain) > 0.025


def test_solved_laws_are_hardly_corrected():
    for servers in (2, 5, 16):
        for load in (0.5, 0.8, 0.95):
            delayed = mgk(load * servers, servers, ServiceTime.exponential(1.0)).wait_probability
            found = log_corrections(traits(servers=servers, load=load, wait_probability=delayed))
            assert all(abs(value) < 0.006 for value in found.values())


def test_percentiles_at_which_few_wait_are_left_alone():
    assert set(log_corrections(traits(wait_probability=0.3))) == {"mean", "delayed", *LEVELS}
    assert set(log_corrections(traits(wait_probability=0.05))) == {"mean", "delayed", "p99"}
    assert set(log_corrections(traits(wait_probability=1e-5))) == {"mean", "delayed"}
    assert error_estimates(traits(wait_probability=0.02))["p95"] == 0.0


def test_nothing_is_extrapolated():
    # Inputs far outside those that the networks learnt from count as the nearest that they did.
    wild = traits(servers=10_000, load=0.99999, scv=80.0, exponent=9.0, residual=40.0, differences=np.full(7, -50.0))
    assert all(abs(value) < 0.7 for value in log_corrections(wild).values())


def test_a_network_is_its_formula():
    data = json.loads(files("qmodel").joinpath("data", "mgk_correction.json").read_text(encoding="utf-8"))
    network = data["networks"]["mean"]
    inputs = traits(scv=3.1, residual=0.02).inputs
    total = network["offset"]
    for j, weight in enumerate(network["out"]):
        inside = network["bias"][j]
        for i, value in enumerate(inputs):
            known = min(max(value, network["low"][i]), network["high"][i])
            inside += (known - network["centre"][i]) / network["scale"][i] * network["weights"][i][j]
        total += weight * math.tanh(inside)
    arrays = {part: np.asarray(value) for part, value in network.items()}
    assert float(output(arrays, inputs)) == pytest.approx(total, rel=1e-12)
    assert len(FREQUENCIES) == 7
    assert data["provenance"]["queues"] > 5000

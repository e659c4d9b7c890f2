"""Every part of a prediction against simulation: parts of TTFT, TBT by token and request, classes, utilisation."""

import numpy as np
import pytest

from qmodel.policies import Kairos
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.simulation import simulate
from qmodel.system import predict

LIMITS = SLO(ttft_s=0.4, tbt_s=0.05)
COUNT = 180_000


def evenly(workload: Workload, seed: int) -> Workload:
    """Return the workload's requests as a Latin hypercube over gaps and lengths, so that the truth is quiet."""
    rng, source = np.random.default_rng(seed), workload.source
    gaps, prompt, output = ((rng.permutation(COUNT) + rng.random(COUNT)) / COUNT for _ in range(3))
    arrival = np.cumsum(-np.log1p(-gaps)) / workload.rate_per_s
    return Workload.from_requests(
        Requests.from_arrays(arrival, source.prompt.quantile(prompt), source.output.quantile(output))
    )


@pytest.fixture(scope="module", params=[("2P2D", 200, None), ("3P3D", 12, None), ("2P2D", 150, Kairos())])
def both(request, calibration, chat_lengths):
    """A prediction and a simulation: heavy decode batches, light ones, and deflection."""
    name, tokens, policy = request.param
    cluster = Cluster.parse(name, calibration)
    outputs = (np.array([2, tokens, 3 * tokens]), np.array([0.2, 0.6, 0.2]))
    workload = Workload.poisson(1.0, chat_lengths, outputs).at_load(0.75, cluster)
    predicted = predict(cluster, workload, LIMITS, policy, fidelity="exact")
    return predicted, simulate(cluster, evenly(workload, 1), LIMITS, policy)


def test_parts_of_ttft_near_quantiles(both):
    predicted, simulated = both
    for q in (None, 0.5, 0.95):
        expected = simulated.breakdown(q)
        total = sum(expected.values())
        for part, value in predicted.breakdown(q).items():
            assert value == pytest.approx(expected[part], rel=0.08, abs=0.03 * total)


def test_quantiles_of_tbt_by_token_and_by_request(both):
    predicted, simulated = both
    for q in (0.05, 0.5, 0.95, 0.99):
        assert predicted.tbt_s(q) == pytest.approx(simulated.tbt_s(q), rel=0.05)
        assert predicted.tbt_s(q, "request") == pytest.approx(simulated.tbt_s(q, "request"), rel=0.08)


def test_attainment_of_both_limits_together_and_utilisation(both):
    predicted, simulated = both
    assert 0.5 < simulated.slo_attainment < 0.999
    for name in ("ttft_attainment", "tbt_attainment", "slo_attainment", "deflected_share"):
        assert getattr(predicted, name) == pytest.approx(getattr(simulated, name), abs=0.02)
    for pool in ("prefill", "decode"):
        assert predicted.utilisation[pool] == pytest.approx(simulated.utilisation[pool], abs=0.02)


def test_classes_of_prompt_length(both):
    predicted, simulated = both
    edges = [300.0, 1200.0, 3000.0]
    columns = {name: values[simulated.warm_from :] for name, values in simulated.columns.items()}
    met = simulated.ttft_met & simulated.tbt_met
    rows = predicted.by_length(edges)
    assert len(rows) == 4
    for row, low, high in zip(rows, [0.0, *edges], [*edges, np.inf], strict=True):
        inside = (columns["prompt_tokens"] > low) & (columns["prompt_tokens"] <= high)
        assert row["share"] == pytest.approx(inside.mean(), abs=0.01)
        assert row["ttft_s"] == pytest.approx(np.quantile(columns["ttft_s"][inside], 0.95), rel=0.1)
        assert row["slo_attainment"] == pytest.approx(met[inside].mean(), abs=0.03)
        assert row["deflected_share"] == pytest.approx(columns["deflected"][inside].mean(), abs=0.03)


def test_small_batches_follow_what_departures_and_packed_steps_leave(calibration, chat_lengths):
    """Three lightly used decode instances behind one prefill instance: P99 lies on a batch of two or three."""
    cluster = Cluster.parse("1P3D", calibration)
    workload = Workload.poisson(1.0, chat_lengths, 40).at_load(0.85, cluster)
    predicted = predict(cluster, workload, LIMITS, fidelity="exact")
    simulated = simulate(cluster, evenly(workload, 2), LIMITS)
    for q in (0.5, 0.9, 0.99):
        assert predicted.tbt_s(q) == pytest.approx(simulated.tbt_s(q), rel=0.04)
    assert predicted.utilisation["decode"] == pytest.approx(simulated.utilisation["decode"], abs=0.01)


def test_an_overloaded_stream_with_a_policy_is_predicted_over_its_span(calibration, chat_lengths):
    cluster = Cluster.parse("2P1D", calibration)
    workload = Workload.poisson(1.0, chat_lengths, 100).at_load(1.4, cluster)
    predicted = predict(cluster, workload, LIMITS, Kairos())
    assert predicted.method.startswith("no steady state")
    assert "cannot keep up" in predicted.warnings[0]
    simulated = simulate(cluster, workload, LIMITS, Kairos())  # 20,000 requests, as the prediction says
    assert predicted.ttft_s(0.95) == pytest.approx(simulated.ttft_s(0.95), rel=0.1)
    assert predict(cluster, workload.at_load(0.9, cluster), LIMITS, Kairos()).warnings == ()

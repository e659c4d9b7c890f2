"""Predictions over a span against the simulator, with and without deflection."""

from dataclasses import replace

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.policies import Colocated, Disaggregated, EarliestCompletion, Kairos, StaticLength
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.simulation import simulate
from qmodel.system import predict

SLOS = SLO(ttft_s=1.0, tbt_s=0.060)


@pytest.fixture(scope="module")
def drifting(chat_lengths) -> Workload:
    """Five minutes whose rate swings between half and one and a half times its mean."""
    rng = np.random.default_rng(4)
    even = np.sort(rng.random(6000))
    grid = np.linspace(0, 1, 2001)
    intensity = np.cumsum(1 + 0.5 * np.sin(6 * np.pi * grid))
    arrival = 300 * np.interp(even, intensity / intensity[-1], grid)
    prompt = rng.choice(chat_lengths[0], 6000, p=chat_lengths[1])
    output = 1 + rng.geometric(1 / 150, 6000)
    return Workload.from_requests(Requests.from_arrays(np.sort(arrival), prompt, output))


@pytest.mark.parametrize("policy", [Disaggregated(), Kairos(), EarliestCompletion(), StaticLength(512)])
@pytest.mark.parametrize("load", [0.7, 1.1])
def test_trace_predictions_match_the_simulator(calibration, drifting, policy, load):
    cluster = Cluster.parse("2P2D", calibration)
    workload = drifting.at_load(load, cluster)
    predicted = predict(cluster, workload, SLOS, policy)
    simulated = simulate(cluster, workload, SLOS, policy, seed=0)
    for q in (0.5, 0.95, 0.99):
        assert predicted.ttft_s(q) == pytest.approx(simulated.ttft_s(q), rel=0.08)
    assert predicted.tbt_s(0.99) == pytest.approx(simulated.tbt_s(0.99), rel=0.05)
    assert predicted.tbt_s(0.5, "request") == pytest.approx(simulated.tbt_s(0.5, "request"), rel=0.05)
    assert predicted.slo_attainment == pytest.approx(simulated.slo_attainment, abs=0.03)
    assert predicted.deflected_share == pytest.approx(simulated.deflected_share, abs=0.03)
    for pool in ("prefill", "decode"):
        assert predicted.utilisation[pool] == pytest.approx(simulated.utilisation[pool], abs=0.02)
    for part, value in simulated.breakdown().items():
        assert predicted.breakdown()[part] == pytest.approx(value, rel=0.1, abs=0.004)


@pytest.mark.parametrize("policy", [Kairos(), EarliestCompletion()])
def test_estimating_policies_are_predicted_without_packing_too(calibration, drifting, policy):
    """An engine without packing has no step of a budget's size; routers count in such steps all the same."""
    cluster = Cluster.parse("2P2D", calibration, packing=False)
    workload = drifting.at_load(0.5, cluster)
    predicted, simulated = predict(cluster, workload, SLOS, policy), simulate(cluster, workload, SLOS, policy, seed=0)
    assert predicted.ttft_s(0.95) == pytest.approx(simulated.ttft_s(0.95), rel=0.03)
    assert predicted.deflected_share == pytest.approx(simulated.deflected_share, abs=0.015)


@pytest.mark.parametrize("load", [0.2, 0.4])
def test_close_decisions_at_light_load_see_the_step_in_progress(calibration, drifting, load):
    """Both sides end a prompt at nearly the same time there: half a step in place of its rest decides them all alike."""
    cluster = Cluster.parse("2P2D", calibration)
    workload, policy = drifting.at_load(load, cluster), EarliestCompletion()
    predicted, simulated = predict(cluster, workload, SLOS, policy), simulate(cluster, workload, SLOS, policy, seed=0)
    assert predicted.deflected_share == pytest.approx(simulated.deflected_share, abs=0.01)
    assert predicted.ttft_s(0.5) == pytest.approx(simulated.ttft_s(0.5), rel=0.01)


@pytest.mark.parametrize(
    ("binding", "order"),
    [
        ("dispatch", "spf"),
        ("late", "fcfs"),
        ("late", "spf"),
        ("late", "due"),
    ],
)
def test_plans_in_any_binding_and_order_match_the_simulator(calibration, drifting, binding, order):
    from qmodel import derive_thresholds

    cluster = Cluster.parse("2P2D", calibration)
    workload = drifting.at_load(1.0, cluster)
    plan = derive_thresholds(cluster, workload, SLOS, binding=binding, order=order)
    predicted, simulated = predict(cluster, workload, SLOS, plan), simulate(cluster, workload, SLOS, plan, seed=0)
    for q in (0.5, 0.95):
        assert predicted.ttft_s(q) == pytest.approx(simulated.ttft_s(q), rel=0.1)
    assert predicted.slo_attainment == pytest.approx(simulated.slo_attainment, abs=0.03)
    assert predicted.deflected_share == pytest.approx(simulated.deflected_share, abs=0.03)


def test_a_lone_request_takes_its_zero_load_time_on_either_path(calibration):
    cluster = Cluster.parse("1P1D", calibration)
    lone = Workload.from_requests(Requests.from_arrays([0.0, 100.0], [3000, 3000], [5, 5]))
    assert predict(cluster, lone, SLOS).ttft_s(0.5) == pytest.approx(cluster.zero_load_ttft_s(3000), rel=1e-9)
    hosted = predict(cluster, lone, SLO(ttft_s=9.0, tbt_s=9.0), StaticLength(4000))
    chunks = [(2048, 0), (952, 2048)]
    expected = sum(calibration.decode_step_s(0.0, 0.0, chunk, done) for chunk, done in chunks)
    assert hosted.deflected_share == 1
    assert hosted.ttft_s(0.5) == pytest.approx(expected, rel=1e-9)


def test_tbt_attainment_matches_the_simulator_when_batches_are_too_large(calibration, drifting):
    cluster = Cluster.parse("1P1D", calibration)
    workload = drifting.at_load(0.9, cluster)
    limits = SLO(ttft_s=5.0, tbt_s=0.021)
    predicted, simulated = predict(cluster, workload, limits), simulate(cluster, workload, limits, seed=0)
    assert 0.05 < simulated.tbt_attainment < 0.95
    assert predicted.tbt_attainment == pytest.approx(simulated.tbt_attainment, abs=0.03)


def test_windows_see_only_sums_and_stay_near(calibration, drifting):
    cluster = Cluster.parse("2P2D", calibration)
    workload = drifting.at_load(0.8, cluster)
    coarse = predict(cluster, workload, SLOS, method="windows")
    exact = predict(cluster, workload, SLOS)
    assert coarse.ttft_s(0.95) == pytest.approx(exact.ttft_s(0.95), rel=0.3)
    assert coarse.error_estimate["p95_ttft_s"] > exact.error_estimate["p95_ttft_s"]


def test_poisson_with_a_policy_matches_the_simulator(calibration, chat_lengths):
    cluster = Cluster.parse("2P2D", calibration)
    workload = Workload.poisson(1.0, chat_lengths, 150).at_load(1.1, cluster)
    predicted = predict(cluster, workload, SLOS, Kairos())
    runs = [simulate(cluster, workload, SLOS, Kairos(), seed=seed, requests=60_000) for seed in range(6)]
    assert predicted.ttft_s(0.95) == pytest.approx(np.mean([run.ttft_s(0.95) for run in runs]), rel=0.1)
    assert predicted.deflected_share == pytest.approx(np.mean([run.deflected_share for run in runs]), abs=0.03)


def test_what_is_not_covered_is_refused(calibration, drifting):
    cluster = Cluster.parse("1P1D", calibration)
    with pytest.raises(InputError, match="policy of predict"):
        predict(cluster, drifting, SLOS, Colocated())
    with pytest.raises(InputError, match="policy"):
        predict(cluster, drifting, SLOS, policy=3)


def _bursts(seed: int, n: int, prompt: tuple[int, int], output: tuple[int, int]) -> Workload:
    """Groups of ten requests that arrive at one instant, ten minutes in all."""
    rng = np.random.default_rng(seed)
    arrival = np.repeat(np.sort(rng.uniform(0, 600, n // 10)), 10)
    return Workload.from_requests(
        Requests.from_arrays(arrival, rng.integers(*prompt, len(arrival)), rng.integers(*output, len(arrival)))
    )


@pytest.mark.parametrize("policy", [Disaggregated(), Kairos()])
def test_full_caches_preempt_as_in_the_simulator(calibration, policy):
    small = replace(calibration, kv_capacity_tokens=30_000)
    cluster = Cluster(prefill=2, decode=1, calibration=small)
    workload = _bursts(1, 1500, (500, 2500), (200, 900))
    predicted, simulated = predict(cluster, workload, SLOS, policy), simulate(cluster, workload, SLOS, policy, seed=0)
    roomy = predict(cluster.with_(calibration=calibration), workload, SLOS, policy)
    assert simulated.tbt_attainment < 0.9  # a preempted request waits for its cache to be computed again
    assert roomy.tbt_attainment > simulated.tbt_attainment + 0.1
    assert predicted.ttft_s(0.95) == pytest.approx(simulated.ttft_s(0.95), rel=0.05)
    assert predicted.tbt_s(0.999) == pytest.approx(simulated.tbt_s(0.999), rel=0.1)
    assert predicted.tbt_attainment == pytest.approx(simulated.tbt_attainment, abs=0.03)


@pytest.mark.parametrize("binding", ["none", "dispatch", "late"])
def test_caches_wait_on_the_prefill_side_for_a_slow_link(calibration, binding):
    from qmodel import derive_thresholds

    small = replace(calibration, kv_capacity_tokens=10_000)
    cluster = Cluster(prefill=2, decode=2, calibration=small, bandwidth_gb_s=0.2)
    workload = _bursts(2, 3000, (500, 3000), (20, 40))
    policy = None if binding == "none" else derive_thresholds(cluster, workload, SLOS, binding=binding, order="fcfs")
    predicted, simulated = predict(cluster, workload, SLOS, policy), simulate(cluster, workload, SLOS, policy, seed=0)
    for q in (0.5, 0.95):
        assert predicted.ttft_s(q) == pytest.approx(simulated.ttft_s(q), rel=0.05)
    for part in ("queue", "transfer"):
        assert predicted.breakdown()[part] == pytest.approx(simulated.breakdown()[part], rel=0.05)
    roomy = predict(cluster.with_(calibration=calibration), workload, SLOS, policy)
    assert roomy.breakdown()["transfer"] > 1.2 * predicted.breakdown()["transfer"]  # waiting moves from queue to link


@pytest.mark.parametrize("policy", [Disaggregated(), Kairos()])
def test_the_token_behind_a_first_one_from_prefill_waits_for_the_transfer(calibration, drifting, policy):
    cluster = Cluster.parse("2P2D", calibration, first_token="prefill", bandwidth_gb_s=2.0)
    workload = drifting.at_load(0.9, cluster)
    limits = SLO(ttft_s=1.0, tbt_s=0.100)
    predicted, simulated = (
        predict(cluster, workload, limits, policy),
        simulate(cluster, workload, limits, policy, seed=0),
    )
    assert simulated.tbt_attainment < 0.7
    assert predicted.tbt_attainment == pytest.approx(simulated.tbt_attainment, abs=0.02)
    assert predicted.tbt_s(0.999) == pytest.approx(simulated.tbt_s(0.999), rel=0.05)


def test_lone_tokens_end_with_their_prefill(calibration):
    cluster = Cluster.parse("1P1D", calibration, first_token="prefill")
    one = Workload.from_requests(Requests.from_arrays([0.0, 10.0, 20.0], [3000] * 3, [1] * 3))
    predicted, simulated = predict(cluster, one, SLOS), simulate(cluster, one, SLOS)
    assert predicted.ttft_s(0.5) == pytest.approx(simulated.ttft_s(0.5), rel=1e-9)
    assert predicted.utilisation["decode"] == 0.0
    with pytest.raises(InputError, match="time between tokens"):  # as the simulator does
        predicted.tbt_s(0.99)
    assert predicted.to_dict()["tbt_s"] == {}


def test_few_tokens_a_request_give_the_same_law_of_their_gaps(calibration):
    cluster = Cluster.parse("1P1D", calibration)
    workload = _bursts(3, 2000, (50, 400), (2, 5))
    predicted, simulated = predict(cluster, workload, SLOS), simulate(cluster, workload, SLOS, seed=0)
    for q in (0.5, 0.9, 0.99):
        assert predicted.tbt_s(q) == pytest.approx(simulated.tbt_s(q), rel=0.02)

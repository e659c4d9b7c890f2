"""Steady-state predictions against long paths of the exact prefill recursion, and against special cases."""

from dataclasses import replace

import numpy as np
import pytest

from qmodel.errors import InputError, UnstableError
from qmodel.policies import Disaggregated
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.simulation import simulate
from qmodel.system import predict
from qmodel.system.decode import decode_pool
from qmodel.system.prefill import prefill_path
from qmodel.system.stationary import saturated_work_s, service_of
from qmodel.system.streams import Residence

QUANTILES = [0.5, 0.95, 0.99]


@pytest.mark.parametrize(("cluster_name", "load"), [("1P1D", 0.7), ("2P2D", 0.5), ("2P2D", 0.85), ("8P8D", 0.7)])
def test_time_to_placement_is_within_five_percent_of_a_long_exact_path(calibration, chat_lengths, cluster_name, load):
    cluster = Cluster.parse(cluster_name, calibration)
    workload = Workload.poisson(1.0, chat_lengths, 30).at_load(load, cluster)
    prediction = predict(cluster, workload, SLO())
    rng = np.random.default_rng(11)
    prompt = rng.choice(chat_lengths[0], 2_000_000, p=chat_lengths[1])
    arrival = np.cumsum(rng.exponential(1 / workload.rate_per_s, len(prompt)))
    cached = np.zeros(len(prompt), np.int64)
    path = prefill_path(cluster, arrival, prompt, cached, np.zeros(len(prompt)))
    truth = np.quantile((path.placed_s - arrival)[30_000:], QUANTILES)
    assert np.allclose(np.quantile(prediction.parts_s[:3].sum(axis=0), QUANTILES), truth, rtol=0.05)


def test_without_packing_the_queue_part_is_the_exact_m_d_k_wait(calibration):
    from qmodel.queueing import ServiceTime, mgk

    cluster = Cluster(prefill=2, decode=2, calibration=calibration, packing=False)
    workload = Workload.poisson(1.0, 2000, 30).at_load(0.8, cluster)
    prediction = predict(cluster, workload, SLO(), fidelity="exact")
    service = ServiceTime.deterministic(float(calibration.lone_prefill_s(2000.0)))
    exact = mgk(workload.rate_per_s, 2, service)
    for q in (0.7, 0.95):
        assert np.quantile(prediction.parts_s[0], q) == pytest.approx(exact.wait_quantile_s(q), rel=0.02)


def test_saturated_work_is_the_mean_over_all_offsets_in_a_stream_of_full_steps(calibration):
    cluster = Cluster(prefill=1, decode=1, calibration=calibration)
    law, budget, length = calibration.prefill, 2048, 5000
    total = 0.0
    for offset in range(budget):
        done, room = 0, budget - offset
        while done < length:
            total += law.reload_s * done
            done += min(room, length - done)
            room = budget
    expected = length * law.base_s(2048.0) / budget + law.attention_s * length**2 / 2 + total / budget
    assert saturated_work_s(cluster, [length], [0])[0] == pytest.approx(expected, rel=1e-3)


def test_merged_work_keeps_the_moments_that_waits_depend_on():
    work = np.sort(np.random.default_rng(1).lognormal(-2.0, 1.2, 5_000))
    merged = service_of(work, np.full(5_000, 1 / 5_000))
    assert len(merged.atoms()[0]) <= 1024
    assert merged.mean_s == pytest.approx(work.mean())
    assert merged.scv == pytest.approx(work.var() / work.mean() ** 2, rel=1e-4)


def test_decode_pool_of_one_instance_is_the_product_form_of_the_queueing_library(calibration):
    from qmodel.queueing import decode_batch

    cluster = Cluster(prefill=1, decode=1, calibration=calibration)
    pool = decode_pool(cluster, 5.0, Residence.of_joint([1000], [201], [1.0]))
    reference = decode_batch(5.0, 200.0, pool.step_s, cluster.max_num_seqs)
    assert np.allclose(np.diff(pool.residents_cdf[:60]), reference.time_law[1:60], atol=1e-9)
    assert np.allclose(pool.token_weight, reference.law("token")[1:], atol=1e-9)


def test_overload_of_either_pool_is_an_error_and_not_a_number(calibration):
    cluster = Cluster(prefill=1, decode=1, calibration=calibration)
    with pytest.raises(UnstableError, match="prefill load"):
        predict(cluster, Workload.poisson(1.0, 1000, 10).at_load(1.02, cluster), SLO())
    with pytest.raises(UnstableError, match="decode load"):
        predict(cluster, Workload.poisson(1.0, 1000, 10_000).at_load(0.9, cluster), SLO())


def test_links_that_cannot_keep_up_are_an_error_and_not_a_number(calibration):
    cluster = Cluster.parse("2P2D", calibration, bandwidth_gb_s=0.2)
    workload = Workload.poisson(1.0, 1000, 10).at_load(0.7, cluster)
    with pytest.raises(UnstableError, match="transfer times"):
        predict(cluster, workload, SLO())
    alone = predict(cluster.with_(link_sharing="none"), workload, SLO()).breakdown()["transfer"]
    assert alone == pytest.approx(cluster.transfer_law().exposed_s(1000.0))


def test_busy_links_lead_where_the_simulator_sends_caches(calibration):
    """Few residents: most ties go to the lowest decode instance, whose link is the busiest."""
    cluster = Cluster.parse("2P3D", calibration, bandwidth_gb_s=0.9)
    workload = Workload.poisson(1.0, 2500, 8).at_load(0.7, cluster)
    predicted = predict(cluster, workload, SLO(), fidelity="exact")
    simulated = simulate(cluster, workload, SLO(), seed=5, requests=100_000)
    assert simulated.breakdown()["transfer"] > 1.3 * cluster.transfer_law().exposed_s(2500.0)
    for part in ("queue", "transfer"):
        assert predicted.breakdown()[part] == pytest.approx(simulated.breakdown()[part], rel=0.06)


def test_decode_caches_that_overflow_are_left_to_the_recursion(calibration, chat_lengths):
    small = replace(calibration, kv_capacity_tokens=70_000)
    cluster = Cluster(prefill=2, decode=2, calibration=small)
    workload = Workload.poisson(1.0, chat_lengths, 150).at_load(0.6, cluster)
    predicted, roomy = (predict(c, workload, SLO()) for c in (cluster, cluster.with_(calibration=calibration)))
    simulated = [simulate(cluster, workload, SLO(), seed=seed, requests=60_000).ttft_s(0.95) for seed in range(1, 4)]
    assert "recursion" in predicted.method
    assert np.mean(simulated) > 1.05 * roomy.ttft_s(0.95)
    assert predicted.ttft_s(0.95) == pytest.approx(np.mean(simulated), rel=0.06)


def test_unknown_choices_are_refused(calibration):
    cluster = Cluster(prefill=1, decode=1, calibration=calibration)
    workload = Workload.poisson(1.0, 1000, 10)
    with pytest.raises(InputError, match="fidelity"):
        predict(cluster, workload, SLO(), fidelity="high")
    with pytest.raises(InputError, match="method"):
        predict(cluster, workload, SLO(), method="magic")
    with pytest.raises(InputError, match="quantile"):
        predict(cluster, workload, SLO()).ttft_s(1.5)


def test_parts_add_up_and_numbers_are_plain(calibration, chat_lengths):
    import json

    cluster = Cluster(prefill=2, decode=2, calibration=calibration)
    workload = Workload.poisson(1.0, chat_lengths, 150).at_load(0.7, cluster)
    prediction = predict(cluster, workload, SLO(ttft_s=0.4))
    assert sum(prediction.breakdown().values()) == pytest.approx(prediction.parts_s.sum(axis=0).mean())
    assert sum(prediction.breakdown(0.95).values()) == pytest.approx(prediction.ttft_s(0.95), rel=0.05)
    assert 0 < prediction.slo_attainment <= prediction.ttft_attainment < 1
    assert prediction.deflected_share == 0
    assert json.loads(json.dumps(prediction.to_dict()))["ttft_s"]["p95"] == prediction.ttft_s(0.95)
    shares = prediction.by_length([500, 2000])
    assert sum(row["share"] for row in shares) == pytest.approx(1.0)
    assert shares[0]["ttft_s"] < shares[-1]["ttft_s"]


def test_independent_lengths_give_the_same_residence_jointly_and_apart():
    prompt, output = (np.array([100.0, 900.0]), np.array([0.3, 0.7])), (np.array([5.0, 50.0]), np.array([0.6, 0.4]))
    pairs = [(p, o, v * w) for p, v in zip(*prompt, strict=True) for o, w in zip(*output, strict=True)]
    joint = Residence.of_joint(*map(np.array, zip(*pairs, strict=True)))
    assert Residence.of_product(prompt, output) == pytest.approx(joint)


def test_first_tokens_from_prefill_leave_a_gap_in_steady_state(calibration, chat_lengths):
    cluster = Cluster.parse("2P2D", calibration, first_token="prefill", bandwidth_gb_s=4.0)
    workload = Workload.poisson(1.0, chat_lengths, 60).at_load(0.7, cluster)
    limits = SLO(ttft_s=1.0, tbt_s=0.080)
    predicted, simulated = predict(cluster, workload, limits), simulate(cluster, workload, limits, requests=60_000)
    assert 0.3 < simulated.tbt_attainment < 0.95
    assert predicted.tbt_attainment == pytest.approx(simulated.tbt_attainment, abs=0.03)
    assert predicted.tbt_s(0.99) == pytest.approx(simulated.tbt_s(0.99), rel=0.05)
    assert predicted.breakdown()["transfer"] == 0.0


def test_the_order_of_the_queue_counts_in_steady_state(calibration):
    cluster = Cluster(prefill=2, decode=2, calibration=calibration)
    workload = Workload.poisson(1.0, ([200, 8000], [0.8, 0.2]), 100).at_load(0.85, cluster)
    first, shortest = (predict(cluster, workload, SLO(), Disaggregated(order=order)) for order in ("fcfs", "spf"))
    assert shortest.ttft_s(0.5) < 0.7 * first.ttft_s(0.5)
    run = simulate(cluster, workload, SLO(), Disaggregated(order="spf"), requests=60_000)
    assert shortest.ttft_s(0.5) == pytest.approx(run.ttft_s(0.5), rel=0.1)


@pytest.mark.parametrize(
    ("options", "policy", "says"),
    [
        ({"max_prefill_seqs": 1}, None, "max_prefill_seqs=1"),
        ({}, Disaggregated(count_until="last_step_starts"), "count_until"),
        ({}, Disaggregated(decode_choice="arrival_landed"), "arrival_landed"),
    ],
)
def test_what_predictions_leave_out_is_said(calibration, options, policy, says):
    cluster = Cluster(prefill=2, decode=2, calibration=calibration, **options)
    workload = Workload.poisson(5.0, 300, 30)
    prediction = predict(cluster, workload, SLO(), policy, fidelity="fast")
    assert any(says in line for line in prediction.warnings)
    assert not predict(cluster.with_(max_prefill_seqs=256), workload, SLO(), fidelity="fast").warnings


@pytest.mark.parametrize("policy", [None, Disaggregated(routing="requests")], ids=["stationary", "recursion"])
def test_whole_blocks_are_predicted(calibration, policy):
    cluster = Cluster(
        prefill=1, decode=1, calibration=calibration, bandwidth_gb_s=0.1, efficiency=1.0, transfer_fixed_s=0.0
    )
    workload = Workload.poisson(0.1, 257, 30)
    exact, padded = (
        np.mean(predict(target, workload, SLO(), policy, fidelity="fast").parts_s[2])
        for target in (cluster, cluster.with_(transfer_block_tokens=256))
    )
    assert exact == pytest.approx(257 * calibration.kv_bytes_per_token / 1e8, rel=0.02)
    assert padded / exact == pytest.approx(512 / 257, rel=0.02)

"""Capacity planning against exhaustive simulation, closed limits, and properties of a good answer."""

import json

import numpy as np
import pytest

from qmodel import SLO, Cluster, Workload, load_calibration, plan_capacity, predict, simulate
from qmodel.errors import InfeasibleError, InputError
from qmodel.policies import Kairos
from qmodel.studies.capacity_bounds import SLACK, pool_limits
from qmodel.studies.capacity_search import highest_rate, smallest

SLOS = SLO(ttft_s=1.0, tbt_s=0.060)
WORDS = ["--model", "llama-3.1-8b", "--gpu", "a100", "--gpus", "16", "--workload", "azure-conv"]
WORDS += ["--ttft-slo", "1s", "--tbt-slo", "60ms", "--json"]


@pytest.fixture(scope="module")
def llama():
    return load_calibration("llama-3.1-8b", "a100", 1)


@pytest.fixture(scope="module")
def small():
    """Poisson arrivals of two prompt lengths, short runs."""
    return Workload.poisson(10.0, prompt_tokens=([500, 4000], [0.8, 0.2]), output_tokens=([50, 400], [0.5, 0.5]))


def _attainment(calibration, workload, prefill, decode, seeds=5, requests=None):
    cluster = Cluster(prefill=prefill, decode=decode, calibration=calibration)
    runs = [simulate(cluster, workload, SLOS, seed=seed, requests=requests) for seed in range(seeds)]
    return np.array([run.slo_attainment for run in runs])


def test_the_cheapest_cluster_holds_and_no_split_of_one_gpu_less_does(qmodel, llama):
    run = qmodel("capacity", *WORDS, "--rate", "40/s")
    assert run.code == 0, run.err
    answer = json.loads(run.out)
    assert answer["meets_slo"] is True
    assert answer["rate_per_s"] == pytest.approx(40.0)
    workload = Workload.builtin("azure-conv").at_rate(40.0)
    chosen = Cluster.parse(answer["cluster"], llama)
    assert chosen.gpus == answer["gpus"]
    held = _attainment(llama, workload, chosen.prefill_count, chosen.decode_count)
    assert held.mean() >= 0.95
    assert held.mean() == pytest.approx(answer["simulated"]["slo_attainment"])
    fewer = answer["gpus"] - 1
    for prefill in range(1, fewer):
        assert _attainment(llama, workload, prefill, fewer - prefill).mean() < 0.95
    assert answer["predicted"]["slo_attainment"] == pytest.approx(answer["simulated"]["slo_attainment"], abs=0.03)


def test_the_highest_goodput_is_beaten_by_no_other_split(qmodel, llama):
    run = qmodel("capacity", *WORDS)
    assert run.code == 0, run.err
    answer = json.loads(run.out)
    rate = answer["rate_per_s"]
    chosen = Cluster.parse(answer["cluster"], llama)
    base = Workload.builtin("azure-conv")
    assert chosen.gpus == 16
    assert answer["simulated"]["slo_attainment"] >= 0.95
    above = _attainment(llama, base.at_rate(1.02 * rate), chosen.prefill_count, chosen.decode_count)
    assert above.mean() < 0.95
    lighter = base.at_rate(0.8 * rate)
    ours = _attainment(llama, lighter, chosen.prefill_count, chosen.decode_count)
    for prefill in range(1, 16):
        other = _attainment(llama, lighter, prefill, 16 - prefill)
        noise = 2.78 * np.std(other - ours, ddof=1) / np.sqrt(5)
        assert other.mean() - ours.mean() <= max(noise, 1e-3)
        assert _attainment(llama, base.at_rate(1.02 * rate), prefill, 16 - prefill).mean() < 0.95


def test_small_searches_agree_with_every_size_simulated(llama, small):
    for rate in (8.0, 25.0):
        answer = plan_capacity(llama, small, SLOS, gpus=7, rate_per_s=rate, seeds=range(3), requests=3000)
        workload = small.at_rate(rate)
        good = [
            k + d
            for k in range(1, 7)
            for d in range(1, 8 - k)
            if _attainment(llama, workload, k, d, 3, 3000).mean() >= 0.95
        ]
        assert answer.meets_slo == bool(good)
        if good:
            assert answer.gpus == min(good)


def test_limits_are_never_exceeded_by_a_simulation_that_holds(llama, small):
    limits = pool_limits(Cluster(prefill=1, decode=1, calibration=llama), small, SLOS)
    for prefill, decode in ((1, 2), (2, 1), (3, 1)):
        ceiling = limits.rate_per_s(prefill, decode)
        assert ceiling == pytest.approx(SLACK * min(prefill * limits.prefill_per_s, decode * limits.decode_per_s))
        assert _attainment(llama, small.at_rate(1.05 * ceiling), prefill, decode, 2).mean() < 0.95


def test_goodput_grows_with_gpus_and_cost_with_rate(llama, small):
    options = {"seeds": range(2), "requests": 3000}
    rates = [plan_capacity(llama, small, SLOS, gpus=n, **options).rate_per_s for n in (2, 4, 6)]
    assert rates == sorted(rates)
    sizes = [plan_capacity(llama, small, SLOS, gpus=12, rate_per_s=r, **options).gpus for r in (5.0, 20.0, 35.0)]
    assert sizes == sorted(sizes)


def test_a_rate_beyond_the_gpus_is_a_no(qmodel, tmp_path):
    run = qmodel("capacity", *WORDS, "--rate", "4000/s", "-o", "plan.json")
    assert run.code == 1
    answer = json.loads(run.out)
    assert answer["meets_slo"] is False
    assert answer["simulated"]["slo_attainment"] < 0.95
    assert "16 GPUs do not serve" in run.err
    assert list(tmp_path.iterdir()) == []


def test_prices_choose_between_gpu_types(small):
    types = [load_calibration("llama-3.1-8b", gpu, 1) for gpu in ("a100", "h100")]
    options = {"gpus": 6, "rate_per_s": 15.0, "seeds": range(2), "requests": 3000}
    dear = plan_capacity(types, small, SLOS, prices={"a100": 1.0, "h100": 50.0}, **options)
    assert {c.gpu for c in dear.cluster.prefill_calibrations + dear.cluster.decode_calibrations} == {"a100"}
    cheap = plan_capacity(types, small, SLOS, prices={"a100": 50.0, "h100": 1.0}, **options)
    assert {c.gpu for c in cheap.cluster.prefill_calibrations + cheap.cluster.decode_calibrations} == {"h100"}
    assert cheap.meets_slo
    assert cheap.cost == cheap.gpus


def test_day_and_night_need_what_the_busier_needs(llama, small):
    options = {"gpus": 10, "seeds": range(2), "requests": 3000}
    night = small.at_rate(2.0)
    day = small.at_rate(30.0)
    mixed = plan_capacity(llama, [(day, 0.5), (night, 0.5)], SLOS, rate_per_s=16.0, **options)
    alone = plan_capacity(llama, small, SLOS, rate_per_s=30.0, **options)
    assert mixed.gpus in (alone.gpus - 1, alone.gpus)
    assert mixed.meets_slo


def test_on_the_command_line_the_workload_has_the_time_that_the_mix_leaves(qmodel, llama):
    words = ("--model", "llama-3.1-8b", "--workload", "azure-conv", "--rate", "8/s", "--gpus", "6", "--seeds", "1")
    run = qmodel("capacity", *words, "--requests", "500", "--mix", "azure-code=0.25", "--json")
    assert run.code == 0, run.err
    base = Workload.builtin("azure-conv").at_rate(8.0)
    parts = [(base, 0.75), (Workload.builtin("azure-code"), 0.25)]
    same = plan_capacity(llama, parts, SLOS, gpus=6, rate_per_s=8.0, seeds=range(1), requests=500)
    assert json.loads(run.out)["simulated"] == dict(same.simulated)
    run = qmodel("capacity", *words, "--mix", "azure-code=0.5", "--mix", "azure-conv=0.5")
    assert run.code == 2
    assert "below 1 together" in run.err


def test_deflection_never_needs_more_gpus(llama):
    workload = Workload.builtin("azure-conv")
    options = {"gpus": 9, "rate_per_s": 40.0, "seeds": range(2), "requests": 8000}
    plain = plan_capacity(llama, workload, SLOS, **options)
    plan = plan_capacity(llama, workload, SLOS, policy="thresholds", **options)
    assert plan.meets_slo
    assert plan.gpus <= plain.gpus


def test_an_answer_that_never_deflects_says_that_deflection_may_do_better(llama, small):
    question = {"gpus": 4, "rate_per_s": 5.0, "seeds": range(1), "requests": 2000}
    plain = plan_capacity(llama, small, SLOS, **question)
    assert [note for note in plain.notes if "policy thresholds" in note]
    assert not plan_capacity(llama, small, SLOS, policy=Kairos(), **question).notes


def test_predictions_beside_simulations_are_of_the_same_arrivals(llama):
    """Replays of bursts differ by points of attainment: the first alone is no match for the mean over the others."""
    traffic = Workload.builtin("azure-conv")
    answer = plan_capacity(llama, traffic, SLOS, gpus=8, rate_per_s=30.0, seeds=range(1, 4), requests=4000)
    beside = [row for row in answer.rows if row["simulated_runs"]]
    assert answer.name in {row["cluster"] for row in beside}
    for row in beside:
        assert row["predicted_runs"] == row["simulated_runs"]
        assert row["predicted_attainment"] == pytest.approx(row["simulated_attainment"], abs=0.01)
    cluster, first = Cluster.parse(answer.name, llama), traffic.at_rate(30.0).requests(seed=1, count=4000)
    shown = next(row["predicted_attainment"] for row in beside if row["cluster"] == answer.name)
    assert shown == answer.predicted["slo_attainment"]
    assert shown != predict(cluster, Workload.from_requests(first), SLOS).slo_attainment


def test_the_cost_table_is_a_frontier(llama, small):
    answer = plan_capacity(llama, small, SLOS, gpus=8, rate_per_s=12.0, seeds=range(2), requests=3000)
    table = answer.pareto()
    costs, tails = [row["cost"] for row in table], [row["p95_ttft_s"] for row in table]
    assert costs == sorted(set(costs))
    assert tails == sorted(tails, reverse=True)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"gpus": 1}, InputError, "gpus"),
        ({"gpus": 2.5}, InputError, "gpus"),
        ({"gpus": 4000}, InputError, "gpus"),
        ({"rate_per_s": float("nan")}, InputError, "rate"),
        ({"attainment": 1.0}, InputError, "attainment"),
        ({"seeds": ()}, InputError, "seeds"),
        ({"rate_per_s": None, "cluster": (2, 2)}, InputError, "gpus is 4 beside a cluster"),
        ({"gpus": None, "cluster": (2, 2)}, InputError, "rate is 5/s beside a cluster"),
        ({"prices": {"tpu": 1.0}}, InputError, "tpu"),
        ({"prices": {"a100": -1.0}}, InputError, "a100"),
        ({"slo": SLO(ttft_s=0.02, tbt_s=0.06)}, InfeasibleError, "ttft_slo >="),
        ({"slo": SLO(ttft_s=1.0, tbt_s=0.001)}, InfeasibleError, "tbt_slo >="),
    ],
)
def test_what_cannot_be_planned(llama, small, changes, error, says):
    words = {"gpus": 4, "rate_per_s": 5.0, "slo": SLOS} | changes
    with pytest.raises(error, match=says):
        plan_capacity(llama, small, words.pop("slo"), **words)


def test_the_nearest_feasible_ttft_slo_is_feasible(llama, small):
    with pytest.raises(InfeasibleError) as raised:
        plan_capacity(llama, small, SLO(ttft_s=0.02, tbt_s=0.06), gpus=8, rate_per_s=1.0, requests=2000)
    nearest = float(raised.value.remedy.split(">= ")[1].removesuffix("ms")) * 1e-3
    plan_capacity(llama, small, SLO(ttft_s=nearest, tbt_s=0.06), gpus=8, rate_per_s=1.0, requests=2000)


def test_searches_by_bisection():
    assert smallest(lambda n: n >= 7, 1, 20) == 7
    assert smallest(lambda n: n >= 7, 1, 5) is None
    assert smallest(lambda n: True, 3, 2) is None
    assert highest_rate(lambda r: r <= 3.0, 1.0, 10.0, 1.001) == pytest.approx(3.0, rel=1e-3)
    assert highest_rate(lambda r: False, 1.0, 10.0, 1.1) == 0.0
    assert highest_rate(lambda r: True, 1.0, 10.0, 1.1) == 10.0


def test_a_plan_for_the_answer_is_written(qmodel, tmp_path):
    run = qmodel(
        "capacity", "--model", "llama-3.1-8b", "--gpus", "8", "--workload", "azure-conv", "--rate", "20/s",
        "--seeds", "1", "--requests", "4000", "-o", "plan.json",
    )  # fmt: skip
    assert run.code == 0, run.err
    again = qmodel("simulate", "--policy", "plan.json", "--json", "--requests", "4000")
    assert again.code == 0, again.err
    assert json.loads(again.out)["simulated"]["slo_attainment"] >= 0.95


def test_the_map_is_a_picture_of_a_table_that_falls_with_the_rate(tmp_path, llama, small):
    from qmodel.plotting.capacity import draw_capacity
    from qmodel.studies.capacity_map import capacity_map

    rows = capacity_map(Cluster(prefill=2, decode=2, calibration=llama), small, SLOS, 4, 15.0)
    assert {row["cluster"] for row in rows} == {"1P3D", "2P2D", "3P1D"}
    for name in ("1P3D", "2P2D", "3P1D"):
        shares = [row["slo_attainment"] for row in rows if row["cluster"] == name]
        assert shares[0] >= shares[-1]
    draw_capacity(rows, "2P2D", 15.0, 0.95, tmp_path / "map.png")
    draw_capacity(rows, "9P9D", 15.0, 0.95, tmp_path / "other.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_highest_rate_of_one_cluster(qmodel):
    scenario = ("capacity", "--model", "llama-3.1-8b", "--workload", "azure-conv", "--seeds", "2", "--requests", "4000")
    run = qmodel(*scenario, "--cluster", "2P1D", "--rate", "max", "--json")
    assert run.code == 0, run.err
    answer = json.loads(run.out)
    assert (answer["cluster"], answer["gpus"]) == ("2P1D", 3)
    of_all = json.loads(qmodel(*scenario, "--gpus", "3", "--json").out)
    assert answer["rate_per_s"] <= of_all["rate_per_s"] * 1.01
    for words in (
        ("--cluster", "2P1D", "--rate", "5/s"),
        ("--cluster", "2P1D", "--gpus", "3"),
        (),
        ("--cluster", "2x1"),
    ):
        run = qmodel(*scenario, *words)
        assert run.code == 2
        assert len(run.err.strip().splitlines()) == 1


def test_the_rate_of_a_given_cluster_holds_and_a_higher_one_does_not(llama):
    traffic, runs = Workload.builtin("azure-conv"), {"requests": 4000}
    answer = plan_capacity(llama, traffic, SLOS, cluster=(3, 1), seeds=range(2), **runs)
    cluster = Cluster.parse("3P1D", llama)

    def met(factor):
        at = traffic.at_rate(factor * answer.rate_per_s)
        return np.mean([simulate(cluster, at, SLOS, seed=seed, **runs).slo_attainment for seed in range(2)])

    assert met(0.99) >= 0.94
    assert met(1.05) < 0.95

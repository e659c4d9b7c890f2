"""Error estimates: noise of finite runs, what it leaves alone, and coverage of fresh simulations."""

import numpy as np
import pytest

from qmodel.policies import Kairos
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.simulation import simulate
from qmodel.system import predict
from qmodel.system.accuracy import TABLE, path_noise, with_spread


def test_noise_is_that_of_repeated_runs(calibration, chat_lengths):
    """The stated P95 noise of one run of 20,000 requests against the spread of forty."""
    cluster = Cluster.parse("2P2D", calibration)
    workload = Workload.poisson(1.0, chat_lengths, 10).at_load(0.85, cluster)
    runs = [simulate(cluster, workload, SLO(), seed=seed).ttft_s(0.95) for seed in range(40)]
    stated = predict(cluster, workload, SLO()).error_estimate["p95_ttft_s"]
    spread = 1.645 * np.std(runs, ddof=1) / np.mean(runs)
    assert np.hypot(spread, TABLE["stationary"]["p95_ttft_s"]) == pytest.approx(stated, rel=0.5)


def test_noise_grows_with_load_and_shrinks_with_length():
    assert path_noise(0.9, 1.0, 1_000) > path_noise(0.5, 1.0, 1_000) > path_noise(0.5, 1.0, 10_000) > 0


def test_runs_that_agree_add_nothing_and_others_their_spread(calibration):
    cluster = Cluster.parse("1P1D", calibration)
    one, two = (predict(cluster, Workload.poisson(1.0, 900, 30).at_load(load, cluster), SLO()) for load in (0.5, 0.7))
    assert with_spread(one, [one, one, one]).error_estimate == one.error_estimate
    assert with_spread(one, [one]).error_estimate == one.error_estimate
    apart = with_spread(one, [one, one, two]).error_estimate["p95_ttft_s"]
    a, b = one.ttft_s(0.95), two.ttft_s(0.95)
    spread = 2.920 * np.sqrt(4 / 3) * np.std([a, a, b], ddof=1) / np.mean([a, a, b])  # Student, two degrees of freedom
    assert apart == pytest.approx(np.hypot(one.error_estimate["p95_ttft_s"], spread))


def test_half_widths_of_lasting_overload_cover_runs_that_bring_more_work(calibration):
    cluster = Cluster.parse("1P1D", calibration)
    workload = Workload.poisson(1.0, ([200, 800, 6000], [0.3, 0.6, 0.1]), 60).at_load(1.6, cluster)
    predicted = predict(cluster, workload, SLO(), Kairos())
    assert predicted.method.startswith("no steady state")
    for q, metric in ((0.5, "p50_ttft_s"), (0.95, "p95_ttft_s")):
        errors = [
            predicted.ttft_s(q) / simulate(cluster, workload, SLO(), Kairos(), seed=s).ttft_s(q) - 1
            for s in range(1, 9)
        ]
        assert max(map(abs, errors)) > TABLE["no steady state"]["p95_ttft_s"]
        assert np.mean(np.abs(errors) <= predicted.error_estimate[metric]) >= 0.75


def test_half_widths_cover_fresh_runs_of_another_law(calibration):
    """Runs as `simulate` makes them, for lengths that no table was fitted to."""
    met, total = 0, 0
    for name, load, policy in (("1P1D", 0.6, None), ("2P2D", 0.8, None), ("4P4D", 0.9, None), ("2P2D", 0.9, Kairos())):
        cluster = Cluster.parse(name, calibration)
        workload = Workload.poisson(1.0, ([200, 800, 6000], [0.3, 0.6, 0.1]), ([5, 90], [0.5, 0.5]))
        workload = workload.at_load(load, cluster)
        predicted = predict(cluster, workload, SLO(), policy)
        for seed in range(10):
            simulated = simulate(cluster, workload, SLO(), policy, seed=seed)
            for metric, q in (("p50_ttft_s", 0.5), ("p95_ttft_s", 0.95), ("p99_ttft_s", 0.99)):
                total += 1
                met += abs(predicted.ttft_s(q) / simulated.ttft_s(q) - 1) <= predicted.error_estimate[metric]
    assert met / total >= 0.85


def test_large_clusters_have_finite_half_widths(calibration):
    cluster = Cluster(prefill=128, decode=128, calibration=calibration)
    traffic = Workload.poisson(1.0, prompt_tokens=1000, output_tokens=200).at_load(0.9, cluster)
    found = predict(cluster, traffic, SLO())
    assert all(np.isfinite(width) and width >= 0 for width in found.error_estimate.values())

import numpy as np
import pytest

from qmodel.queueing import kiefer_wolfowitz
from qmodel.studies import peers
from qmodel.studies.benchmark import benchmark, fastest_s


def test_the_fastest_of_some_runs_after_a_warm_up():
    calls = []
    assert fastest_s(lambda: calls.append(1), repeats=3) >= 0
    assert len(calls) == 4


def test_the_benchmark_times_each_job():
    table = benchmark(repeats=1)
    assert set(table["job"]) >= {"simulate, plan", "derive thresholds", "predict, Poisson"}
    assert (table["seconds"] > 0).all()
    assert (table["per_s"] * table["seconds"]).to_numpy() == pytest.approx(table["count"].to_numpy())


@pytest.mark.parametrize("package", ["simpy", "ciw"])
def test_other_packages_give_the_waits_of_the_recursion(package):
    pytest.importorskip(package, reason="the extra `peers` is not installed")
    rng = np.random.default_rng(0)
    arrival, work = np.cumsum(rng.exponential(1 / 1.7, 1000)), rng.exponential(1.0, 1000)
    found = getattr(peers, f"{package}_waits_s")(arrival, work, 2)
    np.testing.assert_allclose(found, kiefer_wolfowitz(arrival, work, 2), atol=1e-9)

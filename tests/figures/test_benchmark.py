import pytest

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

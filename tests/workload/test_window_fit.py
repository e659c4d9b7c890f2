"""The windowed model: synthetic parameters come back, and the built-ins behave like the traces they were fitted to."""

import json

import numpy as np
import pytest

from qmodel.fitting.workload import fit_workload, workload_statistics
from qmodel.io.workloads import list_builtins, read_builtin
from qmodel.scenario import Requests, Workload
from qmodel.scenario.window_fit import fit_windows
from qmodel.scenario.windowed import WindowedSource

TRACES = {
    "azure-conv": "azure2023_conv_h1",
    "azure-code": "azure2023_code_h1",
    "mooncake-conversation": "mooncake_conversation_a",
}


def synthetic(burst_scv: float) -> WindowedSource:
    """Return a model with a slow wave in rate, and long prompts in its second half."""
    wave = 40 + 25 * np.sin(np.arange(40) / 40 * 2 * np.pi)
    return WindowedSource(
        span_s=2400.0,
        arrivals_per_s=np.repeat(wave, 6),
        cells_per_window=10,
        burst_scv=burst_scv,
        band_edges=np.array([0.0, 0.5, 1.0]),
        band_shares=np.repeat([[0.7, 0.3], [0.3, 0.7]], 20, axis=0),
        prompt_levels=np.array([0.0, 1.0]),
        prompt_tokens=np.array([100.0, 2100.0]),
        output_levels=np.array([0.0, 1.0]),
        output_tokens=np.array([[10.0, 20.0], [500.0, 600.0]]),
    )


def one_span(source: WindowedSource, seed: int) -> Requests:
    drawn = source.draw(int(2 * source.rate_per_s * source.span_s), 0.0, np.random.default_rng(seed))
    n = int(np.searchsorted(drawn.arrival_s, source.span_s))
    return Requests.from_arrays(drawn.arrival_s[:n], drawn.prompt_tokens[:n], drawn.output_tokens[:n])


@pytest.mark.parametrize("burst_scv", [0.0, 0.4])
def test_fit_recovers_synthetic_parameters(burst_scv):
    truth = synthetic(burst_scv)
    found = fit_windows(one_span(truth, 5))
    assert found.rate_per_s == pytest.approx(truth.rate_per_s, rel=0.04)
    bursts = [fit_windows(one_span(truth, seed)).burst_scv for seed in range(8)]
    assert np.mean(bursts) == pytest.approx(burst_scv, abs=0.03)
    slow = found.arrivals_per_s.reshape(40, 6).mean(axis=1)
    # a window of 60 cells has a noise of 8 % with bursts; 900 arrivals and more one of 3 % without
    np.testing.assert_allclose(slow, truth.arrivals_per_s[::6], rtol=0.3 if burst_scv else 0.1)
    bound = np.searchsorted(found.band_edges, 0.5)
    low = found.band_shares[:, :bound].sum(axis=1)
    assert low[:19].mean() - low[21:].mean() == pytest.approx(0.4, abs=0.1)
    # the busier half has more of the short prompts, so the lower band holds this share of all
    weight = np.repeat([0.7, 0.3], 20) @ truth.arrivals_per_s[::6] / np.sum(truth.arrivals_per_s[::6])
    quantile = np.interp(0.3, found.prompt_levels, found.prompt_tokens)
    assert quantile == pytest.approx(100 + 2000 * 0.3 * 0.5 / weight, rel=0.02)
    assert found.output_tokens[0, -1] <= 20
    assert found.output_tokens[-1, 0] >= 500


def test_poisson_arrivals_are_not_made_bursty():
    stream = Workload.poisson(5.0, prompt_tokens=([200, 3000], [0.8, 0.2]), output_tokens=50).requests(seed=1)
    found = fit_windows(stream)
    assert found.burst_scv < 0.02
    assert np.std(found.arrivals_per_s) / found.rate_per_s < 0.08  # counts alone vary by 0.14
    assert np.max(np.abs(found.band_shares - np.diff(found.band_edges))) < 0.05


@pytest.mark.parametrize("n", [2, 3, 17])
def test_tiny_traces_have_a_model(n):
    tiny = Workload.from_requests(Requests.from_arrays(np.arange(n) * 0.3, np.arange(n) + 1, 1))
    back = Workload.from_model(tiny.model())
    assert back.rate_per_s == pytest.approx(tiny.rate_per_s, rel=1e-3)
    assert len(back.requests(count=50)) == 50


def test_trace_of_one_moment_is_replayed_but_has_no_rate():
    moment = Workload.from_requests(Requests.from_arrays([0.0, 0.0], [5, 6], 1))
    assert len(moment.requests()) == 2
    with pytest.raises(ValueError, match="time span"):
        _ = moment.rate_per_s


@pytest.mark.parametrize("name", list_builtins())
def test_builtins_are_compact_and_say_where_they_come_from(name):
    entry = read_builtin(name)
    assert len(json.dumps(entry)) < 20_000
    assert {"source", "method", "fit"} <= set(entry["provenance"])
    for statistic in ("rate_per_s", "prompt_mean", "prompt_scv", "idc_60s", "wait_mean", "wait_p99"):
        assert {"trace", "model", "spread"} == set(entry["fit"][statistic])


@pytest.mark.parametrize("name", list_builtins())
def test_builtins_draw_what_their_fit_says(name):
    """The stored figures are those of the shipped model: one span, drawn again with other seeds."""
    entry = read_builtin(name)
    source = WindowedSource.from_model(entry)
    for key, tolerance in (("rate_per_s", 4), ("prompt_mean", 4), ("idc_60s", 4), ("wait_mean", 4)):
        values = []
        for seed in range(100, 106):
            values.append(workload_statistics(one_span(source, seed), source.span_s)[key])
        fit = entry["fit"][key]
        assert abs(np.mean(values) - fit["model"]) < tolerance * fit["spread"] / 6**0.5 + 1e-3 * fit["model"]


@pytest.mark.data
@pytest.mark.parametrize("name", list_builtins())
def test_builtins_behave_like_their_traces(name, shared_data):
    trace = Workload.from_trace(shared_data / "traces" / f"{TRACES[name]}.csv.gz")
    fit = fit_workload(trace, seeds=range(10))["fit"]
    for statistic, tolerance in {
        "rate_per_s": 0.03,
        "prompt_mean": 0.02,
        "prompt_scv": 0.05,
        "output_mean": 0.03,
        "idc_10s": 0.15,
        "wait_mean": 0.20,
        "wait_p95": 0.20,
        "wait_p99": 0.30,
    }.items():
        entry = fit[statistic]
        error = abs(entry["model"] / entry["trace"] - 1)
        assert error < tolerance + 3 * entry["spread"] / entry["trace"] / 10**0.5, (statistic, entry)


@pytest.mark.data
def test_statistics_match_the_published_ones(shared_data):
    published = json.loads((shared_data / "traces" / "stats.json").read_text())
    for stem in TRACES.values():
        trace = Workload.from_trace(shared_data / "traces" / f"{stem}.csv.gz")
        found = workload_statistics(trace.requests(), published[stem]["span_s"])
        assert found["rate_per_s"] == pytest.approx(published[stem]["rate"], rel=1e-3)
        assert found["gap_scv"] == pytest.approx(published[stem]["ia_scv"], rel=1e-2)
        assert found["prompt_mean"] == pytest.approx(published[stem]["prompt"]["mean"], rel=1e-3)
        assert found["prompt_scv"] == pytest.approx(published[stem]["prompt"]["scv"], rel=1e-3)
        assert found["idc_1s"] == pytest.approx(published[stem]["idc"]["1"], rel=0.02)

"""The sliders ask `predict`, and say why where it refuses."""

import sys

import numpy as np
import pytest

import qmodel
from qmodel.plotting.what_if import answer_figure, changed, smoothed, what_if
from qmodel.scenario import Requests

CALIBRATION = qmodel.load_calibration("deepseek-v2-lite")
CLUSTER = qmodel.Cluster.parse("2P2D", CALIBRATION)
SLO = qmodel.SLO(ttft_s=1.0, tbt_s=0.060)
WORKLOAD = qmodel.Workload.poisson(1.0, prompt_tokens=1000, output_tokens=100).at_load(0.7, CLUSTER)
START = {"load": 0.7, "prefill": 2, "decode": 2, "bandwidth_gb_s": 25.0, "ttft_slo_s": 1.0, "tbt_slo_ms": 60.0}


def test_unmoved_sliders_are_the_scenario_itself():
    cluster, workload, slo = changed(CLUSTER, WORKLOAD, SLO, **START)
    assert (cluster.name, slo) == (CLUSTER.name, SLO)
    assert workload.rate_per_s == pytest.approx(WORKLOAD.rate_per_s)


def test_the_same_requests_meet_another_split():
    cluster, workload, _ = changed(CLUSTER, WORKLOAD, SLO, **START | {"prefill": 4})
    assert cluster.name == "4P2D"
    assert workload.load(cluster) == pytest.approx(0.35)


def test_the_picture_shows_what_predict_says():
    figure = answer_figure(CLUSTER, WORKLOAD, SLO)
    said = qmodel.predict(CLUSTER, WORKLOAD, SLO)
    axes = figure.axes[0]
    assert f"{said.slo_attainment:.1%}" in axes.get_title(loc="left")
    ends = [max(bar.get_x() + bar.get_width() for bar in row) for row in zip(*axes.containers, strict=True)]
    assert ends[2] == pytest.approx(said.ttft_s(0.95), rel=0.02)


def test_a_refusal_is_a_sentence_in_the_picture():
    figure = answer_figure(CLUSTER, WORKLOAD.at_load(1.2, CLUSTER), SLO)
    assert "load" in figure.axes[0].texts[0].get_text()


def test_burstiness_goes_from_a_poisson_stream_to_the_recorded_times():
    recorded = qmodel.Workload.builtin("azure-conv").requests(count=4000)
    np.testing.assert_allclose(smoothed(recorded, 1.0).arrival_s, recorded.arrival_s)
    gaps = np.diff(smoothed(recorded, 0.0).arrival_s)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1.0, abs=0.15)  # SCV of exponential gaps
    assert smoothed(recorded, 0.5).span_s == pytest.approx(recorded.span_s, rel=0.01)
    with pytest.raises(qmodel.QModelError, match="burstiness"):
        smoothed(recorded, 1.5)


def test_smoother_arrivals_wait_less():
    rng = np.random.default_rng(0)
    bursts = np.sort(np.concatenate([start + rng.uniform(0, 5, 300) for start in range(0, 100, 10)]))
    recorded = Requests.from_arrays(bursts, 1000, 50)
    p95 = [
        qmodel.predict(CLUSTER, qmodel.Workload.from_requests(smoothed(recorded, b)), SLO).ttft_s(0.95)
        for b in (0.0, 0.5, 1.0)
    ]
    assert p95[0] < p95[1] < p95[2]


def test_recorded_traffic_has_a_slider_for_burstiness(monkeypatch):
    pytest.importorskip("ipywidgets", reason="the extra `notebooks` is not installed")
    drawn = []
    monkeypatch.setattr("qmodel.plotting.what_if.answer_figure", lambda *scenario: drawn.append(scenario))
    recorded = qmodel.Workload.builtin("azure-conv").at_load(0.7, CLUSTER)
    box = what_if(CLUSTER, recorded, SLO)
    slider = [child for child in box.children if hasattr(child, "value")][-1]
    assert (slider.description, slider.value) == ("burstiness", 1.0)
    slider.value = 0.0
    times = [scenario[1].requests().arrival_s for scenario in drawn]
    assert not np.allclose(times[0], times[1])
    assert drawn[1][1].load(CLUSTER) == pytest.approx(0.7, abs=0.01)


def test_without_ipywidgets_the_picture_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert what_if(CLUSTER, WORKLOAD, SLO).axes


def test_sliders_reach_a_scenario_beyond_their_usual_range(monkeypatch):
    pytest.importorskip("ipywidgets", reason="the extra `notebooks` is not installed")
    monkeypatch.setattr("qmodel.plotting.what_if.answer_figure", lambda *scenario: None)
    large = qmodel.Cluster.parse("24P40D", CALIBRATION, bandwidth_gb_s=400.0)
    box = what_if(large, WORKLOAD.at_load(2.0, large), qmodel.SLO(ttft_s=20.0, tbt_s=0.005))
    sliders = [child for child in box.children if hasattr(child, "value")]
    assert [slider.value for slider in sliders] == pytest.approx([2.0, 24, 40, 400.0, 20.0, 5.0])


def test_sliders_start_from_the_scenario_and_redraw(monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets", reason="the extra `notebooks` is not installed")
    drawn = []
    monkeypatch.setattr("qmodel.plotting.what_if.answer_figure", lambda *scenario: drawn.append(scenario))
    box = what_if(CLUSTER, WORKLOAD, SLO)
    sliders = [child for child in box.children if hasattr(child, "value")]
    assert [slider.value for slider in sliders] == pytest.approx(list(START.values()))
    assert isinstance(box, ipywidgets.VBox)
    sliders[1].value = 3
    assert [scenario[0].name for scenario in drawn] == ["2P2D", "3P2D"]

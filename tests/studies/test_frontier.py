"""The frontier of P95 TTFT against attainment and P99, as numbers and as a picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmodel import derive_thresholds
from qmodel.io.calibrations import load_calibration
from qmodel.plotting.frontier import draw_frontier
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.studies.frontier import frontier, undominated


@pytest.fixture(scope="module")
def table():
    cluster = Cluster(prefill=2, decode=2, calibration=load_calibration("deepseek-v2-lite"))
    workload, slo = Workload.builtin("azure-conv").at_load(0.95, cluster), SLO()
    return frontier(derive_thresholds(cluster, workload, slo), cluster, workload, slo)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_undominated_points(points):
    a, b = np.array(points).T
    chosen = undominated(a, b)
    assert chosen.any()
    for i in range(len(a)):
        beaten = any(a[j] <= a[i] and b[j] <= b[i] and (a[j], b[j]) != (a[i], b[i]) for j in range(len(a)))
        assert chosen[i] == (not beaten)


def test_frontier_is_never_worse_than_the_plan(table):
    plan = table[table.chosen].iloc[0]
    assert table.chosen.sum() == 1
    edge = table[table.best_attainment]
    assert ((edge.p95_ttft_s <= plan.p95_ttft_s) & (edge.slo_attainment >= plan.slo_attainment)).any()
    assert edge.p95_ttft_s.min() == table.p95_ttft_s.min()
    assert edge.slo_attainment.max() == table.slo_attainment.max()
    rivals = table[table.family == "rival"]
    assert plan.p95_ttft_s < rivals.p95_ttft_s.min()
    assert plan.slo_attainment > rivals.slo_attainment.max()


def test_picture(table, tmp_path):
    draw_frontier(table.to_dict("records"), tmp_path / "f.png", "title")
    draw_frontier(table.to_dict("records"), tmp_path / "g.png", "title")
    assert (tmp_path / "f.png").read_bytes() == (tmp_path / "g.png").read_bytes()
    assert (tmp_path / "f.png").stat().st_size > 20_000


def test_a_rival_far_beyond_the_candidates_does_not_shrink_them(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr("qmodel.plotting.frontier.save_figure", lambda figure, path: drawn.append(figure))
    numbers = {"p99_ttft_s": 2.0, "slo_attainment": 1.0, "best_attainment": True, "best_p99": True}
    rows = [
        numbers | {"policy": name, "family": family, "order": "due", "p95_ttft_s": p95, "chosen": name == "plan"}
        for name, family, p95 in (("plan", "late", 0.5), ("kairos", "rival", 1.0), ("disaggregated", "rival", 20.0))
    ]
    draw_frontier(rows, tmp_path / "f.png")
    axes, legend = drawn[0].axes[0], drawn[0].legends[0]
    assert axes.get_xlim()[0] < 0.5 < 1.0 < axes.get_xlim()[1] < 2.0
    assert axes.get_ylim()[0] < 0.0 < axes.get_ylim()[1]
    assert "disaggregated (P95 20 s)" in {text.get_text() for text in legend.get_texts()}

"""The tables of the simulator's page, on small inputs."""

import pytest

from qmodel import Cluster, Workload, load_calibration
from qmodel.studies.evaluation_cases import CONDITIONS
from qmodel.studies.panels import CELLS
from qmodel.studies.simulator import SWEPT_CELLS, fault_table, simulator_page, ttft_part_table

CLUSTER = Cluster(prefill=2, decode=2, calibration=load_calibration("deepseek-v2-lite"))
SHORT = Workload.builtin("azure-conv").at_load(0.9, CLUSTER)


@pytest.fixture(scope="module")
def faults():
    return fault_table(CLUSTER, SHORT, 1500)


def test_every_policy_meets_every_condition_and_nobody_is_lost(faults):
    assert (faults.finished == faults.requests).all()
    assert set(faults.condition) == {c.name for c in CONDITIONS if c.planned_on is None}
    assert (faults.groupby("condition").policy.nunique() == 8).all()
    down = faults[faults.condition.str.contains("down")]
    assert (down.groupby("condition").restarts.sum() > 0).all()
    assert (faults[~faults.condition.str.contains("down")].restarts == 0).all()


def test_faults_do_harm_where_they_strike(faults):
    table = faults.pivot_table(index="condition", columns="policy", values="p95_ttft_s")
    usual = table.loc["as planned"]
    assert (table.loc["prefill instance at half speed"] >= usual).all()
    assert table.loc["signals 1 s old", "late"] == usual["late"]
    assert table.loc["rate +30 %", "disaggregated"] > usual["disaggregated"]


@pytest.mark.data
def test_parts_of_ttft_add_up_and_the_page_shows_them(shared_data, faults):
    cells = [cell for cell in CELLS if cell.name in ("LL 0.9", "HH 0.7")]
    parts = ttft_part_table(CLUSTER, shared_data, cells)
    total = parts[["queue", "prefill", "transfer", "admission", "first_step"]].sum(axis=1)
    assert total.to_numpy() == pytest.approx(1.0)
    saturated = parts.set_index("cell").loc["HH 0.7"]
    assert 0.02 <= saturated.prefill <= 0.23  # the paper's range
    assert 0.02 <= saturated.p95_execution_s / saturated.p95_ttft_s <= 0.23
    filling = ttft_part_table(CLUSTER, shared_data, [cell for cell in SWEPT_CELLS if cell.load_prefill in (0.2, 0.6)])
    share = filling.pivot_table(index="load_prefill", columns="panel", values="prefill")
    assert share.loc[0.2, ["HL", "LT"]].between(0.02, 0.23).all()  # each panel passes through it as its queue fills
    assert 0.02 <= share.loc[0.6, "HH"] <= 0.23
    page = simulator_page(parts, filling, faults)
    assert "| HH 0.7 |" in page
    assert "HL from 0.2 to 0.2, HH from 0.6 to 0.6, LT from 0.2 to 0.2" in " ".join(page.split())
    assert "0 did not finish" in page

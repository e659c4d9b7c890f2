"""The plan against Kairos: built-in traffic in every run, the panels of the evaluation in the full one."""

from __future__ import annotations

import numpy as np
import pytest

from qmodel.io.calibrations import load_calibration
from qmodel.optimization import derive_plan
from qmodel.policies import Kairos, Thresholds
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.simulation import simulate
from qmodel.studies.panels import CELLS, cell_requests, halves


@pytest.fixture(scope="module")
def cluster():
    return Cluster(prefill=2, decode=2, calibration=load_calibration("deepseek-v2-lite"))


def test_half_of_kairos_on_built_in_conversations(cluster):
    workload, slo = Workload.builtin("azure-conv").at_load(0.9, cluster), SLO()
    plan = derive_plan(cluster, workload, slo)
    for seed in range(5):
        requests = workload.requests(seed=seed)
        mine, kairos = (simulate(cluster, requests, slo, policy) for policy in (plan, Kairos()))
        assert mine.ttft_s(0.95) <= 0.5 * kairos.ttft_s(0.95)
        assert mine.tbt_attainment >= kairos.tbt_attainment
        assert mine.slo_attainment >= kairos.slo_attainment


def test_long_prompts_lose_neither_objective(cluster):
    workload, slo = Workload.builtin("mooncake-conversation").at_load(0.9, cluster), SLO()
    plan = derive_plan(cluster, workload, slo)
    runs = [[simulate(cluster, workload.requests(seed, 6000), slo, p) for seed in range(5)] for p in (plan, Kairos())]
    attained, kept, p95 = (
        [np.mean([read(run) for run in row]) for row in runs]
        for read in (lambda r: r.slo_attainment, lambda r: r.tbt_attainment, lambda r: r.ttft_s(0.95))
    )
    assert attained[0] >= attained[1] - 0.002
    assert kept[0] >= kept[1] - 0.0005  # chunks too small to plan with keep the TBT SLO when batches grow
    assert p95[0] < 0.5 * p95[1]


@pytest.mark.data
@pytest.mark.full
def test_panels_planned_on_one_half_and_evaluated_on_the_other(cluster, shared_data):
    results = []
    for tbt_s in (0.060, 0.100):
        slo = SLO(tbt_s=tbt_s)
        for cell in CELLS:
            early, late = halves(cell_requests(cell, cluster, shared_data))
            workload = Workload.from_requests(early, cell.name)
            assert workload.fingerprint != Workload.from_requests(late, cell.name).fingerprint
            plan = derive_plan(cluster, workload, slo)
            runs = [simulate(cluster, late, slo, p) for p in (Kairos(), plan, Thresholds(plan.dispatch_rule))]
            results.append([(r.ttft_s(0.95), r.ttft_s(0.99), r.slo_attainment, r.tbt_attainment) for r in runs])
    kairos, plan, dispatch = np.array(results).transpose(1, 2, 0)
    congested = kairos[0] > 2 * kairos[0].min()

    def geometric(mine, rival):
        return float(np.exp(np.mean(np.log(mine[congested] / rival[congested]))))

    # Reached when written (docs/decisions/0053), with room for other calibrations; the goal for P95 is .18.
    assert geometric(plan[0], kairos[0]) <= 0.27
    assert geometric(plan[1], kairos[1]) <= 0.66
    # A congested cell where nothing misses counts as one miss in ten thousand.
    assert geometric(np.maximum(1 - plan[2], 1e-4), 1 - kairos[2]) <= 0.13
    assert geometric(dispatch[0], kairos[0]) <= 0.50
    for run in (plan, dispatch):
        assert np.min(run[2] - kairos[2]) >= -0.002
        assert np.min(run[3] - kairos[3]) >= -0.002

import numpy as np
import pytest
from scipy import stats

import qmodel
from qmodel import policies
from qmodel.errors import InputError
from qmodel.scenario.ttft import PARTS
from qmodel.studies.metrics import METRICS

SEEDS = range(4)


@pytest.fixture(scope="module")
def comparison():
    cluster = qmodel.Cluster.parse("1P1D", qmodel.load_calibration("deepseek-v2-lite"))
    workload = qmodel.Workload.poisson(1.0, prompt_tokens=[200, 900, 4000], output_tokens=50).at_load(0.8, cluster)
    chosen = {"none": policies.Disaggregated(), "kairos": policies.Kairos()}
    return qmodel.compare(cluster, workload, qmodel.SLO(), chosen, SEEDS, requests=1500)


def test_every_policy_has_every_metric_for_every_seed(comparison):
    assert comparison.policies == ("none", "kairos")
    for policy in comparison.policies:
        names = set(comparison.values[policy])
        assert names == {*METRICS, *(f"p95_{part}_s" for part in PARTS)}
        assert all(len(values) == len(SEEDS) for values in comparison.values[policy].values())


def test_intervals_are_student_intervals_over_the_seeds(comparison):
    values = comparison.values["kairos"]["p95_ttft_s"]
    mean, half = comparison.interval("kairos", "p95_ttft_s")
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-9)


def test_ratios_are_paired_by_seed(comparison):
    paired = np.divide(comparison.values["kairos"]["p95_ttft_s"], comparison.values["none"]["p95_ttft_s"])
    mean, half = comparison.ratio("kairos", "none", "p95_ttft_s")
    assert mean == pytest.approx(paired.mean(), rel=1e-12)
    assert half == pytest.approx(stats.t.ppf(0.975, len(paired) - 1) * stats.sem(paired), rel=1e-9)
    assert comparison.ratio("none", "none", "p95_ttft_s") == (1.0, 0.0)


def test_parts_add_up_to_the_ttft_near_the_quantile(comparison):
    for policy in comparison.policies:
        whole = comparison.mean(policy, "p95_ttft_s")
        parts = sum(comparison.mean(policy, f"p95_{part}_s") for part in PARTS)
        assert parts == pytest.approx(whole, rel=0.03)


def test_the_same_seeds_give_the_same_numbers(comparison):
    cluster = qmodel.Cluster.parse("1P1D", qmodel.load_calibration("deepseek-v2-lite"))
    workload = qmodel.Workload.poisson(1.0, prompt_tokens=[200, 900, 4000], output_tokens=50).at_load(0.8, cluster)
    again = qmodel.compare(cluster, workload, qmodel.SLO(), {"none": None}, SEEDS, requests=1500)
    assert again.values["none"] == comparison.values["none"]


def test_wrong_names_and_empty_comparisons_are_refused(comparison):
    with pytest.raises(InputError, match="nobody"):
        comparison.mean("nobody", "p95_ttft_s")
    with pytest.raises(InputError, match="p96"):
        comparison.mean("none", "p96_ttft_s")
    with pytest.raises(InputError, match="deflected_share"):
        comparison.ratio("kairos", "none", "deflected_share")
    cluster = qmodel.Cluster.parse("1P1D", qmodel.load_calibration("deepseek-v2-lite"))
    with pytest.raises(InputError, match="at least one"):
        qmodel.compare(cluster, qmodel.Workload.builtin("azure-conv"), qmodel.SLO(), {})

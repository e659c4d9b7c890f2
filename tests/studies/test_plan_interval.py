"""Plans that carry the interval of their calibration."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qmodel import SLO, Cluster, Workload, derive_thresholds, load_calibration, runtime
from qmodel.errors import InputError
from qmodel.io.plan_file import SCHEMA_PATH, load_plan, save_plan


def derived(errors=1.0, draws=4):
    cal = load_calibration("deepseek-v2-lite")
    cal = replace(cal, standard_errors={name: errors * error for name, error in cal.standard_errors.items()})
    cluster = Cluster.parse("2P2D", cal)
    workload = Workload.poisson(1.0, prompt_tokens=2000, output_tokens=200).at_load(0.8, cluster)
    return derive_thresholds(cluster, workload, SLO(ttft_s=1.0, tbt_s=0.06), draws=draws)


@pytest.fixture(scope="module")
def plan():
    return derived()


def test_intervals_hold_the_plan_and_widen_with_the_fits_errors(plan):
    interval = plan.calibration_interval
    low, high = (np.asarray(interval[f"threshold_{end}_s"]) for end in ("low", "high"))
    assert np.all(low <= high)
    assert low.shape == np.asarray(plan.threshold_table()["threshold_s"]).shape
    wide = derived(3.0).calibration_interval["intervals"]
    for name in ("p95_ttft_s", "mean_time_to_prefill_end_s"):
        first, last = interval["intervals"][name]
        assert 1.5 < (wide[name][1] - wide[name][0]) / (last - first) < 6


def test_without_covariance_the_interval_is_the_plan_itself(plan):
    certain = derived(0.0, draws=2)
    interval = certain.calibration_interval
    for end in ("low", "high"):
        np.testing.assert_allclose(interval[f"threshold_{end}_s"], plan.threshold_table()["threshold_s"], rtol=1e-9)
    assert all(high - low <= 1e-9 * max(high, 1.0) for low, high in interval["intervals"].values())


def test_it_is_written_read_and_ignored_by_routers(plan, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    path = tmp_path / "plan.json"
    save_plan(plan, path)
    data = json.loads(path.read_text())
    jsonschema.validate(data, json.loads(SCHEMA_PATH.read_text()))
    assert load_plan(path).to_dict() == plan.to_dict()
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({k: v for k, v in data.items() if k != "calibration_interval"}))
    assert load_plan(bare).calibration_interval is None
    arguments = (1500, 0, 0.4, [(20, 30_000, 0.1)])
    assert runtime.load_plan(path).decide(*arguments) == runtime.load_plan(bare).decide(*arguments)


def test_plans_have_no_interval_unless_asked(plan):
    assert derived(draws=0).calibration_interval is None
    with pytest.raises(InputError, match="draws"):
        derived(draws=1)


def test_the_command_shows_it(qmodel):
    words = "thresholds --model deepseek-v2-lite --workload azure-conv --load 0.8 --no-confirm --draws 2"
    run = qmodel(*words.split())
    assert run.code == 0, run.err
    assert "draws of the calibration" in run.out
    assert "threshold of 1,024 tokens" in run.out

"""Sensitivity: derivatives against closed forms and signs, and its picture's table."""

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.laws import LinearLaw
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.studies.sensitivity import first_change, responses, sensitivity, tidy


@pytest.fixture(scope="module")
def effects(calibration, chat_lengths):
    cluster = Cluster(prefill=2, decode=2, calibration=calibration)
    workload = Workload.poisson(1.0, chat_lengths, 40).at_load(0.85, cluster)
    return responses(cluster, workload, SLO())


def test_it_ranks_what_matters(effects):
    by_name = {effect.what: effect for effect in effects}
    down, up = by_name["rate"].p95_changes
    assert down < -0.1 < 0.1 < up
    assert by_name["rate"].elasticity > 2
    assert by_name["SCV of prompt lengths"].elasticity > 0
    assert by_name["laws (step times)"].elasticity > by_name["rate"].elasticity
    assert abs(by_name["bandwidth"].elasticity) < 0.2
    assert by_name["TTFT SLO"].p95_changes == (0.0, 0.0)
    assert by_name["TTFT SLO"].attainment_slope > 0
    swings = [effect.swing for effect in effects]
    assert swings == sorted(swings, reverse=True)


def test_without_load_the_laws_have_elasticity_one_and_the_rate_none(calibration):
    cluster = Cluster(prefill=1, decode=1, calibration=calibration, transfer_fixed_s=0.0, bandwidth_gb_s=1e5)
    lone = Workload.from_requests(Requests.from_arrays(100.0 * np.arange(30), np.full(30, 3000), np.full(30, 3)))
    found = {effect.what: effect for effect in responses(cluster, lone, SLO())}
    assert found["laws (step times)"].elasticity == pytest.approx(1.0, abs=0.01)
    assert found["rate"].elasticity == pytest.approx(0.0, abs=1e-9)
    assert found["prefill instances"].p95_ttft_s[0] == found["prefill instances"].base_p95_ttft_s  # one cannot go


def test_a_change_without_a_steady_state_is_said_not_hidden(effects, calibration, chat_lengths):
    instances = next(effect for effect in effects if effect.what == "prefill instances")
    assert instances.p95_ttft_s[0] is None
    assert instances.swing == np.inf
    assert instances.elasticity < -1
    rows = {(row["what"], row["change"]): row for row in tidy(effects)}
    assert rows["prefill instances", "-1"]["p95_change"] is None
    assert rows["prefill instances", "+1"]["p95_change"] < -0.2
    assert "prefill instances +1" in first_change(effects)


def test_other_laws_scale_too_and_steps_are_checked(calibration):
    from dataclasses import replace

    law = LinearLaw(alpha_s=0.005, batch_s=1e-5, context_s=5e-8, prompt_s=4e-5, attention_s=2e-9)
    cluster = Cluster(prefill=2, decode=2, calibration=replace(calibration, step=law, prefill=law))
    workload = Workload.poisson(1.0, 1500, 20).at_load(0.5, cluster)
    found = {effect.what: effect for effect in responses(cluster, workload, SLO())}
    assert found["laws (step times)"].elasticity > 1
    assert found["SCV of prompt lengths"].p95_changes == (0.0, 0.0)
    with pytest.raises(InputError, match="step of sensitivity"):
        responses(cluster, workload, SLO(), step=1.5)


def test_the_tornado_is_written(effects, tmp_path):
    from qmodel.plotting.sensitivity import draw_tornado

    path = tmp_path / "tornado.png"
    draw_tornado(tidy(effects), "P95 TTFT", path)
    assert path.stat().st_size > 10_000


def test_single_changes_are_the_responses_side_by_side(effects, calibration, chat_lengths):
    cluster = Cluster(prefill=2, decode=2, calibration=calibration)
    workload = Workload.poisson(1.0, chat_lengths, 40).at_load(0.85, cluster)
    singles = {effect.change: effect for effect in sensitivity(cluster, workload, SLO())}
    assert "prefill instances -1" not in singles  # no steady state
    rate = next(effect for effect in effects if effect.what == "rate")
    assert (singles["rate -10 %"].p95_change, singles["rate +10 %"].p95_change) == rate.p95_changes

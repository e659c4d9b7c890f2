"""A calibration file in place of a model's name: its GPU and tp hold, and plans made with it stay with it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qmodel.errors import InputError
from qmodel.io.calibrations import load_calibration, save_calibration
from qmodel.io.plan_file import load_plan
from qmodel.studies.emission import fit_settings

TRAFFIC = ("--workload", "azure-conv", "--load", "0.7")


@pytest.fixture
def slower(qmodel):
    """Write a calibration twice as slow in decode as the shipped one."""
    shipped = load_calibration("llama-3.1-8b")
    save_calibration(replace(shipped, step=replace(shipped.step, gain=2.0)), "cal.json")


def test_the_file_says_which_gpu(qmodel, slower):
    run = qmodel("predict", "--model", "cal.json", *TRAFFIC, "--json")
    assert run.code == 0, run.err
    scenario = json.loads(run.out)["scenario"]
    assert (scenario["gpu"], scenario["tp"], scenario["model"]) == ("a100", 1, "cal.json")
    run = qmodel("predict", "--model", "cal.json", "--gpu", "h100", *TRAFFIC)
    assert run.code == 2
    assert "GPU of 'cal.json' is 'a100'; it must be 'h100', as asked" in run.err


def test_settings_are_fitted_with_the_laws_of_the_plan(qmodel, slower):
    words = ("--model", "cal.json", *TRAFFIC, "--no-confirm", "-o", "plan.json")
    assert qmodel("thresholds", *words).code == 0
    with pytest.raises(InputError, match="another than the shipped one"):
        fit_settings(load_plan("plan.json"), "trtllm", requests=200)
    run = qmodel("emit", "plan.json", "--target", "trtllm", "--requests", "300", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["settings"]["max_local_prefill_length"] > 0
    Path("cal.json").unlink()
    run = qmodel("emit", "plan.json", "--target", "trtllm")
    assert run.code == 2
    assert "cal.json" in run.err


def test_without_tp_the_first_calibrated_is_taken_and_said(qmodel):
    run = qmodel("predict", "--model", "llama-2-70b", *TRAFFIC, "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["scenario"]["tp"] == 2
    assert "tp 2" in run.err
    run = qmodel("predict", "--model", "llama-2-70b", "--tp", "1", *TRAFFIC)
    assert run.code == 2
    assert "one of 2, 4, 8" in run.err

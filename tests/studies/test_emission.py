"""Emitted configurations: valid for their systems, fitted in their family, honest about the loss."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ruamel.yaml import YAML

from qmodel.errors import InputError
from qmodel.io.calibrations import load_calibration
from qmodel.io.emit import SCHEMAS, TARGETS, Settings, emit, save_emitted
from qmodel.io.plan_file import load_plan, save_plan
from qmodel.optimization import derive_plan
from qmodel.policies import StaticLength
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.simulation import simulate
from qmodel.studies.emission import LENGTHS, TBT_TOLERANCE, fit_settings, scenario_of

COUNT = 1500


@pytest.fixture(scope="module")
def cluster():
    return Cluster(prefill=2, decode=2, calibration=load_calibration("deepseek-v2-lite"))


@pytest.fixture(scope="module")
def workload(cluster):
    return Workload.builtin("azure-conv").at_load(0.9, cluster)


@pytest.fixture(scope="module")
def plan(cluster, workload):
    return derive_plan(cluster, workload, SLO())


@pytest.fixture(scope="module")
def fitted(plan):
    return {target: fit_settings(plan, target, requests=COUNT) for target in TARGETS}


def parsed(target, text):
    return json.loads(text) if target == "dynamo" else YAML(typ="safe").load(io.StringIO(text))


@pytest.mark.parametrize("target", TARGETS)
def test_output_is_valid(plan, fitted, target):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / f"emit-{target}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    content = parsed(target, emit(plan, fitted[target]))
    jsonschema.validate(content, schema)
    for value in fitted[target].values.values():
        assert str(value) in emit(plan, fitted[target])


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "dynamo"])
def test_comments_say_where_numbers_come_from(plan, fitted, target):
    text = emit(plan, fitted[target])
    assert text.startswith(f"# qmodel {plan.qmodel_version}")
    if target != "prometheus":
        assert "loss against the full plan" in text
        assert "simulated" in text


def test_dynamo_is_one_object_without_comments(plan, fitted):
    values = json.loads(emit(plan, fitted["dynamo"]))
    assert set(values) == {
        "policy", "eff_isl_threshold", "eff_isl_ratio_threshold", "prefill_busy_threshold", "decode_busy_threshold"
    }  # fmt: skip
    assert values["policy"] != "isl_bounding"  # it never deflects a prompt without cached tokens


# As Dynamo's frontend reads its command line: types, then ranges, then the router's own configuration.
DYNAMO_CHECK = """
import argparse, sys
from dynamo.common.configuration.groups.kv_router_args import _parse_conditional_disagg_config
from dynamo.frontend.frontend_args import FrontendArgGroup, FrontendConfig
from dynamo.llm import KvRouterConfig
text = sys.stdin.read()
_parse_conditional_disagg_config(text)
parser = argparse.ArgumentParser()
FrontendArgGroup().add_arguments(parser)
words = ["--router-mode", "kv", "--router-conditional-disagg", "--router-conditional-disagg-config", text]
config = FrontendConfig.from_cli_args(parser.parse_args(words))
config.validate()
KvRouterConfig(**config.kv_router_kwargs())
print(config.conditional_disagg_policy, config.conditional_disagg_prefill_busy_threshold)
"""


def test_dynamo_reads_it(plan, fitted):
    """Dynamo's own parser, where `ai-dynamo` is installed; QMODEL_DYNAMO_PYTHON names another interpreter that has it."""
    python = os.environ.get("QMODEL_DYNAMO_PYTHON", sys.executable)
    probe = [python, "-c", "import dynamo.frontend.frontend_args, dynamo.llm"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("ai-dynamo is not installed: set QMODEL_DYNAMO_PYTHON to an interpreter that has it")
    text = emit(plan, fitted["dynamo"])
    check = [python, "-c", DYNAMO_CHECK]
    run = subprocess.run(check, input=text, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    values = json.loads(text)
    assert run.stdout.split() == [values["policy"], str(values["prefill_busy_threshold"])]
    wrong = json.dumps(values | {"eff_isl_ratio_threshold": 1.5})
    assert subprocess.run(check, input=wrong, capture_output=True, text=True, check=False).returncode != 0


def test_trtllm_reads_it(plan, fitted):
    """TensorRT-LLM's own configuration, where it is installed."""
    reader = pytest.importorskip("tensorrt_llm.llmapi.disagg_utils", reason="tensorrt-llm is not installed")
    values = parsed("trtllm", emit(plan, fitted["trtllm"]))["conditional_disagg_config"]
    read = reader.ConditionalDisaggConfig(**values)
    assert read.max_local_prefill_length == fitted["trtllm"].values["max_local_prefill_length"]


def test_vllm_knows_every_setting(plan, fitted):
    """vLLM's own engine arguments, where it is installed: ``--config`` takes their names as they are on the command line."""
    arguments = pytest.importorskip("vllm.engine.arg_utils", reason="vllm is not installed")
    known = {field.name for field in dataclasses.fields(arguments.EngineArgs)}
    assert {name.replace("-", "_") for name in parsed("vllm", emit(plan, fitted["vllm"]))} <= known


def test_promtool_accepts_the_rules(plan, fitted, tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    path = tmp_path / "rules.yaml"
    save_emitted(emit(plan, fitted["prometheus"]), path)
    run = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_llm_d_names_only_plugins_that_it_declares(plan, fitted):
    content = parsed("llm-d", emit(plan, fitted["llm-d"]))
    declared = {plugin.get("name", plugin["type"]) for plugin in content["plugins"]}
    used = {plugin["pluginRef"] for profile in content["schedulingProfiles"] for plugin in profile["plugins"]}
    handler = next(plugin for plugin in content["plugins"] if plugin["type"] == "disagg-profile-handler")
    assert used | set(handler["parameters"]["deciders"].values()) <= declared
    assert declared - used == {"pd-decider", "profile-handler"}  # deciders and handlers stand outside profiles


def test_length_is_the_best_of_its_family(cluster, workload, plan, fitted):
    requests = workload.requests(seed=0, count=COUNT)
    runs = {n: simulate(cluster, requests, plan.slo, StaticLength.llm_d(n)) for n in LENGTHS}
    kept = max(run.tbt_attainment for run in runs.values()) - TBT_TOLERANCE
    best = min((n for n in LENGTHS if runs[n].tbt_attainment >= kept), key=lambda n: runs[n].ttft_s(0.95))
    assert fitted["llm-d"].values["nonCachedTokens"] == best


def test_loss_is_against_the_full_plan(cluster, workload, plan, fitted):
    requests = workload.requests(seed=0, count=COUNT)
    full = simulate(cluster, requests, plan.slo, plan)
    tokens = fitted["trtllm"].values["max_local_prefill_length"]
    mine = simulate(cluster, requests, plan.slo, StaticLength.trtllm(tokens))
    assert fitted["trtllm"].loss["p95_ttft_ratio"] == pytest.approx(mine.ttft_s(0.95) / full.ttft_s(0.95))
    assert fitted["trtllm"].loss["slo_attainment_lost"] == pytest.approx(full.slo_attainment - mine.slo_attainment)


def test_scenario_is_rebuilt_from_the_file(cluster, workload, plan, tmp_path):
    save_plan(plan, tmp_path / "plan.json")
    again, traffic, slo = scenario_of(load_plan(tmp_path / "plan.json"))
    assert slo == plan.slo
    assert again.name == cluster.name
    assert traffic.rate_per_s == pytest.approx(workload.rate_per_s)
    a, b = traffic.requests(seed=1, count=200), workload.requests(seed=1, count=200)
    assert np.array_equal(a.prompt_tokens, b.prompt_tokens)


def test_unknown_target_is_refused(plan):
    with pytest.raises(InputError, match="target"):
        fit_settings(plan, "ray")
    with pytest.raises(InputError, match="target"):
        emit(plan, Settings(target="ray", values={}))


def test_saved_whole(plan, fitted, tmp_path):
    text = emit(plan, fitted["trtllm"])
    save_emitted(text, tmp_path / "trtllm.yaml")
    assert (tmp_path / "trtllm.yaml").read_text() == text

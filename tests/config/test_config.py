"""Configuration files: the schema, the starter file, and errors that name line and key."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from qmodel.errors import InputError
from qmodel.io.config import SECTIONS, ScenarioConfig, load_config, starter_config


def test_the_schema_accepts_the_starter_and_refuses_what_loading_refuses(qmodel):
    run = qmodel("config", "schema")
    schema = json.loads(run.out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == {*ScenarioConfig.model_fields, *SECTIONS}
    jsonschema.validate(YAML(typ="safe").load(starter_config()), schema)
    for bad in ({"clutser": "1P1D"}, {"load": "high"}, {"tp": 0}, {"load": -1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_init_writes_a_file_that_loads_and_will_not_replace_one(qmodel):
    assert qmodel("init").code == 0
    text = Path("qmodel.yaml").read_text()
    assert load_config("qmodel.yaml")["cluster"] == "2P2D"
    again = qmodel("init")
    assert again.code == 2
    assert "exists" in again.err
    assert Path("qmodel.yaml").read_text() == text
    assert qmodel("init", "--force", "--model", "llama-3.1-8b").code == 0
    assert load_config("qmodel.yaml")["model"] == "llama-3.1-8b"


def test_every_key_is_explained_in_the_starter():
    text = starter_config({"rate": "30/s"})
    assert "# load:" in text
    for name, field in ScenarioConfig.model_fields.items():
        assert f"# {field.description}" in text
        assert f"{name}: " in text


def test_a_starter_of_ones_own_values_makes_the_round_trip(tmp_path):
    path = tmp_path / "q.yaml"
    path.write_text(starter_config({"workload": "a: b #c.csv", "rate": "30/s", "cluster": "3P1D"}))
    loaded = load_config(path)
    assert (loaded["workload"], loaded["rate"], loaded["cluster"]) == ("a: b #c.csv", "30/s", "3P1D")
    assert "load" not in loaded


def test_init_then_predict(qmodel):
    qmodel("init")
    run = qmodel("predict", "--config", "qmodel.yaml", "--json")
    assert run.code == 0, run.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cluster: 2P2D\nttft_slo: '5'\n", ["line 2", "'ttft_slo'", "unit"]),
        ("cluster: 2P2D\n\n# x\ntbt-slo: -60ms\n", ["line 4", "'tbt_slo'"]),
        ("rate: 5\n", ["line 1", "'rate'", "string"]),
        ("model: x\nbandwidth: '25'\n", ["line 2", "'bandwidth'", "unit (GB/s"]),
        ("model: x\nrate: '5'\n", ["line 2", "'rate'", "30/s"]),
        ("tp: 0\n", ["line 1", "'tp'", "greater than or equal to 1"]),
        ("load: .nan\n", ["line 1", "'load'", "finite"]),
        ("load: 0\n", ["line 1", "'load'", "greater than 0"]),
        ("load: 0.9\nrate: 30/s\n", ["load and rate"]),
        ("cluster: 2P2D\ncluster: 3P3D\n", ["line 2"]),
        ("cluster: [2P2D]\n", ["line 1", "'cluster'"]),
        ("cluster: {a: 1}\n", ["line 1", "'cluster'"]),
        ("? [a, b]\n: 1\n", ["line 1"]),
        ("1: 2\n", ["line 1", "'1'"]),
        ("max_num_seqs: 2.5\n", ["line 1", "'max_num_seqs'"]),
        ("max_num_seqs: true\n", ["line 1", "'max_num_seqs'"]),
        ("cluster: 2P2D\nclutser: 1P1D\n", ["line 2", "key 'clutser'", "unknown"]),
        ("cluster: 2P2D\nload: high\n", ["line 2", "key 'load'"]),
        ("a: [1, 2\nb: 3", ["line"]),
        ("", ["without keys"]),
        ("- 1\n- 2\n", ["without keys"]),
        ("model: !!python/object/apply:os.system ['true']\n", ["line 1"]),
        ("max_prefill_seqs: 0\n", ["line 1", "'max_prefill_seqs'"]),
        ("transfer_block_tokens: 0.5\n", ["line 1", "'transfer_block_tokens'"]),
        ("clock_tick: 1\n", ["line 1", "'clock_tick'"]),
        ("clock_tick: 1 fortnight\n", ["line 1", "'clock_tick'"]),
    ],
)
def test_errors_name_line_and_key(tmp_path, text, says):
    path = tmp_path / "q.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        load_config(path)
    for part in says:
        assert part in str(raised.value)


def test_keys_are_written_with_dashes_or_underscores(tmp_path):
    path = tmp_path / "q.yaml"
    path.write_text("cluster: 2P2D\nttft-slo: 1s\nload: 0.9\nmax_num_seqs: 128\n")
    assert load_config(path) == {"cluster": "2P2D", "ttft_slo": "1s", "load": 0.9, "max_num_seqs": 128}


def test_every_command_takes_its_own_options_from_the_file(qmodel):
    from qmodel.cli.app import app
    from qmodel.cli.settings import section_models

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(SECTIONS) == commands - {"init"}
    schema = json.loads(qmodel("config", "schema").out)
    for name, model in section_models().items():
        assert set(schema["properties"][name]["properties"]) == set(model.model_fields)
    assert {"output", "objective", "seeds", "report"} <= set(section_models()["thresholds"].model_fields)


def test_options_of_a_command_come_from_its_section_and_flags_win(qmodel):
    text = "model: llama-3.1-8b\nworkload: azure-conv\nload: 0.5\nsimulate:\n  requests: 1500\n  policy: kairos\n"
    Path("q.yaml").write_text(text + "sweep:\n  over: ['load=0.4,0.5']\n  output: t.csv\n  by: predict\n")
    found = json.loads(qmodel("simulate", "--config", "q.yaml", "--json").out)
    assert (found["requests"], found["policy"], found["scenario"]["load"]) == (1500, "kairos", 0.5)
    found = json.loads(qmodel("simulate", "--config", "q.yaml", "--json", "--policy", "none", "--load", "0.3").out)
    assert (found["requests"], found["policy"], found["scenario"]["load"]) == (1500, "none", 0.3)
    text = text.replace("load: 0.5\n", "") + "sweep:\n  over: ['load=0.4,0.5']\n  output: t.csv\n"
    Path("q.yaml").write_text(text)
    run = qmodel("sweep", "--config", "q.yaml")
    assert run.code == 0, run.err
    assert len(Path("t.csv").read_text().splitlines()) == 3


def test_a_command_without_a_scenario_takes_the_shared_keys_too(qmodel):
    Path("q.yaml").write_text("model: gpt-17\ncalibrate:\n  output: no/cal.json\n")
    assert "no" in qmodel("calibrate", "--config", "q.yaml").err
    Path("q.yaml").write_text("model: gpt-17\ncalibrate:\n  output: cal.json\n")
    run = qmodel("calibrate", "--config", "q.yaml")
    assert run.code == 2
    assert "gpt-17" in run.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: x\nsimulate:\n  seeds: 3\n", ["line 3", "'seeds'", "requests"]),
        ("simulate:\n  seed: many\n", ["line 2", "'seed'", "integer"]),
        ("simulate:\n  requests: 0\n", ["line 2", "'requests'", "greater than or equal to 1"]),
        ("simulate: fast\n", ["line 1", "'simulate'", "unknown"]),
        ("thresholds:\n  objective: fun\n", ["line 2", "'objective'", "p95"]),
    ],
)
def test_errors_inside_a_section_name_line_and_key(qmodel, text, says):
    Path("q.yaml").write_text(text)
    run = qmodel("simulate", "--config", "q.yaml", "--model", "llama-3.1-8b", "--workload", "azure-conv")
    assert run.code == 2
    for part in says:
        assert part in run.err, run.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell):
    import os
    import subprocess
    import sys

    def complete(words: str) -> str:
        variables = {"_QMODEL_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        variables |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        code = "from qmodel.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, timeout=120
        )
        return done.stdout

    assert "thresholds" in complete("qmodel th")
    assert "--workload" in complete("qmodel predict --work")


def test_rules_of_the_engine_reach_the_cluster_from_flags_and_files(tmp_path):
    from qmodel.cli.scenario import cluster_of

    path = tmp_path / "q.yaml"
    path.write_text("max_prefill_seqs: 3\ntransfer_block_tokens: 16\nclock_tick: 1us\n")
    found = cluster_of({"model": "deepseek-v2-lite"} | load_config(path))
    assert (found.max_prefill_seqs, found.transfer_block_tokens, found.clock_tick_s) == (3, 16, 1e-6)
    plain = cluster_of({"model": "deepseek-v2-lite"})
    assert (plain.max_prefill_seqs, plain.transfer_block_tokens, plain.clock_tick_s) == (None, 1, 0.0)

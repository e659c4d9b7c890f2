"""Configuration files: the schema, the starter file, and errors that name line and key."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from qmodel.errors import InputError
from qmodel.io.config import ScenarioConfig, config_schema, load_config, starter_config


def test_the_schema_accepts_the_starter_and_refuses_what_loading_refuses(qmodel):
    run = qmodel("config", "schema")
    schema = json.loads(run.out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(ScenarioConfig.model_fields)
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
    ],
)
def test_errors_name_line_and_key(tmp_path, text, says):
    path = tmp_path / "q.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        load_config(path)
    for part in says:
        assert part in str(raised.value)


def test_schema_and_model_agree():
    assert config_schema()["additionalProperties"] is False

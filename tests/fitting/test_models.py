import json

import pytest

from qmodel.errors import InputError
from qmodel.fitting.gpus import gpu_named
from qmodel.fitting.models import ModelShape, known_models, load_model

# Parameters as the publishers state them.
PUBLISHED = {
    "bloom-176b": 176.2e9,
    "deepseek-v2-lite": 15.7e9,
    "llama-2-7b": 6.74e9,
    "llama-2-70b": 68.98e9,
    "llama-3.1-8b": 8.03e9,
    "llama-3.1-70b": 70.55e9,
    "mistral-7b": 7.25e9,
    "mixtral-8x7b": 46.7e9,
    "qwen2.5-7b": 7.62e9,
    "qwen3-8b": 8.19e9,
    "qwen3-30b-a3b": 30.5e9,
    "qwen3-32b": 32.8e9,
}


@pytest.mark.parametrize("name", known_models())
def test_weights_counted_from_the_shape_match_the_publisher(name):
    from importlib import resources

    entry = json.loads((resources.files("qmodel") / "data" / "models" / f"{name}.json").read_text("utf-8"))
    counted = ModelShape.from_config(entry["config"], name).parameters
    assert counted == pytest.approx(PUBLISHED[name], rel=0.01)
    assert load_model(name).parameters == pytest.approx(PUBLISHED[name], rel=0.01)
    assert entry["source"].startswith("https://huggingface.co/")


@pytest.mark.parametrize(
    ("name", "tp", "bytes_per_token", "capacity"),
    [
        ("deepseek-v2-lite", 1, 31_104, 1.38e6),
        ("llama-3.1-8b", 1, 131_072, 445e3),
        ("llama-2-70b", 4, 327_680, 486e3),
        ("qwen3-32b", 2, 262_144, 317e3),
        ("qwen3-30b-a3b", 1, 98_304, 135e3),
    ],
)
def test_kv_sizes(name, tp, bytes_per_token, capacity):
    model = load_model(name)
    assert model.kv_bytes_per_token() == bytes_per_token
    assert model.kv_capacity_tokens(tp, gpu_named("a100").memory_bytes) == pytest.approx(capacity, rel=0.01)


def test_active_parameters_of_a_mixture():
    assert load_model("qwen3-30b-a3b").active_parameters == pytest.approx(3.3e9, rel=0.02)
    assert load_model("mixtral-8x7b").active_parameters == pytest.approx(12.9e9, rel=0.01)


def test_a_config_file_is_enough_for_a_new_dense_model(tmp_path):
    config = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
              "intermediate_size": 8192, "vocab_size": 128256, "head_dim": 64, "tie_word_embeddings": True,
              "max_position_embeddings": 131072}  # fmt: skip
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    model = load_model(tmp_path / "tiny")
    assert model.name == "tiny"
    assert model.parameters == pytest.approx(1.236e9, rel=0.01)  # Llama-3.2-1B, as published


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "readable JSON"), ("[]", "JSON object"), ("{}", "'hidden_size'"), ('{"hidden_size": "x"}', "a number")],
)
def test_broken_configs(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_model(path)


def test_unknown_names():
    assert load_model("Llama-3.1-8B") == load_model("llama-3.1-8b")
    with pytest.raises(InputError, match=r"one of .*llama-3\.1-8b"):
        load_model("gpt-9")
    with pytest.raises(InputError, match="one of a100, h100"):
        gpu_named("tpu")

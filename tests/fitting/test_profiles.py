"""Tests that read the kernel tables of aiconfigurator-core; skipped where the extra is not installed."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from qmodel.errors import InputError, MissingExtraError
from qmodel.fitting import calibrate_model, compose, gpu_named, load_model
from qmodel.fitting.aiconfigurator import AiconfiguratorTables
from qmodel.fitting.choice import DENSE_LIMITS, MOE_LIMITS
from qmodel.io.calibrations import (
    calibration_json,
    list_calibrations,
    load_calibration,
    read_calibration,
    shipped_folder,
)
from qmodel.studies.calibration import calibrate

HERE = Path(__file__).parent
needs_profiles = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None, reason="pip install 'qmodel[profiles]' to run these"
)
pytestmark = pytest.mark.profiles


@needs_profiles
@pytest.mark.parametrize(
    ("path", "name", "tp"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b", 1),
        ("Qwen/Qwen3-32B", "qwen3-32b", 2),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b", 1),
    ],
)
def test_composition_agrees_with_nvidias_own_predictions(path, name, tp):
    """Acceptance: within 8 % on average, for prompts and for decode steps."""
    from aiconfigurator_core.sdk.engine import EngineHandle

    sdk = EngineHandle.compile(path, "a100_sxm", "vllm", tp_size=tp)
    mine = compose(load_model(name), AiconfiguratorTables("a100"), tp)
    lengths = np.array([128, 256, 512, 1024, 2048, 4096, 8192])
    prompts = [float(mine.step_time_s(0, 1, n)) * 1e3 / sdk.predict_prefill_latency(1, int(n)) - 1 for n in lengths]
    states = [(b, c) for b in (1, 4, 16, 64, 256) for c in (256, 1024, 4096)]
    steps = [float(mine.step_time_s(b, c)) * 1e3 / sdk.decode_step_latency(b, c, 2) - 1 for b, c in states]
    assert np.mean(np.abs(prompts)) <= 0.08
    assert np.mean(np.abs(steps)) <= 0.08


@needs_profiles
@pytest.mark.data
@pytest.mark.parametrize(
    ("key", "name", "tp"),
    [
        ("dsv2-lite(splitKV)", "deepseek-v2-lite", 1),
        ("llama3.1-8b", "llama-3.1-8b", 1),
        ("llama2-70b", "llama-2-70b", 4),
        ("qwen3-30b-a3b", "qwen3-30b-a3b", 1),
        ("qwen3-32b", "qwen3-32b", 2),
    ],
)
def test_composition_agrees_with_an_independent_one(shared_data, key, name, tp):
    import pandas as pd

    grid = pd.read_csv(shared_data / "profiles" / "composed_a100_steps_grid.csv")
    grid = grid[(grid["model"] == key) & (grid["tp"] == tp)]
    mine = compose(load_model(name), AiconfiguratorTables("a100"), tp)
    error = mine.step_time_s(grid["B"], grid["ctx"], grid["chi"], grid["done"]) * 1e3 / grid["t_ms"] - 1
    assert np.mean(np.abs(error)) < 0.015


NUMBER = re.compile(r"(?<=[ \[])(-?\d+\.\d+(?:e-?\d+)?)(?=[,\]\n])")


@needs_profiles
@pytest.mark.parametrize(
    ("name", "tp"),
    [("deepseek-v2-lite", 1), ("llama-3.1-8b", 1), pytest.param("mixtral-8x7b", 2, marks=pytest.mark.full)],
)
def test_shipped_files_are_rebuilt(name, tp):
    rebuilt = calibrate_model(load_model(name), AiconfiguratorTables("a100"), gpu_named("a100"), tp)
    mine = NUMBER.split(calibration_json(rebuilt))
    shipped = NUMBER.split((shipped_folder() / f"{name}_a100_tp{tp}.json").read_text("utf-8"))
    # Files hold six digits, and the last one may turn with the processor's linear algebra: all else byte for byte.
    assert mine[::2] == shipped[::2]
    assert [float(x) for x in mine[1::2]] == pytest.approx([float(x) for x in shipped[1::2]], rel=1e-5)


@needs_profiles
def test_cleaning_and_scaling_are_reported():
    tables = AiconfiguratorTables("a100")
    compose(load_model("deepseek-v2-lite"), tables, 1)
    lines = tables.report.lines()
    assert any("scaled: experts (hidden 2048, inner 1408, 64 experts, top 6)" in line for line in lines)
    assert any("0.9167*(t(1.5 n) - 0.018)" in line for line in lines)
    assert any("without KV split" in line for line in lines)
    assert any(line.startswith("duplicates merged") for line in lines)


@needs_profiles
def test_engine_and_version_can_be_chosen():
    trtllm = calibrate("llama-3.1-8b", profiles="aiconfigurator/sglang/0.5.10").calibration
    assert "gemm_perf: sglang 0.5.10" in trtllm.provenance["tables"]
    for profiles, says in (
        ("aiconfigurator/llama.cpp", "one of sglang, trtllm, vllm"),
        ("aiconfigurator/vllm/9", "0.14.0"),
    ):
        with pytest.raises(InputError, match=says):
            calibrate("llama-3.1-8b", profiles=profiles)


@needs_profiles
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="k"), "columns of kernel table gemm_perf is without k"),
        (lambda f: f.head(1), "usable rows of kernel table gemm_perf is 1"),
        (lambda f: f.assign(latency=-f["latency"]), "usable rows of kernel table gemm_perf is 0"),
        (lambda f: f.assign(latency=np.nan), "usable rows of kernel table gemm_perf is 0"),
        (lambda f: f.assign(latency="soon"), "latency in kernel table gemm_perf is text"),
        (lambda f: f.assign(latency=1000 * f["latency"]), "latency in gemm_perf over the time to read its weights"),
        (lambda f: f.assign(latency=f["latency"] / 1000), "latency in gemm_perf over the time to read its weights"),
    ],
)
def test_broken_tables_are_one_clear_line(monkeypatch, change, message):
    from qmodel.fitting import aiconfigurator

    read = aiconfigurator._read
    monkeypatch.setattr(aiconfigurator, "_read", lambda path: change(read(path)))
    with pytest.raises(InputError, match=message) as caught:
        calibrate("llama-3.1-8b", profiles="aiconfigurator")
    assert "\n" not in str(caught.value)


TABLES = [
    ("context_attention_perf", "llama-3.1-8b", 1, "isl"),
    ("generation_attention_perf", "llama-3.1-8b", 1, "step"),
    ("custom_allreduce_perf", "llama-3.1-8b", 2, "message_size"),
    ("moe_perf", "deepseek-v2-lite", 1, "topk"),
    ("mla_bmm_perf", "deepseek-v2-lite", 1, "op_name"),
    ("context_mla_perf", "deepseek-v2-lite", 1, "isl"),
    ("generation_mla_perf", "deepseek-v2-lite", 1, "batch_size"),
]


def broken(monkeypatch, name, change):
    from qmodel.fitting import aiconfigurator

    read = aiconfigurator._read
    monkeypatch.setattr(aiconfigurator, "_read", lambda path: change(read(path)) if path.stem == name else read(path))


@needs_profiles
@pytest.mark.parametrize(("name", "model", "tp", "key"), TABLES)
def test_every_broken_table_is_one_clear_line(monkeypatch, name, model, tp, key):
    kinds = [
        (lambda f: f.drop(columns=key), f"columns of kernel table {name} is without {key}"),
        (lambda f: f.head(1), f"usable rows of kernel table {name} is 1; it must be >= 2"),
        (lambda f: f.assign(latency=np.nan), f"usable rows of kernel table {name} is 0"),
        (lambda f: f.assign(latency=1000 * f["latency"]), f"latency in kernel table {name} .*is it in ms"),
        (lambda f: f.assign(latency=f["latency"] / 1000), f"latency in kernel table {name} .*is it in ms"),
    ]
    if key != "op_name":
        kinds.append((lambda f: f.assign(**{key: np.nan}), f"usable rows of kernel table {name} is 0"))
        kinds.append((lambda f: f.assign(**{key: "many"}), f"{key} in kernel table {name} is text"))
    for change, message in kinds:
        with monkeypatch.context() as patch:
            broken(patch, name, change)
            with pytest.raises(InputError, match=message) as caught:
                compose(load_model(model), AiconfiguratorTables("a100"), tp)
            assert "\n" not in str(caught.value)


@needs_profiles
def test_rows_with_a_broken_size_are_rejected_and_counted(monkeypatch):
    def change(frame):
        frame = frame.astype({"isl": float})
        frame.loc[frame.index[:3], "isl"] = [np.nan, -1.0, 0.0]
        return frame

    broken(monkeypatch, "context_attention_perf", change)
    tables = AiconfiguratorTables("a100")
    compose(load_model("llama-3.1-8b"), tables, 1)
    assert tables.report.rejected["context_attention_perf"] == 3


@needs_profiles
@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("gemm_perf", "gemm_dtype", "gemm_dtype in kernel table gemm_perf is never bfloat16 but fp8"),
        ("moe_perf", "distribution", "distribution in kernel table moe_perf is never power_law_1.2 but fp8"),
        ("generation_mla_perf", "kv_cache_dtype", "kv_cache_dtype .* is never bfloat16 but fp8"),
    ],
)
def test_tables_without_the_rows_that_are_needed_say_so(monkeypatch, name, column, message):
    broken(monkeypatch, name, lambda f: f.assign(**{column: "fp8"}))
    with pytest.raises(InputError, match=message):
        compose(load_model("deepseek-v2-lite"), AiconfiguratorTables("a100"), 1)


@needs_profiles
def test_unreadable_tables_are_one_clear_line(tmp_path):
    from qmodel.fitting.aiconfigurator import _read

    (tmp_path / "gemm_perf.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"gemm_perf.parquet' is not readable"):
        _read(tmp_path / "gemm_perf.parquet")


@needs_profiles
def test_models_that_do_not_fit_or_split_are_refused():
    with pytest.raises(InputError, match="room for llama-2-70b on 1 x a100"):
        calibrate("llama-2-70b", tp=1, profiles="aiconfigurator")
    with pytest.raises(InputError, match=r"divisor of qwen2\.5-7b's 28"):
        calibrate("qwen2.5-7b", tp=8, profiles="aiconfigurator")


def test_without_the_extra_the_message_names_it(monkeypatch):
    monkeypatch.setattr("qmodel.fitting.aiconfigurator.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qmodel\[profiles\]'"):
        calibrate("llama-3.1-8b", profiles="aiconfigurator")


@pytest.mark.parametrize("key", ["|".join(map(str, key)) for key in list_calibrations()])
def test_shipped_fits_meet_the_limits(key):
    model, gpu, tp = key.split("|")
    cal = load_calibration(model, gpu, int(tp))
    limits = dict(MOE_LIMITS if load_model(model).is_moe else DENSE_LIMITS)
    assert {name: cal.fit[name] for name, limit in limits.items() if cal.fit[name] > limit} == {}
    assert json.dumps(cal.provenance)
    assert cal.standard_errors["step.c_s"] > 0


def test_the_limits_are_those_asked_for():
    """Acceptance, not what the fits happen to reach: the choice of a form and this file share them."""
    dense = {"step_mape": 0.04, "step_p95": 0.10, "chunk_increment_mape": 0.10, "prefill_mape": 0.02}
    assert dense == DENSE_LIMITS
    assert dense | {"step_mape": 0.07, "step_p95": 0.18} == MOE_LIMITS


def test_further_terms_are_used_where_they_help_and_the_main_files_do_without():
    mixtral = load_calibration("mixtral-8x7b", "a100", 4)
    assert mixtral.step.expert_share == 2 / 8
    assert mixtral.step.jump_s > 0
    assert "experts" in mixtral.provenance["law_choice"]
    for name, tp in (("deepseek-v2-lite", 1), ("llama-3.1-8b", 1), ("llama-2-70b", 4)):
        law = load_calibration(name, "a100", tp).step
        assert (law.expert_share, law.jump_s) == (0.0, 0.0)


def test_prompts_of_dense_models_take_a_free_exponent_only_where_a_limit_asks_for_it():
    dense = [load_calibration(*key) for key in list_calibrations() if not load_model(key[0]).is_moe]
    growing = {cal.name: cal.prefill.a for cal in dense if cal.prefill.a > 0}
    assert set(growing) == {"qwen3-32b_a100_tp8", "llama-3.1-8b_h100_tp1"}
    assert all(cal.step.a == 0 for cal in dense)


BESIDE_THE_ALL_REDUCE = {"llama-2-70b_a100_tp8", "llama-3.1-70b_a100_tp8"}


def test_prompts_have_the_all_reduce_as_measured_only_where_a_limit_asks_for_it():
    cals = [load_calibration(*key) for key in list_calibrations()]
    assert {cal.name for cal in cals if cal.prefill.allreduce_s} == BESIDE_THE_ALL_REDUCE
    assert not any(cal.step.allreduce_s for cal in cals)
    for cal in cals:
        if cal.prefill.allreduce_s:
            assert cal.prefill.jump_s == 0
            assert "prompts beside the all-reduce as measured" in cal.provenance["law_choice"]
            assert not any("allreduce" in name for name in cal.standard_errors)


@needs_profiles
@pytest.mark.parametrize("model", ["llama-2-70b", "llama-3.1-70b"])
def test_laws_with_a_measured_all_reduce_meet_the_table_and_prompts_between(model):
    """Oracles: the rows of the table as read, and composed prompts at lengths of no other list."""
    cal, source = load_calibration(model, "a100", 8), AiconfiguratorTables("a100")
    times = 2 * cal.layers * source.all_reduce(8)(16_384.0 * np.array(cal.prefill.allreduce_tokens))
    np.testing.assert_allclose(cal.prefill.allreduce_s, times, rtol=1e-5)
    lengths = np.arange(261.0, 8192.0, 61.0)
    composed = compose(load_model(model), source, 8).step_time_s(0.0, 1.0, lengths)
    errors = np.abs(cal.lone_prefill_s(lengths) / composed - 1)
    shares = 1 / lengths  # as dense in log length as the lengths that limits are stated on
    assert np.average(errors, weights=shares) < 0.02


def test_the_report_page_is_that_of_the_shipped_files():
    from qmodel.studies.calibration_report import report_text

    page = HERE.parents[1] / "docs" / "calibration.md"
    files = sorted(shipped_folder().glob("*_tp*.json"))
    assert report_text([read_calibration(path) for path in files]) == page.read_text("utf-8")

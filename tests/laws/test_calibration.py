from dataclasses import replace

import numpy as np
import pytest

from qmodel.errors import InputError, OutOfRangeError
from qmodel.io.calibrations import (
    calibration_json,
    list_calibrations,
    load_calibration,
    load_calibrations,
    read_calibration,
    save_calibration,
)
from qmodel.laws import PNormLaw
from qmodel.scenario import SLO, Cluster, Requests
from qmodel.simulation import simulate


@pytest.fixture
def cal():
    return load_calibration("deepseek-v2-lite")


def test_shipped_laws_are_near_the_published_fits(cal):
    """Coefficients move along flat ridges; times do not: compare those (fits in the project's design notes)."""
    dense8b = PNormLaw(t0_s=4.662e-3, w_s=6.73e-3, c_s=5.597e-5, p=1.841, context_s=8.182e-8, attention_s=2.866e-9)
    dense70b = PNormLaw(t0_s=20.94e-3, w_s=7.775e-3, c_s=1.758e-4, p=3.415, context_s=5.958e-8, attention_s=3.482e-9)
    moe = PNormLaw(
        t0_s=0.0, w_s=6.113e-3, a=0.3012, c_s=3.761e-5, p=5.93, context_s=4.736e-8, attention_s=1.608e-9,
        reload_s=5.96e-7,
    )  # fmt: skip
    eight, seventy = load_calibration("llama-3.1-8b"), load_calibration("llama-2-70b", tp=4)
    for found, published in ((eight, dense8b), (seventy, dense70b), (cal, moe)):
        for B, ctx, chi in ((8, 1000, 0), (64, 1000, 0), (128, 1500, 0), (32, 1000, 512), (64, 2000, 2048)):
            asked = (float(B), float(B * ctx), float(chi), chi * (1024 + chi / 2), 1024.0 * (chi > 0))
            assert found.step.step_time_s(*asked) == pytest.approx(published.step_time_s(*asked), rel=0.12)


def test_sizes_are_those_of_the_models(cal):
    assert cal.kv_bytes_per_token == 31_104
    assert cal.kv_capacity_tokens == pytest.approx(1.38e6, rel=0.01)
    assert load_calibration("llama-3.1-8b").kv_capacity_tokens == pytest.approx(445_000, rel=0.01)
    assert load_calibration("llama-2-70b", tp=4).kv_capacity_tokens == pytest.approx(486_000, rel=0.01)


@pytest.mark.parametrize("name", [f"{m}|{g}|{t}" for m, g, t in list_calibrations()])
def test_every_shipped_file_is_complete(name):
    model, gpu, tp = name.split("|")
    found = load_calibration(model, gpu, int(tp))
    assert found.name == f"{model}_{gpu}_tp{tp}"
    assert {"source", "source_version", "tables", "law_choice", "engine_correction"} <= set(found.provenance)
    assert {"step_mape", "step_p95", "chunk_increment_mape", "prefill_mape", "prefill_short_mape"} <= set(found.fit)
    assert found.decode_step_s(32, 32_000) > 0


def test_write_and_read_return_the_same(cal, tmp_path):
    save_calibration(cal, tmp_path / "c.json")
    again = read_calibration(tmp_path / "c.json")
    assert again.fingerprint == cal.fingerprint
    assert calibration_json(again) == calibration_json(cal)
    assert load_calibration(str(tmp_path / "c.json")).name == cal.name


def test_fingerprint_follows_the_numbers(cal):
    assert replace(cal, provenance={}).fingerprint == cal.fingerprint
    assert replace(cal, step=replace(cal.step, w_s=cal.step.w_s * 1.001)).fingerprint != cal.fingerprint
    assert replace(cal, tp=2).fingerprint != cal.fingerprint


def test_absent_calibrations_name_what_there_is():
    with pytest.raises(InputError, match=r"model is 'gpt-9'; it must be one of .*deepseek-v2-lite"):
        load_calibration("gpt-9")
    with pytest.raises(InputError, match=r"tp for llama-2-70b on a100 is 1; it must be one of 2, 4, 8"):
        load_calibration("llama-2-70b", tp=1)
    assert load_calibration("llama-2-70b").tp == 2
    with pytest.raises(InputError, match=r"GPU for deepseek-v2-lite is 'abacus'.*a100"):
        load_calibration("deepseek-v2-lite", "abacus")
    assert [c.tp for c in load_calibrations("llama-2-70b")] == [2, 4, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "readable JSON object"),
        ("[1]", "JSON object"),
        ("{}", "model is missing"),
        ('{"schema_version": 99}', "schema_version"),
    ],
)
def test_broken_files_are_one_clear_error(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_calibration(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_calibration(str(tmp_path / "none.json"))


def test_queries_beyond_the_fit_are_flagged_or_refused(cal):
    assert cal.check(batch=64, context_tokens=64_000, prompt_tokens=4096) == []
    warnings = cal.check(batch=np.array([10, 1000]), prompt_tokens=200_000)
    assert len(warnings) == 2
    assert "batch up to 1000" in warnings[0]
    with pytest.raises(OutOfRangeError, match=r"prompt_tokens is 200000.*calibrate"):
        cal.check(prompt_tokens=200_000, strict=True)


def test_loading_is_light():
    import subprocess
    import sys

    code = (
        "import sys, qmodel; qmodel.load_calibration('deepseek-v2-lite');"
        "print([m for m in ('numba','pandas','scipy','cvxpy','matplotlib','qmodel.fitting') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(("chunk", "alone_ms", "far_ms"), [(512, 20, 67), (1024, 34, 111), (2048, 65, 201)])
def test_chunk_increment_is_that_of_composed_kernels(cal, chunk, alone_ms, far_ms):
    """Composed kernels at 40 requests and 60,000 tokens, nothing or 32k tokens done (DESIGN, on the paper's Figure 1)."""
    from qmodel.plotting.calibration import chunk_increment_table

    for done, expected in ((0.0, alone_ms), (32_768.0, far_ms)):
        chunks, increment = chunk_increment_table(cal, 40.0, 1500.0, done)
        assert increment[chunks == chunk][0] * 1e3 == pytest.approx(expected, rel=0.25)


def test_the_simulator_runs_prompts_at_a_law_with_a_measured_all_reduce():
    cal = load_calibration("llama-2-70b", tp=8)
    assert cal.prefill.allreduce_s
    lengths = np.array([40, 200, 700, 1900])
    requests = Requests.from_arrays(10.0 * np.arange(4), lengths, [2] * 4)  # far apart: each one alone
    pools = Cluster(prefill=1, decode=1, calibration=cal)
    found = simulate(pools, requests, SLO(ttft_s=10.0, tbt_s=1.0), warmup=0).requests
    assert found.prefill_s.to_numpy() == pytest.approx(cal.lone_prefill_s(lengths), rel=1e-9)

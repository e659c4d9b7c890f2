import json

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.fitting.gpus import gpu_named
from qmodel.fitting.models import load_model
from qmodel.fitting.pipeline import calibrate_model
from qmodel.fitting.vidur import VidurDirectory
from qmodel.io.calibrations import load_calibration
from qmodel.io.measurements import read_measurements
from qmodel.laws import EngineCorrection
from qmodel.studies.calibration import calibrate
from qmodel.studies.calibration_validation import validate_calibration

ENGINE = EngineCorrection(floor_s=0.006, floor_per_request_s=2e-5, gain=1.25, prefill_floor_s=0.012, prefill_gain=1.15)


@pytest.fixture
def served():
    """Requests at one engine with known laws: prompts one at a time, decode steps at the batch of the moment."""
    cal = load_calibration("llama-3.1-8b").with_engine(ENGINE)
    rng = np.random.default_rng(3)
    start = np.cumsum(rng.exponential(0.4, 120))
    prompt, output = rng.integers(64, 3000, 120), rng.integers(20, 200, 120)
    free, first = 0.0, []
    for s, length in zip(start, prompt, strict=True):
        free = max(free, s) + float(cal.lone_prefill_s(float(length)))
        first.append(free)
    first = np.array(first)
    clock, produced, times = 0.0, np.zeros(120, int), [[] for _ in range(120)]
    while (produced < output - 1).any():
        live = np.flatnonzero((first <= clock) & (produced < output - 1))
        if not len(live):
            clock = first[(first > clock) & (produced < output - 1)].min()
            continue
        context = float(np.sum(prompt[live] + produced[live]))
        step = float(cal.decode_step_s(float(len(live)), context))
        clock += step
        for i in live:
            times[i].append(clock)
        produced[live] += 1
    gaps = [np.diff([f, *t]) for f, t in zip(first, times, strict=True)]
    return cal, start, prompt, output, first - start, gaps


def vllm_file(path, served, **changes):
    _, start, prompt, output, ttft, gaps = served
    result = {
        "input_lens": prompt.tolist(),
        "output_lens": output.tolist(),
        "ttfts": ttft.tolist(),
        "itls": [g.tolist() for g in gaps],
        "start_times": start.tolist(),
    } | changes
    path.write_text(json.dumps({k: v for k, v in result.items() if v is not None}))
    return path


def test_vllm_bench_calibrates_and_validates(tmp_path, served):
    file = vllm_file(tmp_path / "bench.json", served)
    result = calibrate("llama-3.1-8b", measured=file)
    truth = served[0]
    assert result.engine.launches == "graph"
    for batch in (1.0, 8.0, 30.0):
        found = result.calibration.decode_step_s(batch, 1500 * batch)
        assert found == pytest.approx(truth.decode_step_s(batch, 1500 * batch), rel=0.06)
    for length in (256.0, 2000.0):
        assert result.calibration.lone_prefill_s(length) == pytest.approx(truth.lone_prefill_s(length), rel=0.05)
    result.save(tmp_path / "cal.json")
    out = validate_calibration(tmp_path / "cal.json", file)
    assert abs(out.percentiles["ttft"]["p50"]) < 0.05
    assert abs(out.percentiles["ttft"]["p95"]) < 0.10
    assert abs(out.percentiles["tbt"]["p50"]) < 0.10
    assert "ttft_error" in out.to_dict()
    assert any("TTFT: P50" in line for line in out.lines())


def test_vllm_bench_without_clock_or_detail(tmp_path, served):
    rows = read_measurements(vllm_file(tmp_path / "b.json", served, start_times=None))[0]
    assert len(rows.decode) == 0
    assert len(rows.prompt) > 5
    assert "no start times" in rows.notes[0]
    with pytest.raises(InputError, match=r"without itls.*--save-detailed"):
        read_measurements(vllm_file(tmp_path / "c.json", served, itls=None))
    with pytest.raises(InputError, match="without ttfts"):
        read_measurements(vllm_file(tmp_path / "d.json", served, ttfts=None))


def test_answers_that_came_in_one_piece_have_no_time_between_tokens(tmp_path, served):
    zeros = [[0.0] * len(gaps) for gaps in served[5]]
    file = vllm_file(tmp_path / "whole.json", served, itls=zeros)
    out = validate_calibration([load_calibration("llama-3.1-8b")], file)
    assert "ttft" in out.percentiles
    assert "tbt" not in out.percentiles
    (line,) = (line for line in calibrate("llama-3.1-8b", measured=file).lines() if line.startswith("on the meas"))
    assert "prompt time" in line
    assert "token time" not in line


def test_aiperf_records(tmp_path, served):
    _, start, prompt, output, ttft, gaps = served
    lines = []
    for i in range(len(start)):
        metrics = {
            "input_sequence_length": {"value": int(prompt[i]), "unit": "tokens"},
            "output_sequence_length": {"value": int(output[i]), "unit": "tokens"},
            "time_to_first_token": {"value": ttft[i] * 1e3, "unit": "ms"},
            "inter_token_latency": {"value": float(np.mean(gaps[i])) * 1e3, "unit": "ms"},
        }
        metadata = {"request_start_ns": int(1.7e18 + start[i] * 1e9)}
        lines.append(json.dumps({"metadata": metadata, "metrics": metrics, "error": None}))
    lines.append(json.dumps({"metadata": {}, "metrics": {"error_isl": {"value": 5}}, "error": {"code": 499}}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    result = calibrate("llama-3.1-8b", measured=tmp_path / "a.jsonl")
    assert "1 failed requests left out" in " ".join(result.notes)
    assert result.calibration.decode_step_s(8.0, 12_000.0) == pytest.approx(
        served[0].decode_step_s(8.0, 12_000.0), rel=0.08
    )


@pytest.mark.data
def test_aiperf_sample_is_read(shared_data):
    rows = read_measurements(shared_data / "traces" / "samples" / "aiperf_profile_export_head.jsonl")[0]
    assert rows.requests.ttft_s.tolist() == pytest.approx([0.25588656])
    assert rows.requests.prompt_tokens.tolist() == [550]


def test_dynamo_profiler_arrays(tmp_path):
    cal = load_calibration("llama-3.1-8b").with_engine(ENGINE)
    isl = np.array([128.0, 512, 1024, 2048, 4096, 8192])
    usage, context = (x.ravel() for x in np.meshgrid([0.1, 0.3, 0.6, 0.9], [512.0, 2048, 8192]))
    capacity = 400_000.0
    batch = np.maximum(1.0, usage * capacity / context)
    np.savez(
        tmp_path / "raw_data.npz",
        prefill_isl=isl,
        prefill_ttft=np.asarray(cal.lone_prefill_s(isl)) * 1e3,
        x_kv_usage=usage,
        y_context_length=context,
        z_itl=np.asarray(cal.step.step_time_s(batch, usage * capacity)) * 1e3,
        max_kv_tokens=np.array([capacity]),
    )
    result = calibrate("llama-3.1-8b", measured=tmp_path / "raw_data.npz")
    assert result.engine.correction.gain == pytest.approx(ENGINE.gain, rel=0.02)
    assert result.engine.correction.prefill_gain == pytest.approx(ENGINE.prefill_gain, rel=0.02)
    np.savez(tmp_path / "other.npz", a=isl)
    with pytest.raises(InputError, match=r"arrays of .* is a; it must be with prefill_isl"):
        read_measurements(tmp_path / "other.npz")


PROMETHEUS = """# HELP vllm:iteration_tokens_total Histogram of number of tokens per engine_step.
vllm:iteration_tokens_total_sum{model_name="m"} 200000.0
vllm:iteration_tokens_total_count{model_name="m"} 5000.0
vllm:inter_token_latency_seconds_sum{model_name="m"} 100.0
vllm:inter_token_latency_seconds_count{model_name="m"} 5000.0
vllm:prompt_tokens_total{model_name="m"} 100000.0
vllm:generation_tokens_total{model_name="m"} 100000.0
vllm:request_prompt_tokens_sum{model_name="m"} 100000.0
vllm:request_prompt_tokens_count{model_name="m"} 100.0
vllm:request_generation_tokens_sum{model_name="m"} 20000.0
vllm:request_generation_tokens_count{model_name="m"} 100.0
vllm:request_prefill_time_seconds_sum{model_name="m"} 8.0
vllm:request_prefill_time_seconds_count{model_name="m"} 100.0
"""


def test_prometheus_text(tmp_path):
    (tmp_path / "metrics.txt").write_text(PROMETHEUS)
    rows = read_measurements(tmp_path / "metrics.txt")[0]
    assert rows.decode.time_s.tolist() == pytest.approx([0.02])  # 100 s / 5000
    assert rows.decode.batch.tolist() == pytest.approx([20.0])  # 40 tokens a step, half of them generated
    assert rows.decode.context.tolist() == pytest.approx([20 * (1000 + 100)])
    assert rows.prompt.time_s.tolist() == pytest.approx([0.08])
    assert calibrate("llama-3.1-8b", measured=tmp_path / "metrics.txt").engine.token_rows == 1
    (tmp_path / "less.txt").write_text("\n".join(PROMETHEUS.splitlines()[:3]))
    with pytest.raises(InputError, match="incomplete; it must be with iteration_tokens_total"):
        read_measurements(tmp_path / "less.txt")


def test_prometheus_text_of_two_engines_with_buckets(tmp_path):
    """As vLLM 0.11 exposes it: histograms with buckets, an engine label, `_created` lines, other collectors."""
    means = {"iteration_tokens_total": 40.0, "inter_token_latency_seconds": 0.02, "request_prompt_tokens": 1000.0}
    means |= {"request_generation_tokens": 200.0, "request_prefill_time_seconds": 0.08}
    lines = ['python_gc_objects_collected_total{generation="0"} NaN', "process_start_time_seconds 1.76e+09"]
    for name, mean in means.items():
        lines.append(f"# TYPE vllm:{name} histogram")
        for engine, count in (("0", 100.0), ("1", 300.0)):
            label = f'engine="{engine}",model_name="meta-llama/Llama-3.1-8B-Instruct"'
            lines += [f'vllm:{name}_bucket{{{label},le="{le}"}} {count}' for le in ("1.0", "+Inf")]
            lines += [f"vllm:{name}_count{{{label}}} {count}", f"vllm:{name}_sum{{{label}}} {count * mean}"]
            lines.append(f"vllm:{name}_created{{{label}}} 1.7623e+09")
    lines += [f'vllm:{kind}_tokens_total{{engine="{e}"}} 50000.0' for kind in ("prompt", "generation") for e in (0, 1)]
    (tmp_path / "metrics.txt").write_text("\n".join(lines))
    rows = read_measurements(tmp_path / "metrics.txt")[0]
    assert rows.decode.time_s.tolist() == pytest.approx([0.02])
    assert rows.decode.batch.tolist() == pytest.approx([20.0])
    assert rows.decode.context.tolist() == pytest.approx([20 * (1000 + 100)])
    assert rows.prompt.time_s.tolist() == pytest.approx([0.08])
    result = calibrate("llama-3.1-8b", measured=tmp_path / "metrics.txt")
    validate_calibration(result.calibrations, tmp_path / "metrics.txt").draw(tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 10_000


HEADER = "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel"
GOOD = "llama2-70b,a100-80gb,512,1,128,200,50,2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a,b\n1,2", "of no known format"),
        (HEADER, "rows of .* is 0"),
        (HEADER.replace(",token_time", "") + "\n" + GOOD, "without token_time"),
        (f"{HEADER}\n{GOOD.replace('200', '-200')}", "prompt_time in row 1 of .* -200"),
        (f"{HEADER}\n{GOOD.replace('200', 'nan')}", "prompt_time in row 1 of .* nan"),
        (f"{HEADER}\n{GOOD.replace('200', 'soon')}", "'soon'; it must be a number"),
        (f"{HEADER}\n{GOOD.replace('200,50', '200000,50000')}", "unit"),
        (f"{HEADER}\n{GOOD.replace('200,50', '0.2,0.05')}", "unit"),
        (f"{HEADER}\n{GOOD.replace('512', '0')}", "measured tokens in row 1 is 0"),
    ],
)
def test_broken_measurements_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        calibrate("llama-2-70b", measured=path)
    assert "\n" not in str(caught.value)


def test_missing_measurements(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_measurements(tmp_path / "none.csv")
    with pytest.raises(InputError, match="a directory"):
        read_measurements(tmp_path)


def vidur_folder(folder, tp=1, scale=1.0, drop=None):
    """Profiles of Llama-3.1-8B as an ideal GPU would have them: the slower of memory and compute, plus 2 us."""
    model, gpu = load_model("llama-3.1-8b"), gpu_named("a100")
    tokens = 2.0 ** np.arange(14)

    def product(n, k):
        return (np.maximum(2.0 * n * k / gpu.bytes_per_s, 2.0 * n * k * tokens / 250e12) + 2e-6) * 1e3 * scale

    columns = {
        "attn_pre_proj": product(6144 / tp, 4096),
        "attn_post_proj": product(4096, 4096 / tp),
        "mlp_up_proj": product(28672 / tp, 4096),
        "mlp_down_proj": product(4096, 14336 / tp),
    }
    small = (2e-6 + tokens * 4 * 4096 * 2 / gpu.bytes_per_s) * 1e3 * scale
    columns |= dict.fromkeys(("input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act", "add"), small)
    fixed = {"n_embd": model.hidden, "n_head": model.heads, "num_tensor_parallel_workers": tp}
    header = [f"time_stats.{n}.median" for n in columns] + [*fixed, "num_tokens"]
    rows = [[*(float(v[i]) for v in columns.values()), *fixed.values(), float(t)] for i, t in enumerate(tokens)]
    write(folder / "mlp.csv", header, rows, drop)
    keys = ["batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill", "num_tensor_parallel_workers"]
    header = ["time_stats.attn_prefill.median", "time_stats.attn_decode.median", *keys]
    rows = [[(3e-6 + 4 * 4096 * s * s / 2 / 150e12) * 1e3 * scale, "", 1, s, 0, True, tp] for s in tokens[5:]]
    for b in (1, 4, 16, 64, 256):
        for c in (128, 1024, 8192, 32768):
            rows.append(["", (4e-6 + b * c * 4096 / 1.5e12) * 1e3 * scale, b, 0, c, False, tp])
    write(folder / "attention.csv", header, rows, drop)
    return folder


def write(path, header, rows, drop):
    keep = [i for i, name in enumerate(header) if name != drop]
    lines = [",".join(header[i] for i in keep)] + [",".join(str(row[i]) for i in keep) for row in rows]
    path.write_text("\n".join(lines))


def test_vidur_folder_gives_laws_of_its_own_kernels(tmp_path):
    model, gpu = load_model("llama-3.1-8b"), gpu_named("a100")
    cal = calibrate_model(model, VidurDirectory(vidur_folder(tmp_path), model, gpu, 1), gpu, 1)
    assert cal.fit["step_mape"] < 0.04
    assert cal.provenance["source"] == "Vidur directory"
    assert any("head (n 128256, k 4096) from mlp up" in text for text in cal.provenance.values())
    tokens = 4096.0
    gemms = 32 * 2 * (6144 * 4096 + 4096 * 4096 + 3 * 14336 * 4096) * tokens / 250e12
    attention = 32 * 4 * 4096 * tokens**2 / 2 / 150e12
    elementwise = 32 * 5 * tokens * 4 * 4096 * 2 / gpu.bytes_per_s
    assert cal.lone_prefill_s(tokens) == pytest.approx(gemms + attention + elementwise, rel=0.05)
    assert calibrate("llama-3.1-8b", profiles=str(tmp_path)).calibration.fingerprint == cal.fingerprint


@pytest.mark.parametrize(
    ("options", "model", "tp", "message"),
    [
        ({"drop": "num_tokens"}, "llama-3.1-8b", 1, r"columns of .*mlp.csv.* without num_tokens"),
        ({"drop": "time_stats.mlp_up_proj.median"}, "llama-3.1-8b", 1, "without time_stats.mlp_up_proj.median"),
        ({"scale": -1.0}, "llama-3.1-8b", 1, "mlp_up_proj.median in row 1"),
        ({"scale": 1000.0}, "llama-3.1-8b", 1, "unit"),
        ({"scale": 0.001}, "llama-3.1-8b", 1, "unit"),
        ({"tp": 2}, "llama-3.1-8b", 1, "tp in mlp.csv is 1; it must be one of 2"),
        ({}, "llama-2-70b", 1, "hidden 8192, 64 heads"),
    ],
)
def test_broken_vidur_folders_are_one_clear_line(tmp_path, options, model, tp, message):
    with pytest.raises(InputError, match=message) as caught:
        VidurDirectory(vidur_folder(tmp_path, **options), load_model(model), gpu_named("a100"), tp)
    assert "\n" not in str(caught.value)


PRODUCT, PROMPT, DECODE = (f"time_stats.{op}.median" for op in ("mlp_up_proj", "attn_prefill", "attn_decode"))


@pytest.mark.parametrize(
    ("name", "column", "row", "value", "message"),
    [
        ("mlp.csv", PRODUCT, 1, "soon", "mlp_up_proj.median in row 2 of 'mlp.csv' is soon"),
        ("mlp.csv", PRODUCT, 1, np.nan, "mlp_up_proj.median in row 2 of 'mlp.csv' is nan"),
        ("mlp.csv", "num_tokens", 2, "x", "num_tokens in row 3 of 'mlp.csv' is x"),
        ("mlp.csv", "n_embd", 0, np.nan, "n_embd in row 1 of 'mlp.csv' is nan"),
        ("mlp.csv", "num_tokens", slice(1, None), None, "rows of .*mlp.csv' is 1; it must be >= 2"),
        ("attention.csv", DECODE, 20, -1.0, "attn_decode.median in row 21 of 'attention.csv' is -1"),
        ("attention.csv", DECODE, 20, "x", "attn_decode.median in row 21 of 'attention.csv' is x"),
        ("attention.csv", "kv_cache_size", 20, np.nan, "kv_cache_size in row 21 of 'attention.csv' is nan"),
        ("attention.csv", PROMPT, 1e3, "times", "attn_prefill over the least time.*check the unit"),
        ("attention.csv", DECODE, 1e-3, "times", "attn_decode over the time.*check the unit"),
    ],
)
def test_a_broken_cell_of_a_vidur_folder_is_named(tmp_path, name, column, row, value, message):
    import pandas as pd

    path = vidur_folder(tmp_path) / name
    frame = pd.read_csv(path).astype(object)
    if value == "times":
        frame[column] = frame[column] * row
    elif value is None:
        frame = frame.drop(frame.index[row])
    else:
        frame.loc[row, column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(InputError, match=message) as caught:
        calibrate("llama-3.1-8b", profiles=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mlp.csv", "attention.csv"])
def test_incomplete_vidur_folder(tmp_path, name):
    (vidur_folder(tmp_path) / name).unlink()
    with pytest.raises(InputError, match=rf"{name}', which does not exist"):
        calibrate("llama-3.1-8b", profiles=str(tmp_path))


def guidellm_file(path, served, **changes):
    _, start, prompt, output, ttft, gaps = served
    rows = [
        {
            "request_start_time": 1.7e9 + start[i],
            "prompt_tokens": int(prompt[i]),
            "output_tokens": int(output[i]),
            "time_to_first_token_ms": ttft[i] * 1e3,
            "inter_token_latency_ms": float(np.mean(gaps[i])) * 1e3,
        }
        | changes
        for i in range(len(start))
    ]
    half = len(rows) // 2
    benchmarks = [
        {"requests": {"successful": part, "errored": [{}], "incomplete": []}} for part in (rows[:half], rows[half:])
    ]
    path.write_text(json.dumps({"metadata": {}, "benchmarks": benchmarks}))
    return path


def inference_perf_file(path, served, nested):
    _, start, prompt, output, ttft, gaps = served
    rows = []
    for i in range(len(start)):
        times = (50.0 + start[i] + ttft[i] + np.cumsum([0.0, *gaps[i]])).tolist()
        asked, answered = (
            {"input_tokens": int(prompt[i])},
            {"output_tokens": int(output[i]), "output_token_times": times},
        )
        info = {"request_metrics": {"text": asked}, "response_metrics": answered} if nested else asked | answered
        rows.append({"start_time": 50.0 + start[i], "end_time": times[-1], "info": info, "error": None})
    rows.append({"start_time": 51.0, "end_time": 52.0, "info": {}, "error": {"error_type": "x"}})
    path.write_text(json.dumps(rows))
    return path


def test_guidellm_and_inference_perf_reports_say_what_vllm_bench_says(tmp_path, served):
    truth = served[0]
    files = [
        guidellm_file(tmp_path / "g.json", served),
        inference_perf_file(tmp_path / "i.json", served, nested=False),
        inference_perf_file(tmp_path / "n.json", served, nested=True),
    ]
    for file in files:
        result = calibrate("llama-3.1-8b", measured=file)
        assert result.calibration.decode_step_s(8.0, 12_000.0) == pytest.approx(
            truth.decode_step_s(8.0, 12_000.0), rel=0.08
        )
        assert "failed requests left out" in " ".join(result.notes)
        result.save(tmp_path / "cal.json")
        out = validate_calibration(tmp_path / "cal.json", file)
        assert abs(out.percentiles["ttft"]["p50"]) < 0.05
        assert out.unexplained() == []
    exact = read_measurements(vllm_file(tmp_path / "v.json", served))[0].requests
    same = read_measurements(files[1])[0].requests
    np.testing.assert_allclose(same.ttft_s, exact.ttft_s, atol=1e-9)
    np.testing.assert_allclose(np.concatenate(same.itl_s), np.concatenate(exact.itl_s), atol=1e-9)


def test_what_the_laws_do_not_explain_is_said_and_drawn(tmp_path, served):
    cal, *_ = served
    file = vllm_file(tmp_path / "v.json", served, ttfts=(served[4] * 3 + 0.2).tolist())
    out = validate_calibration([cal], file)
    assert any("TTFT P50" in text for text in out.unexplained())
    assert out.to_dict()["unexplained"] == out.unexplained()
    out.draw(tmp_path / "laws.png")
    assert (tmp_path / "laws.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "text",
    ['[]', '[1]', '[{"start_time": 1}]', '{"benchmarks": 3}', '{"benchmarks": []}', '{"benchmarks": [{"requests": {}}]}',
     '[{"start_time": "x", "info": {"input_tokens": 1, "output_tokens": 2, "output_token_times": [1, 2]}}]',
     '[{"start_time": 5, "info": {"input_tokens": 1, "output_tokens": 2, "output_token_times": [1e400]}}]',
     '[{"start_time": 5, "info": {"input_tokens": 1, "output_tokens": 2, "output_token_times": [4, 3]}}]',
     '{"metrics": {"time_to_first_token": {"value": ' + "9" * 400 + "}}}", '{"metrics": ["time_to_first_token"]}', '{"metrics": {"time_to_first_token": 5}}', '{"metrics": {"time_to_first_token": {"value": "x"}}}',
     '{"benchmarks": [{"requests": {"successful": [{"start_time": 1, "prompt_tokens": 5, "output_tokens": 1e14, "time_to_first_token_ms": 9}]}}]}',
     '{"ttfts": 5, "itls": [], "input_lens": [], "output_lens": []}', '{"ttfts": [], "itls": [], "input_lens": [], "output_lens": []}',
     '{"ttfts": [1], "itls": [[1]], "input_lens": [5], "output_lens": [2], "start_times": [1, 2]}',
     '{"ttfts": [1], "itls": [5], "input_lens": [5], "output_lens": [2]}', '{"ttfts": [0], "itls": [[]], "input_lens": [5], "output_lens": [0]}'],
)  # fmt: skip
def test_reports_that_are_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError):
        read_measurements(tmp_path / "x.json")

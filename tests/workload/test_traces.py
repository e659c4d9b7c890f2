"""Trace files: each format gives the same requests, and each fault one clear line."""

import csv
import gzip
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest

from qmodel.errors import InputError, QModelError
from qmodel.io import traces_text
from qmodel.io.traces import read_trace
from qmodel.scenario import Workload

# Five requests that every format below holds: seconds, prompt and output tokens.
TIMES, PROMPTS, OUTPUTS = [0.0, 0.5, 2.0, 2.0, 150.25], [374, 396, 879, 91, 4081], [44, 109, 55, 16, 1]
ROWS = list(zip(TIMES, PROMPTS, OUTPUTS, strict=True))


def as_csv(header: str, rows: list) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([header.split(","), *rows])
    return out.getvalue()


def as_jsonl(rows: list) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


AIPERF = [
    {
        "metadata": {"request_start_ns": 1759813207532900363 + int(t * 1e9)},
        "metrics": {"input_sequence_length": {"value": p}, "output_sequence_length": {"value": o}},
        "error": None,
    }
    for t, p, o in ROWS
]
BLIS_HEADER = "request_id,client_id,input_tokens,output_tokens,arrival_time_us,status,vllm_priority"
BENCH = {"input_lens": PROMPTS, "output_lens": OUTPUTS, "ttfts": [0.1] * 5, "start_times": [9.5 + t for t in TIMES]}
FILES = {
    "canonical": as_csv("arrival_s,prompt_tokens,output_tokens", ROWS),
    "azure": as_csv(
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        [
            [f"2023-11-16 18:{15 + int(t) // 60}:{int(t) % 60:02}.{round(t % 1 * 1e7):07}", p, o]
            for t, p, o in ROWS
        ],
    ).rstrip("\n"),
    "burstgpt": as_csv(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        [*[[t, "GPT-4", p, o, p + o, "Conversation log"] for t, p, o in ROWS], [9.0, "GPT-4", 7, 0, 7, "API log"]],
    ),
    "vidur": as_csv("arrived_at,num_prefill_tokens,num_decode_tokens", ROWS),
    "splitwise-sim": as_csv(
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size",
        [[i, 2, 0, t, 1, p, o] for i, (t, p, o) in enumerate(ROWS)],
    ),
    "blis": "version: 2\nrequests: 6\n"
    + as_csv(
        BLIS_HEADER,
        [*[[i, "c", p, o, int(t * 1e6), "ok", 0] for i, (t, p, o) in enumerate(ROWS)], [9, "c", 5, 5, 7, "timeout", 0]],
    ),
    "guidellm-csv": as_csv("timestamp,input_length,output_length", ROWS),
    "bailian": as_jsonl([
        {"chat_id": i, "parent_chat_id": -1, "timestamp": t, "input_length": p, "output_length": o, "type": "text",
         "turn": 1, "hash_ids": [1]}
        for i, (t, p, o) in enumerate(ROWS)
    ]),
    "mooncake": as_jsonl([
        {"timestamp": int(t * 1000), "input_length": p, "output_length": o, "hash_ids": [0, 1]} for t, p, o in ROWS
    ]),
    "weka": as_jsonl([{"t": t, "in": p, "out": o, "hash_ids": [3]} for t, p, o in ROWS]),
    "aiperf": as_jsonl([*AIPERF, {**AIPERF[0], "error": {"type": "timeout"}}, {"metadata": {}, "metrics": {}}]),
    "llmservingsim": as_jsonl([
        *[{"input_toks": p, "output_toks": o, "arrival_time_ns": int(t * 1e9)} for t, p, o in ROWS],
        {"session_id": 1, "sub_requests": [{"input_toks": 5}]},
    ]),
    "vllm-bench": json.dumps({**BENCH, "input_lens": [*PROMPTS, 5], "output_lens": [*OUTPUTS, 0],
                              "start_times": [*BENCH["start_times"], 10.0]}, indent=1),
    "timed": as_jsonl([{"timestamp": t, "input_length": p, "output_length": o} for t, p, o in ROWS]),
    "aiperf-input": as_jsonl([
        *[{"input_length": p, "output_length": o, "timestamp": t * 1000, "session_id": "a"} for t, p, o in ROWS],
        {"session_id": "a", "delay": 300, "input_length": 5, "output_length": 5},
    ]),
}  # fmt: skip


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_requests(name, tmp_path):
    trace = read_trace(write(tmp_path, FILES[name], "file.txt"))
    assert trace.format == ("timed" if name == "aiperf-input" else name)
    np.testing.assert_allclose(trace.requests.arrival_s, TIMES, atol=2e-7)
    assert trace.requests.prompt_tokens.tolist() == PROMPTS
    assert trace.requests.output_tokens.tolist() == OUTPUTS
    rest = trace.requests.cached_tokens
    assert not rest.any()
    dropped = {"burstgpt": 1, "blis": 1, "aiperf": 2, "llmservingsim": 1, "vllm-bench": 1, "aiperf-input": 1}
    assert sum(trace.dropped.values()) == dropped.get(name, 0)
    assert "5 requests over 150.25 s" in trace.notices[0]
    assert len([line for line in trace.notices if line.startswith("dropped")]) == len(trace.dropped)


@pytest.mark.parametrize("name", FILES)
def test_gzip_byte_order_mark_and_windows_lines_change_nothing(name, tmp_path):
    plain = read_trace(write(tmp_path, FILES[name]), format=name)
    path = tmp_path / "packed"
    path.write_bytes(gzip.compress("\ufeff".encode() + FILES[name].replace("\n", "\r\n").encode()))
    packed = read_trace(path, format=name)
    assert packed.requests.arrival_s.tobytes() == plain.requests.arrival_s.tobytes()
    assert packed.requests.prompt_tokens.tobytes() == plain.requests.prompt_tokens.tobytes()


@pytest.mark.parametrize(
    ("rows", "seconds", "said"),
    [
        ([0, 1000, 200_000], 200.0, "milliseconds"),
        ([0, 10, 90_000], 90_000.0, "seconds"),
        ([0.0, 10.5, 200_000.5], 200_000.5, "seconds"),
    ],
)
def test_units_of_timestamps_are_guessed_aloud_and_overridable(rows, seconds, said, tmp_path):
    path = write(tmp_path, as_jsonl([{"timestamp": t, "input_length": 5, "output_length": 5} for t in rows]))
    trace = read_trace(path)
    assert trace.requests.span_s == pytest.approx(seconds)
    assert any(f"taken in {said}" in line for line in trace.notices)
    forced = read_trace(path, time_unit="us")
    assert forced.requests.span_s == pytest.approx(rows[-1] * 1e-6)
    assert any("as asked" in line for line in forced.notices)


def test_times_are_sorted_and_counted_from_the_first_with_a_notice(tmp_path):
    rows = [(903.0, 3, 1), (901.0, 1, 1), (902.0, 2, 1)]
    workload = Workload.from_trace(write(tmp_path, as_csv("arrival_s,prompt_tokens,output_tokens", rows)))
    assert workload.requests().arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert workload.requests().prompt_tokens.tolist() == [1, 2, 3]
    assert any("sorted" in line for line in workload.notices)
    assert any("901 s" in line for line in workload.notices)


def test_cached_prefixes_on_request(tmp_path):
    rows = [(0.0, 100, 5, 50), (1.0, 100, 5, 128)]
    path = write(tmp_path, as_csv("arrival_s,prompt_tokens,output_tokens,prefix_hit_lru5m", rows))
    assert Workload.from_trace(path).requests().cached_tokens.tolist() == [0, 0]
    cached = Workload.from_trace(path, cached="prefix_hit_lru5m")
    assert cached.requests().cached_tokens.tolist() == [50, 99]
    assert any("fully cached" in line for line in cached.notices)
    with pytest.raises(InputError, match="prefix_hit_inf"):
        Workload.from_trace(path, cached="prefix_hit_inf")
    with pytest.raises(InputError, match="cached"):
        Workload.from_trace(write(tmp_path, FILES["mooncake"]), cached="prefix_hit_inf")


@pytest.mark.parametrize("name", ["azure", "vllm-bench", "burstgpt", "aiperf", "vidur"])
def test_a_unit_of_time_is_used_and_said_or_refused(name, tmp_path):
    path = write(tmp_path, FILES[name])
    if name in ("azure", "vllm-bench"):
        with pytest.raises(InputError, match="unit of their own"):
            read_trace(path, time_unit="ms")
        return
    trace, plain = read_trace(path, time_unit="us"), read_trace(path)
    assert sum("taken in us, as asked" in line for line in trace.notices) == 1
    assert trace.requests.span_s == pytest.approx(plain.requests.span_s * (1e3 if name == "aiperf" else 1e-6))


HEADER = "arrival_s,prompt_tokens,output_tokens\n"
FAULTS = {
    "a column twice": ("arrival_s,prompt_tokens,prompt_tokens,output_tokens\n0,5,6,5\n", "prompt_tokens.*2 times"),
    "empty": ("", "empty"),
    "blank": ("\n \n", "empty"),
    "header only": (HEADER, "without requests"),
    "text in a number": (HEADER + "0,5,5\n1,many,5\n", "line 3.*'many'"),
    "text in a time": (HEADER + "zero,5,5\n", "line 2.*'zero'"),
    "NaN time": (HEADER + "0,5,5\nnan,5,5\n", "line 3.*'nan'"),
    "infinite tokens": (HEADER + "0,inf,5\n", "line 2"),
    "negative time": (HEADER + "0,5,5\n-1.5,5,5\n", "line 3 is -1.5 s"),
    "zero prompt": (HEADER + "0,5,5\n1,0,5\n", "prompt tokens.*line 3 is 0"),
    "zero output": (HEADER + "0,5,0\n", "output tokens.*line 2 is 0"),
    "negative tokens": (HEADER + "0,-7,5\n", "line 2 is -7"),
    "part of a token": (HEADER + "0,5.5,5\n", "line 2 is 5.5"),
    "huge tokens": (HEADER + "0,1e19,5\n", "line 2"),
    "short row": (HEADER + "0,5,5\n1,5\n", "line 3.*2 fields"),
    "unknown header": ("when,in,out\n0,5,5\n", "unknown"),
    "no text": ("\x00\x01\x02", "unknown"),
    "wrong unit": (HEADER + "0,5,5\n1700000000000,5,5\n", "time unit"),
    "lengths only": ("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n5,5,10,1\n", "poisson"),
    "broken JSON": ('{"timestamp": 0, "input_length": 5,\n', "JSON"),
    "JSON with a broken line": (FILES["mooncake"] + "{oops\n", "line 6"),
    "JSON number": (FILES["mooncake"] + "7\n", "line 6.*object"),
    "JSON without length": (FILES["mooncake"] + '{"timestamp": 9, "hash_ids": []}\n', "line 6 is None"),
    "JSON deep": ('{"a":' * 5000 + "\n", "nested|JSON"),
    "JSON true": (FILES["mooncake"].replace("374", "true"), "True"),
    "JSON list": (FILES["mooncake"].replace("374", "[374]"), "line 1"),
    "JSON empty list": ("[]", "unknown"),
    "all dropped": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,0,490,API log\n",
        "0 response tokens",
    ),
    "bench without arrays": (json.dumps({**BENCH, "output_lens": 5}), "save-detailed"),
    "bench of unequal arrays": (json.dumps({**BENCH, "output_lens": [1]}), "save-detailed"),
    "bench at infinite rate": (json.dumps({**BENCH, "start_times": None, "request_rate": "inf"}), "start_times"),
    "servegen alone": ("0,8.34,1.35,Gamma,0.54,0.21\n", "dataset.json"),
    "bad date": ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-45 18:15:46,5,5\n", "line 2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_clear_line(fault, tmp_path):
    text, said = FAULTS[fault]
    path = write(tmp_path, text, "bad.csv")
    with pytest.raises(InputError, match=f"(?s){said}") as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)
    assert "bad" in str(caught.value)
    assert len(str(caught.value)) < 700


def test_missing_directory_and_odd_inputs(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path, "/dev/zero", "x" * 5000, "a\0b"):
        with pytest.raises(InputError):
            read_trace(path)
    for thing in (None, 5, [1, 2]):
        with pytest.raises(InputError):
            read_trace(thing)
    with pytest.raises(InputError, match="canonical"):
        read_trace(write(tmp_path, FILES["canonical"]), format="csv")
    with pytest.raises(InputError, match="unit"):
        read_trace(write(tmp_path, FILES["canonical"]), time_unit="min")


def test_broken_and_explosive_gzip_files_are_refused(tmp_path, monkeypatch):
    packed = gzip.compress(FILES["canonical"].encode())
    path = tmp_path / "t.csv.gz"
    for broken in (packed[:-9], packed[:20], packed[:2] + b"junk" * 9, packed + b"trailing"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="unreadable"):
            read_trace(path)
    monkeypatch.setattr(traces_text, "MAX_BYTES", 1_000_000)
    path.write_bytes(gzip.compress(b"0" * 50_000_000))
    with pytest.raises(InputError, match="too large"):
        read_trace(path)


def test_endless_lines_and_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(traces_text, "MAX_LINE", 1000)
    with pytest.raises(InputError, match="too much"):
        read_trace(write(tmp_path, HEADER + "0," + "5" * 2000 + ",5\n"))
    monkeypatch.setattr(traces_text, "MAX_ROWS", 10)
    with pytest.raises(InputError, match="too much"):
        read_trace(write(tmp_path, HEADER + "0,5,5\n" * 20))
    with pytest.raises(InputError, match="too much"):
        read_trace(write(tmp_path, FILES["mooncake"] * 3))


SERVEGEN = {"0": {"input_tokens": "{100: 0.25, 300: 0.75}", "output_tokens": "{7: 1.0}"}}


@pytest.mark.parametrize("family", ["Gamma", "Weibull", ""])
def test_servegen_client_is_drawn_from_its_laws(family, tmp_path):
    rows = "".join(f"{600 * i},{rate},1.0,{family},0.8,0.1\n" for i, rate in enumerate([10, 0, 5, 20]))
    path = write(tmp_path, rows, "chunk-35-trace.csv")
    write(tmp_path, json.dumps(SERVEGEN), "chunk-35-dataset.json")
    trace = read_trace(path)
    again = read_trace(path)
    assert trace.format == "servegen"
    assert trace.requests.arrival_s.tobytes() == again.requests.arrival_s.tobytes()
    counts = np.bincount((trace.requests.arrival_s / 600).astype(int), minlength=4)
    np.testing.assert_allclose(counts, [6000, 0, 3000, 12000], rtol=0.08, atol=5)
    assert np.mean(trace.requests.prompt_tokens == 300) == pytest.approx(0.75, abs=0.02)
    assert set(trace.requests.output_tokens.tolist()) == {7}
    assert any("seed 0" in line for line in trace.notices)


@pytest.mark.parametrize("law", ["{}", "__import__('os')", "{1: 2", "{1: x}", "{-1: 1}", 5, None, "{5: -1}", "{0: 1}"])
def test_servegen_laws_are_read_not_run(law, tmp_path):
    path = write(tmp_path, "0,8.34,1.35,Gamma,0.54,0.21\n", "chunk-1-trace.csv")
    write(tmp_path, json.dumps({"0": {**SERVEGEN["0"], "input_tokens": law}}), "chunk-1-dataset.json")
    with pytest.raises(InputError):
        read_trace(path)


def test_bench_without_times_is_drawn_at_its_rate(tmp_path):
    bench = {"input_lens": [10] * 4000, "output_lens": [5] * 4000, "request_rate": 4.0, "burstiness": 1.0}
    trace = read_trace(write(tmp_path, json.dumps(bench)))
    assert len(trace.requests) / trace.requests.span_s == pytest.approx(4.0, rel=0.07)
    assert any("drawn" in line for line in trace.notices)


def test_frames_are_traces_too():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"arrival_s": TIMES, "prompt_tokens": PROMPTS, "output_tokens": OUTPUTS})
    workload = Workload.from_trace(frame)
    assert workload.requests().arrival_s.tolist() == TIMES
    with pytest.raises(InputError, match="line 2"):
        Workload.from_trace(frame.assign(prompt_tokens=0))


def test_parquet_is_read_as_a_table(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"timestamp": TIMES, "input_length": PROMPTS, "output_length": OUTPUTS, "ids": [[1]] * 5})
    parquet.write_table(table, tmp_path / "t.parquet")
    trace = read_trace(tmp_path / "t.parquet")
    assert trace.requests.prompt_tokens.tolist() == PROMPTS
    broken = (tmp_path / "t.parquet").read_bytes()[:-20]
    (tmp_path / "t.parquet").write_bytes(broken)
    with pytest.raises(QModelError):
        read_trace(tmp_path / "t.parquet")


def test_reading_is_quick_beside_the_plainest_parse(tmp_path):
    rng = np.random.default_rng(0)
    n = 50_000
    rows = zip(np.cumsum(rng.random(n)).round(6), rng.integers(1, 9000, n), rng.integers(1, 900, n), strict=True)
    path = write(tmp_path, as_csv("arrival_s,prompt_tokens,output_tokens", list(rows)))

    def least(task) -> float:
        spent = []
        for _ in range(3):
            start = time.process_time()
            task()
            spent.append(time.process_time() - start)
        return min(spent)

    def plainest() -> list:
        rows = csv.reader(io.StringIO(path.read_text()))
        next(rows)
        return [[float(field) for field in row] for row in rows]

    plain = least(plainest)
    assert least(lambda: read_trace(path)) < 8 * plain


SAMPLES = {
    "azure2023_code_head.csv": ("azure", 50),
    "azure2023_conv_head.csv": ("azure", 50),
    "aiperf_profile_export_head.jsonl": ("aiperf", None),
    "mooncake_head.jsonl": ("mooncake", 50),
    "vidur_head.csv": ("vidur", 50),
    "splitwise_sim_head.csv": ("splitwise-sim", 3),
    "burstgpt_head.csv": ("burstgpt", 3),
}


@pytest.mark.data
@pytest.mark.parametrize("name", SAMPLES)
def test_published_samples_are_recognised(name, shared_data):
    trace = read_trace(shared_data / "traces" / "samples" / name)
    format, count = SAMPLES[name]
    assert trace.format == format
    assert len(trace.requests) == (count or len(trace.requests))


@pytest.mark.data
def test_samples_of_one_trace_agree(shared_data):
    folder = shared_data / "traces"
    azure = read_trace(folder / "samples" / "azure2023_conv_head.csv").requests
    for other in ("samples/vidur_head.csv", "azure2023_conv_h1.csv.gz"):
        found = read_trace(folder / other).requests
        n = min(len(azure), len(found))
        np.testing.assert_allclose(found.arrival_s[:n], azure.arrival_s[:n], atol=1e-6)
        assert found.prompt_tokens[:n].tolist() == azure.prompt_tokens[:n].tolist()
        assert found.output_tokens[:n].tolist() == azure.output_tokens[:n].tolist()


@pytest.mark.data
def test_samples_without_requests_say_what_is_missing(shared_data):
    folder = shared_data / "traces" / "samples"
    with pytest.raises(InputError, match=r"without requests"):
        read_trace(folder / "blis_trace_v2_header_only.csv")
    with pytest.raises(InputError, match=r"dataset\.json"):
        read_trace(folder / "servegen_chunk_trace_head.csv")


@pytest.mark.data
def test_shared_traces_are_read_whole(shared_data):
    published = json.loads((shared_data / "traces" / "stats.json").read_text())
    for stem, entry in published.items():
        trace = read_trace(shared_data / "traces" / entry["file"])
        assert len(trace.requests) == entry["n"], stem
        assert not trace.dropped

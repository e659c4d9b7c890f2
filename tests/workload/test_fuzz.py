"""No file, however broken, gives anything but requests or one QModelError of one line."""

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmodel.errors import QModelError
from qmodel.io.traces import Trace, read_trace
from qmodel.io.traces_formats import FORMATS
from qmodel.scenario import Workload

ROWS = [(0, 374, 44), (500, 396, 109), (2000, 879, 55), (2000, 91, 16)]
BIG = 1759813207532900363
SEEDS = {
    "canonical": "arrival_s,prompt_tokens,output_tokens,hit\n" + "".join(f"{t},{p},{o},7\n" for t, p, o in ROWS),
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2024-05-10 00:00:00.1+00:00,5,5",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,GPT-4,472,18,490,API log\n6,a,1,0,1,b\n",
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.3,396,109\n",
    "vidur-lengths": "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n1,2,3,0.5\n",
    "splitwise-sim": "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n0,2,0,1,1,4096,32\n",
    "blis": "version: 2\nrequest_id,input_tokens,output_tokens,arrival_time_us,status\na,5,5,7,ok\nb,5,5,8,error\n",
    "guidellm-csv": "timestamp,input_length,output_length\n0.5,374,44\n1.5,396,109\n",
    "servegen": "0,1.34,1.35,Gamma,0.54,0.21\n600,0.79,0.87,Weibull,1.30,0.07\n1200,0.5,,,,\n",
    "bailian": "".join(f'{{"chat_id":1,"timestamp":{t},"input_length":{p},"output_length":{o}}}\n' for t, p, o in ROWS),
    "mooncake": "".join(
        f'{{"timestamp":{t},"input_length":{p},"output_length":{o},"hash_ids":[1]}}\n' for t, p, o in ROWS
    ),
    "weka": '{"t":0,"in":5,"out":5,"hash_ids":[]}\n{"t":1.5,"in":5,"out":5}\n',
    "aiperf": "".join(
        f'{{"metadata":{{"request_start_ns":{BIG + t}}},"metrics":{{"input_sequence_length":{{"value":{p}}},'
        f'"output_sequence_length":{{"value":{o}}}}},"error":null}}\n'
        for t, p, o in ROWS
    ),
    "llmservingsim": '{"input_toks":5,"output_toks":5,"arrival_time_ns":7}\n{"session_id":1,"sub_requests":[]}\n',
    "llmservingsim-agentic": '{"session_id":1,"sub_requests":[]}\n{"input_toks":5,"output_toks":5,"arrival_time_ns":7}\n',
    "vllm-bench": json.dumps({"input_lens": [5, 6], "output_lens": [7, 0], "request_rate": 2.0, "burstiness": 1.0}),
    "timed": '[{"timestamp":0.5,"input_length":5,"output_length":5},{"timestamp":1,"input_length":5,"output_length":5}]',
    "aiperf-input": '{"input_length":5,"output_length":5,"timestamp":7}\n{"session_id":"a","delay":5}\n{"text_input":"x","timestamp":5}\n',
}  # fmt: skip
NASTY = [
    "", "-1", "0", "nan", "inf", "-inf", "1e999", "1e308", "-1e308", "1e-320", "9" * 400, "9" * 5000, "NaN", "null", "true", "{}", "[]",
    '"', "\n", "\r", ",", "\x00", "\ufeff", "\u0664", "\ud7ff", "0x10", "1_000", "2023-02-30 00:00:00", "9999-12-31 23:59:59.9+23:59",
    "0001-01-01 00:00:00-23:59", "__import__('os').system('true')", "=cmd|' /C calc'!A0", "[" * 3000, '{"a":' * 3000, " ", "5.5", "+5", "1e19",
]  # fmt: skip
QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def attempt(data: bytes, name: str = "f.csv", **options: object) -> None:
    """Read `data` as a trace: sound requests, or one QModelError of one short line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        sibling = '{"0": {"input_tokens": "{5: 1.0}", "output_tokens": "{5: 0.5, 6: 0.5}"}}'
        (Path(folder) / "chunk-1-dataset.json").write_text(sibling)
        try:
            trace = read_trace(path, **options)
        except QModelError as error:
            check_line(error, path)
        else:
            check_trace(trace)


def check_line(error: QModelError, path: Path) -> None:
    assert "\n" not in str(error)
    assert len(str(error).replace(str(path), "")) < 1000
    assert error.exit_code == 2


def assert_one_line(error: QModelError) -> None:
    assert "\n" not in str(error)


def check_trace(trace: Trace) -> None:
    requests = trace.requests
    assert np.all(np.isfinite(requests.arrival_s))
    assert requests.arrival_s[0] == 0
    assert np.all(np.diff(requests.arrival_s) >= 0)
    assert np.min(requests.prompt_tokens) >= 1
    assert np.min(requests.output_tokens) >= 1
    assert np.all(requests.cached_tokens < requests.prompt_tokens)
    assert all("\n" not in line for line in trace.notices)
    workload = Workload.from_requests(requests)
    if requests.arrival_s[-1] > 0:
        assert len(workload.requests(seed=1, count=len(requests))) == len(requests)
        assert workload.rate_per_s > 0


def test_there_is_a_seed_for_every_format():
    assert set(SEEDS) == set(FORMATS)


@pytest.mark.parametrize("name", SEEDS)
@QUICK
@given(data=st.data())
def test_text_with_nasty_values(name, data):
    text = SEEDS[name]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, min(len(text), at + 12)))
        text = text[:at] + data.draw(st.sampled_from(NASTY)) + text[end:]
    forced = data.draw(st.sampled_from(["auto", name]))
    unit = data.draw(st.sampled_from([None, "s", "ns"]))
    attempt(text.encode("utf-8", "surrogatepass"), "chunk-1-trace.csv", format=forced, time_unit=unit)


@pytest.mark.parametrize("name", SEEDS)
@QUICK
@given(data=st.data())
def test_fields_replaced(name, data):
    """Replace whole numbers and keys rather than cut through them."""
    separators = '",:{}[]\n'
    pieces, piece = [], ""
    for letter in SEEDS[name]:
        if letter in separators:
            pieces += [piece, letter]
            piece = ""
        else:
            piece += letter
    pieces.append(piece)
    spots = [i for i, part in enumerate(pieces) if part.strip() and part not in separators]
    for spot in data.draw(st.lists(st.sampled_from(spots), min_size=1, max_size=3)):
        pieces[spot] = data.draw(st.one_of(st.sampled_from(NASTY), st.floats().map(repr), st.integers().map(str)))
    cached = data.draw(st.sampled_from([None, "hit"])) if name == "canonical" else None
    attempt(
        "".join(pieces).encode(), "chunk-1-trace.csv", format=data.draw(st.sampled_from(["auto", name])), cached=cached
    )


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(other=st.sampled_from(sorted(SEEDS)), cut=st.integers(0, 200))
def test_the_wrong_format_and_cut_files(name, other, cut):
    attempt(SEEDS[other][: len(SEEDS[other]) - cut].encode(), format=name)


@settings(QUICK, max_examples=100)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_anything_at_all(data):
    attempt(data)
    attempt(b"PAR1" + data)
    attempt(b"\x1f\x8b" + data)
    attempt(gzip.compress(data))


@settings(QUICK, max_examples=100)
@given(data=st.data())
def test_packed_files_with_changed_bytes(data):
    packed = bytearray(gzip.compress(SEEDS["canonical"].encode()))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    attempt(bytes(packed))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(QUICK, max_examples=100)
@given(data=st.data())
def test_json_of_any_shape(data):
    keys = st.sampled_from(sorted({key for fmt in FORMATS.values() if fmt.json for key in fmt.names} | {"delay"}))
    rows = data.draw(st.lists(st.dictionaries(keys, JSON_VALUES, max_size=8), max_size=4))
    attempt("\n".join(map(json.dumps, rows)).encode())
    attempt(json.dumps(rows).encode())


MODELS = [
    Workload.builtin("azure-code").model(),
    Workload.poisson(5.0, prompt_tokens=([200, 3000], [0.8, 0.2]), output_tokens=50).model(),
]


@settings(QUICK, max_examples=100)
@given(data=st.data())
def test_workload_models_of_any_shape(data):
    model = dict(data.draw(st.sampled_from(MODELS)))
    for key in data.draw(st.lists(st.sampled_from(sorted(model)), min_size=1, max_size=2)):
        model[key] = data.draw(JSON_VALUES | st.sampled_from([1e308, 1e-320, -0.0, 10**400, [[0.5, 0.5]], [1e300]]))
    try:
        workload = Workload.from_model(model)
        assert len(workload.requests(count=5)) == 5
        assert np.isfinite(workload.rate_per_s)
    except QModelError as error:
        assert_one_line(error)


@settings(QUICK, max_examples=100)
@given(JSON_VALUES, JSON_VALUES, JSON_VALUES)
def test_poisson_of_anything(rate, prompt, output):
    try:
        assert len(Workload.poisson(rate, prompt, output).requests(count=5)) == 5
    except QModelError as error:
        assert_one_line(error)

"""Files that begin right and go wrong, over every loader but those of traces: a value, or one reason in one line."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmodel.errors import QModelError
from qmodel.io.calibrations import read_calibrations
from qmodel.io.config import load_config
from qmodel.io.measurements import read_measurements
from qmodel.io.plan_file import load_plan

ROOT = Path(__file__).parents[2]
TIMES = {"input_lens": [500, 900], "output_lens": [3, 2], "ttfts": [0.1, 0.2], "itls": [[0.01, 0.01], [0.02]]}
PERF = [
    {
        "start_time": 5.0,
        "info": {"input_tokens": 9, "output_tokens": 2, "output_token_times": [5.1, 5.2]},
        "error": None,
    }
]
GUIDE = {"request_start_time": 1.0, "prompt_tokens": 9, "output_tokens": 3, "time_to_first_token_ms": 20.0}
PROMETHEUS = "".join(
    f'vllm:{name}_{part}{{model="m"}} {value}\n'
    for name in ("iteration_tokens_total", "inter_token_latency_seconds", "request_prompt_tokens")
    for part, value in (("sum", 2000.0), ("count", 50.0))
)
AIPERF = {
    name: {"value": value}
    for name, value in (("input_sequence_length", 9), ("output_sequence_length", 3), ("time_to_first_token", 20.0))
}
SEEDS = {
    "vllm.json": (read_measurements, json.dumps(TIMES | {"start_times": [0.0, 1.0]})),
    "guide.json": (read_measurements, json.dumps({"benchmarks": [{"requests": {"successful": [GUIDE, GUIDE]}}]})),
    "perf.json": (read_measurements, json.dumps(PERF * 2)),
    "splitwise.csv": (
        read_measurements,
        "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time\nm,a100,512,1,128,60.0,30.0\n",
    ),
    "steps.csv": (read_measurements, "B,K,chi,done,t_ms\n1,100,0,0,5\n0,0,512,0,40\n"),
    "aiperf.jsonl": (
        read_measurements,
        (json.dumps({"metadata": {"request_start_ns": 5}, "metrics": AIPERF}) + "\n") * 2,
    ),
    "vllm.prom": (read_measurements, "# HELP vllm:x y\n" + PROMETHEUS),
    "q.yaml": (load_config, "model: x\nload: 0.5\ncluster: 2P2D\nthresholds:\n  seeds: 3\n  objective: p95\n"),
    "cal.json": (read_calibrations, (ROOT / "calibration/llama-3.1-8b_a100_tp1.json").read_text()),
}
NASTY = [
    "", "-1", "0", "nan", "NaN", "inf", "1e999", "1e308", "9" * 400, "null", "true", "{}", "[]", '"', "\n", ",", "\x00",
    "\ufeff", "0x10", "[" * 3000, '{"a":' * 3000, "!!python/object/apply:os.system ['x']", "&a [*a, *a]", "1e19", "\ud800",
]  # fmt: skip
QUICK = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _answers(load, path: Path) -> None:
    try:
        load(path)
    except QModelError as error:
        assert "\n" not in str(error)
        assert error.exit_code == 2


@pytest.mark.parametrize("name", SEEDS)
@QUICK
@given(data=st.data())
def test_a_file_with_one_thing_wrong(tmp_path, name, data):
    load, text = SEEDS[name]
    tokens = re.split(r"([\s,:\[\]{}\"]+)", text)
    at = data.draw(st.integers(0, len(tokens) - 1))
    change = data.draw(st.sampled_from(["replace", "cut", "drop", "twice"]))
    if change == "replace":
        tokens[at] = data.draw(st.sampled_from(NASTY) | st.text(max_size=6))
    elif change == "cut":
        tokens = tokens[:at]
    elif change == "drop":
        tokens = tokens[:at] + tokens[at + 1 :]
    else:
        tokens = tokens[:at] + [tokens[at]] * 3 + tokens[at + 1 :]
    path = tmp_path / name
    path.write_text("".join(tokens), encoding="utf-8", errors="surrogatepass")
    _answers(load, path)


@QUICK
@given(content=st.binary(max_size=300), name=st.sampled_from(sorted(SEEDS)))
def test_bytes_of_no_meaning(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    _answers(SEEDS[name][0], path)
    _answers(load_plan, path)


@QUICK
@given(cut=st.integers(0, 2000), flip=st.integers(0, 2000), bit=st.integers(0, 255))
def test_broken_arrays(tmp_path, cut, flip, bit):
    out = io.BytesIO()
    np.savez(out, prefill_isl=np.array([128.0, 256.0]), prefill_ttft=np.array([10.0, 20.0]))
    content = bytearray(out.getvalue())
    content[flip % len(content)] ^= bit
    path = tmp_path / "raw_data.npz"
    path.write_bytes(bytes(content[: max(1, len(content) - cut)]))
    _answers(read_measurements, path)


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").write_text, ("x",))

    np.savez(tmp_path / "raw_data.npz", prefill_isl=np.array([Trap()], dtype=object), prefill_ttft=np.array([1.0]))
    with pytest.raises(QModelError):
        read_measurements(tmp_path / "raw_data.npz")
    assert not (tmp_path / "sprung").exists()

"""Coverage-guided fuzzing of every loader, where atheris is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGET = Path(__file__).parents[2] / "tools" / "fuzz_loaders.py"
SEEDS = {
    0: b"arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,20,5\n",
    1: b'{"timestamp": 1, "input_length": 10, "output_length": 2, "hash_ids": [1]}\n',
    2: b"model: x\nload: 0.5\nthresholds:\n  seeds: 3\n",
    3: b'{"schema_version": 1, "inputs": {}, "tables": {}}',
    4: b'{"model": "x", "gpu": "a100", "tp": 1, "step": {}}',
    5: json.dumps({"input_lens": [5], "output_lens": [2], "ttfts": [0.1], "itls": [[0.01]]}).encode(),
    6: b"B,K,chi,done,t_ms\n1,100,0,0,5\n",
    7: b'# HELP vllm:x\nvllm:inter_token_latency_seconds_sum{a="b"} 1\n',
    8: b"PK\x03\x04",
}


@pytest.mark.full
def test_no_loader_answers_with_anything_but_a_value_or_a_reason(tmp_path):
    pytest.importorskip(
        "atheris", reason="atheris is not installed (pip install atheris, CPython 3.11 or 3.12 on Linux)"
    )
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, content in SEEDS.items():
        (corpus / str(number)).write_bytes(bytes([number]) + content)
    words = [sys.executable, str(TARGET), str(corpus), "-runs=20000", "-max_len=4096", "-seed=1", "-max_total_time=120"]
    words.append(f"-artifact_prefix={tmp_path}/")
    environment = os.environ | {"PYTHONPATH": str(TARGET.parents[2])}
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=environment, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]

"""How a trace is read can be said on the command line, and what was decided is said aloud."""

import json
from pathlib import Path

import pytest

WORDS = ("predict", "--model", "llama-3.1-8b", "--cluster", "2P2D", "--json")


def _timed(unit_s):
    rows = [{"timestamp": round(i * 0.2 / unit_s, 6), "input_length": 500, "output_length": 20} for i in range(400)]
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _p95(run):
    assert run.code == 0, run.err
    return json.loads(run.out)["predicted"]["p95_ttft_s"]


def test_an_ambiguous_unit_is_said_aloud_and_can_be_overridden(qmodel):
    _timed(1e-3)
    guessed = qmodel(*WORDS, "--workload", "t.jsonl")
    assert "ms" in guessed.err or "seconds" in guessed.err
    as_ms = qmodel(*WORDS, "--workload", "t.jsonl", "--time-unit", "ms")
    _timed(1.0)
    as_s = qmodel(*WORDS, "--workload", "t.jsonl", "--time-unit", "s")
    assert _p95(as_ms) == pytest.approx(_p95(as_s))
    assert json.loads(as_ms.out)["scenario"]["time_unit"] == "ms"
    assert "as asked" in as_ms.err


def test_a_cached_column_takes_work_away(qmodel):
    rows = "".join(f"{i * 0.05},{2000},{20},{1500}\n" for i in range(600))
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens,prefix_hit\n" + rows)
    assert _p95(qmodel(*WORDS, "--workload", "t.csv", "--cached", "prefix_hit")) < 0.7 * _p95(
        qmodel(*WORDS, "--workload", "t.csv")
    )


def test_a_format_can_be_named_and_a_wrong_one_is_refused(qmodel):
    _timed(1.0)
    assert qmodel(*WORDS, "--workload", "t.jsonl", "--trace-format", "timed").code == 0
    run = qmodel(*WORDS, "--workload", "t.jsonl", "--trace-format", "azure")
    assert run.code == 2
    assert "t.jsonl" in run.err


@pytest.mark.parametrize(
    "words",
    [("--time-unit", "ms"), ("--cached", "x"), ("--trace-format", "azure")],
)
def test_trace_options_are_refused_for_a_built_in_workload(qmodel, words):
    run = qmodel(*WORDS, "--workload", "azure-conv", *words)
    assert run.code == 2
    assert words[0] in run.err


@pytest.mark.parametrize("words", [("--time-unit", "h"), ("--cached", "no-such"), ("--trace-format", "x")])
def test_values_that_are_refused(qmodel, words):
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,10,10\n")
    assert qmodel(*WORDS, "--workload", "t.csv", *words).code == 2


def test_a_cluster_of_two_gpu_types_by_name(qmodel):
    mixed = _p95(
        qmodel(*WORDS[:3], "--json", "--cluster", "2P@h100+2D@a100", "--workload", "azure-conv", "--rate", "15/s")
    )
    plain = _p95(qmodel(*WORDS, "--workload", "azure-conv", "--rate", "15/s"))
    assert mixed < plain

"""Bad input gets one clear line, exit code 2 (or 1 for "no"), no traceback and no file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
GOOD = "".join(f"{i * 0.5},{400 + i},{20 + i % 7}\n" for i in range(200))

SCENARIO = {
    "--model": "deepseek-v2-lite",
    "--gpu": "a100",
    "--cluster": "2P2D",
    "--workload": "azure-conv",
    "--load": "0.9",
    "--ttft-slo": "1s",
    "--tbt-slo": "60ms",
}


def _words(changes: dict[str, str | None]) -> list[str]:
    merged = SCENARIO | changes
    return [word for key, value in merged.items() if value is not None for word in (key, value)]


def _assert_refused(run, code: int, *says: str) -> None:
    assert run.code == code, run.err
    lines = [line for line in run.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert len(run.err.splitlines()) <= 6
    for text in says:
        assert text in lines[0]
    assert "Traceback" not in run.err + run.out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--model": "gpt-17"}, ["gpt-17", "deepseek-v2-lite"]),
        ({"--gpu": "abacus"}, ["abacus"]),
        ({"--tp": "3"}, ["tp"]),
        ({"--tp": "0"}, ["tp"]),
        ({"--cluster": "0P2D"}, ["0", "2P2D"]),
        ({"--cluster": "2P0D"}, ["0", "2P2D"]),
        ({"--cluster": "2P"}, ["2P2D"]),
        ({"--cluster": "4000P4000D"}, ["8000", "1024"]),
        ({"--load": "-1"}, ["--load", "-1", "> 0"]),
        ({"--load": "0"}, ["--load"]),
        ({"--load": "nan"}, ["--load"]),
        ({"--load": "inf"}, ["--load"]),
        ({"--load": "much"}, ["--load"]),
        ({"--load": None, "--rate": "5"}, ["--rate", "30/s"]),
        ({"--rate": "5/s"}, ["--load and --rate"]),
        ({"--ttft-slo": "5"}, ["--ttft-slo", "unit"]),
        ({"--tbt-slo": "-60ms"}, ["--tbt-slo"]),
        ({"--bandwidth": "0GB/s"}, ["--bandwidth"]),
        ({"--bandwidth": "fast"}, ["--bandwidth"]),
        ({"--bandwidth": "25"}, ["--bandwidth", "unit"]),
        ({"--max-num-batched-tokens": "0"}, ["max_num_batched_tokens"]),
        ({"--workload": "azure-com"}, ["azure-com", "azure-conv"]),
        ({"--workload": "./missing.csv"}, ["missing.csv"]),
        ({"--workload": "."}, ["directory"]),
        ({"--config": "missing.yaml"}, ["missing.yaml"]),
        ({"--plot": "plan.doc"}, [".png"]),
        ({"--plot": "missing/plan.png"}, ["missing"]),
        ({"--frontier": "frontier.doc"}, ["--frontier", ".png"]),
        ({"-o": "missing/plan.json"}, ["missing"]),
        ({"-o": "."}, ["directory"]),
        ({"--objective": "fun"}, ["--objective"]),
        ({"--seeds": "0"}, ["--seeds"]),
        ({"--requests": "-5"}, ["--requests"]),
        ({"--nonsense": "1"}, ["--nonsense"]),
        ({"--model": None}, ["model", "missing"]),
    ],
)
def test_options_that_are_refused(qmodel, tmp_path, changes, says):
    run = qmodel("thresholds", *_words({"-o": "plan.json", "--plot": "plan.png"} | changes))
    _assert_refused(run, 2, *says)
    assert list(tmp_path.iterdir()) == []


TRACES = {
    "negative time": (HEADER + "-1,10,10\n" + GOOD, ["line 2", "-1"]),
    "zero prompt": (HEADER + GOOD + "200,0,10\n", ["line 202", "prompt tokens"]),
    "zero output": (HEADER + GOOD + "200,10,0\n", ["line 202", "output tokens"]),
    "text in a number column": (HEADER + "0,ten,10\n" + GOOD, ["line 2", "ten"]),
    "not a number": (HEADER + "nan,10,10\n" + GOOD, ["line 2"]),
    "infinite time": (HEADER + "inf,10,10\n" + GOOD, ["line 2"]),
    "no requests": (HEADER, ["without requests"]),
    "empty": ("", ["empty"]),
    "unknown columns": ("a,b,c\n1,2,3\n", ["format"]),
    "a prompt longer than the KV capacity": (HEADER + GOOD + "200,9000000,10\n", ["9000010", "KV"]),
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("command", ["thresholds", "simulate"])
def test_traces_that_are_refused(qmodel, tmp_path, name, command):
    text, says = TRACES[name]
    Path("trace.csv").write_text(text)
    outputs = {"-o": "plan.json"} if command == "thresholds" else {"--per-request": "out.csv"}
    run = qmodel(command, *_words({"--workload": "trace.csv"} | outputs))
    _assert_refused(run, 2, *says)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.csv"]


def test_unsorted_times_are_sorted_with_a_notice(qmodel):
    rows = GOOD.splitlines(keepends=True)
    Path("trace.csv").write_text(HEADER + "".join(reversed(rows)))
    run = qmodel("simulate", *_words({"--workload": "trace.csv"}))
    assert run.code == 0, run.err
    assert "sorted" in run.err


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"--ttft-slo": "1ms"}, ["ttft_slo", "nearest"]), ({"--tbt-slo": "1ms"}, ["tbt_slo", "nearest"])],
)
def test_infeasible_slos_are_a_no_with_the_nearest_feasible_value(qmodel, tmp_path, changes, says):
    run = qmodel("thresholds", *_words({"-o": "plan.json"} | changes))
    _assert_refused(run, 1, *says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("policy", ["magic", "static:0", "static:x", "missing.json", "kairos:2"])
def test_policies_that_are_refused(qmodel, policy):
    _assert_refused(qmodel("simulate", *_words({"--policy": policy})), 2, policy.partition(":")[0])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("compare", "--policies", "none,magic"), "--policies is 'magic'"),
        (("capacity", "--gpus", "4", "--policy", "magic"), "or thresholds"),
        (("capacity", "--policy", "none"), "neither --gpus nor --cluster is given"),
        (("simulate", "--timeline", "run.txt"), "--timeline is 'run.txt'; it must be a .json file"),
        (("simulate", "--timeline-window", "0s-5s"), "--timeline-window is '0s-5s'; it must be given together with"),
        (("capacity", "--gpus", "4", "--workers", "2"), "--engine, --workers and --address are of maps"),
        (("sweep", "--over", "load=0.5", "-o", "t.csv", "--address", "x:1"), "left out with the local engine"),
    ],
)
def test_a_refusal_names_the_option_as_it_was_written(qmodel, tmp_path, words, says):
    shared = ("--model", "llama-3.1-8b", "--workload", "azure-conv")
    _assert_refused(qmodel(words[0], *shared, *words[1:]), 2, says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "says"), [((), "thresholds"), (("data",), "fetch"), (("config",), "schema")])
def test_a_group_of_commands_alone_shows_help(qmodel, words, says):
    run = qmodel(*words)
    assert (run.code, run.err) == (0, "")
    assert says in run.out
    assert len(run.out.splitlines()) > 5


def test_an_output_never_replaces_what_is_read_or_another_output(qmodel, tmp_path):
    trace = Path("mine.csv")
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,100,10\n1,100,10\n")
    before = trace.read_text()
    scenario = ("--model", "llama-3.1-8b", "--workload", "mine.csv")
    for name in ("mine.csv", str(trace.absolute()), "./mine.csv"):
        run = qmodel("simulate", *scenario, "--per-request", name)
        assert run.code == 2
        assert "which is read" in run.err
    run = qmodel("thresholds", *scenario, "-o", "plan.json", "--frontier", "same.png", "--plot", "same.png")
    assert run.code == 2
    assert "writes too" in run.err
    for words in (
        ("calibrate", "--model", "llama-3.1-8b", "--measured", "mine.csv", "-o", "mine.csv"),
        ("emit", "mine.csv", "--target", "vllm", "-o", "mine.csv"),
        ("capacity", *scenario, "--gpus", "4", "--mix", "mine.csv=0.5", "-o", "mine.csv"),
    ):
        run = qmodel(*words)
        assert run.code == 2
        assert "which is read" in run.err
    assert trace.read_text() == before
    assert sorted(p.name for p in Path().iterdir()) == ["mine.csv"]


def test_devices_and_pipes_are_no_outputs(qmodel, tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for target in ("/dev/null", str(pipe)):
        run = qmodel("thresholds", "--model", "llama-3.1-8b", "--workload", "azure-conv", "-o", target)
        assert run.code == 2
        assert "device or pipe" in run.err
    assert not Path("/dev/null").is_file()


def test_a_terminal_without_unicode_gets_text_all_the_same():
    words = [sys.executable, "-c", "from qmodel.cli import main; main(['predict', '--model', 'llama-3.1-8b', "
             "'--workload', 'azure-conv', '--load', '0.5', '--draws', '2'])"]  # fmt: skip
    done = subprocess.run(words, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()

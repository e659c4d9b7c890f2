"""`qmodel simulate` writes a timeline and a picture, and refuses what it cannot write before it starts."""

import json

import pytest

SCENARIO = ["simulate", "--model", "deepseek-v2-lite", "--workload", "azure-conv", "--load", "0.7", "--requests", "300"]


def test_timeline_and_plot(qmodel, tmp_path):
    run = qmodel(*SCENARIO, "--timeline", "t.json", "--timeline-window", "0s-5s", "--plot", "util.png")
    assert run.code == 0
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert sum(e["ph"] == "X" for e in events) > 50
    assert (tmp_path / "util.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options",
    [
        ["--timeline", "missing/t.json"],
        ["--plot", "util.txt"],
        ["--timeline", "t.json", "--timeline-window", "5s"],
        ["--timeline", "t.json", "--timeline-window", "5s-2s"],
        ["--timeline", "t.json", "--timeline-window", "a-b"],
    ],
)
def test_what_cannot_be_written(qmodel, options):
    run = qmodel(*SCENARIO, *options)
    assert run.code == 2
    assert run.err.startswith("qmodel: ")
    assert len(run.err.splitlines()) <= 6

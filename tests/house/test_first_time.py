"""From a clone to a plan for one's own trace: what the README shows is what happens, numbers aside."""

import re
import shlex
from pathlib import Path

import qmodel as package

ROOT = Path(__file__).parents[2]
NUMBER = r"(±?\d[\d,.]*\s?(ms|s|%)?(?![\w.])|\balways\b|\bnever\b)"


def _plain(line: str) -> str:
    """Return a line without its numbers, rules and spacing."""
    return re.sub(r"[#\s─-]+", " ", re.sub(NUMBER, "#", line)).strip()


def _console() -> tuple[list[str], list[str]]:
    section = (ROOT / "README.md").read_text().split("## From your own trace to a plan")[1]
    lines = re.search(r"```console\n(.*?)```", section, re.S)[1].splitlines()
    return [line[2:] for line in lines if line.startswith("$ ")], [line for line in lines if not line.startswith("$ ")]


def _write_trace(rows: int) -> None:
    cluster = package.Cluster.parse("2P2D", package.load_calibration("llama-3.1-8b"))
    drawn = package.Workload.builtin("azure-conv").at_load(0.9, cluster).requests(0, rows)
    lines = (
        f"{t:.3f},{p},{o}" for t, p, o in zip(drawn.arrival_s, drawn.prompt_tokens, drawn.output_tokens, strict=True)
    )
    Path("my_trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(lines) + "\n")


def test_three_commands_lead_to_a_plan(qmodel, monkeypatch):
    commands, shown = _console()
    assert len(commands) == 3
    assert commands[0].startswith("git clone ")
    assert "\ninstall: " in (ROOT / "Makefile").read_text()
    assert commands[1] == "make install"
    words = shlex.split(commands[2])
    assert words[0] == ".venv/bin/qmodel"
    at = words.index("--report")  # pages have tests of their own
    monkeypatch.setenv("COLUMNS", "200")
    _write_trace(12_000)
    run = qmodel(*words[1:at], *words[at + 2 :])
    assert run.code == 0, run.err
    assert Path("plan.json").is_file()
    printed = [_plain(line) for line in (run.err + run.out).splitlines()]
    text = " ".join(printed)
    for line in shown:
        if line != "..." and "report.html" not in line:
            assert _plain(line) in text, line

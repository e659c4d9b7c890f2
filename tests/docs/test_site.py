"""The documentation site builds without warnings, and its examples run."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from unittest.mock import patch

import pytest

FOLDER = Path(__file__).parents[2] / "docs"
PAGES = [FOLDER.parent / "README.md", FOLDER.parent / "CONTRIBUTING.md", *sorted(FOLDER.rglob("*.md"))]


def _blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


WITH_PYTHON = [page for page in PAGES if _blocks(page, "python")]
COMMANDS = sorted(
    {
        line.removeprefix("$ ").removeprefix("qmodel ")
        for page in PAGES
        for block in _blocks(page, "console")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("$ qmodel ")
    }
)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_examples_run(page, tmp_path, monkeypatch):
    from qmodel.fitting.gpus import GPUS
    from qmodel.io.traces_formats import FORMATS

    monkeypatch.chdir(tmp_path)
    names = {}
    # The walk-throughs register a GPU and a format; other tests are to see the project's own.
    with patch.dict(GPUS), patch.dict(FORMATS), contextlib.redirect_stdout(io.StringIO()):
        for block in _blocks(page, "python"):
            exec(compile(block, str(page), "exec"), names)


def test_there_are_examples():
    assert WITH_PYTHON
    assert COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_shown_commands_and_options_exist(command):
    from typer.main import get_command

    from qmodel.cli.app import app

    node, words = get_command(app), shlex.split(re.sub(r"\[.*?\]|\.\.\.", "", command))
    while hasattr(node, "commands"):
        node = node.commands[words.pop(0)]
    known = {option for parameter in node.params for option in parameter.opts} | {"--help"}
    shown = {word for word in words if word.startswith("-")}
    assert shown <= known


def test_configurations_that_pages_show_are_read(tmp_path):
    from qmodel.cli.settings import section_models
    from qmodel.io.config import load_config

    shown = _blocks(FOLDER / "reference" / "files.md", "yaml")
    assert shown
    for text in shown:
        (tmp_path / "q.yaml").write_text(text)
        assert load_config(tmp_path / "q.yaml", section_models())


def test_modules_that_pages_name_exist():
    package = FOLDER.parent / "qmodel"
    for page in (FOLDER / "architecture.md", FOLDER.parent / "CONTRIBUTING.md"):
        for name in re.findall(r"`([\w/*]+\.py)`", page.read_text()):
            path = name.removeprefix("qmodel/")
            assert list(package.rglob(path)) or (FOLDER.parent / name).exists(), f"{page.name} names {name}"


def test_it_builds_without_warnings(tmp_path):
    pytest.importorskip("myst_parser", reason="the extra `docs` is not installed")
    pytest.importorskip("furo", reason="the extra `docs` is not installed")
    import subprocess
    import sys

    words = ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(FOLDER), str(tmp_path / "site")]
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    model = (tmp_path / "site" / "explanation" / "model.html").read_text()
    assert "<mfrac>" in model
    assert not re.search(r"<script[^>]*src=.https?:", model)  # nothing is fetched from elsewhere
    page = (tmp_path / "site" / "reference" / "cli.html").read_text()
    assert "qmodel thresholds" in page
    assert "--ttft-slo" in page

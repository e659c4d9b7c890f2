"""What the README shows runs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_python_example_runs_and_gains():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"].ttft_s(0.95) < names["expected"].ttft_s(0.95)


@pytest.mark.parametrize("words", re.findall(r"^    qmodel (\w+)", README.read_text(), flags=re.MULTILINE))
def test_every_command_that_is_named_exists(words):
    from qmodel.cli.app import app

    assert words in {command.name or command.callback.__name__ for command in app.registered_commands}


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target

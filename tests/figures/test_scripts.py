"""One script a figure, each a call of the package with no number of its own."""

import ast
from pathlib import Path

import pytest

from qmodel.studies.figures import FIGURES

FOLDER = Path(__file__).parents[2] / "paper_figures"
SCRIPTS = sorted(FOLDER.glob("fig*.py"))


def test_there_is_a_script_for_each_figure():
    assert [path.stem for path in SCRIPTS] == sorted(figure.name for figure in FIGURES)


@pytest.mark.parametrize("path", [*SCRIPTS, FOLDER / "bench.py"], ids=lambda path: path.stem)
def test_scripts_hold_no_numbers_and_no_functions(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        assert not isinstance(node, (ast.FunctionDef, ast.ClassDef))
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            assert node.value in (0, 1)  # positions in sys.argv


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_call_their_own_figure(path, monkeypatch, capsys):
    import runpy

    called = []
    monkeypatch.setattr("qmodel.cli.main", called.append)
    monkeypatch.setattr("sys.argv", [str(path), "-o", "elsewhere"])
    runpy.run_path(str(path))
    assert called == [["figures", "--only", path.stem.split("_")[0], "-o", "elsewhere"]]

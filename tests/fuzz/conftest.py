"""Run the command line inside the test process and look at what it prints, returns and leaves behind."""

from dataclasses import dataclass

import pytest

from qmodel.cli import main


@dataclass(frozen=True)
class Run:
    """What one call of the command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def qmodel(capsys, monkeypatch, tmp_path):
    """Return a function that runs `qmodel` with some words, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Run:
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Run(int(left.value.code or 0), captured.out, captured.err)

    return run

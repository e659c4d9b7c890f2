"""Fixtures shared by all tests."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from qmodel.cli import main
from qmodel.io.traces import shared_data as find_shared_data


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of shared data sets, or skip: set QMODEL_DATA to run these tests elsewhere."""
    folder = find_shared_data()
    if folder is None:
        pytest.skip("shared data sets are absent: set QMODEL_DATA to their folder")
    return folder


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

"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

from qmodel.io.traces import shared_data as find_shared_data


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of shared data sets, or skip: set QMODEL_DATA to run these tests elsewhere."""
    folder = find_shared_data()
    if folder is None:
        pytest.skip("shared data sets are absent: set QMODEL_DATA to their folder")
    return folder

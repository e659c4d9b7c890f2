"""constraints.txt pins all that qmodel and its extras need, and `make lock` writes it so."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def lock():
    pytest.importorskip("packaging")
    spec = importlib.util.spec_from_file_location("lock", ROOT / "tools" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_is_pinned(lock, extra):
    names = {lock.canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    asked = lock.requirements_of(ROOT / "pyproject.toml", [extra])
    assert {lock.canonicalize_name(need.name) for need in asked} - {"qmodel"} <= names
    # And all that those need in turn, as far as it is installed here.
    assert lock.installed_pins(asked).keys() <= names


def test_an_absent_extra_keeps_its_pins(lock):
    old = "Atheris==3.0.0\nnumpy==1.0\n"
    assert lock.merged(old, {"numpy": "numpy==2.0"}, keep=True) == "Atheris==3.0.0\nnumpy==2.0\n"
    assert lock.merged(old, {"numpy": "numpy==2.0"}, keep=False) == "numpy==2.0\n"


def test_strays_and_markers_are_left_out(lock):
    need = lock.Requirement
    pins = lock.installed_pins([need("numpy"), need("scipy; python_version < '3'"), need("no-such-package")])
    assert set(pins) == {"numpy"}

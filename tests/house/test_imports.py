"""`import qmodel` and `qmodel --help` stay quick: what they load is counted, not timed."""

import subprocess
import sys
from importlib import import_module

import pytest

import qmodel

HEAVY = {"numba", "cvxpy", "matplotlib", "pandas", "sympy", "scipy", "numpy", "pydantic", "rich"}


def _loaded_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(run.stdout.split("\n")[-2].split())


def test_importing_qmodel_loads_nothing_heavy():
    assert not _loaded_after("import qmodel") & HEAVY


def test_help_loads_the_standard_library_and_typer_only():
    bare = _loaded_after("pass")
    typer = _loaded_after("import typer")
    with_help = _loaded_after("from qmodel.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass")
    extra = with_help - bare - typer - set(sys.stdlib_module_names)
    assert extra == {"qmodel"}


def test_public_names_are_what_dir_shows_and_all_resolve():
    assert sorted([*qmodel.__all__, "__version__"]) == dir(qmodel)
    for name in qmodel.__all__:
        assert getattr(qmodel, name) is not None
    assert len(qmodel.__all__) <= 22


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        qmodel.no_such_name  # noqa: B018 - the access is the test


@pytest.mark.parametrize(
    "module",
    [
        "laws",
        "scenario",
        "queueing",
        "simulation",
        "studies",
        "policies",
        "optimization",
        "system",
        "distributions",
        "fitting",
    ],
)
def test_all_of_each_package_resolves(module):
    package = import_module(f"qmodel.{module}")
    for name in package.__all__:
        assert getattr(package, name) is not None

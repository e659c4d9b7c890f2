"""Compiled kernels on disk follow the sources that they were made from, and no others."""

import importlib
from pathlib import Path

import pytest

import qmodel._kernels as kernels


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Return a function that tells the modules whose cache folder changes when one source is edited."""
    modules = [path.stem for path in Path(kernels.__file__).parent.glob("[a-z]*.py")]
    for name in (*modules, "__init__"):
        (tmp_path / f"{name}.py").write_bytes(kernels._source(name))

    def folders() -> dict[str, Path]:
        for cached in (kernels._source, kernels._closure, kernels._cache_folder):
            cached.cache_clear()
        return {name: kernels._cache_folder(name) for name in modules}

    monkeypatch.setattr(kernels, "_HERE", tmp_path)

    def edit(name: str) -> set[str]:
        before = folders()
        path = tmp_path / f"{name}.py"
        path.write_text(path.read_text() + "# edited\n")
        return {module for module, folder in folders().items() if folder != before[module]}

    yield edit
    monkeypatch.undo()
    folders()


def test_an_edit_recompiles_the_module_and_all_that_import_it(edited):
    assert {"heap", "policies", "sim", "system_pools", "system_late"} <= edited("heap")
    assert edited("queueing_qbd") == {"queueing_qbd"}
    assert {"laws", "policies", "sim", "sim_decode", "system", "system_late"} <= edited("laws")


def test_kernels_are_compiled_into_their_folder():
    from qmodel._kernels.heap import heap_push

    assert str(kernels._USERS_FOLDER or kernels._cache_folder("heap")) in heap_push._cache.cache_path


def test_no_kernel_that_borrows_its_arrays_returns_one():
    from qmodel.studies.warm import warm_kernels

    warm_kernels()
    seen = 0
    for path in Path(kernels.__file__).parent.glob("[a-z]*.py"):
        module = importlib.import_module(f"qmodel._kernels.{path.stem}")
        for name, function in vars(module).items():
            if (
                getattr(function, "targetoptions", {}).get("_nrt") is not False
                or function.__module__ != module.__name__
            ):
                continue
            for signature in function.nopython_signatures:
                seen += 1
                assert "array" not in str(signature.return_type), (path.stem, name)
    assert seen >= 10


def test_a_kernel_borrows_only_when_it_cannot_own_an_array():
    from qmodel._kernels.heap import heap_pop, heap_push
    from qmodel._kernels.system import packed_prefill, prefill_step

    assert all(f.targetoptions["_nrt"] is False for f in (heap_pop, heap_push, prefill_step))
    assert packed_prefill.targetoptions["_nrt"] is True

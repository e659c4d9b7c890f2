"""Compiled kernels on disk follow the sources that they were made from, and no others."""

import ast
import importlib
import inspect
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
    assert {"heap", "policies_order", "sim", "system_pools", "system_late"} <= edited("heap")
    assert edited("queueing_qbd") == {"queueing_qbd", "queueing_mphk"}
    assert {"laws", "policies", "sim", "sim_decode", "system", "system_late"} <= edited("laws")


def test_kernels_are_compiled_into_their_folder():
    from qmodel._kernels.heap import heap_push

    assert str(kernels._USERS_FOLDER or kernels._cache_folder("heap")) in heap_push._cache.cache_path


def borrowing():
    """Yield every kernel that counts no references, with its syntax tree."""
    for path in sorted(Path(kernels.__file__).parent.glob("[a-z]*.py")):
        module = importlib.import_module(f"qmodel._kernels.{path.stem}")
        for function in vars(module).values():
            counts = getattr(function, "targetoptions", {}).get("_nrt")
            if counts is False and function.__module__ == module.__name__:
                yield function, ast.parse(inspect.getsource(function.py_func)).body[0]


def returned(tree):
    """Return the expressions that a function may return, the parts of tuples and of choices one by one."""
    found, parts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value], []
    while found:
        node = found.pop()
        if isinstance(node, ast.Tuple):
            found += node.elts
        elif isinstance(node, ast.IfExp):
            found += [node.body, node.orelse]
        else:
            parts.append(node)
    return parts


def test_no_kernel_that_borrows_its_arrays_returns_one():
    # A returned array would be released by its caller although nobody counted it.
    names = 0
    for function, tree in borrowing():
        names += 1
        indexed = {
            node.value.id for node in ast.walk(tree) if isinstance(node, ast.Subscript) and hasattr(node.value, "id")
        }
        for part in returned(tree):
            assert not (isinstance(part, ast.Name) and part.id in indexed), function.__name__
            assert not any(isinstance(node, ast.Slice) for node in ast.walk(part)), function.__name__
    assert names >= 30


def test_a_kernel_borrows_only_when_it_cannot_own_an_array():
    from qmodel._kernels.heap import heap_pop, heap_push
    from qmodel._kernels.system import packed_prefill, prefill_step

    assert all(f.targetoptions["_nrt"] is False for f in (heap_pop, heap_push, prefill_step))
    assert packed_prefill.targetoptions["_nrt"] is True

"""Compiled numeric kernels: floats and arrays in, arrays out; the only place that imports numba.

`kernel` compiles a function and caches it on disk in a folder named by a hash of its module and of every kernel module
that this one imports, so that an edit of one kernel can never leave a caller in another file running the old one
(numba itself only looks at the file a function is defined in), and recompiles nothing else.

Kernels that allocate nothing borrow their arrays and are put in place where they are called: numba would otherwise
count references to each array argument of each call with atomic instructions and copy some seven words of each,
which took nine tenths of the time of a recursion over requests (decision 0084).
"""

import ast
import functools
import hashlib
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

__all__ = ["are_cached", "inlined", "kernel"]

_HERE = Path(__file__).parent
_ARITHMETIC = frozenset({"abs", "bool", "float", "int", "len", "max", "min", "range", "kernel", "inlined", "np.isnan"})
_USERS_FOLDER: str = numba.config.CACHE_DIR  # $NUMBA_CACHE_DIR wins over ours


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function on first call; its machine code is kept for later processes."""
    return _compiled(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `kernel` of a function that is copied to where it is called: handing over thirty arrays takes 0.1 us."""
    return _compiled(function, forceinline=True)


def _compiled(function: Callable[..., Any], forceinline: bool = False) -> Callable[..., Any]:
    numba.config.CACHE_DIR = _USERS_FOLDER or str(_cache_folder(function.__module__.rpartition(".")[2]))
    try:
        small = borrows(function)
        options = {"_nrt": not small, "forceinline": small or forceinline}
        compiled: Callable[..., Any] = numba.njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = _USERS_FOLDER
    return compiled


def borrows(function: Callable[..., Any]) -> bool:
    """Return whether a function only calls arithmetic and other borrowing kernels, so that it can own no array.

    What is called must be defined before. A returned array would dangle: `tests/house` looks for those.
    """
    calls = [node.func for node in ast.walk(ast.parse(inspect.getsource(function))) if isinstance(node, ast.Call)]
    return all(_is_harmless(call, function) for call in calls)


def _is_harmless(call: ast.expr, function: Callable[..., Any]) -> bool:
    text = ast.unparse(call)
    if text.startswith("math.") or text in _ARITHMETIC:
        return True
    options = getattr(function.__globals__.get(text), "targetoptions", {})
    return options.get("_nrt") is False


def are_cached() -> bool:
    """Return whether the simulator's kernels, the largest, have been compiled on this machine before."""
    return Path(_USERS_FOLDER or _cache_folder("sim")).is_dir()


@functools.cache
def _cache_folder(module: str) -> Path:
    """Return the folder for one module's compiled kernels: `$QMODEL_CACHE` or the user's cache, by source hash."""
    digest = hashlib.sha256(numba.__version__.encode() + _source("__init__"))
    for name in sorted(_closure(module)):
        digest.update(_source(name))
    root = os.environ.get("QMODEL_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "qmodel" / f"{module}-{digest.hexdigest()[:16]}"


@functools.cache
def _closure(module: str) -> frozenset[str]:
    """Return a kernel module and all kernel modules that it imports, directly or not."""
    imported = re.findall(rb"^from qmodel\._kernels\.(\w+) import", _source(module), re.MULTILINE)
    return frozenset({module}).union(*(_closure(name.decode()) for name in imported))


@functools.cache
def _source(module: str) -> bytes:
    return (_HERE / f"{module}.py").read_bytes()

"""Compiled numeric kernels: floats and arrays in, arrays out; the only place that imports numba.

`kernel` compiles a function and caches it on disk in a folder named by a hash of its module and of every kernel module
that this one imports, so that an edit of one kernel can never leave a caller in another file running the old one
(numba itself only looks at the file a function is defined in), and recompiles nothing else.
"""

import functools
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

__all__ = ["are_cached", "kernel"]

_HERE = Path(__file__).parent
_USERS_FOLDER: str = numba.config.CACHE_DIR  # $NUMBA_CACHE_DIR wins over ours


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function on first call; its machine code is kept for later processes."""
    numba.config.CACHE_DIR = _USERS_FOLDER or str(_cache_folder(function.__module__.rpartition(".")[2]))
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True)(function)
    finally:
        numba.config.CACHE_DIR = _USERS_FOLDER
    return compiled


def are_cached() -> bool:
    """Return whether the simulator's kernels, the largest, have been compiled on this machine before."""
    return Path(_USERS_FOLDER or _cache_folder("sim")).is_dir()


@functools.cache
def _cache_folder(module: str) -> Path:
    """Return the folder for one module's compiled kernels: `$QMODEL_CACHE` or the user's cache, by source hash."""
    digest = hashlib.sha256(numba.__version__.encode())
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

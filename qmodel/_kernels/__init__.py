"""Compiled numeric kernels: floats and arrays in, arrays out; the only place that imports numba.

Compiled code is cached on disk in a folder named by a hash of every source in this package, so that an edit
of one kernel can never leave a caller in another file running the old one (numba itself only looks at the
file a function is defined in).
"""

import hashlib
import os
from pathlib import Path

import numba


def _cache_folder() -> Path:
    """Return the folder for compiled kernels: `$QMODEL_CACHE` or the user's cache, by source hash."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    root = os.environ.get("QMODEL_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "qmodel" / f"kernels-{digest.hexdigest()[:16]}"


def are_cached() -> bool:
    """Return whether kernels of this version have been compiled on this machine before."""
    return Path(numba.config.CACHE_DIR).is_dir()


if not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(_cache_folder())

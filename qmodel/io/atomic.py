"""Files appear whole or not at all: written beside their target, synced, then renamed onto it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qmodel.errors import InputError

__all__ = ["atomic_path", "check_target", "write_bytes", "write_text"]


def check_target(path: str | Path) -> Path:
    """Return `path` when a file can be written there.

    Parameters
    ----------
    path : str or Path
        File to write.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    InputError
        When the path is a directory, device or pipe, or its folder is missing or not writable.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError("output", f"'{target}', a directory", "a file name", "name a file in it")
    if target.exists() and not target.is_file():
        raise InputError("output", f"'{target}', a device or pipe", "a regular file", "redirect standard output")
    if not target.parent.is_dir():
        raise InputError("output folder", f"'{target.parent}', which does not exist", remedy="create it first")
    if not os.access(target.parent, os.W_OK):
        raise InputError("output folder", f"'{target.parent}', which is not writable", "writable", "choose another")
    return target


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on error nothing is left.

    Parameters
    ----------
    path : str or Path
        File to write.

    Yields
    ------
    Path
        Temporary file with the same suffix, for writers that look at it.
    """
    target = check_target(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    except OSError as bad:
        why = bad.strerror or str(bad)
        raise InputError("output folder", f"'{target.parent}'", "writable", f"it answers: {why}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8 with Unix line ends."""
    write_bytes(path, text.encode("utf-8"))

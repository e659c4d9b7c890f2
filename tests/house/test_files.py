"""Files appear whole or not at all, and only where they can be written."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from qmodel.errors import InputError
from qmodel.io.atomic import atomic_path, check_target, write_text


def _write_half(target):
    with atomic_path(target) as temporary:
        temporary.write_text("new, but")
        raise RuntimeError("half way")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "plan.json"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="half way"):
        _write_half(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_write_leaves_the_old_file_whole(tmp_path):
    target = tmp_path / "plan.json"
    write_text(target, "old")
    code = textwrap.dedent(f"""
        import os, signal
        from qmodel.io.atomic import atomic_path
        with atomic_path({str(target)!r}) as temporary:
            temporary.write_text("new, but")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    run = subprocess.run([sys.executable, "-c", code], check=False)
    assert run.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_written_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("where", ["missing/plan.json", "."])
def test_targets_that_cannot_be_written(tmp_path, where):
    with pytest.raises(InputError):
        check_target(tmp_path / where)

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from qmodel.errors import InputError
from qmodel.io.atomic import atomic_path, check_target, write_text
from qmodel.io.config import load_config


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


def test_config_keys_with_dashes_or_underscores(tmp_path):
    path = tmp_path / "q.yaml"
    path.write_text("cluster: 2P2D\nttft-slo: 1s\nload: 0.9\nmax_num_seqs: 128\n")
    assert load_config(path) == {"cluster": "2P2D", "ttft_slo": "1s", "load": 0.9, "max_num_seqs": 128}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cluster: 2P2D\nclutser: 1P1D\n", "line 2, key 'clutser'"),
        ("cluster: 2P2D\nload: high\n", "line 2, key 'load'"),
        ("a: [1, 2\nb: 3", "line"),
        ("", "without keys"),
        ("- 1\n- 2\n", "without keys"),
        ("model: !!python/object/apply:os.system ['true']\n", "line 1"),
    ],
)
def test_config_errors_name_the_line(tmp_path, text, says):
    path = tmp_path / "q.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        load_config(path)

"""What is on disk survives anything: kills in the middle of a write, links planted in the way, broken writers."""

import json
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from qmodel.errors import InputError
from qmodel.io.atomic import write_text
from qmodel.io.page import save_page
from qmodel.studies.sweep import run_grid


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file_or_the_new(tmp_path):
    target = tmp_path / "plan.json"
    target.write_text(json.dumps({"number": -1, "filling": ""}))
    code = textwrap.dedent(f"""
        import json
        from qmodel.io.atomic import write_text
        print("ready", flush=True)
        for number in range(100000):
            write_text({str(target)!r}, json.dumps({{"number": number, "filling": "x" * 3_000_000}}))
    """)
    rng = random.Random(3)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path.cwd())}, stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.15))
        process.kill()
        process.wait()
        process.stdout.close()
        found = json.loads(target.read_text())  # whole, whichever it is
        assert len(found["filling"]) in (0, 3_000_000)


def test_links_do_not_lead_out_of_the_output_folder(tmp_path):
    secret = tmp_path / "elsewhere.txt"
    secret.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    for name, write in (("plan.json", write_text), ("page.html", save_page)):
        (out / name).symlink_to(secret)
        write(out / name, "new")
        assert secret.read_text() == "mine"
        assert not (out / name).is_symlink()
    (out / "t.csv.journal").symlink_to(secret)
    with pytest.raises(InputError, match="link"):
        run_grid(dict, [{"x": 1}], output=out / "t.csv", workers=1)
    assert secret.read_text() == "mine"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_long_sweep_shows_its_table_on_the_way(tmp_path, monkeypatch, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    from qmodel.io.tables import read_table
    from qmodel.studies import sweep

    monkeypatch.setattr(sweep, "TABLE_S", 0.0)
    monkeypatch.setattr(sweep, "TABLE_SHARE", 0.0)
    target, seen = tmp_path / f"t{suffix}", []

    def watch(cell):
        seen.append(len(read_table(target)) if target.exists() else 0)
        return {"y": cell["x"] / 3}

    run_grid(watch, [{"x": i} for i in range(200)], output=target, workers=1)
    assert 0 < seen[120] < 200
    assert seen == sorted(seen)
    assert len(read_table(target)) == 200

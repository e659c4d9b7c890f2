"""Sweeps: the same table on every engine, failing cells as rows, and going on after a stop or a kill."""

import json
import os
import random
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pandas as pd
import pytest

from qmodel.errors import InputError
from qmodel.studies.sweep import grid, run_grid

CELLS = grid({"x": list(range(40)), "y": ["a", "b"]})


def square(cell):
    if cell["x"] == 3:
        raise InputError("x", 3, "another number")
    if cell["x"] == 5:
        raise ZeroDivisionError("five")
    return {"square": float(cell["x"]) ** 2 / 7}


def test_rows_come_in_the_order_of_the_cells_with_failures_among_them(tmp_path):
    rows = run_grid(square, CELLS, output=tmp_path / "t.csv", workers=1)
    assert [(row["x"], row["y"]) for row in rows] == [(cell["x"], cell["y"]) for cell in CELLS]
    assert [row["x"] for row in rows if row["error"]] == [3, 3, 5, 5]
    assert "ZeroDivisionError" in rows[10]["error"]
    assert all(row["square"] == row["x"] ** 2 / 7 for row in rows if not row["error"])
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table["x"]) == [cell["x"] for cell in CELLS]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_stopped_sweep_goes_on_without_repeating_cells(tmp_path):
    calls = []

    def stopping(cell):
        calls.append((cell["x"], cell["y"]))
        if len(calls) == 30:
            raise KeyboardInterrupt
        return {"square": 1.0}

    target = tmp_path / "t.csv"
    with pytest.raises(KeyboardInterrupt):
        run_grid(stopping, CELLS, output=target, workers=1)
    half = pd.read_csv(target)  # what is there is readable
    assert 0 < len(half) < len(CELLS)
    before = len(half)
    rows = run_grid(stopping, CELLS, output=target, workers=1)
    assert len(rows) == len(CELLS)
    assert len(calls) == 30 + len(CELLS) - before
    assert not pd.read_csv(target).duplicated(["x", "y"]).any()


def test_a_torn_last_line_is_forgotten_and_another_grid_is_refused(tmp_path):
    target = tmp_path / "t.csv"

    def stopping(cell):
        if cell["x"] == 20:
            raise KeyboardInterrupt
        return {"square": 2.0}

    with pytest.raises(KeyboardInterrupt):
        run_grid(stopping, CELLS, output=target, workers=1)
    journal = tmp_path / "t.csv.journal"
    journal.write_bytes(journal.read_bytes()[:-7])
    with pytest.raises(InputError, match="another sweep"):
        run_grid(square, CELLS[:5], output=target, workers=1)
    rows = run_grid(lambda cell: {"square": 2.0}, CELLS, output=target, workers=1)
    assert [row["square"] for row in rows] == [2.0] * len(CELLS)


def test_three_kills_leave_a_complete_table_without_duplicates(tmp_path):
    target = tmp_path / "t.csv"
    code = textwrap.dedent(f"""
        import time
        from qmodel.studies.sweep import grid, run_grid
        def slow(cell):
            time.sleep(0.01)
            return {{"square": cell["x"] ** 2 / 7}}
        run_grid(slow, grid({{"x": list(range(150))}}), output={str(target)!r}, workers=1)
    """)
    rng = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path.cwd())})
        journal = target.with_name("t.csv.journal")
        begun = time.monotonic()
        while not journal.exists() and time.monotonic() - begun < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.05, 0.5))
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path.cwd())}, check=True)
    table = pd.read_csv(target)
    assert list(table["x"]) == list(range(150))
    assert list(table["square"]) == [x**2 / 7 for x in range(150)]


def _rows(engine, **options):
    from math import sqrt

    def study(cell):
        return {"root": sqrt(cell["x"]) / 3}

    return run_grid(study, CELLS, engine=engine, **options)


def test_two_processes_give_the_same_rows_as_one():
    assert _rows("local", workers=2) == _rows("local", workers=1)


def test_a_dask_cluster_of_two_workers_gives_the_same_rows():
    pytest.importorskip("distributed", reason="needs the `dask` extra")
    assert _rows("dask", workers=2) == _rows("local", workers=1)


@pytest.mark.full
def test_a_local_ray_gives_the_same_rows():
    pytest.importorskip("ray", reason="needs the `ray` extra")
    assert _rows("ray", workers=2) == _rows("local", workers=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "slurm"}, "engine"), ({"workers": 0}, "workers"), ({"output": "no/t.csv"}, "folder"),
        ({"cells": []}, "cells"), ({"cells": [{"x": object()}]}, "JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept(options, says):
    with pytest.raises(InputError, match=says):
        run_grid(square, **{"cells": CELLS} | options)


def test_a_ray_cluster_that_cannot_be_reached_is_one_clear_line(monkeypatch):
    def refuse(**_):
        raise ConnectionError("nobody listens there")

    ray = types.ModuleType("ray")
    ray.is_initialized, ray.init = (lambda: False), refuse
    modules = {"ray": ray, "ray.util": types.ModuleType("ray.util"), "ray.util.joblib": types.ModuleType("joblib")}
    modules["ray.util.joblib"].register_ray = lambda: None
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(InputError, match=r"Ray cluster is 'ray://nowhere:1'.*nobody listens there"):
        run_grid(square, CELLS, engine="ray", workers=1, address="ray://nowhere:1")


def test_the_command_sweeps_and_records_a_failing_cell(qmodel):
    run = qmodel(
        "sweep", "--model", "llama-3.1-8b", "--workload", "azure-conv", "--over", "cluster=2P2D,0P1D",
        "--over", "rate=5/s,10/s", "-o", "t.csv", "--workers", "1",
    )  # fmt: skip
    assert run.code == 0, run.err
    table = pd.read_csv("t.csv")
    assert len(table) == 4
    assert table["error"].isna().sum() == 2
    tails = table["p95_ttft_s"].dropna()
    assert tails.iloc[1] >= tails.iloc[0]


def test_a_sweep_without_a_cell_that_worked_writes_nothing(qmodel, tmp_path):
    Path("t.csv").write_text("an earlier table\n")
    words = ("sweep", "--model", "llama-3.1-8b", "--workload", "azure-conv", "--over", "rate=10,20", "-o")
    for target in ("t.csv", "new.csv"):
        run = qmodel(*words, target)
        assert run.code == 2
        assert "none of 2 cells worked" in run.err
        assert "30/s" in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert Path("t.csv").read_text() == "an earlier table\n"


@pytest.mark.parametrize(
    "words",
    [("--over", "seed=1,2"), ("--over", "rate=5/s", "--by", "simulate", "--method", "trace")],
)
def test_options_that_would_change_nothing_are_refused(qmodel, tmp_path, words):
    run = qmodel("sweep", "--model", "llama-3.1-8b", "--workload", "azure-conv", *words, "-o", "t.csv")
    assert run.code == 2
    assert "simulat" in run.err
    assert list(tmp_path.iterdir()) == []


def test_json_prints_the_rows_of_the_table(qmodel):
    words = ("--model", "llama-3.1-8b", "--workload", "azure-conv", "--over", "load=0.4,0.5", "-o", "t.csv")
    run = qmodel("sweep", *words, "--json")
    assert run.code == 0, run.err
    found = json.loads(run.out)
    assert (found["output"], found["failed"]) == ("t.csv", 0)
    assert [row["p95_ttft_s"] for row in found["rows"]] == list(pd.read_csv("t.csv", engine="python")["p95_ttft_s"])


@pytest.mark.parametrize("axis", ["", "rate", "rate=", "colour=red", "load=x", "rate=5/s,5/s"])
def test_axes_that_are_refused(qmodel, tmp_path, axis):
    run = qmodel("sweep", "--model", "llama-3.1-8b", "--workload", "azure-conv", "--over", axis, "-o", "t.csv")
    assert run.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_ends_the_sweep_with_its_rows_kept(tmp_path):
    here = os.getpid()

    def study(cell):
        if os.getpid() != here:
            os._exit(9)
        time.sleep(0.02)
        return {"square": 1.0}

    target = tmp_path / "t.csv"
    with pytest.raises(InputError, match="worker process"):
        run_grid(study, grid({"x": list(range(2000))}), output=target, workers=2)
    kept = pd.read_csv(target)
    assert 0 < len(kept) < 2000
    rows = run_grid(lambda cell: {"square": 2.0}, grid({"x": list(range(2000))}), output=target, workers=1)
    assert [row["square"] for row in rows].count(1.0) == len(kept)


def test_this_process_works_beside_its_workers(tmp_path):
    def study(cell):
        time.sleep(0.01)
        return {"pid": os.getpid()}

    rows = run_grid(study, grid({"x": list(range(600))}), workers=2)
    assert os.getpid() in {row["pid"] for row in rows}
    assert len({row["pid"] for row in rows}) == 2


MEMORY = """
import json, resource, sys
from qmodel.studies.sweep import run_grid
cells = [{"x": i} for i in range(int(sys.argv[1]))]
run_grid(PREDICT, cells, output=sys.argv[2], workers=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
PREDICT = """
from qmodel.cli.sweep import run_cell
def predict(cell):
    fixed = {"model": "llama-3.1-8b", "cluster": "2P2D", "workload": "azure-conv", "policy": "none", "by": "predict"}
    return run_cell(fixed | {"rate": f"{3 + 0.01 * cell['x']:.2f}/s", "bandwidth": f"{5 + cell['x'] % 90}GB/s"})
"""


def test_four_times_as_long_a_sweep_takes_as_much_memory(tmp_path):
    code = PREDICT + MEMORY.replace("PREDICT", "predict")
    peaks = []
    for count in (150, 600):
        words = [sys.executable, "-c", code, str(count), str(tmp_path / f"{count}.csv")]
        done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, capture_output=True, check=True)
        peaks.append(float(done.stdout))
    # [MB]; rows of the table are kept, about 1 kB each
    assert peaks[1] - peaks[0] < 8, peaks


def test_joblib_goes_on_in_the_same_process_after_a_sweep():
    from joblib import Parallel, delayed

    assert len(run_grid(square, CELLS, workers=2)) == len(CELLS)
    assert Parallel(n_jobs=2)(delayed(abs)(-n) for n in range(4)) == [0, 1, 2, 3]

"""Speed of a grid of predictions on this machine: 10,000 cells, and what two processes gain over one.

Run ``python bench/sweep.py [--cells N] [--compare N]``. Cells replay the built-in azure-conv at 20,000 requests each
over rates, clusters and bandwidths; `--poisson` takes steady streams instead. Wall-clock time from the call to the
table on disk, starts of worker processes included; efficiency is time on one process / (2 * time on two).
"""

import argparse
import tempfile
import time
from pathlib import Path

from qmodel.cli.sweep import run_cell
from qmodel.studies.sweep import grid, run_grid


def cells_of(count, poisson):
    """Return the first `count` cells of a grid over rates, clusters and bandwidths."""
    axes = {
        "rate": [f"{2 + 0.02 * i:.2f}/s" for i in range(max(1, -(-count // 40)))],
        "cluster": [f"{k}P{d}D" for k in (2, 3, 4, 5) for d in (2, 3)],
        "bandwidth": [f"{b}GB/s" for b in (5, 10, 25, 50, 100)],
    }
    fixed = {"model": "llama-3.1-8b", "workload": "azure-conv", "policy": "none", "by": "predict"}
    how = {"method": "stationary", "fidelity": "fast"} if poisson else {}
    return [fixed | how | cell for cell in grid(axes)][:count]


def timed(cells, workers):
    """Return the wall-clock time of a sweep into a Parquet table [s] and how many cells failed."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        rows = run_grid(run_cell, cells, output=Path(folder) / "table.parquet", workers=workers)
        return time.perf_counter() - begun, sum(bool(row["error"]) for row in rows)


def main():
    """Print both figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=10_000, help="of the large grid; 0 leaves it out")
    parser.add_argument("--compare", type=int, default=2_000, help="cells on one and on two processes; 0 leaves it out")
    parser.add_argument("--poisson", action="store_true", help="steady states instead of replays")
    chosen = parser.parse_args()
    run_cell(cells_of(1, chosen.poisson)[0])  # compiled and read
    if chosen.compare:
        cells = cells_of(chosen.compare, chosen.poisson)
        (one, _), (two, _) = timed(cells, 1), timed(cells, 2)
        print(f"{len(cells):,} cells: {one:.1f} s on one process, {two:.1f} s on two, efficiency {one / (2 * two):.2f}")
    if chosen.cells:
        cells = cells_of(chosen.cells, chosen.poisson)
        spent, failed = timed(cells, 2)
        print(f"{len(cells):,} cells on two processes: {spent:.1f} s, {failed} of them not answered")


if __name__ == "__main__":
    main()

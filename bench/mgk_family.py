"""How far `mgk` is from the truth, and from what it says of itself, over random bounded laws, servers and loads.

Run ``python bench/mgk_family.py [--cases N] [--arrivals N] [--seed N]``: prints the table of docs/queueing/mgk.md. The
truth is a coupled path of its own seed, `arrivals` long; its standard errors are taken off (twice).
"""

from __future__ import annotations

import argparse
import math
from time import process_time

import pandas as pd

from qmodel.queueing import mgk
from qmodel.queueing.coupled import GRID_ERROR, STANDARD_ERRORS, solve_coupled
from qmodel.studies.random_queues import KINDS, random_queue

TARGETS = {"mean": 0.01, "p95": 0.02, "p99": 0.02}
#: Times that a queue is asked about, less one.
REPEATS = 2
LEVELS = {"p90": 0.9, "p95": 0.95, "p99": 0.99}


def compare(kind: str, number: int, seed: int, arrivals: int) -> list[dict[str, object]]:
    """Return one row for each metric of a case: error beyond the truth's own, estimate, time."""
    law, servers, load = random_queue("ordinary", kind, number, seed)
    rate = load * servers
    times = []
    # Each time at a load of its own: what the last answer was made of is kept.
    for step in range(REPEATS, -1, -1):
        start = process_time()
        found = mgk(rate * (1 - 1e-6 * step), servers, law)
        answers = {"mean": found.mean_wait_s} | {name: found.wait_quantile_s(q) for name, q in LEVELS.items()}
        times.append(process_time() - start)
    truth = solve_coupled(rate, servers, law, first_arrivals=arrivals, last_arrivals=arrivals, seed=[seed, number])
    rows = []
    for name, target in TARGETS.items():
        got, want = answers[name], truth.mean_wait_s if name == "mean" else truth.wait_quantile_s(LEVELS[name])
        if want == got == 0:
            continue
        noise = (truth.error_estimate[name] - GRID_ERROR) / STANDARD_ERRORS
        error = max(abs(got / want - 1) - 2 * noise, 0.0) if want > 0 else math.inf
        estimate = found.error_estimate.get(name, 0.0)
        rows.append(
            {
                "law": kind, "path": "path" in found.method, "metric": name, "error": error, "ms": min(times) * 1e3,
                "within": error <= target, "honest": error <= estimate, "noise": noise,
            }
        )  # fmt: skip
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a kind of law, and one for all."""
    lines = {}
    for kind, group in [*rows.groupby("law", sort=False), ("all", rows)]:
        line = {"cases": int((group.metric == "mean").sum()), "by a path": f"{group.path.mean():.0%}"}
        for name in TARGETS:
            mine = group[group.metric == name]
            line[f"{name}: within, worst"] = f"{mine.within.mean():.0%}, {mine.error.max():.1%}"
        line["within its estimate"] = f"{group.honest.mean():.0%}"
        lines[kind] = line
    return pd.DataFrame(lines).T


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=30, help="cases of each kind of law")
    parser.add_argument("--arrivals", type=int, default=1 << 23)
    parser.add_argument("--seed", type=int, default=77)
    options = parser.parse_args()
    for kind in KINDS:
        # What is compiled or read once is not an answer's time.
        mgk(1.4, 2, random_queue("ordinary", kind, options.cases, options.seed)[0])
    rows = [
        row
        for kind in KINDS
        for number in range(options.cases)
        for row in compare(kind, number, options.seed, options.arrivals)
    ]
    table = pd.DataFrame(rows)
    lines = summary(table)
    print("| law | " + " | ".join(lines.columns) + " |")
    print("|---" * (len(lines.columns) + 1) + "|")
    for kind, line in lines.iterrows():
        print(f"| {kind} | " + " | ".join(str(cell) for cell in line) + " |")
    times = table[table.metric == "mean"].ms
    shares = ", ".join(f"{q:.0%} within {times.quantile(q):.2f}" for q in (0.5, 0.9, 0.99))
    print(f"\nmean, P90, P95 and P99 of a new queue: {shares}, at most {times.max():.2f} ms")
    print(f"standard error of the truth: median {table.noise.median():.2%}, at most {table.noise.max():.1%}")


if __name__ == "__main__":
    main()

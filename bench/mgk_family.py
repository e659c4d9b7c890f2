"""How far `mgk` is from the truth, and from what it says of itself, over random bounded laws, servers and loads.

Run ``python bench/mgk_family.py [--cases N] [--arrivals N] [--seed N]``: prints the table of docs/queueing/mgk.md. The
truth is a coupled path of its own seed, `arrivals` long; its standard errors are taken off (twice).
"""

from __future__ import annotations

import argparse
from time import process_time

import numpy as np
import pandas as pd

from qmodel.queueing import ServiceTime, mgk
from qmodel.queueing.coupled import GRID_ERROR, STANDARD_ERRORS, solve_coupled

KINDS = ("two atoms", "three atoms", "bounded Pareto", "bounded lognormal", "uniform", "gamma", "mixture", "200 atoms")
LARGEST_SCV = 5.0
TARGETS = {"mean": 0.01, "p95": 0.02, "p99": 0.02}
LEVELS = {"p95": 0.95, "p99": 0.99}


def draw_law(kind: str, rng: np.random.Generator) -> ServiceTime:
    """Return a law of the kind with random parameters."""
    if kind == "two atoms":
        rare = 10 ** rng.uniform(-2, -0.2)
        return ServiceTime.from_samples([1.0, np.exp(rng.uniform(0.4, 3.7))], [1 - rare, rare])
    if kind == "three atoms":
        return ServiceTime.from_samples(np.exp(rng.uniform(-2.3, 2.3, 3)), rng.dirichlet(np.ones(3)))
    if kind == "bounded Pareto":
        power, top = rng.uniform(1.05, 2.5), np.exp(rng.uniform(1.6, 5.7))
        ranks = (np.arange(400) + 0.5) / 400
        return ServiceTime.from_samples((1 - ranks * (1 - top**-power)) ** (-1 / power))
    if kind == "bounded lognormal":
        return ServiceTime.lognormal(1.0, rng.uniform(0.2, 8.0), upper_s=np.exp(rng.uniform(1.1, 4.0)))
    if kind == "uniform":
        return ServiceTime.from_samples(1 + rng.uniform(0.1, 1.0) * (2 * (np.arange(400) + 0.5) / 400 - 1))
    if kind == "gamma":
        return ServiceTime.gamma(1.0, rng.uniform(0.1, 5.0))
    if kind == "mixture":
        parts = [ServiceTime.gamma(np.exp(rng.uniform(-1.6, 2.5)), rng.uniform(0.02, 0.5)) for _ in range(3)]
        return ServiceTime.mixture(tuple(rng.dirichlet(np.ones(3))), parts)
    long = rng.random(200) < 0.3
    body = rng.normal(0.0, rng.uniform(0.3, 1.0), 200)
    return ServiceTime.from_samples(np.exp(np.where(long, rng.normal(rng.uniform(1.0, 3.0), 0.5, 200), body)))


def draw_case(kind: str, rng: np.random.Generator) -> tuple[ServiceTime, int, float]:
    """Return a law of mean 1 and SCV up to 5, servers and a load."""
    law = draw_law(kind, rng)
    while not 0.01 < law.scv <= LARGEST_SCV:
        law = draw_law(kind, rng)
    return law.scaled(1 / law.mean_s), int(rng.integers(2, 17)), float(rng.uniform(0.5, 0.95))


def compare(kind: str, number: int, seed: int, arrivals: int) -> list[dict[str, object]]:
    """Return one row for each metric of a case: error beyond the truth's own, estimate, time."""
    law, servers, load = draw_case(kind, np.random.default_rng([seed, number]))
    rate = load * servers
    truth = solve_coupled(rate, servers, law, first_arrivals=arrivals, last_arrivals=arrivals, seed=seed + number)
    start = process_time()
    found = mgk(rate, servers, law)
    spent = process_time() - start
    rows = []
    for name, target in TARGETS.items():
        want, got = (m.mean_wait_s if name == "mean" else m.wait_quantile_s(LEVELS[name]) for m in (truth, found))
        if want == 0 or got == 0:
            continue
        noise = (truth.error_estimate[name] - GRID_ERROR) / STANDARD_ERRORS
        error = max(abs(got / want - 1) - 2 * noise, 0.0)
        estimate = found.error_estimate.get(name, 0.0)
        rows.append(
            {
                "law": kind, "path": "path" in found.method, "metric": name, "error": error, "ms": spent * 1e3,
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
    rows = [
        row
        for index, kind in enumerate(KINDS)
        for number in range(options.cases)
        for row in compare(kind, 1000 * index + number, options.seed, options.arrivals)
    ]
    table = pd.DataFrame(rows)
    lines = summary(table)
    print("| law | " + " | ".join(lines.columns) + " |")
    print("|---" * (len(lines.columns) + 1) + "|")
    for kind, line in lines.iterrows():
        print(f"| {kind} | " + " | ".join(str(cell) for cell in line) + " |")
    by_path, others = table[table.path].ms, table[~table.path].ms
    print(f"\nmedian {others.median():.1f} ms, by a path {by_path.median():.0f} (at most {by_path.max():.0f}) ms")
    print(f"standard error of the truth: median {table.noise.median():.2%}, at most {table.noise.max():.1%}")


if __name__ == "__main__":
    main()

"""Two coupled pools against an event loop of their own rules: errors of mean, P95, P99 and the share deflected.

Run ``python bench/two_pools.py``; two minutes. The loop shares nothing with the library.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from numba import njit

from qmodel.errors import QModelError
from qmodel.queueing import priced_thresholds, two_pools

POOLS = ((2, 2), (2, 1), (4, 4), (2, 8), (1, 1))
LOADS, LIMITS = (0.8, 1.0, 1.2), ("prices", "common", "by work")
PRICE_PREFILL, PRICE_DECODE, BATCHES = 1.0, 0.5, 20


def laws() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return shares and work of classes by name, of mean work 1."""
    prompts = np.geomspace(16, 65_536, 24)
    share = np.exp(-0.5 * (np.log(prompts / 700) / 1.3) ** 2)
    found = {
        "prompts": (share / share.sum(), 0.015 + 4.5e-5 * prompts),
        "uniform": (np.full(20, 0.05), np.linspace(0.05, 1.95, 20)),
        "two lengths": (np.array([0.9, 0.1]), np.array([1.0, 16.0])),
    }
    return {name: (share, work / (share @ work)) for name, (share, work) in found.items()}


@njit(cache=True)
def play(kinds, gaps, work, host, fixed, priced, servers, hosts):  # type: ignore[no-untyped-def]
    """Return the time to the end of prefill of each arrival, and whether it was deflected."""
    near, far = np.zeros(servers), np.zeros(hosts)
    times, moved = np.empty(kinds.size), np.zeros(kinds.size, dtype=np.bool_)
    for n in range(kinds.size):
        near, far = np.maximum(near - gaps[n], 0.0), np.maximum(far - gaps[n], 0.0)
        i, j, s, h = np.argmin(near), np.argmin(far), work[kinds[n]], host[kinds[n]]
        v, limit = far[j], fixed[kinds[n]]
        if priced:
            limit = (v + h + PRICE_DECODE * (2 * v * h + h * h) - s - PRICE_PREFILL * s * s) / (
                1 + 2 * PRICE_PREFILL * s
            )
        if near[i] <= limit:
            times[n] = near[i] + s
            near[i] += s
        else:
            times[n], moved[n] = v + h, True
            far[j] += h
    return times, moved


def compared(arrivals: int) -> pd.DataFrame:
    """Return a row for each case and metric: error, the one stated, and the simulation's own."""
    rows = []
    for name, (share, work) in laws().items():
        host = 0.2 + 1.6 * work
        for servers, hosts in POOLS:
            for load in LOADS:
                rates = load * servers * share
                for kind in LIMITS:
                    fixed = np.full(work.size, 2.0) if kind == "common" else 5 / (1 + work)
                    rule = priced_thresholds(work, host, 0 * work, PRICE_PREFILL, PRICE_DECODE)
                    try:
                        given = rule if kind == "prices" else fixed
                        pools = two_pools(rates, work, host, given, prefill_servers=servers, decode_servers=hosts)
                    except QModelError:  # decode cannot stand what is deflected
                        continue
                    rng = np.random.default_rng(5)
                    kinds = rng.choice(share.size, arrivals, p=share)
                    gaps = rng.exponential(1 / rates.sum(), arrivals)
                    times, moved = play(kinds, gaps, work, host, fixed, kind == "prices", servers, hosts)
                    parts = np.array_split(times[arrivals // 20 :], BATCHES)
                    case = (name, f"{servers} + {hosts}", load, kind)
                    truths = {"mean": [part.mean() for part in parts]}
                    truths |= {f"p{q}": [np.quantile(part, q / 100) for part in parts] for q in (95, 99)}
                    model = {"mean": pools.mean_time_s} | {f"p{q}": pools.time_quantile_s(q / 100) for q in (95, 99)}
                    for metric, seen in truths.items():
                        noise = np.std(seen, ddof=1) / np.sqrt(BATCHES) / np.mean(seen)
                        off = abs(model[metric] / np.mean(seen) - 1)
                        rows.append((*case, metric, off, pools.error_estimate[metric], noise))
                    said = pools.error_estimate["deflected"]
                    rows.append((*case, "deflected", abs(pools.deflected - moved.mean()), said, 1e-3))
    return pd.DataFrame(rows, columns=["work", "servers", "load", "limits", "metric", "error", "stated", "noise"])


def main() -> None:
    """Print the largest errors by law and servers, and how often the stated ones hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrivals", type=int, default=6_000_000, help="played in each case")
    table = compared(parser.parse_args().arrivals)
    print(f"{len(table) // 4} cases; largest errors in %, the simulation's own included (share deflected: absolute)")
    order = ["mean", "p95", "p99", "deflected"]
    worst = table.pivot_table("error", ["work", "servers"], "metric", "max", sort=False)[order]
    print((100 * worst).round(1).to_string())
    said = table[table["metric"].isin(["mean", "p99"])]
    ranges = said.groupby(["work", "servers", "metric"], sort=False)["stated"].agg(["min", "max"]).unstack()
    print("\nstated errors [%]\n", (100 * ranges).round(1).to_string())
    worst_noise = table.groupby(["work", "servers"], sort=False)["noise"].max()
    print("\nlargest standard error of the simulation [%]\n", (100 * worst_noise).round(1).to_string())
    held = (table["error"] <= table["stated"] + 2 * table["noise"]).groupby(table["metric"]).agg(["sum", "size"])
    print("\nwithin the stated error and two standard errors of the simulation\n", held.to_string())


if __name__ == "__main__":
    main()

"""Errors of the marched queue with rates by window, against played days: by law, servers and length of the windows.

Run ``python bench/time_varying.py``; some two minutes. Windows are measured in mean services.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from qmodel.queueing import ServiceTime, kiefer_wolfowitz, mtgk

#: Loads by window: a rush that overloads the queue for two windows, waves around capacity, and a calm day.
PROFILES = {
    "rush": np.array([0.3, 0.5, 0.8, 1.05, 1.0, 0.85, 0.7, 0.6, 0.5, 0.3]),
    "waves": 0.75 + 0.4 * np.sin(np.arange(20) / 3),
    "calm": np.array([0.3, 0.6, 0.5, 0.7, 0.6, 0.8, 0.4]),
}
LAWS = {
    "exponential": ServiceTime.exponential(1.0),
    "gamma, SCV 2": ServiceTime.gamma(1.0, 2.0),
    "Erlang-4": ServiceTime.erlang(4, 1.0),
    "lognormal, SCV 1.2": ServiceTime.lognormal(1.0, 1.2),
    "lognormal, SCV 3, at most 60": ServiceTime.lognormal(1.0, 3.0, upper_s=60.0),
    "two atoms, SCV 3.2": ServiceTime.from_samples([0.6, 9.0], [0.95, 0.05]),
}
SERVERS, WIDTHS, PLAYED = (1, 4, 16), (5, 30, 100, 400), 2_000_000


def played(law: ServiceTime, loads: np.ndarray, servers: int, width: float) -> tuple[float, float, float]:
    """Return mean and P95 of the wait over many days, and the relative standard error of the mean."""
    rng, expected = np.random.default_rng(1), loads * servers * width
    totals, waits = [], []
    for _ in range(int(PLAYED / expected.sum()) + 1):
        counts = rng.poisson(expected)
        times = np.sort(np.repeat(width * np.arange(loads.size), counts) + width * rng.random(counts.sum()))
        waits.append(kiefer_wolfowitz(times, law.sample(times.size, rng), servers))
        totals.append(waits[-1].sum())
    every = np.concatenate(waits)
    noise = np.std(totals) / np.sqrt(len(totals)) / np.mean(totals)
    return float(every.mean()), float(np.quantile(every, 0.95)), float(noise)


def main() -> None:
    """Print errors of mean and P95 by law, and by servers and length of the windows."""
    rows = []
    for name, given in LAWS.items():
        law = given.scaled(1 / given.mean_s)
        for profile, loads in PROFILES.items():
            for servers in SERVERS:
                for width in WIDTHS:
                    model = mtgk(width * np.arange(loads.size + 1.0), loads * servers, law, servers)
                    mean, p95, noise = played(law, loads, servers, width)
                    p95_off = model.wait_quantile_s(0.95) / p95 - 1 if p95 > mean else np.nan
                    said = model.error_estimate["mean"]
                    rows.append((name, profile, servers, width, model.mean_wait_s / mean - 1, p95_off, noise, said))
    table = pd.DataFrame(rows, columns=["law", "profile", "servers", "width", "mean", "p95", "noise", "said"])
    for metric in ("mean", "p95"):
        table["off"] = (table[metric].abs() - 2 * table["noise"]).clip(lower=0)
        kept = (table["off"] <= table["said"])[table[metric].notna()].mean()
        print(f"\n{metric}: {len(table)} cases, {kept:.0%} within the stated error")
        for keys in (["law"], ["servers", "width"], ["profile", "servers"]):
            found = table.groupby(keys, sort=False)["off"].quantile([0.5, 0.9, 1.0]).unstack()
            print(f"\n{metric}: error beyond two standard errors of the simulation [%], by {' and '.join(keys)}")
            print((100 * found).round(1).to_string(header=["half", "90 %", "all"]))


if __name__ == "__main__":
    main()

"""Burstiness of departures by Whitt's formula against played queues: how far off, how often the stated error holds.

Run ``python bench/departures.py``; about a minute.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from qmodel.queueing import PoissonArrivals, RenewalArrivals, ServiceTime, departure_scv, kiefer_wolfowitz

LAWS = [ServiceTime.gamma(1.0, 0.4), ServiceTime.exponential(1.0), ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0])]
LAWS += [ServiceTime.gamma(1.0, 4.0), ServiceTime.deterministic(1.0), ServiceTime.lognormal(1.0, 1.5)]
SERVERS, LOADS, GAPS, PLAYED = (1, 2, 3, 4, 8, 16, 32), (0.3, 0.5, 0.7, 0.9), (0.3, 0.6, 1.0, 2.0, 4.0), 300_000


def main() -> None:
    """Print the share of cases within the stated error, and relative errors, by servers."""
    rng, rows = np.random.default_rng(0), []
    for servers in SERVERS:
        for load in LOADS:
            for given in LAWS:
                for scv in GAPS:
                    law, rate = given.scaled(1 / given.mean_s), load * servers
                    found = departure_scv(rate, servers, law, scv)
                    if found.exact:
                        continue
                    arrivals = PoissonArrivals(rate_per_s=rate) if scv == 1 else RenewalArrivals.gamma(rate, scv)
                    arrival, work = arrivals.sample(PLAYED, rng), law.sample(PLAYED, rng)
                    left = np.diff(np.sort(arrival + kiefer_wolfowitz(arrival, work, servers) + work))
                    off = found.value - float(left.var() / left.mean() ** 2)
                    rows.append((servers, abs(off) <= found.error, abs(off), found.error))
    table = pd.DataFrame(rows, columns=["servers", "held", "off", "stated"])
    print(f"{len(table)} cases, {table['held'].mean():.0%} within the stated error; absolute errors by servers")
    columns = {"held": ("held", "mean"), "half": ("off", "median"), "largest": ("off", "max")}
    print(table.groupby("servers").agg(**columns).round(2))


if __name__ == "__main__":
    main()

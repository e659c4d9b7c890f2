"""Errors of queues with bursty or regular arrivals against played ones, beside the errors stated.

Run ``python bench/bursty.py``; less than a minute. Laws of two phases are exact and here as a check of the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from qmodel.queueing import MmppArrivals, RenewalArrivals, ServiceTime, ggk, kiefer_wolfowitz

LAWS = {
    "exponential": ServiceTime.exponential(1.0),
    "deterministic": ServiceTime.deterministic(1.0),
    "Erlang-4": ServiceTime.erlang(4, 1.0),
    "uniform": ServiceTime.from_samples(np.linspace(0.005, 1.995, 200)),
    "gamma, SCV .7": ServiceTime.gamma(1.0, 0.7),
    "gamma, SCV 3": ServiceTime.gamma(1.0, 3.0),
    "lognormal, SCV 1.5": ServiceTime.lognormal(1.0, 1.5, upper_s=30.0),
    "lognormal, SCV 4": ServiceTime.lognormal(1.0, 4.0, upper_s=60.0),
    "two atoms, SCV 3.2": ServiceTime.from_samples([0.6, 9.0], [0.95, 0.05]),
}
SERVERS, LOADS = (1, 2, 8, 16), (0.6, 0.85)
PLAYED, RUNS, WARMUP = 250_000, 4, 5_000
#: Standard errors of mean and P95, of which four runs give a rough idea, that the simulation is allowed.
NOISE = {"mean": 2.5, "p95": 4.0}


def arrival_laws(rate: float, servers: int) -> dict[str, Any]:
    """Return arrival laws of one rate."""
    slow, fast = (0.05, 0.1), (0.5 * servers, 1.0 * servers)
    rates = (0.5 * rate, 2.0 * rate)
    return {
        "MMPP, slow": MmppArrivals(rates_per_s=rates, switch_per_s=slow),
        "MMPP, fast": MmppArrivals(rates_per_s=rates, switch_per_s=fast),
        "gamma gaps, SCV .3": RenewalArrivals.gamma(rate, 0.3),
        "gamma gaps, SCV .7": RenewalArrivals.gamma(rate, 0.7),
        "gamma gaps, SCV 4": RenewalArrivals.gamma(rate, 4.0),
        "lognormal gaps, SCV 2": RenewalArrivals(gap=ServiceTime.lognormal(1 / rate, 2.0)),
        "H2 gaps, SCV 4": RenewalArrivals.hyperexponential(rate, 4.0),
    }


def played(arrivals: Any, law: ServiceTime, servers: int) -> np.ndarray:
    """Return mean and P95 of the wait, a row each run."""
    rows = []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        waits = kiefer_wolfowitz(arrivals.sample(PLAYED, rng), law.sample(PLAYED, rng), servers)[WARMUP:]
        rows.append((waits.mean(), np.quantile(waits, 0.95)))
    return np.array(rows)


def main() -> None:
    """Print errors beyond the simulation's own and how often the stated ones hold."""
    rows = []
    for name, given in LAWS.items():
        law = given.scaled(1 / given.mean_s)
        for servers in SERVERS:
            for load in LOADS:
                for kind, arrivals in arrival_laws(load * servers, servers).items():
                    found, seen = ggk(arrivals, servers, law), played(arrivals, law, servers)
                    values = {"mean": found.mean_wait_s, "p95": found.wait_quantile_s(0.95)}
                    for (metric, value), runs in zip(values.items(), seen.T, strict=True):
                        if runs.mean() > 0:
                            noise = NOISE[metric] * runs.std(ddof=1) / np.sqrt(RUNS) / runs.mean()
                            off = max(abs(value / runs.mean() - 1) - noise, 0.0)
                            said = found.error_estimate.get(metric, 0.0)
                            rows.append((metric, name, kind, servers, off, off <= said))
    table = pd.DataFrame(rows, columns=["metric", "services", "arrivals", "servers", "off", "held"])
    for key in ("metric", "services", "arrivals", "servers"):
        groups = table.groupby(["metric", key] if key != "metric" else key, sort=False)
        print(
            groups.agg(held=("held", "mean"), half=("off", "median"), most=("off", lambda x: x.quantile(0.95))).round(3)
        )


if __name__ == "__main__":
    main()

"""How far the closed forms of M/G/k are off: what their stated errors are made of, and how often these hold.

Run ``python bench/approximations.py``: laws of SCV 0 to 6, 2 to 32 servers, loads .3 to .98, against `mgk`; some 15 s.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from qmodel.errors import QModelError
from qmodel.queueing import ServiceTime, approximate, mgk
from qmodel.queueing.approximations import APPROXIMATIONS

PHASES = "phase-type"

SERVERS, LOADS = (2, 3, 4, 8, 16, 32), (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
LEVELS = {"p95": 0.95, "p99": 0.99}
#: Quantiles below this share of a mean delay are too near P(W = 0) to have a relative error.
NEAR_ZERO = 0.05
#: SCVs this near to 1 show what a law's other moments do; the share of cases a stated error is to hold in.
NEAR_ONE, WANTED = 0.12, 0.95


def h2(scv: float) -> ServiceTime:
    """Return the hyperexponential law of mean 1 and balanced means."""
    share = (1 + math.sqrt((scv - 1) / (scv + 1))) / 2
    return ServiceTime.hyperexponential([share, 1 - share], [1 / (2 * share), 1 / (2 * (1 - share))])


def two_atoms(scv: float, share: float) -> list[ServiceTime]:
    """Return the law of mean 1 that is long with probability `share`, when there is one."""
    near = 1 - math.sqrt(scv * share / (1 - share))
    far = 1 + math.sqrt(scv * (1 - share) / share)
    return [ServiceTime.from_samples([near, far], [1 - share, share])] if near > 0 else []


def family() -> list[ServiceTime]:
    """Return laws of mean 1 that differ in their first three moments."""
    laws = [ServiceTime.deterministic(1.0), *(ServiceTime.erlang(n, 1.0) for n in (2, 4, 10))]
    laws += [ServiceTime.hypoexponential(a, 1 - a) for a in (0.1, 0.2)]
    laws += [ServiceTime.from_samples(np.linspace(0.005, 1.995, 200))]
    laws += [ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5]), ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0])]
    laws += [ServiceTime.gamma(1.0, scv) for scv in (0.3, 0.7, 1.5, 2.0, 3.0, 5.0)]
    laws += [h2(scv) for scv in (1.5, 2.0, 3.0, 5.0)]
    bounds = {0.3: 10, 1.0: 15, 1.5: 20, 2.0: 30, 4.0: 30, 6.0: 60}
    laws += [ServiceTime.lognormal(1.0, scv, upper_s=bound) for scv, bound in bounds.items()]
    laws += [law for scv in (0.3, 0.7, 1.5, 3.0, 5.0) for share in (0.02, 0.1, 0.3) for law in two_atoms(scv, share)]
    return [law.scaled(1 / law.mean_s) for law in laws]


def errors() -> pd.DataFrame:
    """Return a row for each law, number of servers, load, formula and metric: its error, and what was stated."""
    rows = []
    for law in family():
        for k in SERVERS:
            for load in LOADS:
                truth = mgk(load * k, k, law)
                known = {"mean": truth.mean_wait_s, **{n: truth.wait_quantile_s(q) for n, q in LEVELS.items()}}
                for name in (*APPROXIMATIONS, PHASES):
                    try:
                        found = mgk(load * k, k, law, PHASES) if name == PHASES else approximate(load * k, k, law, name)
                    except QModelError:  # Cosmetatos' mean may be negative; two phases have an SCV of 1/2 or more
                        continue
                    if found.exact:
                        continue
                    stated = found.error_estimate
                    values = {"mean": found.mean_wait_s, **{n: found.wait_quantile_s(q) for n, q in LEVELS.items()}}
                    for metric, value in values.items():
                        if metric in stated and (known[metric] > NEAR_ZERO * truth.mean_delay_s or metric == "mean"):
                            off = abs(value / known[metric] - 1)
                            off = max(off - truth.error_estimate.get(metric, 0.0), 0.0)
                            rows.append((name, metric, law.scv, k, load, off, stated[metric]))
    return pd.DataFrame(rows, columns=["formula", "metric", "scv", "servers", "load", "error", "stated"])


def constants(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Return what multiplies (1 - rho) sqrt(k): alone, and for each |SCV - 1| below and above 1."""
    scale, apart = (1 - rows["load"]) * np.sqrt(rows["servers"]), (rows["scv"] - 1).abs()
    base = float((rows["error"] / scale)[apart < NEAR_ONE].quantile(WANTED))
    slope = (rows["error"] - base * scale) / (apart * scale)
    below, above = (float(slope[(apart >= NEAR_ONE) & side].quantile(WANTED)) for side in (rows.scv < 1, rows.scv > 1))
    return base, max(below, 0.0), max(above, 0.0)


def main() -> None:
    """Print constants, how often stated errors hold, and errors of the mean by SCV."""
    table = errors()
    print(f"{len(family())} laws")
    print(f"{'formula':20} {'':5} {'base':>6} {'below':>6} {'above':>6}  holds")
    for (name, metric), rows in table.groupby(["formula", "metric"], sort=False):
        base, below, above = constants(rows)
        held = (rows["error"] <= rows["stated"]).mean()
        print(f"{name:20} {metric:5} {base:6.3f} {below:6.3f} {above:6.3f}  {held:.0%}")
    busy = table[(table["metric"] == "mean") & (table["load"] >= 0.7)]
    groups = pd.cut(busy["scv"], [-1, 0.4, 0.9, 1.6, 3.1, 7], labels=["0 to .4", "to .9", "to 1.6", "to 3.1", "to 6"])
    print("\nerror of the mean at loads of .7 and more that 95 % of the cases keep [%], by SCV")
    shares = busy.groupby(["formula", groups], sort=False, observed=True)["error"].quantile(WANTED).unstack()
    print((100 * shares.sort_index(axis=1)).round(0).to_string())


if __name__ == "__main__":
    main()

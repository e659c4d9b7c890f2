"""Speed of the queueing library, beside the same questions put to simpy, ciw and most-queue; ratios within one run.

Run ``python bench/queueing.py``. The other packages come with the extra ``peers``; what is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable

# One thread for everybody: the question is how much work an answer takes. Must come before numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from qmodel.queueing import (
    ServiceTime,
    kiefer_wolfowitz,
    mgk,
    mgk_balking,
    mmpp_k,
    mtgk,
    priced_thresholds,
    two_pools,
)
from qmodel.studies.benchmark import fastest_s
from qmodel.studies.peers import ciw_waits_s, simpy_waits_s

#: Arrivals given to event simulations: too few for 10 % of the mean, so their time is a lower bound.
SIMULATED = 20_000
LOAD = 0.85


def best_s(job: Callable[[], object], repeats: int = 7) -> float:
    """Return the least processor time of a few runs, after one that warms up [s]."""
    return fastest_s(job, repeats, time.process_time)


def law_of_200_atoms() -> ServiceTime:
    """Return a prompt-like service law: 200 atoms, two humps, SCV about 3."""
    values = np.geomspace(0.09, 22.0, 200)
    weights = np.exp(-0.5 * (np.log(values / 0.3) / 0.8) ** 2) + 0.12 * np.exp(-0.5 * (np.log(values / 5.0) / 0.5) ** 2)
    law = ServiceTime.from_samples(values, weights)
    return law.scaled(1 / law.mean_s)


def ask(load: float, servers: int, law: ServiceTime) -> list[float]:
    """Return mean, P90, P95 and P99 of the wait."""
    metrics = mgk(load * servers, servers, law)
    return [metrics.mean_wait_s, *(metrics.wait_quantile_s(q) for q in (0.9, 0.95, 0.99))]


def by_most_queue(law: ServiceTime, servers: int) -> float:
    """Return the mean wait by most-queue's numerical M/G/n (two phases with the same three moments)."""
    from most_queue.theory.fifo.mgn_takahasi import MGnCalc

    queue = MGnCalc(n=servers)
    queue.set_sources(LOAD * servers)
    queue.set_servers([law.moment(order) for order in (1, 2, 3)])
    return float(queue.run().w[0])


def beside_others(law: ServiceTime) -> None:
    """Print M/G/k by qmodel and, where installed, by others."""
    print(f"mean, P90, P95 and P99 of M/G/k at load {LOAD}, 200 atoms, SCV {law.scv:.2f}; others: the mean alone")
    rng, loads = np.random.default_rng(0), iter(LOAD - 1e-6 * np.arange(1, 1000))
    for servers in (1, 2, 4, 8, 16, 256):
        # Each time at a load of its own: what the last answer was made of is kept.
        ours, found = best_s(lambda k=servers: ask(next(loads), k, law)), ask(LOAD, servers, law)[0]
        print(f"  k = {servers:3d}: {ours * 1e3:8.2f} ms, mean {found:.4f}")
        if servers not in (2, 8):
            continue
        arrival = np.cumsum(rng.exponential(1 / (LOAD * servers), SIMULATED))
        works = law.sample(SIMULATED, rng)
        path = kiefer_wolfowitz(arrival, works, servers).mean()
        others: dict[str, tuple[str, Callable[[], float], str]] = {
            "most-queue": ("most_queue", lambda k=servers: by_most_queue(law, k), "numerical"),
            "simpy": (
                "simpy",
                lambda k=servers, a=arrival, w=works: simpy_waits_s(a, w, k).mean(),
                f"{SIMULATED:,} arrivals",
            ),
            "ciw": (
                "ciw",
                lambda k=servers, a=arrival, w=works: ciw_waits_s(a, w, k).mean(),
                f"{SIMULATED:,} arrivals",
            ),
        }
        for name, (module, job, how) in others.items():
            if importlib.util.find_spec(module) is None:
                print(f"      {name}: not installed (extra: peers)")
                continue
            took, value = best_s(job, 1), job()
            check = f", the same arrivals in qmodel {path:.4f}" if "arrivals" in how else ""
            print(f"      {name}, {how}: {took * 1e3:8.1f} ms, {took / ours:,.0f} times; mean {value:.4f}{check}")


def other_laws() -> None:
    """Print the time of laws that two phases cannot stand for; each answer at its own load, as the last is kept."""
    regular = ServiceTime.from_samples(np.linspace(0.2, 1.8, 200))
    rough = ServiceTime.from_samples([0.6, 9.0], [0.95, 0.05]).scaled(1 / 1.02)
    loads = iter(LOAD - 1e-6 * np.arange(1, 1000))
    for name, law in (("200 atoms, SCV .22", regular), ("0.6 s or 9 s", rough)):
        for servers in (2, 4, 8, 16, 256):
            took = best_s(lambda k=servers, s=law: ask(next(loads), k, s), 5)
            print(f"M/G/{servers}, {name}: {took * 1e3:.2f} ms")


def other_models(law: ServiceTime) -> None:
    """Print the time of models that no other package has."""
    h2 = ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5])
    took = best_s(lambda: mmpp_k([4.0, 12.0], [0.1, 0.3], 8, h2).wait_quantile_s(0.95))
    print(f"MMPP(2)/H2/8: {took * 1e3:.2f} ms")
    values, weights = law.atoms()
    for servers in (1, 2, 8):
        rates, limits = weights * servers, 4 / (1 + values)
        took = best_s(lambda r=rates, t=limits, k=servers: mgk_balking(r, values, t, k), 3)
        print(f"200 classes with thresholds, k = {servers}: {took * 1e3:.1f} ms")
    edges = np.arange(61) * 60.0
    rates = (0.75 + 0.35 * np.sin(np.arange(60) / 5)) * 2 / 0.06
    took = best_s(lambda: mtgk(edges, rates, law.scaled(0.06), 2), 3)
    print(f"one hour in 60 s windows, k = 2: {took * 1e3:.1f} ms for {rates.sum() * 60:,.0f} expected arrivals")
    prompts = np.geomspace(16, 16_384, 12)
    shares = np.exp(-0.5 * (np.log(prompts / 700) / 1.2) ** 2)
    work, host = 0.015 + 5e-5 * prompts, 0.03 + 1e-4 * prompts
    rates = 0.8 * shares / (shares @ work)
    rule = priced_thresholds(work, host, 0.0 * work, 10.0, 8.0)
    for pools in (1, 2):
        took = best_s(lambda n=pools: two_pools(rates * n, work, host, rule, prefill_servers=n, decode_servers=n), 3)
        how = two_pools(rates * pools, work, host, rule, prefill_servers=pools, decode_servers=pools).method
        print(f"two pools of {pools}, 12 classes, {how}: {took * 1e3:.0f} ms")


def sample_paths(law: ServiceTime) -> None:
    """Print the speed of the recursion over given arrivals, beside simpy."""
    rng = np.random.default_rng(0)
    for servers in (2, 16):
        arrival = np.cumsum(rng.exponential(1 / (0.8 * servers), 1_000_000))
        works = law.sample(1_000_000, rng)
        ours = best_s(lambda a=arrival, w=works, k=servers: kiefer_wolfowitz(a, w, k), 3) / arrival.size
        line = f"sample path, k = {servers}: {ours * 1e6:.3f} us per arrival"
        if importlib.util.find_spec("simpy") is not None:
            few = slice(0, SIMULATED)
            theirs = best_s(lambda a=arrival[few], w=works[few], k=servers: simpy_waits_s(a, w, k), 1) / SIMULATED
            line += f"; simpy takes {theirs / ours:,.0f} times as long"
        print(line)


def main() -> None:
    """Print one line per question."""
    law = law_of_200_atoms()
    beside_others(law)
    other_laws()
    other_models(law)
    sample_paths(law)


if __name__ == "__main__":
    main()

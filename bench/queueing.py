"""Speed of the queueing library, beside the same questions put to event simulation; ratios within one run.

Run: python bench/queueing.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from qmodel.queueing import ServiceTime, kiefer_wolfowitz, mgk, mgk_balking, mmpp_k, mtgk


def best_s(job: Callable[[], object], repeats: int = 7) -> float:
    """Return the least time of a few runs [s]."""
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


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


def simpy_arrivals_per_s(law: ServiceTime, servers: int, count: int = 20_000) -> float | None:
    """Return how many arrivals a second simpy simulates, None when it is not installed."""
    try:
        import simpy
    except ImportError:
        return None
    rng = np.random.default_rng(0)
    gaps, works = rng.exponential(1 / (0.8 * servers), count), law.sample(count, rng)

    def run() -> None:
        env = simpy.Environment()
        pool = simpy.Resource(env, servers)

        def customer(work: float):
            with pool.request() as turn:
                yield turn
                yield env.timeout(work)

        def source():
            for gap, work in zip(gaps, works, strict=True):
                yield env.timeout(gap)
                env.process(customer(work))

        env.process(source())
        env.run()

    return count / best_s(run, 1)


def main() -> None:
    """Print one line per question."""
    law = law_of_200_atoms()
    print(f"mean, P90, P95, P99 of M/G/k, {len(law.atoms()[0])} atoms, SCV {law.scv:.2f}")
    for servers in (1, 2, 4, 8, 16, 256):
        print(f"  k = {servers:3d}: {best_s(lambda k=servers: ask(0.85, k, law)) * 1e3:7.2f} ms")
    h2 = ServiceTime.hyperexponential([0.9, 0.1], [0.5, 5.5])
    print(
        f"  MMPP(2)/H2/8: {best_s(lambda: mmpp_k([4.0, 12.0], [0.1, 0.3], 8, h2).wait_quantile_s(0.95)) * 1e3:.2f} ms"
    )
    values, weights = law.atoms()
    for servers in (1, 2, 8):
        rates, limits = weights * servers, 4 / (1 + values)
        took = best_s(lambda r=rates, t=limits, k=servers: mgk_balking(r, values, t, k), 3)
        print(f"  200 classes with thresholds, k = {servers}: {took * 1e3:.1f} ms")
    edges = np.arange(61) * 60.0
    rates = (0.75 + 0.35 * np.sin(np.arange(60) / 5)) * 2 / 0.06
    took = best_s(lambda: mtgk(edges, rates, law.scaled(0.06), 2), 3)
    print(f"  one hour in 60 s windows, k = 2: {took * 1e3:.1f} ms for {rates.sum() * 60:,.0f} expected arrivals")
    rng = np.random.default_rng(0)
    for servers in (2, 16):
        arrival = np.cumsum(rng.exponential(1 / (0.8 * servers), 1_000_000))
        work = law.sample(arrival.size, rng)
        ours = arrival.size / best_s(lambda a=arrival, w=work, k=servers: kiefer_wolfowitz(a, w, k), 3)
        theirs = simpy_arrivals_per_s(law, servers)
        beside = f"; {ours / theirs:,.0f} times simpy" if theirs else "; simpy is not installed"
        print(f"  sample path, k = {servers}: {1e6 / ours:.3f} us per arrival{beside}")


if __name__ == "__main__":
    main()

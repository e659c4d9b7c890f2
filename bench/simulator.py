"""Speed of the simulator, and the prefill queue beside simpy and ciw where they are installed.

Run ``python bench/simulator.py [--large]``. Prints requests per second; compile time apart. simpy and ciw get the
same arrivals and service times: k servers, first come first served.
"""

import argparse
import importlib.util
import time

import numpy as np

from qmodel import SLO, Cluster, Workload, load_calibration, policies, simulate
from qmodel.laws import LinearLaw
from qmodel.scenario import Requests

MODEL, LOAD = "deepseek-v2-lite", 0.9


def timed(run):
    """Return (seconds, result) of the best of two runs."""
    best, result = np.inf, None
    for _ in range(2):
        begin = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - begin)
    return best, result


def speeds(size, count):
    """Print requests per second of several policies at one cluster size; return the seconds of the first."""
    cluster = Cluster(prefill=size, decode=size, calibration=load_calibration(MODEL))
    workload = Workload.builtin("azure-conv").at_load(LOAD, cluster)
    requests, first = workload.requests(count=count), 0.0
    cases = {
        "disaggregated": policies.Disaggregated(),
        "kairos": policies.Kairos(),
        "earliest": policies.EarliestCompletion(),
    }
    if size == 2:
        from qmodel import derive_thresholds

        for binding, order in (("dispatch", "fcfs"), ("late", "fcfs"), ("late", "spf")):
            plan = derive_thresholds(cluster, workload, SLO(), binding=binding, order=order)
            cases[f"{binding} {order}"] = plan.policy()
    for name, policy in cases.items():
        seconds, result = timed(lambda policy=policy: simulate(cluster, requests, SLO(), policy))
        first = first or seconds
        print(f"{cluster.name:8s} {name:14s} {count / seconds:10,.0f} requests/s  P95 TTFT {result.ttft_s(0.95):.3f} s")
    return first


def fcfs_simpy(arrivals, services, servers):
    """Return waits from simpy."""
    import simpy

    env, waits = simpy.Environment(), np.zeros(len(arrivals))
    pool = simpy.Resource(env, servers)

    def customer(i):
        yield env.timeout(arrivals[i])
        with pool.request() as turn:
            yield turn
            waits[i] = env.now - arrivals[i]
            yield env.timeout(services[i])

    for i in range(len(arrivals)):
        env.process(customer(i))
    env.run()
    return waits


def fcfs_ciw(arrivals, services, servers):
    """Return waits from ciw."""
    import ciw

    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*np.diff(arrivals, prepend=0.0).tolist(), float("inf")])],
        service_distributions=[ciw.dists.Sequential(services.tolist())],
        number_of_servers=[servers],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(float(arrivals[-1] + services.sum()))
    records = sorted(simulation.get_all_records(), key=lambda r: r.arrival_date)
    return np.array([r.waiting_time for r in records])


def peers(count=20_000, servers=2, load=0.9):
    """Print agreement and speed of the prefill queue in qmodel, simpy and ciw."""
    rng = np.random.default_rng(0)
    tokens = np.maximum(1, rng.exponential(10_000, count)).astype(int)
    services = tokens * 1e-4
    arrivals = np.cumsum(rng.exponential(1 / (load * servers), count))
    law = LinearLaw(alpha_s=0.0, batch_s=0.0, context_s=0.0, prompt_s=1e-4, attention_s=0.0)
    from dataclasses import replace

    calibration = replace(
        load_calibration(MODEL), prefill=law, step=law, kv_bytes_per_token=0.0, kv_capacity_tokens=10**9
    )
    cluster = Cluster(prefill=servers, decode=1, calibration=calibration, packing=False, transfer_fixed_s=0.0)
    requests = Requests.from_arrays(arrivals, tokens, 1)
    ours, result = timed(lambda: simulate(cluster, requests, SLO(), warmup=0))
    waits = result.columns["queue_s"]
    print(f"prefill queue: qmodel {count / ours:,.0f} requests/s, mean wait {waits.mean():.6f} s")
    for name, run in (("simpy", fcfs_simpy), ("ciw", fcfs_ciw)):
        if importlib.util.find_spec(name) is None:
            print(f"  {name}: not installed")
            continue
        seconds, theirs = timed(lambda run=run: run(arrivals, services, servers))
        worst = np.abs(theirs - waits).max()
        print(f"  {name} {count / seconds:,.0f} requests/s, largest difference of a wait {worst:.1e} s, ", end="")
        print(f"{seconds / ours:,.0f} times slower")


def main():
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also 64P64D with 5 million requests")
    large = parser.parse_args().large
    begin = time.perf_counter()
    speeds_warm = Cluster(prefill=2, decode=2, calibration=load_calibration(MODEL))
    simulate(speeds_warm, Requests.from_arrays([0.0], [100], [2]), SLO())
    print(f"first call, compiling or loading from the cache: {time.perf_counter() - begin:.1f} s")
    small = speeds(2, 200_000) / 200_000
    count = 5_000_000 if large else 1_000_000
    big = speeds(64, count) / count
    print(f"64P64D takes {big / small:.2f} times the time per request of 2P2D")
    peers()


if __name__ == "__main__":
    main()

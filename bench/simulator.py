"""Speed of the simulator, and the prefill queue beside simpy and ciw where they are installed.

Run ``python bench/simulator.py [--large] [--compile]``. Prints requests per second of processor time; compile time
apart. simpy and ciw get the same arrivals and service times: k servers, first come first served.
"""

import argparse
import importlib.util
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np

from qmodel import SLO, Cluster, Workload, load_calibration, policies, simulate
from qmodel.laws import LinearLaw
from qmodel.scenario import Requests
from qmodel.studies.peers import ciw_waits_s, simpy_waits_s

MODEL, LOAD = "deepseek-v2-lite", 0.9


def timed(run):
    """Return (seconds of processor time, result) of the best of two runs."""
    best, result = np.inf, None
    for _ in range(2):
        begin = time.process_time()
        result = run()
        best = min(best, time.process_time() - begin)
    return best, result


def first_call_s(cache):
    """Return the processor time of a fresh process up to its first result [s], with kernels cached in a folder."""
    code = (
        "import time\n"
        "from qmodel import SLO, Cluster, load_calibration, simulate\n"
        "from qmodel.scenario import Requests\n"
        f"cluster = Cluster(prefill=2, decode=2, calibration=load_calibration({MODEL!r}))\n"
        "simulate(cluster, Requests.from_arrays([0.0], [100], [2]), SLO())\n"
        "print(time.process_time())"
    )
    environment = os.environ | ({"QMODEL_CACHE": cache} if cache else {})
    return float(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)


def start_up(compiling):
    """Print the time to the first simulated request in a new process, from the cache and, if asked, without it."""
    if compiling:
        with tempfile.TemporaryDirectory() as folder:
            print(f"first process, compiling every kernel: {first_call_s(folder):.1f} s")
    first_call_s(None)
    print(f"next process, kernels from the cache: {min(first_call_s(None) for _ in range(3)):.2f} s")


def compiled_earliest():
    """Return `EarliestCompletion` as a user would write it in numba."""
    import numba

    from qmodel.policies.estimates import DECODE, PREFILL, execution_s, limit_s, schedule_s, transfer_s

    chunks = policies.CHUNKS

    @numba.njit
    def decide(state, request, parameters):
        best, at_prefill = 0, np.inf
        for i in range(len(state.prefill_work_s)):
            ready = state.prefill_work_s[i] + execution_s(state, i, request)
            total = max(ready, state.link_free_s[i] - state.time_s) + transfer_s(state, i, request)
            if total < at_prefill:
                best, at_prefill = i, total
        host, at_decode, own = -1, np.inf, 0.0
        for j in range(len(state.batch)):
            estimate = schedule_s(state, j, request, chunks, limit_s(state, j, request, 1.0))
            ready = estimate + (state.deflected_work_s[j] if state.hosting[j] else state.step_rest_s[j])
            if estimate >= 0.0 and ready < at_decode:
                host, at_decode, own = j, ready, estimate
        if host >= 0 and at_decode < at_prefill:
            return DECODE, host, own
        return PREFILL, best, 0.0

    return policies.Compiled(decide=decide, name="earliest in njit")


def plans():
    """Return threshold policies of plans for 2P2D; their prices hold on any cluster of the same load."""
    from qmodel import derive_thresholds

    cluster = Cluster(prefill=2, decode=2, calibration=load_calibration(MODEL))
    workload = Workload.builtin("azure-conv").at_load(LOAD, cluster)
    forms = ("dispatch", "fcfs"), ("late", "fcfs"), ("late", "spf")
    return {
        f"{binding} {order}": derive_thresholds(cluster, workload, SLO(), binding=binding, order=order).policy()
        for binding, order in forms
    }


def decision_us(policy, repeats=200_000):
    """Return the time of one decision of a built-in policy at 2P2D with busy instances, observing included [us]."""
    import numba

    from qmodel._kernels import policies as kp
    from qmodel.simulation import encode

    cluster, spec = Cluster(prefill=2, decode=2, calibration=load_calibration(MODEL)), policy.kernel_spec()
    requests = Workload.builtin("azure-conv").at_load(LOAD, cluster).requests(count=1024)
    a = encode.arrays_of(encode.scene_of(cluster, spec), requests, (SLO(),), spec, 0)
    a.UF[:, encode.ks.U_WORK] = 0.3, 0.4, 0.0, 0.0
    a.UI[2:, encode.ks.I_BATCH], a.UF[2:, encode.ks.U_CONTEXT] = (60, 65), (70_000, 75_000)

    @numba.njit
    def repeat(
        n, R, UF, UI, classes, seen, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, EC, EB, XI, XF
    ):
        total = 0.0
        for i in range(n):
            t = 1e-6 * i
            kp.observe_prefill(t, 2, UF, UI, seen)
            kp.observe_decode(t, 2, 2, UF, UI, classes, slo, seen)
            u, host = kp.decide(
                t, i % 1024, R, UF, seen, slo, PK, PF, chunks, lengths, batches, contexts, curves, tables, EC, EB, XI,
                XF,
            )  # fmt: skip
            total += u + host
        return total

    given = (
        a.R, a.UF, a.UI, a.classes, a.seen, a.slo, a.PK, a.PF, a.chunks, a.lengths, a.batches, a.contexts, a.curves,
        a.tables, a.EC, a.EB, a.XI, a.XF,
    )  # fmt: skip
    repeat(1, *given)
    return 1e6 * timed(lambda: repeat(repeats, *given))[0] / repeats


def speeds(size, count, planned):
    """Print requests per second of several policies at one cluster size; return the seconds of each."""
    cluster = Cluster(prefill=size, decode=size, calibration=load_calibration(MODEL))
    requests, took = Workload.builtin("azure-conv").at_load(LOAD, cluster).requests(count=count), {}
    cases = {
        "disaggregated": policies.Disaggregated(),
        "kairos": policies.Kairos(),
        "earliest": policies.EarliestCompletion(),
        "earliest, njit": compiled_earliest(),
    } | planned
    for name, policy in cases.items():
        seconds, result = timed(lambda policy=policy: simulate(cluster, requests, SLO(), policy))
        took[name] = seconds / count
        print(f"{cluster.name:8s} {name:14s} {count / seconds:10,.0f} requests/s  P95 TTFT {result.ttft_s(0.95):.3f} s")
    return took


def large(size, count):
    """Print time and memory of one large run."""
    cluster = Cluster(prefill=size, decode=size, calibration=load_calibration(MODEL))
    requests = Workload.builtin("azure-conv").at_load(LOAD, cluster).requests(count=count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begin = time.process_time()
    result = simulate(cluster, requests, SLO())
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    asked = sum(column.nbytes for column in result.columns.values())
    more, asked = (peak - before) / count, asked / count
    print(f"{cluster.name}, {count:,} requests: {seconds:.1f} s, {1e6 * seconds / count:.2f} us each, ", end="")
    print(f"peak {peak / 1e9:.2f} GB; {more:.0f} bytes a request more than before, {asked:.0f} of them asked for")


def peers(count=20_000, servers=2, load=0.9):
    """Print agreement and speed of the prefill queue in qmodel, simpy and ciw."""
    rng = np.random.default_rng(0)
    tokens = np.maximum(1, rng.exponential(10_000, count)).astype(int)
    services = tokens * 1e-4
    arrivals = np.cumsum(rng.exponential(1 / (load * servers), count))
    law = LinearLaw(alpha_s=0.0, batch_s=0.0, context_s=0.0, prompt_s=1e-4, attention_s=0.0)
    calibration = replace(
        load_calibration(MODEL), prefill=law, step=law, kv_bytes_per_token=0.0, kv_capacity_tokens=10**9
    )
    cluster = Cluster(prefill=servers, decode=1, calibration=calibration, packing=False, transfer_fixed_s=0.0)
    requests = Requests.from_arrays(arrivals, tokens, 1)
    ours, result = timed(lambda: simulate(cluster, requests, SLO(), warmup=0))
    waits = result.columns["queue_s"]
    print(f"prefill queue: qmodel {count / ours:,.0f} requests/s, mean wait {waits.mean():.6f} s")
    for name, run in (("simpy", simpy_waits_s), ("ciw", ciw_waits_s)):
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
    parser.add_argument("--large", action="store_true", help="also 64P64D with 5 million requests, and 256P256D")
    parser.add_argument("--compile", action="store_true", help="also compile every kernel anew (a minute)")
    options = parser.parse_args()
    if options.large:  # in processes of their own, for the peak of memory
        for size, count in ((64, 5_000_000), (256, 1_000_000)):
            process = multiprocessing.get_context("spawn").Process(target=large, args=(size, count))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"the run at {size}P{size}D ended with code {process.exitcode}")
    start_up(options.compile)
    planned = plans()
    for name, policy in {"kairos": policies.Kairos(), "dispatch": planned["dispatch fcfs"]}.items():
        print(f"one decision of {name} at 2P2D, observing included: {decision_us(policy):.3f} us")
    small, big = speeds(2, 200_000, planned), speeds(64, 200_000, planned)
    for name in big:
        print(f"{name}: 64P64D takes {big[name] / small[name]:.2f} times the time per request of 2P2D")
    peers()


if __name__ == "__main__":
    main()

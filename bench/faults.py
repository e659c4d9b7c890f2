"""What each fault of the evaluation protocol does to each policy: P95 TTFT and SLO attainment on azure-conv.

Run ``python bench/faults.py [--requests N]``. One seed; faults last 60 s from a third of the run on.
"""

import argparse

import pandas as pd

from qmodel import SLO, Cluster, Workload, derive_thresholds, load_calibration, policies, simulate
from qmodel.simulation import Fault, Signals

LASTS_S = 60.0


def conditions(cluster, begin):
    """Return name to (faults, signals) of the protocol."""

    def fault(kind, pool, instance=0, factor=1.0):
        return Fault(kind=kind, pool=pool, instance=instance, from_s=begin, until_s=begin + LASTS_S, factor=factor)

    return {
        "none": ((), None),
        "one prefill down": ([fault("down", "prefill")], None),
        "one decode down": ([fault("down", "decode")], None),
        "prefill straggler": ([fault("slow", "prefill", factor=2.0)], None),
        "bandwidth / 10": ([fault("link", p, i, 10.0) for p in ("prefill", "decode") for i in range(2)], None),
        "signals 0.1 s old": ((), Signals(observation_interval_s=0.1)),
        "signals 1 s old": ((), Signals(observation_interval_s=1.0)),
        "estimates +-20 %": ((), Signals(estimate_noise=0.2)),
    }


def table(count):
    """Return one row per condition and policy."""
    cluster = Cluster(prefill=2, decode=2, calibration=load_calibration("deepseek-v2-lite"))
    workload = Workload.builtin("azure-conv").at_load(0.9, cluster)
    requests = workload.requests(count=count)
    rivals = {
        "none": policies.Disaggregated(),
        "kairos": policies.Kairos(),
        "earliest": policies.EarliestCompletion(),
        "dispatch": derive_thresholds(cluster, workload, SLO(), binding="dispatch", order="fcfs").policy(),
        "late": derive_thresholds(cluster, workload, SLO(), binding="late", order="spf").policy(),
    }
    rows = []
    for condition, (faults, signals) in conditions(cluster, requests.span_s / 3).items():
        for name, policy in rivals.items():
            result = simulate(cluster, requests, SLO(), policy, faults=faults, signals=signals)
            rows.append(
                {
                    "condition": condition,
                    "policy": name,
                    "p95_ttft_s": round(result.ttft_s(0.95), 3),
                    "slo_attainment": round(result.slo_attainment, 4),
                    "restarts": int(result.requests.restarts.sum()),
                }
            )
    return pd.DataFrame(rows)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    frame = table(parser.parse_args().requests)
    for value in ("p95_ttft_s", "slo_attainment", "restarts"):
        print(f"\n{value}")
        print(frame.pivot_table(index="condition", columns="policy", values=value, sort=False).to_string())


if __name__ == "__main__":
    main()

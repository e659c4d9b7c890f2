# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The queue behind TTFT
#
# The time to first token of a disaggregated cluster is mostly waiting for the prefill pool. This notebook asks how long
# that wait is, with models of increasing honesty: the formula that everybody knows, the law of prompt lengths, and
# traffic that changes from minute to minute. It ends with the decision which model to plan with.

# %%
import os

import numpy as np
import pandas as pd

import qmodel
from qmodel import queueing
from qmodel.queueing import ServiceTime, kiefer_wolfowitz, mgk

quick = bool(os.environ.get("QMODEL_QUICK"))
calibration = qmodel.load_calibration("deepseek-v2-lite", "a100")
cluster = qmodel.Cluster.parse("2P2D", calibration)
workload = qmodel.Workload.builtin("azure-code").at_load(0.8, cluster)
slo = qmodel.SLO(ttft_s=1.0, tbt_s=0.060)
print(workload.describe(cluster))

# %% [markdown]
# ## 1. Work
#
# A prompt of L tokens brings W(L) seconds of work: its share of full, packed prefill steps. What the queue sees is the
# law of W: its mean sets the load, its spread the wait.

# %%
prompt, output, cached, weights = workload.lengths()
service = ServiceTime.from_samples(np.asarray(cluster.work_s(prompt.astype(float), cached.astype(float))), weights)
rate, servers = workload.rate_per_s, cluster.prefill_count
print(f"mean work {1e3 * service.mean_s:.0f} ms, SCV {service.scv:.2f}, load {rate * service.mean_s / servers:.2f}")

# %% [markdown]
# ## 2. Stationary: M/G/k
#
# Routing to the least outstanding work makes the pool one queue with k servers. `compare_methods` shows what the
# well-known formulas make of it; `mgk` picks the best and says which.

# %%
rows = queueing.compare_methods(rate, servers, service)
pd.DataFrame(
    {
        row.method: {
            "mean [ms]": None if row.mean_wait_s is None else round(1e3 * row.mean_wait_s, 1),
            "P95 [ms]": None if row.p95_s is None else round(1e3 * row.p95_s, 1),
            "P99 [ms]": None if row.p99_s is None else round(1e3 * row.p99_s, 1),
        }
        for row in rows
    }
).T

# %% [markdown]
# Is it right? Play half a million arrivals through the queue. Same rate, same law, independent of every formula:

# %%
stationary = mgk(rate, servers, service)
rng = np.random.default_rng(1)
count = 50_000 if quick else 500_000
waits = kiefer_wolfowitz(np.cumsum(rng.exponential(1 / rate, count)), service.sample(count, rng), servers)
print(f"mgk:    mean {1e3 * stationary.mean_wait_s:.0f} ms, P95 {1e3 * stationary.wait_quantile_s(0.95):.0f} ms")
print(f"played: mean {1e3 * waits.mean():.0f} ms, P95 {1e3 * np.quantile(waits, 0.95):.0f} ms")

# %% [markdown]
# ## 3. Real traffic is not stationary
#
# The same traffic in windows: its load moves, and backlog carries over from one window to the next. `mtgk` marches the
# law of the backlog through them. Bursts shorter than a window are averaged away, so its width matters.

# %%
waits_of = {"stationary M/G/k": stationary}
for width in (60.0, 10.0):
    start, arrivals, work = workload.windows(cluster, width)
    means = np.maximum(work, 1e-9) / np.maximum(arrivals, 1e-9)
    laws = [service.scaled(mean / service.mean_s) for mean in means]
    waits_of[f"windows of {width:g} s"] = queueing.mtgk(np.append(start, start[-1] + width), arrivals, laws, servers)
    print(f"busiest window of {width:g} s: load {work.max() / servers:.2f}")
played = qmodel.simulate(cluster, workload, slo).requests["queue_s"]
found = {name: {"mean [s]": w.mean_wait_s, "P95 [s]": w.wait_quantile_s(0.95)} for name, w in waits_of.items()}
found["simulated"] = {"mean [s]": played.mean(), "P95 [s]": played.quantile(0.95)}
pd.DataFrame(found).T.round(3)

# %% [markdown]
# The stationary model sees the average load and misses the bursts altogether; so do windows longer than they last.
# `qmodel.predict` picks the model that the workload needs and says which:

# %%
prediction = qmodel.predict(cluster, workload, slo)
print(prediction.method)
pd.Series(prediction.breakdown(0.95), name="P95 TTFT by part [s]").round(3)

# %% [markdown]
# ## Decision
#
# A model is good enough for planning if its P95 is within 30 % of what was played.

# %%
target = played.quantile(0.95)
good = [name for name, w in waits_of.items() if abs(w.wait_quantile_s(0.95) / target - 1) <= 0.3]
decision = f"plan with {good[0] if good else 'the trace itself'}; the simulated P95 wait is {target:.2f} s"
print(f"Decision: {decision}.")

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
# # Capacity planning in ten minutes
#
# You run a large language model on GPUs that are split into a *prefill* pool and a *decode* pool. Prompts arrive in
# bursts, queue at the prefill pool, and the time to first token (TTFT) suffers, while decode GPUs have compute to
# spare. This notebook answers three questions for your cluster, in this order:
#
# 1. Is the cluster big enough for the traffic?
# 2. When should a prompt be *deflected*, that is prefilled in chunks on a decode instance?
# 3. What does that gain, and is it safe for the requests that are being decoded there?
#
# Every cell runs in seconds. Change the four inputs below the imports and run the rest again.

# %%
import os

import pandas as pd

import qmodel
from qmodel.plotting.plan import plan_figure
from qmodel.policies import Kairos
from qmodel.studies.thresholds import check_plan
from qmodel.units import format_duration, format_threshold

# %%
calibration = qmodel.load_calibration("deepseek-v2-lite", "a100")
cluster = qmodel.Cluster.parse("2P2D", calibration)
workload = qmodel.Workload.builtin("azure-conv").at_load(0.9, cluster)
slo = qmodel.SLO(ttft_s=1.0, tbt_s=0.060)

# QMODEL_QUICK shortens the runs for automatic tests.
quick = bool(os.environ.get("QMODEL_QUICK"))
seeds, requests = (range(2), 2_000) if quick else (range(5), None)

# %% [markdown]
# - `load_calibration` reads how long a step takes on your GPU. `qmodel.list_calibrations()` shows what ships with the
#   package; `qmodel calibrate` adds your own model or GPU.
# - `2P2D` means two prefill and two decode instances.
# - `at_load(0.9, cluster)` compresses or stretches time until the prefill pool must work for 90 % of it, `at_rate(20)`
#   until 20 requests arrive per second.
# - For your own traffic write `workload = qmodel.Workload.from_trace("my_trace.csv")`, a CSV with the columns
#   `arrival_s,prompt_tokens,output_tokens` or any of the common formats, which are recognised. It is replayed as
#   recorded unless you scale it.
# - An SLO limits the TTFT of a request and each time between two of its tokens (TBT).

# %%
print(workload.describe(cluster))

# %% [markdown]
# ## 1. Is the cluster big enough?
#
# Load is the share of time that the prefill pool must work. A mean below 1 is not enough: look at the busiest minutes.
# First the cluster as it is, which never deflects, and the published rule *Kairos*.

# %%
plain = qmodel.simulate(cluster, workload, slo, seed=0, requests=requests)
kairos = qmodel.simulate(cluster, workload, slo, Kairos(), seed=0, requests=requests)
pd.DataFrame(
    {
        name: {
            "P50 TTFT": format_duration(result.ttft_s(0.50)),
            "P95 TTFT": format_duration(result.ttft_s(0.95)),
            "SLO met": f"{100 * result.slo_attainment:.1f} %",
            "prefill pool busy": f"{100 * result.utilisation['prefill']:.0f} %",
            "decode pool busy": f"{100 * result.utilisation['decode']:.0f} %",
        }
        for name, result in (("never deflect", plain), ("Kairos", kairos))
    }
)

# %% [markdown]
# Where does the P95 of a cluster that never deflects go? The largest part says what would help: *queue* and *prefill*
# call for prefill capacity (more instances, or deflection), *transfer* for bandwidth, *admission* and *first step* for
# decode capacity.

# %%
parts = plain.breakdown(0.95)
largest = max(parts, key=parts.get)
print(f"{parts[largest] / sum(parts.values()):.0%} of the P95 TTFT is {largest.replace('_', ' ')}")
pd.Series({part: format_duration(value) for part, value in parts.items()}, name="P95 TTFT")

# %% [markdown]
# ## 2. When to deflect
#
# `derive_thresholds` solves a convex program for the static split between the pools, prices the backlog of each pool,
# and turns the prices into thresholds: *deflect a prompt of this length when the prefill backlog exceeds this much*.

# %%
plan = qmodel.derive_thresholds(cluster, workload, slo)
table = plan.threshold_table()
pd.DataFrame(
    table["threshold_s"],
    index=pd.Index(table["prompt_tokens"], name="prompt tokens"),
    columns=pd.Index([f"{v:g} s waiting" for v in table["decode_backlog_s"]], name="prefill backlog"),
).map(format_threshold)

# %% [markdown]
# Columns: seconds of deflected work that wait at the decode instance already. The more there is, the higher the
# threshold. "Never" marks prompts that would end too late there, or for which no chunk is small enough to keep the TBT
# SLO at the mean decode batch.
#
# The table is for a router that decides *at dispatch*, when a request arrives: most can do that today. Where prefill
# workers pull from a common queue, the same prices decide *late*, when an instance becomes free, and in which order:
# that gains more, and it is what the plan itself does unless you ask for `binding="dispatch"`.
#
# The convex program also says what more hardware is worth, as *shadow prices*:

# %%
for sentence in plan.shadow_price_sentences():
    print(sentence)

# %% [markdown]
# ## 3. Does it hold?
#
# The simulator plays the plan against its rivals on the same arrivals, with several seeds: *thresholds* is the plan,
# *thresholds at dispatch* its table alone, and a *kairos* with an order named is Kairos with the plan's order of the
# queue. The plan counts as better only when it beats each published rule beyond the 95 % interval and loses no
# attainment.

# %%
checked = check_plan(plan, cluster, workload, slo, seeds=seeds, requests=requests)
comparison = checked.comparison
pd.DataFrame(
    {
        policy: {
            "P95 TTFT": format_duration(comparison.mean(policy, "p95_ttft_s")),
            "P99 TBT": format_duration(comparison.mean(policy, "p99_tbt_s")),
            "SLO met": f"{100 * comparison.mean(policy, 'slo_attainment'):.1f} %",
            "TBT met": f"{100 * comparison.mean(policy, 'tbt_attainment'):.1f} %",
            "deflected": f"{100 * comparison.mean(policy, 'deflected_share'):.0f} %",
        }
        for policy in comparison.policies
    }
).T

# %%
print("better than every rival" if checked.plan.better else "\n".join(checked.plan.warnings))

# %%
plan_figure(checked.plan, workload.windows(cluster, workload.span_s / 90), slo, checked)

# %% [markdown]
# ## What to do
#
# Two ways remain to meet the SLO: deflect, or buy. Compare both forms of the plan on this cluster with the cluster that
# has one more prefill instance and never deflects. From cheap to dear:

# %%
bigger = cluster.with_(prefill=cluster.prefill_count + 1)
more_gpus = qmodel.compare(bigger, workload, slo, {"one more instance": None}, seeds=seeds, requests=requests)
at_dispatch = "thresholds at dispatch" if "thresholds at dispatch" in comparison.policies else "thresholds"
choices = {
    "as it is": comparison.mean("disaggregated", "slo_attainment"),
    "deflect, decided at dispatch": comparison.mean(at_dispatch, "slo_attainment"),
    "deflect, bound late": comparison.mean("thresholds", "slo_attainment"),
    "one more prefill instance": more_gpus.mean("one more instance", "slo_attainment"),
}
for name, attainment in choices.items():
    print(f"{name:30} SLO met by {100 * attainment:.1f} % of requests")

# %% [markdown]
# Take the cheapest choice that meets the SLO for 95 % of requests; where none does, the best one. (When even that is
# not enough, or to look for a smaller cluster, `qmodel.plan_capacity` searches all splits.)

# %%
wanted = 0.95
enough = [name for name, attainment in choices.items() if attainment >= wanted]
decision = enough[0] if enough else max(choices, key=choices.get)
print(f"Decision: {decision} (SLO met by {100 * choices[decision]:.1f} % of requests).")

# %% [markdown]
# To put the plan to work: `qmodel.io.plan_file.save_plan(checked.plan, "plan.json")`, or on the command line `qmodel
# thresholds --model deepseek-v2-lite --cluster 2P2D --workload trace.csv.gz -o plan.json`, which does all of the
# above and writes a page about it with `--report report.html`. The how-to pages of the documentation say how Dynamo,
# llm-d, TensorRT-LLM and vLLM take a plan, and how to size a cluster from scratch.

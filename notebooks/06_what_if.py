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
# # What if?
#
# Faster network, looser SLO, smoother traffic, another split: what should an operator change first? Predictions take
# milliseconds, so try everything. This notebook ends with the change that helps most.

# %%
import os

import pandas as pd

import qmodel
from qmodel.plotting.what_if import what_if
from qmodel.studies.sensitivity import sensitivity

quick = bool(os.environ.get("QMODEL_QUICK"))
calibration = qmodel.load_calibration("deepseek-v2-lite", "a100")
cluster = qmodel.Cluster.parse("2P2D", calibration)
slo = qmodel.SLO(ttft_s=1.0, tbt_s=0.060)
traffic = qmodel.Workload.builtin("azure-conv")
prompt, output, _, weights = traffic.lengths()
steady = qmodel.Workload.poisson(1.0, (prompt, weights), (output, weights)).at_load(0.85, cluster)

# %% [markdown]
# ## 1. Drag the sliders
#
# In Jupyter this shows sliders for load, cluster, bandwidth, SLOs and burstiness (0 is a Poisson stream, 1 the
# recorded arrivals), with the answer under them in a tenth of a second; where `ipywidgets` is not installed, or
# outside Jupyter, it shows the answer for the values given. Try this: pull burstiness to 0, and see how little of the
# P95 is left.

# %%
bursty = traffic.at_load(0.85, cluster)
what_if(cluster, bursty, slo)

# %% [markdown]
# ## 2. Bandwidth
#
# Bandwidth shortens the transfer and nothing else. Compare its part with the others before you pay for a faster
# network.

# %%
grid = (5, 25) if quick else (5, 10, 25, 50, 100)
pd.DataFrame(
    {
        f"{width} GB/s": qmodel.predict(cluster.with_(bandwidth_gb_s=width), steady, slo).breakdown(0.95)
        for width in grid
    }
).T.round(4)

# %% [markdown]
# ## 3. Burstiness
#
# The same lengths and the same load: Poisson arrivals against recorded bursts. A cluster sized by a Poisson model, or
# by a benchmark at a steady rate, is sized for the first row and meets the second.

# %%
pd.DataFrame(
    {
        name: {"P95 TTFT [s]": found.ttft_s(0.95), "SLO met": found.slo_attainment}
        for name, found in (
            ("Poisson", qmodel.predict(cluster, steady, slo)),
            ("recorded bursts", qmodel.predict(cluster, bursty, slo)),
            ("recorded bursts, with a plan", qmodel.predict(
                cluster, bursty, slo, qmodel.derive_thresholds(cluster, bursty, slo))),
        )
    }
).T.round(3)  # fmt: skip

# %% [markdown]
# ## 4. P : D
#
# The same four instances, split in three ways, without deflection and with it. Deflection makes the split matter
# less, since decode instances lend what they do not need; it cannot help where decode itself is short.

# %%
splits = {}
for name in ("1P3D", "2P2D", "3P1D"):
    there = qmodel.Cluster.parse(name, calibration)
    plan = qmodel.derive_thresholds(there, bursty, slo)
    splits[name] = {
        "never deflect": qmodel.predict(there, bursty, slo).slo_attainment,
        "plan": qmodel.predict(there, bursty, slo, plan).slo_attainment,
    }
pd.DataFrame(splits).T.round(3)

# %% [markdown]
# ## 5. What matters most
#
# One change at a time, by a tenth or by one instance, largest effect first.

# %%
effects = sensitivity(cluster, steady, slo)
pd.DataFrame(
    {effect.change: {"P95 TTFT": effect.p95_change, "SLO met": effect.attainment_change} for effect in effects}
).T.map("{:+.1%}".format)

# %% [markdown]
# ## Decision
#
# Of the changes an operator can make, take the one that lowers P95 TTFT most.

# %%
possible = [effect for effect in effects if not effect.change.startswith(("rate", "laws"))]
first = min(possible, key=lambda effect: effect.p95_change)
decision = f"first: {first.change} (P95 TTFT {first.p95_change:+.0%})"
print(f"Decision: {decision}.")

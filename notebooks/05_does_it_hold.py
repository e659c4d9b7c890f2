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
# # Does it hold?
#
# A planner should not believe a number without its error. This notebook holds three things against each other: the
# analytical prediction, the simulation, and measurements of your own engine. It ends with the decision whether the
# calibration can be used as it is.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import qmodel
from qmodel.policies import Kairos
from qmodel.studies.calibration import calibrate
from qmodel.studies.calibration_validation import validate_calibration

quick = bool(os.environ.get("QMODEL_QUICK"))
calibration = qmodel.load_calibration("llama-3.1-8b", "a100")
cluster = qmodel.Cluster.parse("2P2D", calibration)
workload = qmodel.Workload.builtin("azure-conv").at_load(0.8, cluster)
slo = qmodel.SLO(ttft_s=1.0, tbt_s=0.060)

# %% [markdown]
# ## 1. Prediction against simulation
#
# The prediction takes milliseconds and never runs the simulator; the simulation plays every request. They share the
# laws, so their difference is the error of the queueing model alone. `error_estimate` is what the prediction itself
# expects it to be.

# %%
plan = qmodel.derive_thresholds(cluster, workload, slo)
policies = {"never deflect": None, "Kairos": Kairos(), "plan": plan}
rows = {}
for name, policy in policies.items():
    said = qmodel.predict(cluster, workload, slo, policy)
    seen = qmodel.simulate(cluster, workload, slo, policy)
    rows[name] = {
        "predicted P95 [s]": said.ttft_s(0.95), "simulated P95 [s]": seen.ttft_s(0.95),
        "error": said.ttft_s(0.95) / seen.ttft_s(0.95) - 1, "expected error": said.error_estimate["p95_ttft_s"],
        "predicted SLO met": said.slo_attainment, "simulated SLO met": seen.slo_attainment,
    }  # fmt: skip
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## 2. What other days would bring
#
# One trace is one draw. Shifted replications show how much a P95 moves by itself; compare policies on the same draws.

# %%
seeds = range(2) if quick else range(5)
comparison = qmodel.compare(cluster, workload, slo, policies, seeds=seeds, requests=3_000 if quick else None)
pd.DataFrame({name: {"P95 TTFT [s]": comparison.mean(name, "p95_ttft_s")} for name in comparison.policies}).T.round(3)

# %% [markdown]
# ## 3. Your own measurements
#
# Kernels are not an engine: schedulers, Python and launches add time. `qmodel validate` says how far a calibration is
# from what you measured, and `qmodel calibrate --measured` corrects it. Both read the output of vLLM's and NVIDIA's
# benchmark tools, Prometheus text, and simple tables. Here a table of decode and prompt times stands in for yours: an
# engine with 1.25 times the kernels' time, a floor of 18 ms per step, and 3 % noise.

# %%
rng = np.random.default_rng(3)
prompt_size, batch_size = (grid.ravel() for grid in np.meshgrid([128, 512, 1024, 2048], [1, 2, 4, 8, 16, 32]))
decode_ms = 1e3 * np.maximum(0.018, 1.25 * calibration.decode_step_s(batch_size, batch_size * (prompt_size + 64.0)))
prompt_ms = 1e3 * np.maximum(0.018, 1.25 * np.asarray(calibration.prompt_batch_s(batch_size, prompt_size)))
measured = pd.DataFrame(
    {
        "model": "llama-3.1-8b", "hardware": "a100", "tensor_parallel": 1, "prompt_size": prompt_size,
        "batch_size": batch_size, "token_size": 128, "prompt_time": prompt_ms * rng.normal(1, 0.03, len(prompt_ms)),
        "token_time": decode_ms * rng.normal(1, 0.03, len(decode_ms)),
    }
)  # fmt: skip
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "measured.csv")
    measured.to_csv(path, index=False)
    before = validate_calibration([calibration], path)
    corrected = calibrate("llama-3.1-8b", "a100", measured=path)
    after = validate_calibration([corrected.calibration], path)
pd.DataFrame(
    {
        "kernels alone": {"token time": before.token_time_mape, "prompt time": before.prompt_time_mape},
        "corrected": {"token time": after.token_time_mape, "prompt time": after.prompt_time_mape},
    }
).T.map("{:.1%}".format)

# %%
for line in corrected.lines():
    print(line)

# %% [markdown]
# ## Decision
#
# Mean errors up to 10 % are fine for planning; above, correct the calibration first.

# %%
worst = max(before.token_time_mape, before.prompt_time_mape)
still = max(after.token_time_mape, after.prompt_time_mape)
decision = (
    "use the calibration as it is"
    if worst <= 0.10
    else f"plan with the corrected calibration: it is {still:.0%} off where kernels alone are {worst:.0%} off"
)
print(f"Decision: {decision}.")

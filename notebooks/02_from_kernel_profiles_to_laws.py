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
# # From measured steps to laws
#
# Everything qmodel says rests on one question: *how long does an engine step take?* A step decodes one token for each
# of B resident requests, whose contexts add up to K tokens, and may carry a chunk of a prompt. This notebook turns
# measured steps into a law, says how wrong the law is where it was not fitted, and ends with the decision which law to
# plan with.

# %%
import os

import numpy as np
import pandas as pd

import qmodel
from qmodel.fitting import errors_of, fit_step_law
from qmodel.laws import StepSamples
from qmodel.plotting.calibration import draw_chunk_increment
from qmodel.plotting.figure import new_figure, style

quick = bool(os.environ.get("QMODEL_QUICK"))

# %% [markdown]
# ## 1. Steps
#
# Here the steps are drawn from a shipped calibration with 2 % of noise, so that the notebook runs anywhere and the
# answer is known. For yours, write a CSV with the columns `B, K, chi, done, t_ms` and use
# `qmodel.io.measurements.read_steps("steps.csv")`; kernel profiles go through
# `qmodel calibrate --model config.json --gpu a100 --profiles aiconfigurator`.

# %%
shipped = qmodel.load_calibration("deepseek-v2-lite", "a100")
rng = np.random.default_rng(0)
count = 200 if quick else 800
batch = rng.integers(1, 257, count).astype(float)
context = batch * rng.uniform(200, 4000, count)
chunk = np.where(rng.random(count) < 0.5, 2.0 ** rng.integers(7, 12, count), 0.0)
done = np.where(chunk > 0, rng.integers(0, 16_000, count), 0.0)
truth = shipped.step.step_time_s(batch, context, chunk, chunk * (done + chunk / 2), done * (chunk > 0))
steps = StepSamples(
    batch=batch, context=context, chunk=chunk, done=done, time_s=truth * rng.normal(1.0, 0.02, count)
)  # fmt: skip
pd.DataFrame({"B": batch, "K": context, "chi": chunk, "done": done, "t_ms": 1e3 * steps.time_s}).head()

# %% [markdown]
# ## 2. Three families of laws
#
# - *linear*: the one in common use, a sum of terms in B, K and the chunk;
# - *dense*: reading weights against multiplying tokens, joined smoothly, since a step takes the longer of the two;
# - *moe*: for mixtures of experts, where the weights that are read grow with the tokens in the step.
#
# Each is fitted to one half of the steps and judged on the other.

# %%
even = np.arange(count) % 2 == 0
fitted = {family: fit_step_law(steps.take(even), family) for family in ("linear", "dense", "moe")}
errors = {family: errors_of(law, steps.take(~even)) for family, law in fitted.items()}
pd.DataFrame(
    {
        family: {"mean error": f"{e.mape:.1%}", "P95": f"{e.p95:.1%}", "worst": f"{e.worst:.1%}"}
        for family, e in errors.items()
    }
).T

# %% [markdown]
# The errors of the right family come down to the noise of the measurements. The linear law cannot bend: it is wrong
# where it matters most, at a chunk added to a small batch.
#
# ## 3. What a chunk costs
#
# Deflection runs prompts in chunks between decode steps. So the figure to look at is not the step but its *increase*.

# %%
with style():
    figure = new_figure(5.0, 3.2)
    draw_chunk_increment(figure.subplots(), [("kernels", shipped)])
figure

# %% [markdown]
# ## 4. How far can it be trusted?
#
# A calibration carries its errors off the fitted grid, and the range it was fitted in. Outside, predictions warn.

# %%
print(f"off the grid: mean {shipped.fit['step_mape']:.1%}, P95 {shipped.fit['step_p95']:.1%}")
print(f"increase by a chunk: {shipped.fit['chunk_increment_mape']:.1%}, prompts: {shipped.fit['prefill_mape']:.1%}")
print(shipped.valid_range)

# %% [markdown]
# ## Decision

# %%
best = min(errors, key=lambda family: errors[family].mape)
decision = f"plan with the {best} law, whose mean error is {errors[best].mape:.1%}"
print(f"Decision: {decision}.")

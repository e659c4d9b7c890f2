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
# # Deriving thresholds, step by step
#
# When should a prompt leave the prefill queue for a decode instance? This notebook derives the rule that qmodel uses,
# with sympy for the algebra and numbers beside it: the price of backlog, the threshold, and where the prices come from.
# It ends with the threshold for one prompt.

# %%
import numpy as np
import pandas as pd
import sympy as sp

import qmodel
from qmodel.optimization.derivations import backlog_price, threshold
from qmodel.optimization.thresholds import at_state, thresholds_s

calibration = qmodel.load_calibration("deepseek-v2-lite", "a100")
cluster = qmodel.Cluster.parse("2P2D", calibration)
workload = qmodel.Workload.builtin("azure-conv").at_load(0.8, cluster)
slo = qmodel.SLO(ttft_s=1.0, tbt_s=0.060)

# %% [markdown]
# ## 1. What backlog costs
#
# A prompt that joins a queue with w seconds of backlog waits w, and makes everyone wait who comes before the queue is
# empty again. In an M/G/1 queue the total, over a queue that is always in equilibrium, grows as g*w^2: put a quadratic
# into the balance equation of the waiting cost and solve.

# %%
price = backlog_price()
price.expression

# %% [markdown]
# Near full load the price grows without bound: one more second of backlog is felt by very many others.

# %%
lam, rho = price.symbols["lam"], price.symbols["rho"]
loads = (0.3, 0.6, 0.8, 0.9, 0.95)
prices = [float(price.expression.subs({lam: 1.0, rho: load})) for load in loads]
pd.Series(prices, index=[f"load {load}" for load in loads], name="g")

# %% [markdown]
# ## 2. The threshold
#
# Kept, a prompt of work s costs its wait, its work, its transfer x and the harm g_P*((w + s)^2 - w^2). Deflected to an
# instance with v seconds of deflected work, where its chunks take h, it costs v + h + g_D*((v + h)^2 - v^2). The
# backlog at which both are equal is the threshold:

# %%
theta = threshold()
theta.expression

# %% [markdown]
# Two limits make sense of it. Without prices it is the difference of completion times; and a dear prefill queue lowers
# it, since a long prompt does more harm there.

# %%
s, x, h, v = (theta.symbols[name] for name in ("s", "x", "h", "v"))
price_p, price_d, harm = (theta.symbols[name] for name in ("g_P", "g_D", "harm"))
sp.simplify(theta.expression.subs({price_p: 0, price_d: 0, harm: 0}))

# %% [markdown]
# ## 3. Where the prices come from
#
# g needs the load that remains at each pool *after* deflection, which depends on the thresholds. A linear program finds
# the best static split first: for each prompt length, the share to keep.

# %%
plan = qmodel.derive_thresholds(cluster, workload, slo)
split = plan.split_table()
bins = pd.DataFrame(split["bins"])
bins["host per prefill"] = bins["host_s"] / bins["prefill_s"]
bins.round(4)

# %% [markdown]
# The last column is the exchange rate: seconds of a decode instance for one second of prefill work saved. Short prompts
# have a poor one, since a chunk costs much however little is in it. The program weighs it against what a prompt does to
# the queue, where work counts with its square: the longest prompts go first, at most one bin is divided. That is the
# split on average; from moment to moment thresholds decide, by the backlogs that they see. The loads that are left give
# the prices:

# %%
rule = plan.dispatch_rule
print(f"g_P = {rule.price_prefill_per_s:.2f} 1/s, g_D = {rule.price_decode_per_s:.2f} 1/s")

# %% [markdown]
# ## 4. The same number three ways
#
# The closed form with the plan's numbers, the code that fills the table, and the router's decision around it. *Harm* is
# the delay of the residents by the prompt's chunks, at a small weight: their TBT SLO already protects them.

# %%
table = plan.threshold_table()
B, K = float(table["batch"]), float(table["context_tokens"])
prompt_tokens, waiting_s = 1000.0, 0.1
by_code = float(thresholds_s(rule, prompt_tokens, waiting_s, B, K))
columns = {
    s: rule.work_s, x: rule.transfer_s, h: at_state(rule, rule.host_s, B, K),
    harm: rule.harm_weight * at_state(rule, rule.harm_s, B, K),
}  # fmt: skip
numbers = {symbol: float(np.interp(prompt_tokens, rule.lengths, column)) for symbol, column in columns.items()}
numbers |= {v: waiting_s, price_p: rule.price_prefill_per_s, price_d: rule.price_decode_per_s}
by_algebra = float(theta.expression.subs(numbers))
router = qmodel.runtime.RuntimePlan(plan.to_dict())
state = [(B, K, waiting_s)]
below, above = (router.decide(prompt_tokens, 0, max(0.0, by_code + gap), state).deflect for gap in (-0.001, 0.001))
print(f"sympy {1e3 * by_algebra:.1f} ms, table {1e3 * by_code:.1f} ms")
print(f"router with 1 ms less backlog: deflect = {below}; with 1 ms more: deflect = {above}")

# %% [markdown]
# ## Decision

# %%
decision = f"deflect a prompt of {prompt_tokens:.0f} tokens when the prefill backlog exceeds {max(by_code, 0.0):.3f} s"
print(f"Decision: {decision}.")

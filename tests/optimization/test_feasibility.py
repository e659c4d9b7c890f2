"""Infeasible inputs name the constraint and the nearest SLO, which is then feasible: over models, clusters and loads."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmodel.errors import InfeasibleError
from qmodel.io.calibrations import load_calibration
from qmodel.optimization import static_split
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.scenario.cluster import InstanceGroup

KINDS = (
    ("deepseek-v2-lite", "a100", 1),
    ("deepseek-v2-lite", "h100", 1),
    ("llama-3.1-8b", "a100", 1),
    ("llama-2-70b", "a100", 4),
    ("qwen3-30b-a3b", "a100", 1),
    ("mixtral-8x7b", "a100", 4),
)
# Both limits, then the pools' capacity, then the decode state that the new limit leads to.
ROUNDS = 4


@cache
def calibration(kind):
    model, gpu, tp = kind
    return load_calibration(model, gpu, tp=tp)


@cache
def traffic(name):
    return Workload.builtin(name)


@st.composite
def scenarios(draw):
    """Return a cluster, a workload and an SLO, from hopeless to easy."""
    first = draw(st.sampled_from(KINDS))
    alike = [kind for kind in KINDS if kind[0] == first[0]]
    sizes = [draw(st.integers(1, 4)) for _ in range(4)]
    own, other = calibration(first), calibration(draw(st.sampled_from(alike)))
    if own is other:
        cluster = Cluster(prefill=sizes[0], decode=sizes[1], calibration=own)
    else:
        pools = [
            tuple(InstanceGroup(count=n, calibration=c) for n, c in zip(counts, (own, other), strict=True))
            for counts in (sizes[:2], sizes[2:])
        ]
        cluster = Cluster(prefill=pools[0], decode=pools[1], calibration=own)
    workload = traffic(draw(st.sampled_from(["azure-conv", "azure-code"]))).at_load(draw(st.floats(0.05, 3.0)), cluster)
    slo = SLO(ttft_s=10 ** draw(st.floats(-4, 0.5)), tbt_s=10 ** draw(st.floats(-4, -0.5)))
    return cluster, workload, slo


def offered(error, slo):
    """Return the SLO that a refusal offers, or None when it offers a lower rate."""
    given = dict(re.findall(r"(ttft|tbt)_slo >= ([\d.e+]+)ms", error.remedy))
    return replace(slo, **{f"{name}_s": float(value) * 1e-3 for name, value in given.items()}) if given else None


def follow(cluster, workload, slo):
    """Give back what each refusal offers until the split is feasible; return how often it was refused."""
    for refusals in range(ROUNDS + 1):
        try:
            static_split(cluster, workload, slo)
        except InfeasibleError as refused:
            assert refused.exit_code == 1
            assert refused.what in ("TTFT SLO", "TBT SLO", "load")
            if refused.what == "load":
                assert re.search(r"exceeded by [\d.e+-]+%", refused.remedy), refused.remedy
            better = offered(refused, slo)
            if better is None:
                rate = float(re.search(r"rate to ([\d.e+-]+)/s", refused.remedy)[1])
                assert 0 < rate < workload.rate_per_s
                workload = workload.at_rate(rate)
            else:
                assert better.ttft_s > slo.ttft_s or better.tbt_s > slo.tbt_s
                slo = better
        else:
            return refusals
    pytest.fail(f"still infeasible at {slo}, {workload.rate_per_s}/s")


@settings(max_examples=3, deadline=None)
@given(scenario=scenarios())
def test_what_is_offered_is_feasible(scenario):
    follow(*scenario)


@pytest.mark.full
@settings(max_examples=150, deadline=None)
@given(scenario=scenarios())
def test_what_is_offered_is_feasible_at_length(scenario):
    follow(*scenario)

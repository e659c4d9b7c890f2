"""Scenarios that make no sense raise one error of ours, before the kernel starts."""

import numpy as np
import pytest

from qmodel import policies
from qmodel._kernels import sim
from qmodel.errors import InputError
from qmodel.scenario import SLO, Cluster, InstanceGroup, Requests, Workload
from qmodel.simulation import Fault, Signals, simulate

from .scenes import calibration, cluster

TARGET, CALIBRATION = cluster(), calibration()
OTHER = calibration(model="another", kv_capacity_tokens=400_000)
FINE = Requests.from_arrays([0.0, 1.0], [100, 200], [5, 5])
TRACE = Workload.poisson(1.0, prompt_tokens=100, output_tokens=10)
requests_of = Requests.from_arrays


def wrong_cluster(**options):
    """Return 2P2D with some options."""
    return Cluster(**{"prefill": 2, "decode": 2, "calibration": CALIBRATION} | options)


WRONG = {
    "nan time": lambda: requests_of([0.0, np.nan], [1, 1], [1, 1]),
    "unsorted": lambda: requests_of([1.0, 0.0], [1, 1], [1, 1]),
    "neg time": lambda: requests_of([-1.0], [1], [1]),
    "inf time": lambda: requests_of([0, np.inf], [1, 1], [1, 1]),
    "nan prompt": lambda: requests_of([0.0], [np.nan], [1]),
    "neg prompt": lambda: requests_of([0.0], [-5], [1]),
    "zero out": lambda: requests_of([0.0], [5], [0]),
    "float tokens": lambda: requests_of([0.0], [5.7], [1]),
    "huge prompt": lambda: simulate(TARGET, requests_of([0.0], [10**12], [1]), SLO()),
    "1e30": lambda: simulate(TARGET, requests_of([0.0], [1e30], [1]), SLO()),
    "string": lambda: requests_of(["a"], [1], [1]),
    "empty": lambda: requests_of([], [], []),
    "len mismatch": lambda: requests_of([0.0, 1.0], [1, 2, 3], [1, 1]),
    "2d": lambda: requests_of([0.0, 1.0], [[1, 2]], [1, 1]),
    "none": lambda: requests_of(None, [1], [1]),
    "cached all": lambda: requests_of([0.0], [5], [1], [5]),
    "cached neg": lambda: requests_of([0.0], [5], [1], [-1]),
    "out over kv": lambda: simulate(TARGET, requests_of([0.0], [5], [10**8]), SLO()),
    "2^31 out": lambda: simulate(TARGET, requests_of([0.0], [5], [2**31]), SLO()),
    "no prefill": lambda: wrong_cluster(prefill=0),
    "neg prefill": lambda: wrong_cluster(prefill=-1),
    "float prefill": lambda: wrong_cluster(prefill=1.5),
    "nan prefill": lambda: wrong_cluster(prefill=float("nan")),
    "no groups": lambda: wrong_cluster(prefill=()),
    "str": lambda: wrong_cluster(prefill="2"),
    "2000": lambda: wrong_cluster(prefill=2000),
    "bw0": lambda: wrong_cluster(bandwidth_gb_s=0),
    "bw nan": lambda: wrong_cluster(bandwidth_gb_s=np.nan),
    "bw inf": lambda: wrong_cluster(bandwidth_gb_s=np.inf),
    "bw str": lambda: wrong_cluster(bandwidth_gb_s="x"),
    "eff0": lambda: wrong_cluster(efficiency=0),
    "fixed neg": lambda: wrong_cluster(transfer_fixed_s=-1),
    "seqs0": lambda: wrong_cluster(max_num_seqs=0),
    "prefill seqs 0": lambda: wrong_cluster(max_prefill_seqs=0),
    "prefill seqs 1.5": lambda: wrong_cluster(max_prefill_seqs=1.5),
    "block 0": lambda: wrong_cluster(transfer_block_tokens=0),
    "tick negative": lambda: wrong_cluster(clock_tick_s=-1e-6),
    "tick nan": lambda: wrong_cluster(clock_tick_s=np.nan),
    "tick too coarse": lambda: wrong_cluster(clock_tick_s=0.01),
    "tick too fine": lambda: wrong_cluster(clock_tick_s=1e-12),
    "tick that does not divide a second": lambda: wrong_cluster(clock_tick_s=3e-6),
    "batched0": lambda: wrong_cluster(max_num_batched_tokens=0),
    "batched huge": lambda: simulate(wrong_cluster(max_num_batched_tokens=10**12), FINE, SLO()),
    "seqs huge": lambda: simulate(wrong_cluster(max_num_seqs=10**12), FINE, SLO()),
    "sharing": lambda: wrong_cluster(link_sharing="x"),
    "first": lambda: wrong_cluster(first_token="x"),
    "slo nan": lambda: SLO(ttft_s=np.nan),
    "slo neg": lambda: SLO(tbt_s=-1),
    "slo none": lambda: simulate(TARGET, FINE, None),
    "slo empty": lambda: simulate(TARGET, FINE, ()),
    "slo wrong": lambda: simulate(TARGET, FINE, [1.0]),
    "class": lambda: simulate(TARGET, requests_of([0.0], [5], [2], slo_class=[3]), SLO()),
    "class neg": lambda: simulate(TARGET, requests_of([0.0], [5], [2], slo_class=[-1]), SLO()),
    "warm": lambda: simulate(TARGET, FINE, SLO(), warmup=1.0),
    "warm nan": lambda: simulate(TARGET, FINE, SLO(), warmup=np.nan),
    "req0": lambda: simulate(TARGET, FINE, SLO(), requests=0),
    "req big": lambda: simulate(TARGET, FINE, SLO(), requests=10),
    "seed neg": lambda: simulate(TARGET, TRACE, SLO(), seed=-1, requests=10),
    "seed float": lambda: simulate(TARGET, TRACE, SLO(), seed=1.5, requests=10),
    "no cluster": lambda: simulate(None, FINE, SLO()),
    "no workload": lambda: simulate(TARGET, None, SLO()),
    "df workload": lambda: simulate(TARGET, [1, 2], SLO()),
    "policy str": lambda: simulate(TARGET, FINE, SLO(), "kairos"),
    "kairos chunks": lambda: simulate(TARGET, FINE, SLO(), policies.Kairos(chunks=())),
    "kairos chunks 0": lambda: simulate(TARGET, FINE, SLO(), policies.Kairos(chunks=(0,))),
    "kairos chunks neg": lambda: simulate(TARGET, FINE, SLO(), policies.Kairos(chunks=(-5,))),
    "kairos chunks float": lambda: simulate(TARGET, FINE, SLO(), policies.Kairos(chunks=(12.5,))),
    "wait": lambda: simulate(TARGET, FINE, SLO(), policies.Kairos(wait="x")),
    "order": lambda: simulate(TARGET, FINE, SLO(), policies.Kairos(order="x")),
    "age": lambda: simulate(TARGET, FINE, SLO(), policies.Kairos(order="aged", ageing_per_s=np.nan)),
    "ec chunks": lambda: simulate(TARGET, FINE, SLO(), policies.EarliestCompletion(chunks=(0,))),
    "static chunks": lambda: simulate(TARGET, FINE, SLO(), policies.StaticLength(10, chunks=(0,))),
    "static nan": lambda: policies.StaticLength(np.nan),
    "routing": lambda: simulate(TARGET, FINE, SLO(), policies.Disaggregated(routing="x")),
    "choice": lambda: simulate(TARGET, FINE, SLO(), policies.Disaggregated(decode_choice="x")),
    "count": lambda: simulate(TARGET, FINE, SLO(), policies.Disaggregated(count_until="x")),
    "coloc 0": lambda: policies.Colocated(0),
    "signals": lambda: simulate(TARGET, FINE, SLO(), signals=Signals(observation_interval_s=np.nan)),
    "noise": lambda: Signals(estimate_noise=-1),
    "tiny interval": lambda: Signals(observation_interval_s=1e-300),
    "est shape": lambda: simulate(TARGET, FINE, SLO(), signals=Signals(estimates=wrong_cluster(prefill=3))),
    "fault kind": lambda: Fault(kind="x", pool="prefill", instance=0, from_s=0, until_s=1),
    "fault pool": lambda: simulate(
        TARGET, FINE, SLO(), faults=[Fault(kind="down", pool="x", instance=0, from_s=0, until_s=1)]
    ),
    "fault inst": lambda: simulate(
        TARGET, FINE, SLO(), faults=[Fault(kind="down", pool="decode", instance=-1, from_s=0, until_s=1)]
    ),
    "fault float inst": lambda: simulate(
        TARGET, FINE, SLO(), faults=[Fault(kind="down", pool="decode", instance=0.5, from_s=0, until_s=1)]
    ),
    "fault huge": lambda: Fault(kind="slow", pool="decode", instance=0, from_s=0, until_s=1, factor=np.inf),
    "fault none": lambda: simulate(TARGET, FINE, SLO(), faults=[None]),
    "hetero kv": lambda: simulate(
        wrong_cluster(
            decode=(InstanceGroup(count=1, calibration=CALIBRATION), InstanceGroup(count=1, calibration=OTHER))
        ),
        requests_of([0.0], [600000], [5]),
        SLO(),
    ),
    "hetero model": lambda: simulate(wrong_cluster(decode=(InstanceGroup(count=1, calibration=OTHER),)), FINE, SLO()),
    "hetero layers": lambda: simulate(
        wrong_cluster(decode=(InstanceGroup(count=1, calibration=OTHER),), pipelined_transfer=True), FINE, SLO()
    ),
    "group 0": lambda: InstanceGroup(count=0, calibration=CALIBRATION),
    "group none": lambda: wrong_cluster(decode=(None,)),
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused_before_the_kernel_starts(name, monkeypatch):
    monkeypatch.setattr(sim, "run", lambda *arrays: pytest.fail("the kernel was started"))
    with pytest.raises(InputError) as refused:
        WRONG[name]()
    assert "\n" not in str(refused.value)


def test_the_scenario_itself_is_fine():
    assert simulate(TARGET, FINE, SLO()).count == 2

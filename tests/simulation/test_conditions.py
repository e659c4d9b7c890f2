"""Faults and imperfect signals: nobody is lost, and what the router does not know changes what it does."""

from dataclasses import replace

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.laws import PNormLaw
from qmodel.policies import Disaggregated, EarliestCompletion, Kairos, StaticLength
from qmodel.scenario import SLO, Requests
from qmodel.simulation import Fault, Signals, encode, simulate

from .scenes import PREFILL, STEP, calibration, chat_requests, cluster, rule

TARGET = cluster(bandwidth_gb_s=2.0)
REQUESTS = chat_requests(1500, 0.8, TARGET, seed=3)
SPAN = REQUESTS.span_s
FROM, UNTIL = 0.3 * SPAN, 0.5 * SPAN

FAULTS = {
    "prefill down": [Fault(kind="down", pool="prefill", instance=0, from_s=FROM, until_s=UNTIL)],
    "decode down": [Fault(kind="down", pool="decode", instance=1, from_s=FROM, until_s=UNTIL)],
    "both prefill down": [
        Fault(kind="down", pool="prefill", instance=i, from_s=FROM, until_s=UNTIL - 3 * i) for i in range(2)
    ],
    "all decode down": [
        Fault(kind="down", pool="decode", instance=j, from_s=FROM, until_s=UNTIL - 3 * j) for j in range(2)
    ],
    "straggler": [Fault(kind="slow", pool="prefill", instance=1, from_s=FROM, until_s=UNTIL, factor=2.0)],
    "slow decode": [Fault(kind="slow", pool="decode", instance=1, from_s=FROM, until_s=UNTIL, factor=2.0)],
    "slow links": [
        Fault(kind="link", pool="prefill", instance=i, from_s=FROM, until_s=UNTIL, factor=10.0) for i in range(2)
    ],
}
_RULE = rule(TARGET)


def with_rule(binding, order="fcfs"):
    """Return the rule with another binding and order."""
    return replace(_RULE, binding=binding, order=order)


POLICIES = {
    "none": Disaggregated(),
    "early decode": Disaggregated(decode_choice="arrival"),
    "kairos": Kairos(),
    "earliest": EarliestCompletion(order="spf"),
    "static": StaticLength(600),
    "dispatch": with_rule("dispatch"),
    "late": with_rule("late", "spf"),
}


@pytest.mark.parametrize("link_sharing", ["fcfs", "fair"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_everyone_finishes(fault, policy, link_sharing):
    target = TARGET.with_(link_sharing=link_sharing)
    result = simulate(target, REQUESTS, SLO(), POLICIES[policy], warmup=0, faults=FAULTS[fault])
    frame = result.requests
    assert np.isfinite(frame.finish_s).all()
    for part in ("queue", "prefill", "transfer", "admission", "first_step"):
        assert (frame[f"{part}_s"] >= -1e-9).all(), part
    assert (frame.finish_s >= frame.arrival_s + frame.ttft_s - 1e-9).all()
    stopped = "down" in fault
    assert (frame.restarts.sum() > 0) == stopped
    if fault == "prefill down":
        started = frame.arrival_s + frame.queue_s
        assert not ((frame.prefill_instance == 0) & (started > FROM) & (started < UNTIL)).any()
    if fault == "decode down":
        stepped = frame.finish_s - (frame.e2e_s - frame.ttft_s)
        assert not ((frame.decode_instance == 1) & (stepped > FROM) & (stepped < UNTIL)).any()


def test_a_straggler_hurts_and_goes_away():
    slow = simulate(TARGET, REQUESTS, SLO(), faults=FAULTS["straggler"]).ttft_values_s
    usual = simulate(TARGET, REQUESTS, SLO()).ttft_values_s
    assert slow.mean() > 1.1 * usual.mean()
    assert slow[-100:].mean() == pytest.approx(usual[-100:].mean(), rel=0.2)


def test_a_fault_that_ends_before_it_matters_changes_nothing():
    late = [Fault(kind="down", pool="decode", instance=0, from_s=10 * SPAN, until_s=11 * SPAN)]
    a, b = (simulate(TARGET, REQUESTS, SLO(), faults=f).ttft_values_s for f in ((), late))
    assert np.array_equal(a, b)


def test_an_old_snapshot_costs_and_a_fresh_one_does_not():
    times = [
        simulate(TARGET, REQUESTS, SLO(), Kairos(), signals=Signals(observation_interval_s=s)).ttft_values_s.mean()
        for s in (0.0, 1e-4, 1.0)
    ]
    assert times[1] == pytest.approx(times[0], rel=0.02)
    assert times[2] > 1.2 * times[0]


@pytest.mark.parametrize("policy", ["none", "kairos", "earliest", "dispatch"])
@pytest.mark.parametrize("fault", ["prefill down", "decode down"])
def test_an_old_snapshot_sends_nobody_to_an_instance_that_has_stopped(fault, policy):
    signals = Signals(observation_interval_s=2.0)
    frame = simulate(
        TARGET, REQUESTS, SLO(), POLICIES[policy], warmup=0, faults=FAULTS[fault], signals=signals
    ).requests
    during = (frame.arrival_s > FROM) & (frame.arrival_s < UNTIL)
    assert during.sum() > 50
    if fault == "prefill down":
        assert not (during & (frame.prefill_instance == 0)).any()
    else:
        assert not (during & frame.deflected & (frame.decode_instance == 1)).any()


def test_looks_that_nobody_acts_on_cost_nothing():
    """Logs may start at a time of day in seconds since 1970: a look every 100 ms from zero on would never end."""
    begin = 2.0**30
    later = Requests.from_arrays(
        REQUESTS.arrival_s[:300] + begin, REQUESTS.prompt_tokens[:300], REQUESTS.output_tokens[:300]
    )
    now = Requests.from_arrays(REQUESTS.arrival_s[:300], REQUESTS.prompt_tokens[:300], REQUESTS.output_tokens[:300])
    signals = Signals(observation_interval_s=0.125)
    a, b = (simulate(TARGET, requests, SLO(), Kairos(), signals=signals).ttft_values_s for requests in (later, now))
    assert a.mean() == pytest.approx(b.mean(), rel=0.02)


def test_seats_that_nobody_can_take_need_no_memory():
    wide = TARGET.with_(max_num_seqs=1_000_000)
    spec = Disaggregated().kernel_spec()
    arrays = encode.arrays_of(encode.scene_of(wide, spec), REQUESTS, (SLO(),), spec, 0)
    assert arrays.slots.shape == (2, len(REQUESTS.arrival_s), 4)
    assert simulate(wide, REQUESTS, SLO()).count == len(REQUESTS.arrival_s)


@pytest.mark.parametrize("policy", ["kairos", "earliest", "dispatch", "late"])
def test_noise_changes_decisions_and_its_seed_repeats_them(policy):
    noisy = [
        simulate(TARGET, REQUESTS, SLO(), POLICIES[policy], signals=Signals(estimate_noise=0.5, seed=s)).columns
        for s in (1, 1, 2)
    ]
    assert np.array_equal(noisy[0]["finish_s"], noisy[1]["finish_s"])
    assert not np.array_equal(noisy[0]["deflected"], noisy[2]["deflected"])


def scaled(law, factor):
    """Return the law with every time multiplied."""
    return PNormLaw(**{name: getattr(law, name) for name in law.__slots__} | {"gain": factor})


def test_wrong_laws_change_the_router_only():
    wrong = cluster(cal=calibration(step=scaled(STEP, 1.0), prefill=scaled(PREFILL, 1.2)), bandwidth_gb_s=2.0)
    right = simulate(TARGET, REQUESTS, SLO(), Kairos())
    misled = simulate(TARGET, REQUESTS, SLO(), Kairos(), signals=Signals(estimates=wrong))
    assert misled.deflected_share > right.deflected_share
    alone = simulate(TARGET, REQUESTS, SLO(), Disaggregated(), signals=Signals(estimates=wrong))
    truth = simulate(TARGET, REQUESTS, SLO(), Disaggregated())
    assert alone.columns["prefill_s"].min() == pytest.approx(truth.columns["prefill_s"].min(), rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fault(kind="down", pool="prefill", instance=0, from_s=2.0, until_s=1.0),
        lambda: Fault(kind="slow", pool="prefill", instance=0, from_s=0.0, until_s=1.0, factor=0.0),
        lambda: Signals(observation_interval_s=-1.0),
        lambda: simulate(
            TARGET, REQUESTS, SLO(), faults=[Fault(kind="down", pool="decode", instance=2, from_s=0, until_s=1)]
        ),
        lambda: simulate(TARGET, REQUESTS, SLO(), signals=Signals(estimates=cluster(3, 2))),
        lambda: simulate(TARGET, REQUESTS, SLO(), faults=FAULTS["prefill down"] * 2),
    ],
)
def test_malformed_conditions_are_refused(make):
    with pytest.raises(InputError):
        make()

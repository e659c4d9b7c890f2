"""The compiled simulator against the plain one, on random small scenarios."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmodel.laws import LinearLaw
from qmodel.policies import Colocated, Disaggregated, EarliestCompletion, Kairos, KernelSpec, Route, StaticLength
from qmodel.policies.rule import DecodeTables
from qmodel.policies.state import UNAVAILABLE
from qmodel.scenario import SLO, InstanceGroup, Requests
from qmodel.simulation import Fault, Signals, simulate

from .reference import Reference
from .scenes import calibration, cluster, rule

RULES = {}
DENSE = LinearLaw(alpha_s=0.006, batch_s=2e-4, context_s=1e-7, prompt_s=6e-5, attention_s=2e-9)


def shared_rule(**options):
    """Return a rule for the default cluster; the tables are built once."""
    if "rule" not in RULES:
        RULES["rule"] = rule(cluster())
    return replace(RULES["rule"], **options)


def two_kinds():
    """Return the fields of a rule whose decode instances are of two kinds in turn, the second slower and smaller."""
    one = shared_rule()
    slower = DecodeTables(contexts=0.03 * one.contexts, host_s=1.5 * one.host_s, harm_s=2.0 * one.harm_s)
    return {"kinds": (one.tables_of(0), slower), "kind_of": (0, 1) * 4}


@dataclass(frozen=True)
class Named:
    """A user's rule that names the decode instance too: the last of those with the fewest requests."""

    routing: str
    decode_choice: str
    count_until: str
    name: str = "named"

    def decide(self, state, request):
        """Return prefill by load, decode by requests; short prompts are hosted."""
        last = len(state.decode_requests) - 1 - int(np.argmin(state.decode_requests[::-1]))
        if request.prompt_tokens < 100 and state.decode_requests[last] < UNAVAILABLE:
            return Route(pool="decode", instance=last)
        load = state.prefill_work_s if self.routing == "work" else state.prefill_requests
        named = None if request.prompt_tokens % 3 == 0 else last
        return Route(pool="prefill", instance=int(np.argmin(load)), decode_instance=named)

    def kernel_spec(self):
        """Say how requests count, and that hosted prompts fill a budget."""
        return KernelSpec(
            kind="external", host_budget=512, decode_choice=self.decode_choice, count_until=self.count_until
        )


def policies():
    """Draw a policy."""
    order = st.sampled_from(["fcfs", "spf", "aged", "due"])
    counted = {
        "decode_choice": st.sampled_from(["prefilled", "arrival", "arrival_sent", "arrival_landed"]),
        "count_until": st.sampled_from(["finished", "last_step_starts"]),
        "routing": st.sampled_from(["work", "requests"]),
    }
    priced = st.builds(
        lambda binding, o, gp, gd, harm, room, relief, deadline, most, faulty, mixed_up: shared_rule(
            binding=binding, order=o, price_prefill_per_s=gp, price_decode_per_s=gd, harm_weight=harm,
            max_waiting_tokens=room, ageing_per_s=0.01, relief_weight=relief, deadline_s=deadline,
            max_batch=most, **faulty, **(two_kinds() if mixed_up else {}),
        ),
        st.sampled_from(["dispatch", "late"]), order, st.sampled_from([0.0, 3.0]), st.sampled_from([0.0, 5.0]),
        st.sampled_from([0.0, 0.1]), st.sampled_from([500, 2000, 10**6]),
        st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.3]), st.sampled_from([0, 3]),
        st.sampled_from([{}, {"fault_harm": 10.0, "patience_s": 0.3, "slow_factor": 1.5}]), st.booleans(),
    )  # fmt: skip
    return st.one_of(
        priced,
        st.builds(Disaggregated, order=order, ageing_per_s=st.just(0.05)),
        st.builds(Disaggregated, **counted),
        st.builds(
            Kairos, alpha=st.sampled_from([0.8, 1.3]), wait=st.sampled_from(["steps", "exact", "short"]), order=order
        ),
        st.builds(EarliestCompletion, order=order, margin=st.sampled_from([1.0, 1.5])),
        st.builds(
            StaticLength,
            st.sampled_from([300.0, 3000.0]),
            chunks=st.sampled_from([None, (512, 128)]),
            token_budget=st.sampled_from([64, 2048]),
            **counted,
        ),
        st.builds(Named, **counted),
        st.builds(StaticLength, st.just(0.0), prefill_busy=st.just(1.0), decode_busy=st.just(0.05)),
        st.builds(Colocated, st.sampled_from([64, 512]), count_until=counted["count_until"]),
    )


@st.composite
def scenarios(draw):
    """Draw (cluster, requests, slos, policy, faults, interval): small, often overloaded, often short of memory."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 60))
    longest = draw(st.sampled_from([200, 3000, 9000]))
    prompt = rng.integers(1, longest, n)
    output = rng.integers(1, draw(st.sampled_from([3, 40, 300])), n)
    cached = rng.integers(0, prompt) * rng.integers(0, 2, n)
    rate = draw(st.sampled_from([2.0, 20.0, 200.0]))
    capacity = draw(st.sampled_from([int((prompt + output).max()) + 40, 10_000, 10**6]))
    cal = calibration(kv_capacity_tokens=capacity)
    slow = calibration(kv_capacity_tokens=12_000, step=DENSE, prefill=DENSE)
    counts = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 7]))  # 7: threshold rules bound, not look at all
    pools = [mixed(count, draw(st.integers(0, 1)), cal, slow) for count in counts]
    target = cluster(
        *pools, cal,
        max_num_batched_tokens=draw(st.sampled_from([256, 2048])),
        max_num_seqs=draw(st.sampled_from([1, 4, 256])),
        bandwidth_gb_s=draw(st.sampled_from([0.1, 25.0])),
        transfer_fixed_s=draw(st.sampled_from([0.0, 0.003])),
        packing=draw(st.booleans()),
        pipelined_transfer=draw(st.booleans()),
        link_sharing=draw(st.sampled_from(["fcfs", "fair", "none"])),
        first_token=draw(st.sampled_from(["decode", "prefill"])),
        max_prefill_seqs=draw(st.sampled_from([None, 1, 3])),
        transfer_block_tokens=draw(st.sampled_from([1, 16])),
        clock_tick_s=draw(st.sampled_from([0.0, 0.0, 1e-6, 1e-4])),
    )  # fmt: skip
    arrivals = np.cumsum(rng.exponential(1 / rate, n))
    if target.ticks_per_s:  # some on a tick, so that they meet other events there
        arrivals = np.where(rng.random(n) < 0.7, np.ceil(arrivals * target.ticks_per_s) / target.ticks_per_s, arrivals)
        arrivals.sort()
    requests = Requests.from_arrays(arrivals, prompt, output, cached, rng.integers(0, 2, n))
    # No whole ticks: a step as long as its limit would be decided by rounding.
    slos = SLO(ttft_s=0.5, tbt_s=0.0300031), SLO(ttft_s=2.0, tbt_s=0.0800031)
    policy, faults = draw(policies()), drawn_faults(rng, target, arrivals[-1]) if draw(st.booleans()) else ()
    asked_at_arrival = getattr(policy, "binding", "dispatch") == "dispatch"
    interval = draw(st.sampled_from([0.0, 0.0, 0.11])) if asked_at_arrival else 0.0
    return target, requests, slos, policy, faults, interval


def mixed(count, others, cal, other):
    """Return a pool of equal instances and, where asked for, one of another kind."""
    groups = (InstanceGroup(count=count, calibration=cal),)
    return (*groups, InstanceGroup(count=others, calibration=other)) if others else groups


def drawn_faults(rng, target, span):
    """Return an instance that stops, another that slows and a slow link, at random times and places."""

    def one(kind, factor=1.0):
        pool, begin = ("prefill", "decode")[rng.integers(2)], float(rng.uniform(0, span))
        count = target.prefill_count if pool == "prefill" else target.decode_count
        until = begin + float(rng.exponential(0.5)) + 0.01
        return Fault(
            kind=kind, pool=pool, instance=int(rng.integers(count)), from_s=begin, until_s=until, factor=factor
        )

    return [one("down"), one("slow", 1.9), one("slow", 0.5), one("link", 7.0)]


def agrees(target, requests, slos, policy, faults=(), interval=0.0):
    """Compare every time of every request."""
    signals = Signals(observation_interval_s=interval)
    frame = simulate(target, requests, slos, policy, warmup=0, faults=faults, signals=signals).requests
    jobs = Reference(target, requests, slos, policy, faults, interval).run().jobs
    prefill = target.first_token == "prefill"
    expected = {
        "queue_s": [j.start - j.arrival for j in jobs],
        "prefill_s": [j.prefilled - j.start for j in jobs],
        "finish_s": [j.finish for j in jobs],
        "ttft_s": [(j.prefilled if prefill else j.first) - j.arrival for j in jobs],
        "tbt_max_s": [max(j.gaps, default=np.nan) for j in jobs],
        "tbt_mean_s": [np.mean(j.gaps) if j.gaps else np.nan for j in jobs],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(frame[name], values, rtol=1e-9, atol=1e-9, err_msg=name)
    assert frame.deflected.tolist() == [j.deflected for j in jobs]
    assert frame.decode_instance.tolist() == [j.target.number if j.target else -1 for j in jobs]
    assert frame.restarts.tolist() == [j.restarts for j in jobs]
    assert frame.preemptions.tolist() == [j.preempted for j in jobs]
    assert frame.tbt_count.tolist() == [len(j.gaps) for j in jobs]
    counted = [sum(g > j.slo.tbt_s for g in j.gaps) for j in jobs]
    assert frame.tbt_violations.tolist() == counted


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_kernel_equals_the_plain_simulator(scenario):
    agrees(*scenario)


class Watched(Reference):
    """A plain simulator that notes each time whether those who have waited for long go first."""

    history: list

    def watch_overdue(self):
        super().watch_overdue()
        self.history.append(self.overdue_first)


@pytest.mark.parametrize("binding", ["late", "dispatch"])
@pytest.mark.parametrize("kind", ["down", "slow"])
def test_kernel_equals_the_plain_simulator_while_a_fault_lasts(kind, binding):
    rng, n, switched, hosted = np.random.default_rng(3), 150, 0, 0
    target = cluster(2, 2, calibration(), max_num_seqs=4)
    fault = Fault(kind=kind, pool="decode", instance=0, from_s=1.0, until_s=3.0, factor=3.0)
    policy = shared_rule(
        binding=binding, order="due" if binding == "late" else "fcfs", harm_weight=0.1, max_batch=3, fault_harm=10.0,
        patience_s=0.3, slow_factor=1.5, **two_kinds(),
    )  # fmt: skip
    for _ in range(4):
        arrivals = np.cumsum(rng.exponential(0.03, n))
        requests = Requests.from_arrays(arrivals, rng.integers(1, 3000, n), rng.integers(1, 40, n))
        slos = (SLO(ttft_s=0.5, tbt_s=0.06),)
        agrees(target, requests, slos, policy, [fault])
        run, history = Watched(target, requests, slos, policy, [fault]), []
        run.history = history
        jobs = run.run().jobs
        switched += sum(after != before for before, after in pairwise(history))
        hosted += sum(j.deflected for j in jobs)
    assert hosted > 10
    assert binding == "dispatch" or switched > 4


@pytest.mark.full
@pytest.mark.parametrize("piece", range(6))
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios())
def test_kernel_equals_the_plain_simulator_on_many(piece, scenario):
    agrees(*scenario)

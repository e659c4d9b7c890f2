"""Timelines of a few requests, worked out by hand."""

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.laws import LinearLaw
from qmodel.policies import Colocated, Disaggregated, Route, StaticLength
from qmodel.scenario import SLO, Requests
from qmodel.simulation import simulate

from .scenes import calibration, cluster

#: A step takes 10 ms + 1 ms per decode request + 0.01 ms per context token + 0.1 ms per prompt token.
SIMPLE = LinearLaw(alpha_s=0.010, batch_s=0.001, context_s=1e-5, prompt_s=1e-4, attention_s=0.0)
SLOW = SLO(ttft_s=10.0, tbt_s=1.0)


def simple(prefill=1, decode=1, **options):
    capacity = options.pop("kv_capacity_tokens", 100_000)
    cal = calibration(step=SIMPLE, prefill=SIMPLE, kv_bytes_per_token=1e6, kv_capacity_tokens=capacity)
    options = {"bandwidth_gb_s": 10.0, "efficiency": 1.0, "transfer_fixed_s": 0.002} | options
    return cluster(prefill, decode, cal, **options)


def test_one_request_through_both_pools():
    requests = Requests.from_arrays([1.0], [100], [4])
    row = simulate(simple(), requests, SLOW, warmup=0).requests.iloc[0]
    # Prefill 10 + 10 ms; transfer 2 ms + 100 MB / 10 GB/s; steps at contexts 100, 101, 102: 11 + 1.00, 1.01, 1.02 ms.
    assert row.queue_s == 0.0
    assert row.prefill_s == pytest.approx(0.020, abs=1e-12)
    assert row.transfer_s == pytest.approx(0.012, abs=1e-12)
    assert row.admission_s == 0.0
    assert row.first_step_s == pytest.approx(0.012, abs=1e-12)
    assert row.ttft_s == pytest.approx(0.044, abs=1e-12)
    assert row.e2e_s == pytest.approx(0.044 + 0.01201 + 0.01202, abs=1e-12)
    assert row.tbt_max_s == pytest.approx(0.01202, abs=1e-12)
    assert row.tbt_count == 2


def test_first_token_can_be_that_of_the_prefill_instance():
    requests = Requests.from_arrays([0.0], [100], [3])
    row = simulate(simple(first_token="prefill"), requests, SLO(ttft_s=1, tbt_s=0.023), warmup=0).requests.iloc[0]
    assert row.ttft_s == pytest.approx(0.020, abs=1e-12)
    # Token 2 comes after transfer and first step, token 3 a step later.
    assert row.tbt_max_s == pytest.approx(0.012 + 0.012, abs=1e-12)
    assert row.tbt_violations == 1
    assert row.tbt_count == 2


def test_prompts_are_packed_and_a_long_one_spans_steps():
    requests = Requests.from_arrays([0.0, 0.001, 0.002], [50, 130, 60], [1, 1, 1])
    result = simulate(simple(max_num_batched_tokens=100), requests, SLOW, warmup=0).requests
    # Step 1: 50 tokens, 0-15 ms. Step 2: 100 of 130, 15-35. Step 3: 30 + 60, 35-54.
    assert result.queue_s.to_numpy() == pytest.approx([0.0, 0.014, 0.033], abs=1e-12)
    assert (result.arrival_s + result.queue_s + result.prefill_s).to_numpy() == pytest.approx(
        [0.015, 0.054, 0.054], abs=1e-12
    )


def test_a_prefill_step_holds_no_more_prompts_than_allowed():
    requests = Requests.from_arrays([0.0, 0.001, 0.002, 0.003], [50, 10, 20, 30], [1, 1, 1, 1])
    result = simulate(simple(max_prefill_seqs=2), requests, SLOW, warmup=0).requests
    # Step 1: 50 tokens, 0-15 ms. Step 2: 10 + 20, 15-28. Step 3: 30, 28-41.
    ends = result.arrival_s + result.queue_s + result.prefill_s
    assert ends.to_numpy() == pytest.approx([0.015, 0.028, 0.028, 0.041], abs=1e-12)


def test_caches_are_sent_in_whole_blocks():
    requests = Requests.from_arrays([0.0, 1.0], [100, 96], [2, 2], cached_tokens=[3, 0])
    result = simulate(simple(transfer_block_tokens=16), requests, SLOW, warmup=0).requests
    # 97 tokens are 7 blocks, 96 are 6: 112 and 96 MB at 10 GB/s, and 2 ms.
    assert result.transfer_s.to_numpy() == pytest.approx([0.0132, 0.0116], abs=1e-12)


def test_a_clock_cuts_steps_and_raises_transfers():
    requests = Requests.from_arrays([0.0], [104], [4])
    row = simulate(simple(clock_tick_s=1e-4), requests, SLOW, warmup=0).requests.iloc[0]
    # Prefill 20.4 ms; transfer 12.4 ms; steps of 12.04, 12.05 and 12.06 ms make 12 each.
    assert row.prefill_s == pytest.approx(0.0204, abs=1e-12)
    assert row.transfer_s == pytest.approx(0.0124, abs=1e-12)
    assert row.e2e_s == pytest.approx(0.0204 + 0.0124 + 3 * 0.012, abs=1e-12)
    row = simulate(simple(clock_tick_s=1e-4, bandwidth_gb_s=7.0), requests, SLOW, warmup=0).requests.iloc[0]
    assert row.transfer_s == pytest.approx(0.0169, abs=1e-12)  # 2 ms + 104/7 ms = 16.857


def test_landed_caches_and_local_prompts_wait_in_one_queue():
    """A decode step of 100 tokens: the long local prompt that came first keeps what landed later waiting."""
    requests = Requests.from_arrays([0.0, 0.010, 0.011], [150, 99, 190], [5, 2, 2])
    policy = StaticLength(160, chunks=None, token_budget=100)
    row = simulate(simple(), requests, SLOW, policy, warmup=0).requests
    assert row.deflected.tolist() == [True, True, False]
    # Steps at the decode instance: 100 tokens, 0-20 ms; 50 + 50 tokens, 20-40; 1 token + 49, 40-57.4 (a resident of
    # 150 tokens: 11 + 1.5 + 4.9). The third lands at 11 + 29 + 21 = 61 ms, in the step that begins then.
    prefilled = row.arrival_s + row.queue_s + row.prefill_s
    assert prefilled.to_numpy() == pytest.approx([0.040, 0.0574, 0.040], abs=1e-12)


def test_a_policy_can_name_the_decode_instance():
    class Second:
        """Prefill here, decode at the second instance."""

        name = "second"

        def decide(self, state, request):
            """Return the same route for everybody."""
            return Route(pool="prefill", instance=0, decode_instance=1)

    requests = Requests.from_arrays([0.0, 0.1, 0.2], [100, 101, 102], [20, 20, 20])
    frame = simulate(simple(decode=2), requests, SLOW, Second(), warmup=0).requests
    assert frame.decode_instance.tolist() == [1, 1, 1]


@pytest.mark.parametrize("route", [{"pool": "prefill", "decode_instance": 2}, {"pool": "decode", "decode_instance": 0}])
def test_a_decode_instance_that_is_none_is_refused(route):
    class Wrong:
        """Name what is not there."""

        name = "wrong"

        def decide(self, state, request):
            """Return the route under test."""
            return Route(instance=0, **route)

    with pytest.raises(InputError, match="decode_instance of a route"):
        simulate(simple(decode=2), Requests.from_arrays([0.0], [100], [2]), SLOW, Wrong())


def test_a_joiner_waits_for_the_end_of_the_step():
    requests = Requests.from_arrays([0.0, 0.020], [100, 100], [10, 2])
    result = simulate(simple(), requests, SLOW, warmup=0).requests
    # The first decodes from 32 ms on: steps of 12.00, 12.01, 12.02, ... ms. The second lands at 52 ms, during the
    # step 44.00-56.01 ms, and shares the next one: 12 ms + (102 + 100) * 0.01 ms.
    assert result.admission_s[1] == pytest.approx(0.05601 - 0.052, abs=1e-12)
    assert result.first_step_s[1] == pytest.approx(0.01402, abs=1e-12)


def test_equal_links_carry_one_transfer_after_the_other():
    requests = Requests.from_arrays([0.0, 0.0], [100, 100], [2, 2])
    result = simulate(simple(), requests, SLOW, warmup=0).requests
    assert result.transfer_s.to_numpy() == pytest.approx([0.012, 0.022], abs=1e-12)


def test_a_deflected_prompt_shares_steps_with_the_batch():
    policy = StaticLength(64, inclusive=True, chunks=(32,))
    requests = Requests.from_arrays([0.0, 0.045], [100, 40], [20, 3])
    result = simulate(simple(), requests, SLOW, policy, warmup=0).requests
    assert result.deflected.tolist() == [False, True]
    # Boundaries 32, 44, 56.01: chunk of 32 beside context 102 (12.02 + 3.2 ms), then 8 (12.03 + 0.8).
    assert result.queue_s[1] == pytest.approx(0.05601 - 0.045, abs=1e-12)
    assert result.prefill_s[1] == pytest.approx(0.01522 + 0.01283, abs=1e-12)
    assert result.ttft_s[1] == pytest.approx(0.05601 + 0.01522 + 0.01283 - 0.045, abs=1e-12)
    assert result.tbt_max_s[0] == pytest.approx(0.01522, abs=1e-12)


def test_colocated_single_request():
    requests = Requests.from_arrays([0.0], [100], [3])
    row = simulate(simple(), requests, SLOW, Colocated(64), warmup=0).requests.iloc[0]
    # Chunks of 64 and 36 (16.4 + 13.6 ms); two decode steps at contexts 100 and 101.
    assert row.ttft_s == pytest.approx(0.030, abs=1e-12)
    assert row.e2e_s == pytest.approx(0.030 + 0.012 + 0.01201, abs=1e-12)


def test_cached_prefix_is_neither_computed_nor_moved():
    requests = Requests.from_arrays([0.0], [100], [2], cached_tokens=[60])
    row = simulate(simple(), requests, SLOW, warmup=0).requests.iloc[0]
    assert row.prefill_s == pytest.approx(0.014, abs=1e-12)
    assert row.transfer_s == pytest.approx(0.006, abs=1e-12)
    assert row.first_step_s == pytest.approx(0.012, abs=1e-12)


def test_growth_beyond_the_cache_preempts_the_newest():
    requests = Requests.from_arrays([0.0, 0.0], [100, 100], [30, 30])
    tight = simple(kv_capacity_tokens=220, decode=1)
    result = simulate(tight, requests, SLOW, warmup=0)
    frame = result.requests
    assert frame.preemptions.tolist() == [0, 1]
    # 201 tokens at admission of the second; the batch of 2 grows to 220 at most, so it makes 9 steps together.
    assert frame.finish_s[0] < frame.finish_s[1]
    assert frame.tbt_max_s[1] > 10 * frame.tbt_mean_s[0]


class ToDecode:
    """A user's policy: everything is deflected, alternating by length."""

    name = "to decode"

    def decide(self, state, request):
        """Return a decode instance by length."""
        return Route(pool="decode", instance=request.prompt_tokens % len(state.batch))


def test_a_users_policy_is_asked():
    requests = Requests.from_arrays([0.0, 0.1, 0.2], [100, 101, 102], [2, 2, 2])
    frame = simulate(simple(decode=2), requests, SLOW, ToDecode(), warmup=0).requests
    assert frame.decode_instance.tolist() == [0, 1, 0]
    assert frame.deflected.all()


def test_zero_load_times_equal_the_laws():
    target = cluster()
    lengths = np.array([17, 500, 2048, 2049, 9000])
    requests = Requests.from_arrays(np.arange(5) * 100.0, lengths, 50)
    frame = simulate(target, requests, SLO(), warmup=0).requests
    assert frame.ttft_s.to_numpy() == pytest.approx(target.zero_load_ttft_s(lengths.astype(float)), rel=1e-12)


@pytest.mark.parametrize(("prompt", "output", "what"), [(90_000, 20_000, "KV capacity"), (200_000, 1, "KV capacity")])
def test_what_cannot_fit_is_refused(prompt, output, what):
    with pytest.raises(InputError, match=what):
        simulate(simple(), Requests.from_arrays([0.0], [prompt], [output]), SLOW)


def test_a_missing_slo_class_is_refused():
    with pytest.raises(InputError, match="SLO class"):
        simulate(simple(), Requests.from_arrays([0.0], [10], [2], slo_class=[1]), SLOW, Disaggregated())

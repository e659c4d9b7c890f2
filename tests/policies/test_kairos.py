"""Kairos as DESIGN 4 gives it: ten decisions worked out by hand, with laws simple enough for mental arithmetic.

Prefill step: 10 ms + 0.1 ms a token. Decode step: 10 ms + 1 ms a resident + 0.1 ms a prompt token. Budget 1,000
tokens; chunks 400, 200, 100; TBT SLO 60 ms; TTFT SLO 1 s. Times below in ms.
"""

import numpy as np
import pytest

from qmodel.laws import LinearLaw
from qmodel.policies import ClusterState, Kairos, RequestView

PREFILL = LinearLaw(alpha_s=0.010, batch_s=0.0, context_s=0.0, prompt_s=1e-4, attention_s=0.0)
DECODE = LinearLaw(alpha_s=0.010, batch_s=0.001, context_s=0.0, prompt_s=1e-4, attention_s=0.0)


def decide(prompt, waiting, batch, *, hosting=(False, False), tbt=0.060, ttft=1.0, cached=0, strictest=None, **options):
    """Return the route of a prompt: tokens waiting at two prefill, residents of two decode instances."""
    strictest = [tbt if b else np.inf for b in batch] if strictest is None else strictest
    state = ClusterState(
        time_s=0.0, prefill_work_s=np.zeros(2), prefill_tokens=np.array(waiting, float), prefill_requests=np.zeros(2),
        link_free_s=np.zeros(2), deflected_work_s=np.zeros(2), batch=np.array(batch, float),
        context_tokens=np.zeros(2), hosting=np.array(hosting), decode_requests=np.zeros(2), step_rest_s=np.zeros(2),
        strictest_tbt_s=np.array(strictest, float), kv_share=np.zeros(2), slowdown=np.ones(2), prefill_laws=[PREFILL] * 2,
        decode_laws=[DECODE] * 2, budget=1000, transfer_s=np.zeros(2),
    )  # fmt: skip
    request = RequestView(arrival_s=0.0, prompt_tokens=prompt, cached_tokens=cached, ttft_slo_s=ttft, tbt_slo_s=tbt)
    route = Kairos(chunks=(400, 200, 100), **options).decide(state, request)
    return route.pool, route.instance, route.host_s


CASES = {
    # Prefill idle: 10 + 40 = 50, times 1.3 is 65. Decode empty: one chunk of 400 takes 50 <= 60. Host 50 <= 65.
    "idle prefill, fitting chunk": ({"prompt": 400, "waiting": (0, 0), "batch": (0, 0)}, ("decode", 0, 0.050)),
    # Prefill 50, limit 65. Decode with 20: 400 takes 70 > 60, 200 takes 50; two of them 100 > 65.
    "idle prefill, busy decode": ({"prompt": 400, "waiting": (0, 0), "batch": (20, 20)}, ("prefill", 0, 0.0)),
    # Wait (1000/1000)*110 = 110 at both, execution 50: 160, limit 208. Host 100 on the first.
    "backlog makes it worth": ({"prompt": 400, "waiting": (1000, 1000), "batch": (20, 20)}, ("decode", 0, 0.100)),
    # Wait 0.4*110 = 44 at the second: 94, limit 122.2; decode 100 fits under it.
    "least wait of the two": ({"prompt": 400, "waiting": (1000, 400), "batch": (20, 20)}, ("decode", 0, 0.100)),
    # Wait 0.1*110 = 11 at the second: 61, limit 79.3 < 100.
    "least wait decides": ({"prompt": 400, "waiting": (1000, 100), "batch": (20, 20)}, ("prefill", 1, 0.0)),
    # The first hosts already; the second has 39 residents: 400 takes 89, 200 takes 69, 100 takes 59: four are 236;
    # prefill 2000 waiting: 220 + 50 = 270, limit 351.
    "only those without a prompt": (
        {"prompt": 400, "waiting": (2000, 2000), "batch": (0, 39), "hosting": (True, False)}, ("decode", 1, 0.236),
    ),
    # 45 residents: the smallest chunk takes 65 > 60 at both: infeasible whatever the wait.
    "no safe chunk": ({"prompt": 400, "waiting": (9000, 9000), "batch": (45, 45)}, ("prefill", 0, 0.0)),
    # 44 residents and 50 tokens: the chunk is cut to what remains, 59 <= 60. Prefill 990 + 15.
    "last chunk is cut": ({"prompt": 50, "waiting": (9000, 9000), "batch": (44, 44)}, ("decode", 0, 0.059)),
    # 4000 tokens on an empty instance: ten chunks of 50 are 500; TTFT SLO 0.4 s forbids it although prefill takes
    # 990 + 4*110 = 1430.
    "own TTFT SLO": ({"prompt": 4000, "waiting": (9000, 9000), "batch": (0, 0), "ttft": 0.4}, ("prefill", 0, 0.0)),
    # A resident of a stricter class, 30 ms: 400 takes 51, 200 takes 31, 100 takes 21: four are 84; beside it the
    # other instance (20 residents, 60 ms) takes 100. Prefill 110 + 50 = 160, limit 208.
    "strictest resident": (
        {"prompt": 400, "waiting": (1000, 1000), "batch": (1, 20), "strictest": (0.030, 0.060)}, ("decode", 0, 0.084),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_decision_by_hand(case):
    asked, (pool, instance, host) = CASES[case]
    found = decide(**asked)
    assert found[:2] == (pool, instance)
    assert found[2] == pytest.approx(host, abs=1e-12)


def test_alpha_and_beta_are_tolerances():
    tight = {"prompt": 400, "waiting": (0, 0), "batch": (0, 0)}
    assert decide(**tight, alpha=0.99)[0] == "prefill"
    assert decide(**{"prompt": 400, "waiting": (0, 0), "batch": (1, 1)}, beta=0.5, alpha=10.0)[2] == pytest.approx(
        0.084
    )


def test_the_short_reading_inflates_the_wait_of_short_prompts():
    # 100 waiting, prompt of 100: (100/100)*20 = 20 instead of (100/1000)*110 = 11; execution 20, decode 20 + 28.
    asked = {"prompt": 100, "waiting": (100, 100), "batch": (28, 28)}
    assert decide(**asked)[0] == "prefill"
    assert decide(**asked, wait="short")[0] == "decode"


def test_cached_tokens_are_not_computed():
    # 100 of 400 left: prefill 20, limit 26; decode 10 + 10 = 20.
    assert decide(prompt=400, waiting=(0, 0), batch=(0, 0), cached=300) == ("decode", 0, pytest.approx(0.020))

"""On large clusters threshold rules look only at instances that may be the best: the decision must be the rule's own."""

from dataclasses import replace

import numpy as np
import pytest

from qmodel._kernels import policies as kp
from qmodel._kernels import sim_offers as ko
from qmodel._kernels import sim_state as ks
from qmodel._kernels.laws import span_lines, span_time
from qmodel.policies import Thresholds
from qmodel.policies.rule import DecodeTables
from qmodel.scenario import SLO
from qmodel.simulation import encode

from .scenes import chat_requests, cluster, rule

TARGET = cluster(3, 9)
REQUESTS = chat_requests(400, 0.9, TARGET, seed=21)
RULE = rule(TARGET)


def begin(a, u, now, rng):
    """Let decode instance u begin a span, or a step that hosts a chunk, in a random state."""
    hosting = rng.random() < 0.3
    a.UI[u, [ks.I_BATCH, ks.I_HOSTING, ks.I_SPAN]] = (
        rng.integers(0, 260),
        hosting,
        1 if hosting else rng.integers(1, 99),
    )
    a.UF[u, ks.U_CONTEXT] = a.UI[u, ks.I_BATCH] * rng.integers(50, 2500)
    a.UF[u, [ks.U_HOST_WAIT, ks.U_HOST_PART]] = rng.exponential(0.1, 2) * hosting
    lines = span_lines(a.LC, a.LB, u, a.UI[u, ks.I_BATCH], a.UF[u, ks.U_CONTEXT])
    a.UF[u, [ks.U_X, ks.U_S, ks.U_Y, ks.U_Z]] = lines
    a.UF[u, ks.U_SINCE], a.UF[u, ks.U_END] = now, now + span_time(*lines, a.UI[u, ks.I_SPAN])
    a.UI[u, ks.I_DOWN] = rng.random() < 0.05


@pytest.mark.parametrize("harm", [0.0, 0.02])
@pytest.mark.parametrize("rough", [False, True])
def test_the_bounded_decision_is_the_rule(rough, harm):
    rng = np.random.default_rng(8)
    shaken = np.exp(rng.normal(0, 0.3, RULE.host_s.shape)) if rough else 1.0
    kinds = [
        DecodeTables(contexts=c * RULE.contexts, host_s=RULE.host_s * shaken, harm_s=RULE.harm_s) for c in (1.0, 0.8)
    ]
    priced = replace(
        RULE, host_s=RULE.host_s * shaken, harm_weight=harm, deadline_s=0.7, max_batch=240, price_prefill_per_s=15.0,
        fault_harm=3.0, slow_factor=1.5, kinds=tuple(kinds) if rough else (), kind_of=(0, 1, 1) * 3 if rough else (),
    )  # fmt: skip
    spec = Thresholds(priced).kernel_spec()
    a = encode.arrays_of(encode.scene_of(TARGET, spec), REQUESTS, (SLO(),), spec, 0)
    k, d, now, hosts = 3, 9, 0.0, []
    floors = ko.floors_of(kp.THRESHOLDS, a.PF, a.tables)
    noted, bounds, lows = np.full((d, ko.NOTED), np.nan), np.zeros((2, len(a.lengths), d)), np.empty((2, d))
    for r in range(len(REQUESTS)):
        now += rng.exponential(0.01)
        for u in range(k, k + d):
            if r == 0 or a.UF[u, ks.U_END] <= now:
                begin(a, u, now, rng)
        a.UF[:k, ks.U_WORK] = rng.exponential(0.3, k)
        a.UF[k:, ks.U_SLOWDOWN] = rng.choice([1.0, 2.0], d, p=[0.9, 0.1])
        a.UI[k:, ks.I_DOWN] = rng.random(d) < 0.05
        e, g = np.exp(rng.normal(0, 0.3, 2)) if r % 2 else (1.0, 1.0)
        kp.observe_prefill(now, k, a.UF, a.UI, a.seen)
        ours = ko.decide_live(
            now, r, a.R, a.UF, a.UI, a.classes, a.slo, a.seen, a.PK, a.PF, a.lengths, a.batches, a.contexts, a.curves,
            a.tables, floors, noted, bounds, lows, a.XI, e, g,
        )  # fmt: skip
        kp.observe_decode(now, k, d, a.UF, a.UI, a.classes, a.slo, a.seen)
        assert ours == kp.decide_thresholds(
            r, k, d, a.R, a.seen, a.PK, a.PF, a.lengths, a.batches, a.contexts, a.curves, a.tables, e, g
        ), r
        hosts.append(ours[0])
    assert len(set(hosts)) > 6
    assert 0.02 < np.mean(np.array(hosts) >= k) < 0.99  # both pools are chosen

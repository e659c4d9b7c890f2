"""What a run gives out: summaries that agree with the rows, intervals, timelines, the same bytes twice."""

import json

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.policies import Kairos
from qmodel.scenario import SLO
from qmodel.simulation import simulate
from qmodel.simulation.timeline import trace_events, trace_json

from .scenes import chat_requests, cluster

TARGET = cluster()
REQUESTS = chat_requests(4000, 0.85, TARGET, seed=9)


@pytest.fixture(scope="module")
def result():
    return simulate(TARGET, REQUESTS, SLO(ttft_s=0.4, tbt_s=0.05), Kairos())


def test_summaries_agree_with_the_rows(result):
    rows = result.requests.iloc[400:]
    assert result.warm_from == 400
    assert result.ttft_s(0.95) == np.quantile(rows.ttft_s, 0.95)
    parts = rows[["queue_s", "prefill_s", "transfer_s", "admission_s", "first_step_s"]].sum(axis=1)
    assert parts.to_numpy() == pytest.approx(rows.ttft_s.to_numpy(), abs=1e-9)
    met = (rows.ttft_s <= 0.4) & (rows.tbt_violations == 0)
    assert result.slo_attainment == met.mean()
    assert result.deflected_share == rows.deflected.mean()
    assert sum(result.breakdown(0.95).values()) == pytest.approx(result.ttft_s(0.95))
    assert sum(result.breakdown().values()) == pytest.approx(rows.ttft_s.mean())


def test_token_histogram_agrees_with_the_rows(result):
    rows = result.requests.iloc[400:]
    assert result.tbt_tokens.sum() == rows.tbt_count.sum()
    centres = 0.5 * (result.tbt_edges_s[1:] + result.tbt_edges_s[:-1])
    total = (rows.tbt_mean_s * rows.tbt_count).sum()
    assert float(centres @ result.tbt_tokens) == pytest.approx(total, rel=2e-4)
    assert rows.tbt_max_s.max() == pytest.approx(result.tbt_s(1.0), rel=2e-3)


def test_same_input_same_bytes(result):
    again = simulate(TARGET, REQUESTS, SLO(ttft_s=0.4, tbt_s=0.05), Kairos())
    for name, column in result.columns.items():
        assert column.tobytes() == again.columns[name].tobytes(), name


def test_intervals(result):
    value, half = result.ci("ttft_s")
    assert value == pytest.approx(result.ttft_values_s.mean(), rel=0.02)
    assert 0 < half < value
    assert result.ci("slo_attainment")[0] == pytest.approx(result.slo_attainment, abs=0.01)
    with pytest.raises(InputError, match="metric"):
        result.ci("speed")


def test_a_quantile_of_tbts_can_be_the_promise():
    strict = simulate(TARGET, REQUESTS, SLO(tbt_s=0.03), Kairos())
    lenient = simulate(TARGET, REQUESTS, SLO(tbt_s=0.03, tbt_quantile=0.9), Kairos())
    assert strict.tbt_attainment < lenient.tbt_attainment


def test_timeline(result):
    document = json.loads(trace_json(result, 5.0, 20.0))
    events = document["traceEvents"]
    begun = {e["id"]: e for e in events if e["ph"] == "b"}
    ended = {e["id"]: e for e in events if e["ph"] == "e"}
    assert begun.keys() == ended.keys()
    assert all(ended[i]["ts"] > begun[i]["ts"] for i in begun)
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"prefill 0", "prefill 1", "decode 0", "decode 1"}
    assert {e["cat"] for e in events if e["ph"] == "b"} >= {"prefill", "hosted prefill", "transfer", "decode"}
    one = int(np.flatnonzero((result.columns["arrival_s"] > 6) & ~result.columns["deflected"])[0])
    busy = begun[f"prefill-{one}"], ended[f"prefill-{one}"]
    assert (busy[1]["ts"] - busy[0]["ts"]) / 1e6 == pytest.approx(result.columns["prefill_s"][one])
    with pytest.raises(InputError):
        trace_events(result, 2.0, 1.0)

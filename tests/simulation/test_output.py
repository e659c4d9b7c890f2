"""What a run gives out: summaries that agree with the rows, intervals, timelines, the same bytes twice."""

import json

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.policies import Kairos
from qmodel.scenario import SLO
from qmodel.simulation import simulate
from qmodel.simulation.occupancy import occupancy
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


@pytest.fixture(scope="module")
def timeline(result):
    return json.loads(trace_json(result, 5.0, 20.0))["traceEvents"]


def test_timeline_follows_the_trace_event_format(timeline):
    assert {e["ph"] for e in timeline} == {"M", "X", "s", "f", "C"}
    for event in timeline:
        assert (type(event["pid"]), type(event["tid"]), type(event["name"])) == (int, int, str)
        assert event["pid"] > 0
        assert event["ts"] >= 0
        assert event["ph"] != "X" or event["dur"] > 0
    named = {(e["pid"], e["tid"]) for e in timeline if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in timeline if e["ph"] in "Xsf"} == named
    processes = {e["pid"]: e["args"]["name"] for e in timeline if e["name"] == "process_name"}
    assert list(processes.values()) == ["prefill 0", "prefill 1", "decode 0", "decode 1"]
    times = [e["ts"] for e in timeline if e["ph"] != "M"]
    assert times == sorted(times)


def test_slices_of_a_row_do_not_overlap(timeline):
    rows = {}
    for event in timeline:
        if event["ph"] == "X":
            assert event["ts"] >= rows.get((event["pid"], event["tid"]), 0.0) - 1e-4  # rounded to ns
            rows[event["pid"], event["tid"]] = event["ts"] + event["dur"]
    assert len(rows) > 10


def test_slices_and_arrows_are_the_rows_of_the_run(timeline, result):
    c = result.columns
    slices = {(e["cat"], e["name"]): e for e in timeline if e["ph"] == "X"}
    assert {stage for stage, _ in slices} >= {"prefill", "hosted prefill", "transfer", "decode"}
    r = int(np.flatnonzero((c["arrival_s"] > 6) & ~c["deflected"])[0])
    busy, moved = slices["prefill", f"request {r}"], slices["transfer", f"request {r}"]
    assert busy["dur"] / 1e6 == pytest.approx(c["prefill_s"][r], abs=2e-9)
    assert busy["ts"] / 1e6 == pytest.approx(c["arrival_s"][r] + c["queue_s"][r], abs=2e-9)
    assert (busy["pid"], moved["pid"]) == (c["prefill_instance"][r] + 1, c["decode_instance"][r] + 3)
    leaves, enters = (next(e for e in timeline if e["ph"] == ph and e["id"] == r) for ph in "sf")
    for end, inside in ((leaves, busy), (enters, moved)):
        assert (end["pid"], end["tid"]) == (inside["pid"], inside["tid"])
        assert inside["ts"] <= end["ts"] <= inside["ts"] + inside["dur"]
    assert sum(e["ph"] == "s" for e in timeline) == sum(stage == "transfer" for stage, _ in slices)


def test_counters_end_at_zero(result):
    counts = [e for e in trace_events(result) if e["ph"] == "C"]
    last = {e["pid"]: e["args"] for e in counts}
    assert all(set(values.values()) == {0} for values in last.values())
    assert max(e["args"].get("decode", 0) for e in counts) <= TARGET.max_num_seqs


def test_an_empty_window_is_refused(result):
    with pytest.raises(InputError):
        trace_events(result, 2.0, 1.0)


def test_occupancy_adds_up(result):
    table = occupancy(result, 1.0)
    width = np.where(table.time_s < np.floor(result.makespan_s), 1.0, result.makespan_s % 1.0)
    assert (table.utilisation <= 1 + 1e-9).all()
    for at, (_, mine) in enumerate(table.groupby(["pool", "instance"], sort=False)):
        busy = float((mine.utilisation * width[mine.index]).sum()) / result.makespan_s
        assert busy == pytest.approx(result.units["utilisation"][at], rel=1e-9)
        if result.units["pool"][at] == "decode":
            resident = float((mine.running * width[mine.index]).sum()) / result.makespan_s
            hosting = result.units["hosting_s"][at] / result.makespan_s
            mean = result.units["mean_batch"][at] * result.units["utilisation"][at]
            assert resident == pytest.approx(mean + hosting, rel=1e-9)  # one hosted prompt runs at a time
    for wrong in (0.0, np.nan, 1e-9):
        with pytest.raises(InputError):
            occupancy(result, wrong)

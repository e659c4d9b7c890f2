"""The standard-library runtime: agrees with the optimizer and the policies, survives garbage, follows its file."""

from __future__ import annotations

import ast
import json
import math
import sys
import threading
import time
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmodel import policies, runtime
from qmodel.errors import InputError
from qmodel.io.calibrations import load_calibration
from qmodel.io.plan_file import load_plan as read_plan
from qmodel.io.plan_file import save_plan
from qmodel.optimization import derive_plan, thresholds_s
from qmodel.policies.rule import DecodeTables
from qmodel.runtime import DecodeState, PlanError, RuntimePlan, Waiting, WatchedPlan, load_plan
from qmodel.scenario import SLO, Cluster, Workload


@pytest.fixture(scope="module")
def plan():
    cluster = Cluster(prefill=2, decode=2, calibration=load_calibration("deepseek-v2-lite"))
    return derive_plan(cluster, Workload.builtin("azure-conv").at_load(0.9, cluster), SLO())


@pytest.fixture(scope="module")
def path(plan, tmp_path_factory):
    file = tmp_path_factory.mktemp("plans") / "plan.json"
    save_plan(plan, file)
    return file


@pytest.fixture(scope="module")
def loaded(path):
    return load_plan(path)


def test_imports_the_standard_library_only():
    tree = ast.parse(Path(runtime.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_deflects_exactly_above_the_threshold(plan, loaded):
    rng, tried = np.random.default_rng(3), 0
    for _ in range(300):
        tokens = int(rng.integers(20, 12_000))
        batch, context, v = rng.uniform(0, 250), rng.uniform(0, 400_000), rng.uniform(0, 1)
        theta = float(thresholds_s(plan.dispatch_rule, tokens, v, batch, context))
        if not 1e-6 < theta < 1e5:
            continue
        state = [DecodeState(batch, context, v)]
        tried += 1
        assert not loaded.decide(tokens, 0, theta * 0.999, state).deflect
        assert loaded.decide(tokens, 0, theta * 1.001, state).deflect
    assert tried > 50


@pytest.fixture(scope="module")
def two_kinds(plan):
    """The plan with a second kind of decode instance, half as fast and of half the cache."""

    def of(rule):
        slower = DecodeTables(
            contexts=0.5 * rule.contexts, host_s=2 * rule.host_s, harm_s=2 * rule.harm_s, step_s=2 * rule.step_s
        )
        return replace(rule, kinds=(rule.tables_of(0), slower), kind_of=(0, 1, 1))

    return replace(plan, dispatch_rule=of(plan.dispatch_rule), late_rule=of(plan.late_rule))


@pytest.fixture(scope="module")
def two_kinds_path(two_kinds, tmp_path_factory):
    file = tmp_path_factory.mktemp("plans") / "two_kinds.json"
    save_plan(two_kinds, file)
    return file


@pytest.mark.parametrize("kinds", [False, True])
def test_equals_the_policy(plan, path, two_kinds, two_kinds_path, kinds):
    chosen = two_kinds if kinds else plan
    loaded = load_plan(two_kinds_path if kinds else path)
    policy = policies.Thresholds(chosen.dispatch_rule)
    rng = np.random.default_rng(4)
    for _ in range(400):
        batch, context, v = rng.integers(0, 250, 3).astype(float), rng.uniform(0, 3e5, 3), rng.uniform(0, 0.5, 3)
        w, tokens, cached = rng.uniform(0, 2), int(rng.integers(200, 20_000)), int(rng.integers(0, 150))

        slowdown = rng.choice([1.0, 1.4, 2.0, math.inf], 3, p=[0.6, 0.2, 0.1, 0.1])

        class State:
            prefill_work_s = np.array([w, w + 1])
            deflected_work_s = np.where(np.isinf(slowdown), policies.state.UNAVAILABLE, v)

        State.batch, State.context_tokens, State.slowdown = batch, context, slowdown
        request = policies.state.RequestView(
            arrival_s=0.0, prompt_tokens=tokens, cached_tokens=cached, ttft_slo_s=1.0, tbt_slo_s=0.06
        )
        route = policy.decide(State, request)
        rest = np.zeros(3), np.zeros(3), slowdown, [0, kinds, kinds]
        decision = loaded.decide(tokens, cached, w, list(zip(batch, context, v, *rest, strict=True)))
        assert decision.deflect == (route.pool == "decode")
        if decision.deflect:
            assert decision.instance == route.instance
            assert decision.host_s == pytest.approx(route.host_s)


def test_an_unknown_kind_is_a_bad_signal(two_kinds_path):
    loaded, good = load_plan(two_kinds_path), DecodeState(50, 60_000)
    for kind in (2, -1, 0.5, "a100", None):
        odd = good._replace(kind=kind)
        assert loaded.decide(1000, 0, 50.0, [odd]).reason == "bad signal"
        assert loaded.pull([Waiting(1000)] * 50, odd, 2.0) == -1


def test_instances_that_are_slow_or_down_host_nothing(plan, loaded):
    good, queue = DecodeState(50, 60_000), [Waiting(1000)] * 50
    assert plan.rule.slow_factor == 1.5
    for slowdown, hosts in ((1.0, True), (1.49, True), (1.51, False), (math.inf, False)):
        state = good._replace(slowdown=slowdown)
        assert loaded.decide(1000, 0, 50.0, [state]).deflect == hosts
        assert (loaded.pull(queue, state, 2.0) == 0) == hosts


def test_harm_counts_more_while_an_instance_is_down(plan, loaded):
    crowded, gone = DecodeState(150, 150_000), DecodeState(0, 0, slowdown=math.inf)
    slow = crowded._replace(slowdown=2.0)
    theta = float(thresholds_s(plan.dispatch_rule, 4000, 0.0, 150, 150_000))
    assert loaded.decide(4000, 0, theta * 1.01, [crowded]).deflect
    assert not loaded.decide(4000, 0, theta * 1.01, [crowded, gone]).deflect
    assert not loaded.decide(4000, 0, theta * 1.01, [slow, crowded]).deflect
    raised = replace(plan.dispatch_rule, harm_weight=plan.dispatch_rule.harm_weight * plan.dispatch_rule.fault_harm)
    theta = float(thresholds_s(raised, 4000, 0.0, 150, 150_000))
    assert loaded.decide(4000, 0, theta * 1.01, [crowded, gone]).deflect
    backlog = next(w for w in np.arange(0.0, 20.0, 0.01) if loaded.pull([Waiting(4000)], crowded, w) == 0)
    assert loaded.pull([Waiting(4000)], crowded, backlog, decode_fault=True) == -1


def test_the_overdue_go_first_from_a_fault_until_none_is_left(plan, path):
    loaded = with_order(path, "due")
    patience = plan.rule.patience_s
    full, roomy = DecodeState(plan.rule.max_batch, 1e5), DecodeState(10, 1e4)
    gone, slow = DecodeState(0, 0, slowdown=math.inf), full._replace(slowdown=2.0)
    late, early = Waiting(9000, 0, patience * 1.01), Waiting(300, 0, 0.1)
    assert not loaded.overdue_first(False, [late], [full, full])  # no fault
    assert not loaded.overdue_first(False, [late], [gone, roomy])  # room
    assert loaded.overdue_first(False, [early], [gone, full])
    assert loaded.overdue_first(False, [early], [full, slow])
    assert loaded.overdue_first(True, [early, late], [full, roomy])
    assert not loaded.overdue_first(True, [early], [full, roomy])
    assert not loaded.overdue_first(True, [late], [("x",)])
    queue = [late, early, late, early]
    assert loaded.arrange(queue, 0.5) == [1, 3, 0, 2]
    assert loaded.arrange(queue, 0.5, overdue_first=True) == [0, 2, 1, 3]


def test_expected_steps_are_the_laws(loaded, two_kinds_path):
    law, mixed = load_calibration("deepseek-v2-lite"), load_plan(two_kinds_path)
    for batch, context in ((32, 60_000), (100, 150_000), (200, 400_000)):
        expected = float(law.decode_step_s(batch, context))
        assert loaded.expected_step_s(batch, context) == pytest.approx(expected, rel=0.02)
        assert mixed.expected_step_s(batch, context / 2, 1) == pytest.approx(2 * loaded.expected_step_s(batch, context))
    assert loaded.expected_step_s(-1, 1000) == loaded.expected_step_s("x", 1) == loaded.expected_step_s(1, 1, 7) == 0.0


def test_harm_to_residents_counts(plan, path):
    data = json.loads(path.read_text())
    assert data["dispatch_rule"]["harm_weight"] > 0
    crowded, tokens = DecodeState(150, 150_000), 4000
    plain = {**data, "dispatch_rule": data["dispatch_rule"] | {"harm_weight": 0.0}}
    theta = float(thresholds_s(plan.dispatch_rule, tokens, 0.0, 150, 150_000))
    between = theta * 0.99
    assert RuntimePlan(plain).decide(tokens, 0, between, [crowded]).deflect
    assert not RuntimePlan(data).decide(tokens, 0, between, [crowded]).deflect


@pytest.mark.parametrize("grid", ["batches", "contexts"])
def test_state_grids_that_leave_out_zero_are_refused(path, grid):
    data = json.loads(path.read_text())
    data["tables"][grid][0] = 0.5
    with pytest.raises(PlanError, match="begin at 0"):
        RuntimePlan(data)


def test_takes_the_cheapest_instance(loaded):
    busy, free = DecodeState(100, 150_000, 5.0), DecodeState(100, 150_000, 0.0)
    assert loaded.decide(1000, 0, 10.0, [busy, free]).instance == 1
    assert loaded.decide(1000, 0, 10.0, [free, busy]).instance == 0


def test_pull_takes_the_first_that_gains(plan, loaded):
    queue = [Waiting(1000)] * 50
    assert loaded.order in ("spf", "due")
    assert loaded.pull(queue, DecodeState(50, 60_000), 2.0) == 0
    assert loaded.pull([], DecodeState(50, 60_000), 2.0) == -1
    assert loaded.pull(queue, DecodeState(50, 60_000, 0.0, 0.0, plan.rule.max_waiting_tokens), 2.0) == -1
    assert loaded.pull(queue, DecodeState(plan.rule.max_batch, 60_000), 2.0) == -1
    assert loaded.pull(queue, DecodeState(50, plan.rule.contexts[-1] - 500), 2.0) == -1
    assert loaded.pull([Waiting(1000)], DecodeState(50, 60_000), 0.0) == -1


def with_order(path, order):
    data = json.loads(path.read_text())
    data["late_rule"]["order"] = order
    return RuntimePlan(data)


def test_first_come_pulls_what_relieves_most_per_second(path):
    queue = [Waiting(6000), Waiting(400), Waiting(6000), Waiting(300)] + [Waiting(1000)] * 30
    # The shortest: little host time, much work ahead of it.
    assert with_order(path, "fcfs").pull(queue, DecodeState(50, 60_000), 2.0) == 3


def test_orders_of_the_queue(path):
    queue = [Waiting(9000, 0, 0.7), Waiting(300, 0, 0.3), Waiting(2000, 1900, 0.2), Waiting(300, 0, 0.1)]
    assert with_order(path, "fcfs").arrange(queue) == [0, 1, 2, 3]
    assert with_order(path, "spf").arrange(queue) == [2, 1, 3, 0]
    assert with_order(path, "due").arrange(queue) == [1, 2, 3, 0]  # the first would end late
    assert with_order(path, "due").arrange([Waiting(300), Waiting(200), Waiting(100)]) == [0, 1, 2]
    assert with_order(path, "due").arrange([("x",)]) == [0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 0.5), st.floats(0.0, 1.0)), min_size=1, max_size=6), st.floats(0.0, 0.5))
def test_due_order_is_late_for_the_fewest(loaded, jobs, ahead):
    jobs = sorted(jobs, key=lambda job: -job[1])  # the longest wait first: order of arrival
    work, waited = [list(column) for column in zip(*jobs, strict=True)]
    alone = RuntimePlan.__new__(RuntimePlan)
    alone.prefill_instances, alone.due_s = 1, loaded.due_s

    def late(places):
        end, misses = ahead, 0
        for place in places:
            end += work[place]
            misses += waited[place] + end > loaded.due_s
        return misses

    best = min(late(order) for order in permutations(range(len(work))))
    assert late(alone._due(work, waited, ahead)) == best


@pytest.mark.parametrize(
    "states",
    [
        [],
        None,
        [DecodeState(math.nan, 1000)],
        [DecodeState(10, math.inf)],
        [DecodeState(10, 1000, -1.0)],
        [DecodeState(10, 1000, 0.0, 3600.0)],
        [DecodeState(10, 1000, 0.0, math.nan)],
        [("ten", 1000, 0.0)],
        [()],
        [None],
        17,
        [DecodeState(10, 1000)] * 5000,
    ],
)
def test_bad_signals_never_deflect(loaded, states):
    decision = loaded.decide(2000, 0, 1000.0, states)
    assert not decision.deflect
    assert decision.instance == -1


def test_stale_instances_are_passed_over(loaded):
    stale, fresh = DecodeState(10, 1000, 0.0, 60.0), DecodeState(100, 150_000, 0.0)
    assert loaded.decide(2000, 0, 10.0, [stale, fresh]).instance == 1


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.floats(), max_size=6),
)


@settings(max_examples=300, deadline=None)
@given(tokens=junk, cached=junk, backlog=junk, states=st.one_of(junk, st.lists(junk, max_size=4)), waiting=junk)
def test_fuzzed_signals_never_raise(loaded, tokens, cached, backlog, states, waiting):
    decision = loaded.decide(tokens, cached, backlog, states)
    assert isinstance(decision.deflect, bool)
    assert isinstance(loaded.pull(waiting, states, backlog), int)
    assert isinstance(loaded.arrange(waiting, backlog, overdue_first=True), list)
    assert isinstance(loaded.overdue_first(True, waiting, states), bool)
    assert isinstance(loaded.expected_step_s(tokens, backlog), float)
    if not isinstance(tokens, (int, float)) or not isinstance(backlog, (int, float)):
        assert not decision.deflect


bad_number = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, -1e300, 1e300, None, "7", [], {}])
good_number = st.floats(0, 100)


@st.composite
def impossible_states(draw):
    """Return a decode state with at least one impossible field."""
    fields = [draw(good_number) for _ in range(6)]
    for place in draw(st.sets(st.integers(0, 3), min_size=1)):
        fields[place] = draw(bad_number)
    return tuple(fields[: draw(st.integers(4, 6))])


@settings(max_examples=300, deadline=None)
@given(states=st.lists(impossible_states(), max_size=4), tokens=st.integers(1, 20_000), backlog=st.floats(0, 1e6))
def test_impossible_states_are_never_deflected_to(loaded, states, tokens, backlog):
    assert not loaded.decide(tokens, 0, backlog, states).deflect
    good = DecodeState(50, 60_000)
    decision = loaded.decide(tokens, 0, backlog, [*states, good])
    assert decision.instance in (-1, len(states))
    for state in states:
        assert loaded.pull([Waiting(tokens)] * 3, state, backlog) == -1


@settings(max_examples=200, deadline=None)
@given(tokens=bad_number, cached=good_number, backlog=good_number)
def test_impossible_requests_are_never_deflected(loaded, tokens, cached, backlog):
    assert not loaded.decide(tokens, cached, backlog, [DecodeState(1, 1)]).deflect
    assert not loaded.decide(500, cached, -1.0 - backlog, [DecodeState(1, 1)]).deflect
    assert not loaded.decide(500, 501 + cached, backlog, [DecodeState(1, 1)]).deflect


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_fuzzed_plans_raise_only_plan_errors(path, data):
    plan = json.loads(path.read_text())
    target, keys = plan, []
    while isinstance(target, (dict, list)) and target and len(keys) < data.draw(st.integers(1, 4)):
        key = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
        keys.append((target, key))
        target = target[key]
    holder, key = keys[-1]
    holder[key] = data.draw(junk)
    try:
        changed = RuntimePlan(plan)
    except PlanError:
        return
    decision = changed.decide(1000, 0, 1.0, [DecodeState(50, 60_000)])
    assert math.isfinite(decision.host_s)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"schema_version": 99}', "[" * 100_000])
def test_broken_files_are_refused(tmp_path, text):
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(PlanError):
        load_plan(file)


def test_a_plan_of_a_newer_schema_is_refused_in_a_line(path, tmp_path):
    data = json.loads(path.read_text())
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps(data | {"schema_version": data["schema_version"] + 1, "unknown": 1}))
    for read, error in ((load_plan, PlanError), (read_plan, InputError)):
        with pytest.raises(error, match="schema version") as refused:
            read(newer)
        assert len(str(refused.value).splitlines()) == 1


def test_a_plan_from_before_some_fields_is_read(path, loaded, tmp_path):
    data = json.loads(path.read_text())
    for rule in ("dispatch_rule", "late_rule"):
        for name in ("max_batch", "fault_harm", "patience_s", "slow_factor"):
            data[rule].pop(name)
    del data["tables"]["step_s"], data["decode_kinds"]
    data["schema_version"] = 1
    for name in ("weight", "tbt_quantile"):
        data["inputs"]["slo"].pop(name, None)
    data["inputs"].pop("options", None)
    older = tmp_path / "older.json"
    older.write_text(json.dumps(data))
    assert read_plan(older).slo == read_plan(path).slo
    states = [DecodeState(60, 80_000, 0.1), DecodeState(70, 90_000)]
    old = load_plan(older)
    assert old.expected_step_s(10, 1000) == 0.0
    assert old.decide(1000, 0, 50.0, [DecodeState(50, 60_000, slowdown=3.0)]).deflect
    assert not old.decide(1000, 0, 50.0, [DecodeState(50, 60_000, slowdown=math.inf)]).deflect
    for tokens in (100, 1000, 5000):
        for backlog in (0.0, 0.2, 1.0):
            assert load_plan(older).decide(tokens, 0, backlog, states) == loaded.decide(tokens, 0, backlog, states)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(PlanError):
        load_plan(tmp_path / "none.json")


def test_follows_its_file_and_refuses_a_broken_one(path, tmp_path):
    file = tmp_path / "plan.json"
    text = path.read_text()
    file.write_text(text)
    watched = WatchedPlan(file, every_s=0.0)
    first = watched.plan
    assert not watched.refresh()
    file.write_text(text[:1000])
    assert not watched.refresh()
    assert watched.plan is first
    assert watched.last_error
    changed = json.loads(text)
    changed["dispatch_rule"]["price_prefill_per_s"] = 0.0
    file.write_text(json.dumps(changed))
    watched.decide(1000, 0, 0.0, [DecodeState(1, 1)])
    assert watched.plan is not first
    assert watched.plan.price_prefill_per_s == 0.0
    assert watched.last_error is None
    file.unlink()
    assert not watched.refresh()
    assert watched.decide(1000, 0, 50.0, [DecodeState(50, 60_000)]).deflect


def test_threads_decide_while_the_plan_is_reloaded(path, tmp_path):
    file = tmp_path / "plan.json"
    text = path.read_text()
    file.write_text(text)
    watched = WatchedPlan(file, every_s=0.0)
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            decision = watched.decide(1000, 0, 50.0, [DecodeState(50, 60_000)])
            if not decision.deflect:
                wrong.append(decision)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(5):
        changed = json.loads(text)
        changed["dispatch_rule"]["price_prefill_per_s"] = float(number)
        scratch = tmp_path / "next.json"
        scratch.write_text(json.dumps(changed))
        scratch.replace(file)
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert watched.plan.price_prefill_per_s in range(5)


def test_adapted_prices_follow_the_closed_form(loaded):
    adapted = loaded.adapted(5.0, 0.5, 2.0, 0.75)
    assert adapted.price_prefill_per_s == pytest.approx(5.0)
    assert adapted.price_decode_per_s == pytest.approx(4.0)
    assert loaded.adapted(math.nan, 0.5, 1.0, 0.5) is loaded
    assert loaded.adapted("x", 0.5, 1.0, 0.5) is loaded
    assert loaded.adapted(5.0, 3.0, 1.0, 0.5).price_prefill_per_s == pytest.approx(125.0)


def test_a_decision_costs_little_beside_parsing_its_request(loaded):
    # A ratio in one run, not a time: a decision against the JSON round trip of a small request body.
    states = [DecodeState(60.0, 80_000.0, 0.1), DecodeState(70.0, 90_000.0, 0.0)]
    body = {"model": "m", "messages": [{"role": "user", "content": "word " * 400}], "max_tokens": 100}

    def best(work):
        times = []
        for _ in range(7):
            start = time.perf_counter()
            for _ in range(300):
                work()
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(lambda: loaded.decide(1000, 0, 0.3, states)) < 3 * best(lambda: json.loads(json.dumps(body)))

"""Plans and plan files: round trip to the bit, schema, refusals."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.io.plan_file import SCHEMA_PATH, load_plan, plan_schema, rule_fields, save_plan
from qmodel.optimization import derive_plan, thresholds_s
from qmodel.policies.rule import ThresholdRule
from qmodel.scenario import Cluster, InstanceGroup
from qmodel.scenario.plan import SCHEMA_VERSION


@pytest.fixture(scope="module", params=["one kind", "two kinds"])
def plan(cluster, calibration, prompts, slo, request):
    if request.param == "two kinds":
        halved = dataclasses.replace(calibration, gpu="half", kv_capacity_tokens=calibration.kv_capacity_tokens // 2)
        decode = tuple(InstanceGroup(count=1, calibration=c) for c in (calibration, halved))
        cluster = Cluster(prefill=2, decode=decode, calibration=calibration)
    return derive_plan(cluster, prompts, slo)


@pytest.fixture
def saved(plan, tmp_path):
    path = tmp_path / "plan.json"
    save_plan(plan, path)
    return path


def test_reloaded_plan_has_the_same_bits(plan, saved):
    again = load_plan(saved)
    for rule, other in ((plan.dispatch_rule, again.dispatch_rule), (plan.rule, again.rule)):
        for field in dataclasses.fields(ThresholdRule):
            a, b = getattr(rule, field.name), getattr(other, field.name)
            assert type(a) is type(b), field.name
            if field.name != "kinds":
                assert np.array_equal(a, b), field.name
    assert again.to_dict() == plan.to_dict()
    assert again.slo == plan.slo
    assert again.shadow_prices == plan.shadow_prices


def test_saving_twice_gives_the_same_file(plan, saved, tmp_path):
    save_plan(load_plan(saved), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == saved.read_bytes()


def test_file_is_the_plans_dict(plan, saved):
    assert json.loads(saved.read_text()) == json.loads(json.dumps(plan.to_dict()))


def test_file_validates_against_the_shipped_schema(saved):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA_PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads(saved.read_text())
    jsonschema.validate(data, schema)
    for broken in (
        data | {"schema_version": 99},
        data | {"surprise": 1},
        {k: v for k, v in data.items() if k != "tables"},
        data | {"dispatch_rule": data["dispatch_rule"] | {"price_prefill_per_s": -1}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_shipped_schema_is_current():
    assert json.loads(SCHEMA_PATH.read_text()) == plan_schema()


def test_plan_file_carries_every_field_of_a_rule():
    assert rule_fields() == {field.name for field in dataclasses.fields(ThresholdRule)}


def test_threshold_table_is_the_rules(plan):
    table = plan.threshold_table()
    theta = thresholds_s(
        plan.dispatch_rule,
        np.array(table["prompt_tokens"])[:, None],
        np.array(table["decode_backlog_s"])[None, :],
        table["batch"],
        table["context_tokens"],
    )
    assert np.array_equal(theta, np.array(table["threshold_s"]))
    assert np.all(np.diff(theta, axis=1) > 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version=SCHEMA_VERSION + 1), "schema version"),
        (lambda d: d["tables"].pop("work_s"), "tables.work_s"),
        (lambda d: d["tables"]["host_s"].pop(), "host_s"),
        (lambda d: d["dispatch_rule"].update(price_prefill_per_s=-1.0), "price_prefill_per_s"),
        (lambda d: d["tables"].update(lengths=d["tables"]["lengths"][::-1]), "lengths"),
        (lambda d: d["inputs"]["slo"].update(ttft_s=0), "ttft_s"),
    ],
)
def test_broken_plan_is_refused(saved, change, message):
    data = json.loads(saved.read_text())
    change(data)
    saved.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        load_plan(saved)


@pytest.mark.parametrize("text", ["", "[]", "{", "nonsense", '{"a": 1}', "[" * 100_000])
def test_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError):
        load_plan(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="existing file"):
        load_plan(tmp_path / "none.json")


def test_simulated_check_is_kept(plan, tmp_path):
    checked = plan.with_simulated({"policies": {"kairos": {"p95_ttft_s": 0.1234567890123456789}}}, ["no gain"])
    assert checked.better is False
    assert checked.warnings[-1] == "no gain"
    save_plan(checked, tmp_path / "p.json")
    assert load_plan(tmp_path / "p.json").to_dict() == checked.to_dict()
    assert plan.with_simulated({}).better is True


def test_same_inputs_same_plan(cluster, prompts, slo):
    assert derive_plan(cluster, prompts, slo).to_dict() == derive_plan(cluster, prompts, slo).to_dict()


@pytest.mark.parametrize("option", [{"objective": "fast"}, {"binding": "never"}, {"order": "lifo"}])
def test_unknown_options_are_refused(cluster, prompts, slo, option):
    with pytest.raises(InputError):
        derive_plan(cluster, prompts, slo, **option)


def test_choice_of_form(cluster, prompts, slo):
    dispatch = derive_plan(cluster, prompts, slo, binding="dispatch")
    assert dispatch.late_rule is None
    assert dispatch.rule.binding == "dispatch"
    late = derive_plan(cluster, prompts, slo, binding="late", order="fcfs")
    assert (late.rule.binding, late.rule.order) == ("late", "fcfs")
    assert late.dispatch_rule.binding == "dispatch"


def test_builtin_workload(cluster, chat, slo):
    plan = derive_plan(cluster, chat, slo)
    assert plan.workload["name"] == chat.name
    assert plan.workload["fingerprint"] == chat.fingerprint
    assert plan.workload["load"] == pytest.approx(0.9, rel=0.1)

"""The evaluation: its grid, its pairing, what its page says, and a quick run from end to end."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from qmodel.studies import evaluation
from qmodel.studies.evaluation import POLICIES, evaluate, evaluation_grid, run_row
from qmodel.studies.evaluation_cases import CONDITIONS, MODELS, PANELS, case_of, condition_named
from qmodel.studies.evaluation_page import evaluation_page, evaluation_summary
from qmodel.studies.evaluation_report import CELL, congested, geometric_means, headline, losses, pairs, robustness

BUILT_IN = "built-in models"


def rows_of(**wanted):
    grid = evaluation_grid(full=True, source=BUILT_IN)
    return [row for row in grid if all(row[name] == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def quick():
    """Return the table of the quick evaluation on built-in models."""
    return evaluate(evaluation_grid(source=BUILT_IN, seeds=2))


def made_up(p95, slo=None, condition="as planned", panel="HH", sweep=0.9):
    """Return a table from P95 (and attainment) by policy and seed."""
    rows = []
    for policy, values in p95.items():
        for seed, value in enumerate(values):
            met = (slo or {}).get(policy, [0.5] * len(values))[seed]
            rows.append({
                "source": "x", "code": "c", "model": MODELS[0], "panel": panel, "sweep": sweep, "ttft_slo": "1 s",
                "tbt_slo_s": 0.06, "condition": condition, "policy": policy, "seed": seed, "requests": 1000,
                "p95_ttft_s": value, "p99_ttft_s": 2 * value, "slo_attainment": met, "tbt_attainment": 1.0, "error": "",
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_the_full_grid_is_the_protocol():
    grid = pd.DataFrame(evaluation_grid(full=True, source=BUILT_IN))
    planned = grid[(grid["condition"] == "as planned") & grid["panel"].isin(PANELS)]
    cells = planned[["panel", "sweep"]].drop_duplicates()
    assert len(cells) == 13
    assert set(planned["model"]) == set(MODELS)
    assert set(planned["ttft_slo"]) == {"1 s", "5 x zero load"}
    assert set(planned["tbt_slo_s"]) == {0.06, 0.1}
    assert set(grid["policy"]) == set(POLICIES)
    assert grid["seed"].nunique() == 5
    faulty = grid[grid["condition"] != "as planned"]
    assert set(faulty["condition"]) == {condition.name for condition in CONDITIONS[1:]}
    assert len(faulty[["panel", "sweep"]].drop_duplicates()) == 13
    assert not grid.duplicated().any()


def test_a_plan_never_sees_what_it_is_run_on():
    for panel, sweep in (("HL", 0.9), ("LT", 0.7)):
        case = case_of(BUILT_IN, MODELS[0], panel, sweep)
        assert case.planned.fingerprint != case.run.fingerprint
    row = rows_of(panel="HH", sweep=0.9, policy="thresholds", condition="as planned")[0]
    found = run_row(row)
    case = case_of(BUILT_IN, row["model"], "HH", 0.9)
    assert found["planned_on"] == case.planned.fingerprint[:16]
    assert found["run_on"] == case.run.fingerprint[:16]
    assert found["planned_on"] != found["run_on"]


def test_another_model_replays_the_same_requests_at_the_load_of_the_cell():
    first, other = (case_of(BUILT_IN, model, "HH", 0.9) for model in MODELS)
    mine, theirs = first.run.requests(), other.run.requests()
    assert abs(len(mine) - len(theirs)) <= 1
    both = other.planned.load(other.cluster) + other.run.load(other.cluster)
    assert both / 2 == pytest.approx(0.9, rel=0.1)


def test_the_longer_ttft_slo_is_five_times_the_zero_load_of_the_p90_prompt():
    case = case_of(BUILT_IN, MODELS[0], "HH", 0.9)
    prompts = np.concatenate([case.planned.requests().prompt_tokens, case.run.requests().prompt_tokens])
    expected = 5 * float(case.cluster.zero_load_ttft_s(float(np.quantile(prompts, 0.9))))
    assert case.slo("5 x zero load", 0.1).ttft_s == pytest.approx(expected)
    assert case.slo("1 s", 0.1).ttft_s == 1.0


def test_conditions_change_what_they_say():
    cluster = case_of(BUILT_IN, MODELS[0], "HH", 0.9).cluster
    wrong = condition_named("prefill law +20 %, decode law -20 %").believed(cluster)
    assert float(wrong.work_s(3000.0)) == pytest.approx(1.2 * float(cluster.work_s(3000.0)))
    step, believed = (c.decode_calibrations[0].decode_step_s(50.0, 60_000.0) for c in (cluster, wrong))
    assert believed == pytest.approx(0.8 * step)
    assert condition_named("bandwidth / 10").real(cluster).bandwidth_gb_s == pytest.approx(2.5)
    (fault,) = condition_named("decode instance down 60 s").faults(900.0)
    assert (fault.pool, fault.until_s - fault.from_s) == ("decode", 60.0)
    (slow,) = condition_named("prefill instance at half speed").faults(900.0)
    assert (slow.factor, slow.until_s) == (2.0, 900.0)
    assert condition_named("signals 1 s old").signals(cluster).observation_interval_s == 1.0


def test_rates_above_the_plans_run_the_same_requests_sooner():
    row = rows_of(panel="LL", policy="kairos", condition="rate +30 %")[0]
    planned = run_row({**row, "condition": "as planned"})
    faster = run_row(row)
    assert faster["requests"] == planned["requests"]
    assert faster["run_on"] != planned["run_on"]
    assert faster["p95_ttft_s"] > planned["p95_ttft_s"]


def test_ratios_are_paired_by_seed():
    table = made_up({"a": [1.0, 8.0], "b": [2.0, 4.0]})
    (row,) = pairs(table, "a", "b").to_dict("records")
    assert row["p95"] == pytest.approx(1.0)  # of 1/2 and 2/1
    assert row["p95_low"] < 0.01 < 100 < row["p95_high"]
    assert row["p99"] == pytest.approx(1.0)


def test_misses_that_nobody_made_have_a_ratio():
    table = made_up({"a": [1.0], "b": [1.0]}, {"a": [1.0], "b": [1.0]})
    assert pairs(table, "a", "b")["misses"].item() == 1.0
    table = made_up({"a": [1.0], "b": [1.0]}, {"a": [1.0], "b": [0.9]})
    assert pairs(table, "a", "b")["misses"].item() == pytest.approx(0.5 / 900 / 0.1)


def test_lost_cells_are_found_and_worst_comes_first():
    table = pd.concat([
        made_up({"thresholds": [2.0, 2.0], "kairos": [1.0, 1.0]}, panel="LL"),
        made_up({"thresholds": [3.0, 3.0], "kairos": [1.0, 1.0]}, panel="HH"),
        made_up({"thresholds": [0.5, 0.5], "kairos": [1.0, 1.0]}, {"thresholds": [0.4] * 2}, panel="LT"),
        made_up({"thresholds": [0.5, 0.5], "kairos": [1.0, 1.0]}, panel="HL"),
    ])  # fmt: skip
    found = losses(table)
    assert list(found["panel"]) == ["HH", "LL", "LT"] or list(found["panel"])[:2] == ["HH", "LL"]
    assert dict(zip(found["panel"], found["lost"], strict=True)) == {
        "HH": "P95, P99",
        "LL": "P95, P99",
        "LT": "attainment",
    }


def test_congestion_is_twice_the_lowest():
    table = pd.concat(
        [made_up({"kairos": [p95]}, panel=panel) for panel, p95 in (("LL", 1.0), ("HL", 2.1), ("LT", 1.9))]
    )
    crowded = congested(table)
    assert {key[CELL.index("panel")]: bool(value) for key, value in crowded.items()} == {
        "LL": False,
        "HL": True,
        "LT": False,
    }


def test_means_are_geometric_over_cells():
    table = pd.concat([
        made_up({"thresholds": [0.5], "kairos": [1.0]}, panel="LL"),
        made_up({"thresholds": [2.0], "kairos": [16.0]}, panel="HH"),
    ])  # fmt: skip
    found = geometric_means(table, ["thresholds"]).set_index(["tbt_slo_s", "cells"])
    assert found.loc[(0.0, "all"), "p95"] == pytest.approx(0.25)
    assert found.loc[(0.0, "congested"), "p95"] == pytest.approx(0.125)
    assert found.loc[(0.0, "congested"), "count"] == 1


def test_the_headline_is_against_the_best_of_those_that_never_deflect():
    never = {"disaggregated": [10.0], "disaggregated, plan's order": [4.0]}
    slo = {"disaggregated": [0.5], "disaggregated, plan's order": [0.6], "thresholds": [0.9]}
    (row,) = headline(made_up({**never, "thresholds": [1.0]}, slo)).to_dict("records")
    assert row["p95_change"] == pytest.approx(-0.75)
    assert row["attainment_change"] == pytest.approx(0.5)
    assert row["saturated"]
    (first,) = headline(made_up({**never, "thresholds": [1.0]}, slo), ["disaggregated"]).to_dict("records")
    assert first["p95_change"] == pytest.approx(-0.9)


def test_robustness_names_the_worst_cell():
    policies = {"disaggregated": [1.0], "kairos": [2.0]}
    table = pd.concat([
        made_up({**policies, "thresholds": [1.2]}, condition="signals 1 s old", panel="HH"),
        made_up({**policies, "thresholds": [0.3]}, condition="signals 1 s old", panel="LL"),
    ])  # fmt: skip
    (row,) = robustness(table).to_dict("records")
    assert row["worst_never_p95"] == pytest.approx(1.2)
    assert row["worst_cell"] == "HH 0.9"
    assert row["cells_worse"] == 1
    assert row["kairos_p95"] == pytest.approx(np.sqrt(0.6 * 0.15))


def test_quick_evaluation_from_end_to_end(quick):
    assert (quick["error"] == "").all()
    assert set(quick["panel"]) == set(PANELS)
    assert set(quick["policy"]) == set(POLICIES)
    plans = quick[quick["policy"] == "thresholds"]
    assert (plans["planned_on"] != plans["run_on"]).all()
    mean = quick[quick["condition"] == "as planned"].groupby(["panel", "policy"])["p95_ttft_s"].mean().unstack()
    assert (mean["thresholds"] <= mean["disaggregated"]).all()
    assert mean.loc["HL", "thresholds"] < 0.6 * mean.loc["HL", "kairos"]


def test_the_page_lists_lost_cells_first(quick):
    page = evaluation_page(quick)
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings[0] == "## Where the plan loses"
    assert len(headings) == 5
    assert "planned on one trace and run on another" in page
    assert "under every fault and staleness" in page
    json.dumps(evaluation_summary(quick), allow_nan=False)


def test_a_stopped_evaluation_goes_on(tmp_path, monkeypatch):
    rows = [row for row in evaluation_grid(source=BUILT_IN, seeds=1) if row["panel"] == "LL"]
    done = []

    def stop_after_three(row):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(row["policy"])
        return run_row(row)

    monkeypatch.setattr(evaluation, "run_row", stop_after_three)
    monkeypatch.setattr("qmodel.studies.sweep.BATCHES_PER_WORKER", len(rows))
    with pytest.raises(KeyboardInterrupt):
        evaluate(rows, tmp_path / "table.csv")
    monkeypatch.setattr(evaluation, "run_row", lambda row: done.append(row["policy"]) or run_row(row))
    table = evaluate(rows, tmp_path / "table.csv")
    assert len(table) == len(rows)
    assert (table["error"] == "").all()
    assert len(done) == len(rows)  # nothing was run twice
    assert not list(tmp_path.glob("*.journal"))


def test_command_writes_table_page_and_pictures(qmodel, tmp_path, monkeypatch, quick):
    monkeypatch.setattr("qmodel.studies.evaluation_page.evaluate", lambda *_: quick)
    run = qmodel("evaluate", "-o", tmp_path / "out", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["runs"] == len(quick)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"evaluation.md", "evaluation_p95.png", "evaluation_robustness.png"} <= names
    (tmp_path / "file").write_text("")
    assert qmodel("evaluate", "-o", tmp_path / "file").code == 2

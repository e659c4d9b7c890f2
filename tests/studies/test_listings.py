"""Listings: what tables in the terminal and on pages say, cell by cell."""

import numpy as np

from qmodel.cli import show
from qmodel.studies.comparison import Comparison
from qmodel.studies.listings import (
    breakdown_listing,
    comparison_listing,
    frontier_listing,
    measures_listing,
    sides_listing,
    threshold_listing,
)


def test_measures_carry_their_unit_and_errors_theirs():
    measures = {"p95_ttft_s": 0.5, "slo_attainment": 0.991, "p95_queue_s": 0.1}
    bare = measures_listing("m", measures)
    assert bare.columns == ("metric", "value")
    assert bare.rows == (("P95 TTFT", "500 ms"), ("SLO met", "99.1 %"), ("P95 TTFT, queue", "100 ms"))
    errors = {"p95_ttft_s": 0.012, "slo_attainment": 0.004}
    last = [row[2] for row in measures_listing("m", measures, errors).rows]
    assert last == ["±1.2 %", "±0.4 points", ""]  # relative for times, absolute for shares


def test_sides_stand_beside_each_other():
    found = sides_listing("s", {"simulated": {"p95_ttft_s": 2.0, "p99_ttft_s": 3.0}, "predicted": {"p95_ttft_s": 1.9}})
    assert found.columns == ("metric", "simulated", "predicted")
    assert found.rows == (("P95 TTFT", "2 s", "1.9 s"), ("P99 TTFT", "3 s", "-"))


def comparison() -> Comparison:
    parts = {"queue": (0.2, 0.4), "prefill": (0.1, 0.1), "transfer": (0.0, 0.0), "admission": (0.0, 0.0)}
    values = {f"p95_{part}_s": both for part, both in (parts | {"first_step": (0.1, 0.1)}).items()}
    values |= {f"p{q}_ttft_s": (0.4, 0.6) for q in (50, 95, 99)} | {"p99_tbt_s": (0.05, 0.05)}
    values |= dict.fromkeys(("ttft_attainment", "slo_attainment", "tbt_attainment", "deflected_share"), (1.0, 1.0))
    sample = {"none": np.array([0.4])}
    return Comparison(policies=("none",), seeds=(0, 1), requests=10, values={"none": values}, ttft_samples=sample)


def test_predictions_stand_faint_below_what_was_simulated():
    found = comparison_listing(comparison(), {"none": {"p95_ttft_s": 0.5}})
    assert found.faint == {1}
    assert [row[0] for row in found.rows] == ["none", "predicted"]
    at = found.columns.index("P95 TTFT")
    # Student's 95 % half-width of two values 0.2 apart: 12.706 * 0.2/2
    assert [row[at] for row in found.rows] == ["500 ±1271 ms", "500 ms"]
    assert found.rows[1][found.columns.index("P99 TBT")] == "-"


def test_parts_of_p95_sum_to_one():
    (row,) = breakdown_listing(comparison()).rows
    assert row == ("none", "300 ms (60 %)", "100 ms (20 %)", "0 ms (0 %)", "0 ms (0 %)", "100 ms (20 %)")


def test_a_threshold_is_a_time_always_or_never():
    table = {"prompt_tokens": [128, 4096], "decode_backlog_s": [0.0, 0.1], "threshold_s": [[0.0, 0.05], [2.0, np.inf]]}
    assert threshold_listing(table).rows == (("128", "always", "50 ms"), ("4,096", "2 s", "never"))


def test_beaten_sizes_are_left_out_of_the_frontier():
    row = {"cost": 2.0, "gpus": 2, "cluster": "1P1D", "goodput_per_s": 5.0, "fastest": None, "p95_ttft_s": None}
    rows = [row | {"best_goodput": True, "best_latency": False}, row | {"best_goodput": False, "best_latency": False}]
    assert frontier_listing(rows, 10.0).rows == (("2", "2", "1P1D", "5/s", "-", "-"),)


def test_a_long_title_is_not_broken_to_the_width_of_its_table(capsys):
    title = "a title that is longer than the table beneath it, which has two short columns"
    show.console().print(show.table(measures_listing(title, {"p95_ttft_s": 0.5})))
    assert capsys.readouterr().out.splitlines()[0] == title

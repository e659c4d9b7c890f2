"""`qmodel predict`: methods, sensitivity and its picture."""

import json
from pathlib import Path

import pytest

WORDS = ["--model", "deepseek-v2-lite", "--workload", "azure-conv", "--load", "0.6"]


def test_sensitivity_is_a_table_a_sentence_and_a_picture(qmodel):
    run = qmodel("predict", *WORDS, "--sensitivity", "--plot", "tornado.png")
    assert run.code == 0, run.err
    assert "Change first: prefill instances +1" in run.out
    assert "elasticity" in run.out
    assert run.out.startswith("Predicted, policy none, method: trace: recursion over the requests, packed prefill")
    assert Path("tornado.png").stat().st_size > 10_000
    rows = json.loads(qmodel("predict", *WORDS, "--sensitivity", "--json").out)["sensitivity"]
    assert {row["what"] for row in rows} >= {"rate", "bandwidth", "SCV of prompt lengths", "TBT SLO"}


@pytest.mark.parametrize("method", ["bursty", "trace", "windows", "stationary"])
def test_the_method_is_said(qmodel, method):
    found = json.loads(qmodel("predict", *WORDS, "--method", method, "--fidelity", "fast", "--json").out)
    assert found["method"].startswith(method)
    assert found["error_estimate"]["p95_ttft_s"] > 0
    assert found["error_estimate"].keys() <= found["predicted"].keys()


def test_a_plot_needs_sensitivity_and_bursty_takes_no_policy(qmodel):
    for words, says in (
        (["--plot", "x.png"], "--sensitivity"),
        (["--method", "bursty", "--policy", "kairos"], "bursty"),
    ):
        run = qmodel("predict", *WORDS, *words)
        assert run.code == 2
        assert says in run.err

"""Exact cases of the shared reference file, tails and percentiles included."""

import numpy as np
import pytest

from qmodel.queueing import decode_batch, mgk

from . import reference

EXACT = 1e-8


@pytest.mark.data
@pytest.mark.parametrize("model", ["M/M/k", "M/D/k", "M/E2/k", "M/H2/k"])
def test_exact_poisson_cases(shared_data, model):
    data = reference.load(shared_data)
    cases = [case for case in data["cases"] if case["model"] == model]
    assert cases
    for case in cases:
        metrics = mgk(case["lam"], case["k"], reference.service_of(case, data["laws"]))
        assert metrics.exact
        assert metrics.mean_wait_s == pytest.approx(case["mean_wait"], rel=EXACT)
        assert metrics.wait_probability == pytest.approx(case["p_wait"], rel=EXACT)
        assert metrics.mean_queue == pytest.approx(case["mean_queue_len"], rel=EXACT)
        for q, value in case["wait_percentiles"].items():
            assert metrics.wait_quantile_s(float(q)) == pytest.approx(value, rel=EXACT)
        times, tails = np.array(case["tail"]).T
        np.testing.assert_allclose(metrics.wait_tail(times), tails, rtol=EXACT)


@pytest.mark.data
def test_decode_cases(shared_data):
    cases = [case for case in reference.load(shared_data)["cases"] if case["model"].startswith("decode")]
    assert cases
    for case in cases:
        law = case["T_of_n"]
        batch = decode_batch(
            case["lam"],
            case["mean_output_tokens"],
            lambda n, law=law: law["const"] + law["linear"] * n + law["quadratic"] * n * n,
            case["N"],
        )
        assert batch.mean_batch == pytest.approx(case["mean_batch"], rel=EXACT)
        assert batch.time_law[0] == pytest.approx(case["p_empty"], rel=EXACT)
        assert batch.mean_step_s("token") == pytest.approx(case["token_weighted_step"]["mean"], rel=EXACT)
        assert batch.mean_step_s("time") == pytest.approx(case["time_weighted_step_given_busy"], rel=EXACT)
        for q in (0.5, 0.95, 0.99):
            want = case["token_weighted_step"][f"p{round(q * 100)}"]
            assert batch.step_quantile_s(q) == pytest.approx(want, rel=EXACT)

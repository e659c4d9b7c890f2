"""Exact cases of the shared reference file, tails and percentiles included."""

import numpy as np
import pytest

from qmodel.queueing import decode_batch, mgk, mmpp_k

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


@pytest.mark.data
@pytest.mark.parametrize("model", ["M/G/1-lattice", "MMPP2/M/k", "MMPP2/H2/k"])
def test_exact_lattice_and_bursty_cases(shared_data, model):
    data = reference.load(shared_data)
    cases = [case for case in data["cases"] if case["model"] == model]
    assert cases
    for case in cases:
        service, params = reference.service_of(case, data["laws"]), case["params"]
        if model == "M/G/1-lattice":
            metrics = mgk(case["lam"], 1, service)
        else:
            rates = [params["rate_calm"], params["rate_burst"]]
            switch = [params["switch_calm_to_burst"], params["switch_burst_to_calm"]]
            metrics = mmpp_k(rates, switch, case["k"], service)
        assert metrics.exact
        assert metrics.mean_wait_s == pytest.approx(case["mean_wait"], rel=EXACT)
        assert metrics.wait_probability == pytest.approx(case["p_wait"], rel=EXACT)
        for q, value in case["wait_percentiles"].items():
            assert metrics.wait_quantile_s(float(q)) == pytest.approx(value, rel=EXACT)
        times, tails = np.array(case["tail"]).T
        np.testing.assert_allclose(metrics.wait_tail(times), tails, rtol=EXACT)


#: Percentiles of the simulated cases carry about twice the relative error of the mean.
PERCENTILE_ERROR = 2.0


@pytest.mark.data
def test_simulated_cases(shared_data):
    data = reference.load(shared_data)
    cases = [case for case in data["cases"] if case["model"] == "M/G/k (simulated)"]
    assert cases
    for case in cases:
        metrics = mgk(case["lam"], case["k"], reference.service_of(case, data["laws"]))
        noise = case["mean_wait_stderr"] / case["mean_wait"]
        assert metrics.mean_wait_s == pytest.approx(case["mean_wait"], rel=max(0.01, 4 * noise))
        for q, value in case["wait_percentiles"].items():
            if float(q) >= 0.9 and value > 0.2 * metrics.mean_wait_s / metrics.wait_probability:
                tolerance = max(0.02, 4 * PERCENTILE_ERROR * noise)
                assert metrics.wait_quantile_s(float(q)) == pytest.approx(value, rel=tolerance)

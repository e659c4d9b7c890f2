"""Limits that are known exactly: M/G/k at the prefill pool, the decode product form, Little's law, work conserved."""

import json

import numpy as np
import pytest

from qmodel.laws import LinearLaw
from qmodel.policies import Disaggregated
from qmodel.queueing import ServiceTime, decode_batch, mgk
from qmodel.scenario import SLO, Requests
from qmodel.simulation import simulate

from .scenes import calibration, chat_requests, cluster

TOKENS = 10_000  # of a mean service: how finely service times are resolved
LAW = LinearLaw(alpha_s=0.0, batch_s=0.0, context_s=0.0, prompt_s=1.0 / TOKENS, attention_s=0.0)


def service(name, n, rng):
    """Return n service times of mean 1 and the law they come from."""
    if name == "M/M/2":
        return rng.exponential(1.0, n), ServiceTime.exponential(1.0), 2
    if name == "M/D/4":
        return np.ones(n), ServiceTime.deterministic(1.0), 4
    p, slow, fast = 0.1, 5.5, 0.5
    return (
        rng.exponential(np.where(rng.random(n) < p, slow, fast)),
        ServiceTime.hyperexponential([p, 1 - p], [slow, fast]),
        8,
    )


def waits(name, load, n, seed):
    """Return the simulated waits in mean services, without packing and with free decode, and the exact queue."""
    rng = np.random.default_rng(seed)
    times, law, k = service(name, n, rng)
    prompt = np.maximum(1, np.rint(times * TOKENS)).astype(int)
    arrivals = np.cumsum(rng.exponential(1 / (load * k), n))
    cal = calibration(prefill=LAW, step=LAW, kv_bytes_per_token=0.0, kv_capacity_tokens=2_000_000_000)
    target = cluster(k, 1, cal, packing=False, transfer_fixed_s=0.0, max_num_seqs=64)
    result = simulate(target, Requests.from_arrays(arrivals, prompt, 1), SLO(), Disaggregated())
    return result.requests.queue_s.to_numpy()[result.warm_from :], mgk(load * k, k, law)


def standard_error(wait):
    """Return that of the mean, from 50 batches."""
    batches = wait[: len(wait) // 50 * 50].reshape(50, -1).mean(axis=1)
    return batches.std(ddof=1) / np.sqrt(50)


def agrees(name, load, n, seed):
    wait, exact = waits(name, load, n, seed)
    assert abs(wait.mean() - exact.mean_wait_s) < 3 * standard_error(wait) + 1e-4  # service times are rounded to 1e-4
    assert (wait > 1e-9).mean() == pytest.approx(exact.wait_probability, rel=0.03)


@pytest.mark.parametrize("name", ["M/M/2", "M/D/4", "M/H2/8"])
def test_prefill_pool_is_the_exact_queue(name):
    agrees(name, 0.7, 100_000, 1)


@pytest.mark.full
@pytest.mark.parametrize("load", [0.7, 0.9])
@pytest.mark.parametrize("name", ["M/M/2", "M/D/4", "M/H2/8"])
def test_prefill_pool_is_the_exact_queue_at_a_million_requests(name, load):
    agrees(name, load, 1_000_000, 2)


@pytest.mark.data
def test_mean_wait_of_the_published_reference(shared_data):
    cases = json.loads((shared_data / "queueing" / "reference.json").read_text())["cases"]
    case = next(c for c in cases if (c["model"], c["k"]) == ("M/M/k", 2))
    wait, _ = waits("M/M/2", case["rho"], 200_000, 4)
    assert abs(wait.mean() - case["mean_wait"]) < 3 * standard_error(wait)


def test_decode_steps_follow_the_product_form():
    law = LinearLaw(alpha_s=0.010, batch_s=0.0005, context_s=0.0, prompt_s=0.0, attention_s=0.0)
    rng = np.random.default_rng(5)
    n, mean, rate = 60_000, 200.0, 4.0
    steps = rng.geometric(1 / mean, n)
    cal = calibration(step=law, prefill=LAW, kv_bytes_per_token=0.0)
    target = cluster(4, 1, cal, transfer_fixed_s=0.0)
    requests = Requests.from_arrays(np.cumsum(rng.exponential(1 / rate, n)), 1, steps + 1)
    result = simulate(target, requests, SLO())
    batches = np.arange(1, 257)
    exact = decode_batch(rate, mean, law.step_time_s(batches.astype(float), 0.0), 256)
    weights = result.tbt_tokens / result.tbt_tokens.sum()
    centres = 0.5 * (result.tbt_edges_s[1:] + result.tbt_edges_s[:-1])
    assert float(weights @ centres) == pytest.approx(exact.mean_step_s("token"), rel=0.01)
    for q in (0.5, 0.95):
        assert result.tbt_s(q) == pytest.approx(exact.step_quantile_s(q, weight="token"), abs=0.00051)  # a lattice


def test_little_and_work_are_conserved():
    target = cluster()
    requests = chat_requests(20_000, 0.8, target, seed=6)
    result = simulate(target, requests, SLO(), warmup=0)
    frame = result.requests
    # Little: the time integral of residents equals the sum of their residence times.
    resident = (frame.finish_s - frame.arrival_s - frame.ttft_s + frame.first_step_s).sum()
    integral = (result.instances.mean_batch * result.instances.utilisation).sum() * result.makespan_s
    assert integral == pytest.approx(resident, rel=1e-9)
    # Work: what prefill instances were busy with lies between full steps' shares and lone prompts.
    busy = (result.instances.utilisation[:2] * result.makespan_s).sum()
    assert target.work_s(requests.prompt_tokens.astype(float)).sum() <= busy
    assert busy <= target.execution_s(requests.prompt_tokens.astype(float)).sum()

import json

import numpy as np
import pytest

from qmodel.errors import InputError, QModelError
from qmodel.laws import Calibration, PNormLaw, ValidRange
from qmodel.scenario import Cluster, Requests, Workload


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    law = PNormLaw(t0_s=0.005, w_s=0.006, c_s=5.6e-5, p=2.0, context_s=8e-8, attention_s=3e-9)
    calibration = Calibration(
        model="toy", gpu="toy", tp=1, step=law, prefill=law, layers=32, kv_bytes_per_token=131072.0,
        kv_capacity_tokens=400_000,
        valid_range=ValidRange(batch=256, context_tokens=400_000, chunk_tokens=8192, prompt_tokens=131072),
    )  # fmt: skip
    return Cluster(prefill=2, decode=2, calibration=calibration)


def trace(n: int = 500, seed: int = 3) -> Workload:
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.exponential(0.2, n))
    prompt = rng.integers(1, 5000, n)
    return Workload.from_requests(Requests.from_arrays(t, prompt, rng.integers(1, 300, n)), name="toy")


def poisson() -> Workload:
    return Workload.poisson(5.0, prompt_tokens=([200, 3000], [0.8, 0.2]), output_tokens=[10, 20, 20, 40])


WORKLOADS = [trace(), poisson(), Workload.builtin("azure-conv"), Workload.builtin("azure-code")]


def same(a: Requests, b: Requests) -> bool:
    return all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes()
        for name in ("arrival_s", "prompt_tokens", "output_tokens", "cached_tokens", "slo_class")
    )


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_same_seed_same_bytes_and_longer_runs_begin_alike(workload):
    some = workload.requests(seed=4, count=700)
    assert len(some) == 700
    assert same(some, workload.requests(seed=4, count=700))
    more = workload.requests(seed=4, count=3000)
    head = Requests.from_arrays(more.arrival_s[:700], more.prompt_tokens[:700], more.output_tokens[:700])
    assert same(some, head)
    assert not same(some, workload.requests(seed=5, count=700))


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_load_scales_time_and_nothing_else(workload, cluster):
    base, loaded = (
        workload.requests(seed=2, count=900),
        workload.at_load(0.9, cluster).requests(seed=2, count=900),
    )
    assert np.array_equal(base.prompt_tokens, loaded.prompt_tokens)
    assert np.array_equal(base.output_tokens, loaded.output_tokens)
    ratio = workload.at_load(0.9, cluster).rate_per_s / workload.rate_per_s
    np.testing.assert_allclose(loaded.arrival_s * ratio, base.arrival_s, rtol=1e-12)
    assert workload.at_load(0.9, cluster).load(cluster) == pytest.approx(0.9, rel=1e-12)
    assert workload.at_rate(30).rate_per_s == pytest.approx(30, rel=1e-12)
    assert workload.at_rate(30).at_rate(workload.rate_per_s).rate_per_s == pytest.approx(workload.rate_per_s)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_windows_carry_the_whole_rate_and_work(workload, cluster):
    scaled = workload.at_load(0.8, cluster)
    for width in (7.0, 60.0, 1e9):
        start, arrivals, work = scaled.windows(cluster, width)
        assert np.all(np.diff(start) > 0)
        assert start[0] == 0
        assert np.mean(arrivals) == pytest.approx(scaled.rate_per_s, rel=1e-9)
        assert np.mean(work) == pytest.approx(0.8 * cluster.prefill_count, rel=1e-9)
    assert np.allclose(np.diff(scaled.windows(cluster, 7.0)[0], n=2), 0)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_lengths_are_the_law_of_the_draws(workload):
    prompt, output, cached, weights = workload.lengths()
    assert np.sum(weights) == pytest.approx(1.0)
    assert np.all(cached == 0)
    drawn = workload.requests(seed=1, count=20_000)
    share = len(drawn) ** -0.5
    for law, got in ((prompt, drawn.prompt_tokens), (output, drawn.output_tokens)):
        mean = np.dot(weights, law)
        sd = np.sqrt(np.dot(weights, (law - mean) ** 2))
        # a span is not covered a whole number of times, so drift adds to the sampling error
        assert abs(np.mean(got) - mean) < 12 * sd * share


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_model_round_trip(workload):
    model = json.loads(json.dumps(workload.at_rate(7.5).model()))
    back = Workload.from_model(model)
    assert back.rate_per_s == pytest.approx(7.5, rel=1e-3)
    assert json.loads(json.dumps(back.model())) == model
    if workload.kind != "trace":
        assert back.fingerprint == workload.at_rate(7.5).fingerprint
        assert same(back.requests(seed=3), workload.at_rate(7.5).requests(seed=3))


def test_trace_is_replayed_then_turned():
    workload = trace()
    original = workload.source.requests
    assert same(workload.requests(), original)
    turned = workload.requests(seed=1)
    j = next(k for k in range(500) if np.array_equal(np.roll(original.prompt_tokens, -k), turned.prompt_tokens))
    assert 0 < j < 500
    assert np.allclose(np.diff(turned.arrival_s)[: 499 - j], np.diff(original.arrival_s)[j:])
    assert turned.arrival_s[-1] < workload.span_s
    starts = {int(workload.requests(seed=s).prompt_tokens[0]) for s in range(1, 9)}
    assert len(starts) >= 7


def test_trace_is_prolonged_at_its_own_rate():
    workload = trace()
    long = workload.requests(seed=0, count=20_000)
    assert len(long) / long.span_s == pytest.approx(workload.rate_per_s, rel=0.05)
    assert set(np.unique(long.prompt_tokens)) <= set(np.unique(workload.source.requests.prompt_tokens))


def test_poisson_gaps_are_exponential():
    gaps = np.diff(poisson().requests(seed=0).arrival_s)
    n = len(gaps)
    assert np.mean(gaps) == pytest.approx(0.2, rel=4 * n**-0.5)
    assert np.var(gaps) / np.mean(gaps) ** 2 == pytest.approx(1.0, abs=4 * (8 / n) ** 0.5)
    # Kolmogorov-Smirnov distance, 0.1 % point 1.95/sqrt(n)
    u = np.sort(-np.expm1(-gaps / 0.2))
    assert np.max(np.abs(u - (np.arange(n) + 0.5) / n)) < 1.95 * n**-0.5


def test_sample_uses_the_generator():
    workload = Workload.builtin("azure-conv")
    a, b = workload.sample(300, np.random.default_rng(1)), workload.sample(300, np.random.default_rng(1))
    assert same(a, b)
    rng = np.random.default_rng(1)
    workload.sample(300, rng)
    assert not same(a, workload.sample(300, rng))


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf, "x"])
def test_impossible_rates_and_loads(bad, cluster):
    for call in (
        lambda: poisson().at_rate(bad),
        lambda: poisson().at_load(bad, cluster),
        lambda: Workload.poisson(bad, 100, 10),
        lambda: Workload.poisson(1.0, bad, 10),
        lambda: Workload.poisson(1.0, 100, ([10, 20], [bad, bad])) if bad != 0 else Workload.poisson(1.0, 100, []),
    ):
        with pytest.raises(InputError):
            call()


@pytest.mark.parametrize("count", [0, -3, 2.5, 10**12])
def test_impossible_counts(count):
    with pytest.raises(InputError, match="number of requests"):
        poisson().requests(count=count)


def test_unknown_builtin_names_the_known_ones():
    with pytest.raises(InputError, match="azure-conv"):
        Workload.builtin("azure-chat")


@pytest.mark.parametrize("key", ["kind", "span_s", "arrivals_per_s", "band_shares", "prompt_tokens", "output_levels"])
@pytest.mark.parametrize("value", [None, -1, "x", [], [[1, 2], [3]], {"values": 3}, float("nan")])
def test_broken_models_are_refused(key, value):
    model = Workload.builtin("azure-conv").model()
    with pytest.raises(QModelError):
        Workload.from_model({**model, key: value})
    with pytest.raises(QModelError):
        Workload.from_model({k: v for k, v in model.items() if k != key})


def test_description_names_load_and_lengths(cluster):
    line = Workload.builtin("azure-conv").at_load(0.9, cluster).describe(cluster)
    assert "\n" not in line
    assert "load 0.9 " in line
    assert "azure-conv" in line

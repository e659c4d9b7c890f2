import numpy as np
import pytest

from qmodel.errors import InputError, OutOfRangeError
from qmodel.io.calibrations import load_calibration
from qmodel.laws import EngineCorrection
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.scenario.ranges import range_warnings
from qmodel.system import predict


@pytest.fixture
def cal():
    return load_calibration("llama-3.1-8b")


def test_draws_have_the_spread_and_correlation_of_the_fit(cal):
    drawn = cal.draws(4000, np.random.default_rng(1))
    c = np.array([d.step.c_s for d in drawn])
    p = np.array([d.step.p for d in drawn])
    assert c.mean() == pytest.approx(cal.step.c_s, rel=0.01)
    assert c.std() == pytest.approx(cal.standard_errors["step.c_s"], rel=0.05)
    assert np.corrcoef(c, p)[0, 1] == pytest.approx(cal.correlations["step.c_s|step.p"], abs=0.05)
    assert all(d.step.p >= 1 and d.step.t0_s >= 0 for d in drawn)


def test_draws_are_reproducible_and_keep_the_engine(cal):
    engine = EngineCorrection(floor_s=0.01, gain=1.2, prefill_gain=1.1)
    corrected = cal.with_engine(engine)
    first, again = (corrected.draws(3, np.random.default_rng(7)) for _ in range(2))
    assert [d.fingerprint for d in first] == [d.fingerprint for d in again]
    assert {d.engine for d in first} == {engine}
    assert len({d.fingerprint for d in first}) == 3


def test_step_times_vary_by_about_the_tables_noise(cal):
    """The ridge t0 + w is wide but a step's time is not: correlations must carry over."""
    times = [float(d.decode_step_s(32.0, 48_000.0)) for d in cal.draws(400, np.random.default_rng(2))]
    assert np.std(times) / np.mean(times) < 0.03


def test_bad_draws_are_refused(cal):
    from dataclasses import replace

    with pytest.raises(InputError, match="draws is 0"):
        cal.draws(0, np.random.default_rng(0))
    with pytest.raises(InputError, match="standard errors of the calibration"):
        replace(cal, standard_errors={}).draws(1, np.random.default_rng(0))


def test_prediction_interval_covers_the_prediction(cal):
    cluster = Cluster(prefill=1, decode=1, calibration=cal)
    workload = Workload.poisson(3.0, prompt_tokens=1000, output_tokens=100)
    slo = SLO(ttft_s=1.0, tbt_s=0.06)
    centre = predict(cluster, workload, slo, draws=8)
    found = centre.calibration_interval
    low, high = found.intervals["p95_ttft_s"]
    assert low < high
    assert low * 0.95 <= centre.ttft_s(0.95) <= high * 1.05
    assert found.to_dict()["draws"] == 8
    with pytest.raises(InputError, match="draws"):
        predict(cluster, workload, slo, draws=1)


def test_predictions_beyond_the_fit_carry_a_warning(cal):
    cluster = Cluster(prefill=1, decode=1, calibration=cal, max_num_batched_tokens=16_384, max_num_seqs=512)
    far = Workload.poisson(0.01, prompt_tokens=60_000, output_tokens=10)
    near = Workload.poisson(0.1, prompt_tokens=1000, output_tokens=10)
    assert len(range_warnings(cluster, far)) == 3
    assert any("prompt_tokens up to 60000" in line for line in predict(cluster, far, SLO()).warnings)
    assert not any("prompt_tokens" in line for line in predict(cluster, near, SLO()).warnings)
    with pytest.raises(OutOfRangeError, match="calibrate"):
        range_warnings(cluster, far, strict=True)


def scaled(cal, factor):
    from dataclasses import replace

    return replace(cal, standard_errors={name: factor * error for name, error in cal.standard_errors.items()})


@pytest.mark.parametrize("kind", ["poisson", "trace"])
def test_predictions_carry_the_calibrations_interval(cal, kind):
    steady = Workload.poisson(1.0, prompt_tokens=1000, output_tokens=100)
    workload = steady if kind == "poisson" else Workload.from_requests(steady.requests(seed=1, count=400), "few")
    slo = SLO(ttft_s=1.0, tbt_s=0.06)
    plain = predict(Cluster(prefill=1, decode=1, calibration=cal), workload, slo)
    assert plain.calibration_interval is None
    assert plain.to_dict()["calibration_interval"] is None
    widths, errors = [], []
    for factor in (0.0, 1.0, 3.0):
        cluster = Cluster(prefill=1, decode=1, calibration=scaled(cal, factor))
        found = predict(cluster, workload, slo, draws=12, seed=5)
        low, high = found.calibration_interval.intervals["p95_ttft_s"]
        widths.append(high - low)
        errors.append(found.error_estimate["p95_ttft_s"])
        assert found.ttft_s(0.95) == plain.ttft_s(0.95)
    # Zero covariance: zero width, and the method's error alone; three times the standard errors: about three times
    # (at 3/s, where the queue's tail grows faster than its load, five).
    assert widths[0] == pytest.approx(0.0, abs=1e-12)
    assert errors[0] == pytest.approx(plain.error_estimate["p95_ttft_s"], rel=1e-9)
    assert 2.0 < widths[2] / widths[1] < 4.5
    half = 0.5 * widths[1] / plain.ttft_s(0.95)
    assert errors[1] == pytest.approx(np.hypot(errors[0], half), rel=1e-9)


def test_intervals_of_predictions_are_reproducible_and_follow_their_seed(cal):
    cluster = Cluster(prefill=1, decode=1, calibration=cal)
    workload, slo = Workload.poisson(3.0, prompt_tokens=1000, output_tokens=100), SLO(ttft_s=1.0, tbt_s=0.06)
    one, same, other = (predict(cluster, workload, slo, draws=4, seed=s).calibration_interval for s in (1, 1, 2))
    assert one.intervals == same.intervals != other.intervals


def test_draws_that_overload_a_pool_are_counted_and_named(cal):
    """At a load of 0.97 one draw in several exceeds 1 when the compute time is known to 5 % only."""
    from dataclasses import replace

    vague = replace(cal, standard_errors={"prefill.c_s": 0.05 * cal.prefill.c_s}, correlations={})
    cluster = Cluster(prefill=1, decode=1, calibration=vague)
    busy = Workload.poisson(1.0, prompt_tokens=1000, output_tokens=20).at_load(0.97, cluster)
    found = predict(cluster, busy, SLO(), draws=20)
    assert 0 < found.calibration_interval.unstable < 20
    assert any("overload a pool" in line for line in found.warnings)


@pytest.mark.parametrize("draws", [-1, 1, 1.5, 10**9])
def test_impossible_numbers_of_draws_are_refused(cal, draws):
    cluster = Cluster(prefill=1, decode=1, calibration=cal)
    with pytest.raises(InputError, match="draws"):
        predict(cluster, Workload.poisson(1.0, prompt_tokens=1000, output_tokens=20), SLO(), draws=draws)

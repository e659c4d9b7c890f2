from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qmodel.errors import InputError
from qmodel.fitting.curves import Curve, Surface, isotonic, outliers
from qmodel.fitting.gpus import gpu_named
from qmodel.fitting.measured_steps import calibrate_steps
from qmodel.fitting.models import load_model
from qmodel.fitting.steplaw import Form, errors_of, fit_step_law, law_times_s
from qmodel.io.calibrations import load_calibration
from qmodel.io.measurements import read_steps
from qmodel.laws import LinearLaw, PNormLaw, StepSamples

QUICK = {"deadline": None, "phases": [Phase.explicit, Phase.generate]}


def design():
    rows = [(b, b * c, 0, 0) for b in (1, 2, 4, 8, 16, 32, 64, 128, 256) for c in (128, 512, 2048, 8192)]
    rows += [
        (b, b * 1000, chi, done) for b in (1, 16, 64, 256) for chi in (128, 512, 2048, 8192) for done in (0, 1024, 8192)
    ]
    return [np.array(x, dtype=float) for x in zip(*rows, strict=True)]


def samples_of(law, noise=0.0, seed=0):
    b, k, chi, done = design()
    exact = StepSamples(batch=b, context=k, chunk=chi, done=done, time_s=np.ones(len(b)))
    time = law_times_s(law, exact) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(b)))
    return StepSamples(batch=b, context=k, chunk=chi, done=done, time_s=time)


@settings(max_examples=10, **QUICK)
@given(
    t0=st.floats(0, 0.02),
    w=st.floats(0.003, 0.02),
    c=st.floats(2e-5, 2e-4),
    p=st.floats(1.2, 7),
    ck=st.floats(2e-8, 2e-7),
    ca=st.floats(1e-9, 5e-9),
    noise=st.sampled_from([0.0, 0.02, 0.05]),
)
def test_dense_laws_are_recovered(t0, w, c, p, ck, ca, noise):
    truth = PNormLaw(t0_s=t0, w_s=w, c_s=c, p=p, context_s=ck, attention_s=ca)
    found = fit_step_law(samples_of(truth, noise), "dense")
    allowed = 0.002 + 0.5 * noise  # 84 points and 7 coefficients average the noise down by more than 2
    assert errors_of(found, samples_of(truth)).mape < allowed
    assert found.context_s == pytest.approx(ck, rel=0.03 + 3 * noise)
    assert found.c_s == pytest.approx(c, rel=0.03 + 3 * noise)


@settings(max_examples=10, **QUICK)
@given(
    w=st.floats(0.003, 0.01),
    a=st.floats(0.1, 0.5),
    c=st.floats(2e-5, 6e-5),
    p=st.floats(2, 7),
    cx=st.floats(2e-7, 1e-6),
    noise=st.sampled_from([0.0, 0.03]),
)
def test_moe_laws_are_recovered(w, a, c, p, cx, noise):
    truth = PNormLaw(t0_s=0.0, w_s=w, a=a, c_s=c, p=p, context_s=5e-8, attention_s=1.6e-9, reload_s=cx)
    found = fit_step_law(samples_of(truth, noise), "moe")
    assert errors_of(found, samples_of(truth)).mape < 0.002 + 0.5 * noise
    assert found.a == pytest.approx(a, abs=0.02 + noise)
    if noise == 0:  # cx adds a few per cent to a few steps: noise of that size hides it
        assert found.reload_s == pytest.approx(cx, rel=0.03)


@settings(max_examples=6, **QUICK)
@given(
    t0=st.floats(0.002, 0.01),
    w=st.floats(0.01, 0.03),
    a=st.floats(0, 0.2),
    jump=st.floats(0.003, 0.01),
    noise=st.sampled_from([0.0, 0.03]),
)
def test_saturating_experts_and_a_jump_are_recovered(t0, w, a, jump, noise):
    truth = PNormLaw(
        t0_s=t0, w_s=w, a=a, c_s=5e-5, p=2.5, context_s=5e-8, attention_s=1.6e-9, expert_share=0.25, jump_s=jump,
        jump_from_tokens=256.0, jump_to_tokens=512.0,
    )  # fmt: skip
    found = fit_step_law(samples_of(truth, noise), Form("experts", 0.25, (256.0, 512.0)))
    assert errors_of(found, samples_of(truth)).mape < 0.002 + 0.5 * noise
    if noise == 0:
        assert found.jump_s == pytest.approx(jump, rel=0.05)
        assert found.a == pytest.approx(a, abs=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_coefficients_beside_a_measured_all_reduce_are_recovered(noise):
    points = ((1.0, 1e-3), (128.0, 7e-3), (256.0, 21e-3), (1024.0, 58e-3), (8192.0, 347e-3))
    at, times = zip(*points, strict=True)
    truth = PNormLaw(t0_s=8e-3, w_s=8e-3, c_s=8e-5, p=2.2, context_s=3e-8, attention_s=1.6e-9)
    truth = replace(truth, allreduce_tokens=at, allreduce_s=times)
    found = fit_step_law(samples_of(truth, noise), Form("dense", allreduce=points))
    assert errors_of(found, samples_of(truth)).mape < 0.002 + 0.5 * noise
    assert (found.allreduce_tokens, found.allreduce_s) == (at, times)
    assert found.c_s == pytest.approx(8e-5, rel=0.01 + noise)
    without = fit_step_law(samples_of(truth, noise), "dense")
    assert errors_of(without, samples_of(truth)).mape > 2 * errors_of(found, samples_of(truth)).mape


def test_linear_law_is_recovered_exactly():
    truth = LinearLaw(alpha_s=0.01, batch_s=1e-4, context_s=5e-8, prompt_s=6e-5, attention_s=2e-9)
    found = fit_step_law(samples_of(truth), "linear")
    np.testing.assert_allclose(found.kernel_params(), truth.kernel_params(), rtol=1e-6)


def test_fit_is_deterministic():
    law = load_calibration("deepseek-v2-lite").step
    first, second = (fit_step_law(samples_of(law, 0.03), "moe") for _ in range(2))
    assert first == second


def test_too_few_steps_are_refused():
    few = samples_of(load_calibration("llama-3.1-8b").step).take(np.arange(5))
    with pytest.raises(InputError, match="steps to fit is 5; it must be >= 6"):
        fit_step_law(few, "dense")


def step_csv(path, law, scale=1.0, rows=slice(None), **changes):
    s = samples_of(law)
    table = np.column_stack([s.batch, s.context, s.chunk, s.done, s.time_s * 1e3 * scale])[rows]
    text = "\n".join(["B,K,chi,done,t_ms", *(",".join(f"{v:.9g}" for v in r) for r in table)])
    for old, new in changes.items():
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


def test_step_file_gives_back_its_law(tmp_path):
    law = load_calibration("llama-3.1-8b").step
    steps = read_steps(step_csv(tmp_path / "s.csv", law))
    cal = calibrate_steps(steps, load_model("llama-3.1-8b"), gpu_named("a100"), 1, "test")
    assert cal.fit["step_mape"] < 0.005
    assert cal.valid_range.batch == 256
    assert cal.check(batch=300) != []


@pytest.mark.parametrize(
    ("scale", "rows", "changes", "message"),
    [
        (1.0, slice(None), {"t_ms": "time"}, r"columns of .* without t_ms"),
        (1.0, slice(0, 1), {}, r"measured decode steps \(B > 0\) is 1"),
        (1.0, slice(0, 0), {}, r"rows of .* is 0"),
        (-1.0, slice(None), {}, r"t_ms in row 1 of .* finite and >= 0"),
        (1000.0, slice(None), {}, r"unit"),
        (0.001, slice(None), {}, r"unit"),
        (1.0, slice(None), {"\n1,128,": "\nnan,128,"}, r"B in row 1 of .* is nan"),
        (1.0, slice(None), {"\n1,128,": "\nx,128,"}, r"B in row 1 of .* is 'x'; it must be a number"),
    ],
)
def test_broken_step_files_are_one_clear_error(tmp_path, scale, rows, changes, message):
    path = step_csv(tmp_path / "s.csv", load_calibration("llama-3.1-8b").step, scale, rows, **changes)
    with pytest.raises(InputError, match=message) as caught:
        calibrate_steps(read_steps(path), load_model("llama-3.1-8b"), gpu_named("a100"), 1, "test")
    assert "\n" not in str(caught.value)


def test_isotonic_is_the_nearest_monotone_sequence():
    rng = np.random.default_rng(5)
    y = np.cumsum(rng.normal(0.3, 1.0, 40))
    fit = isotonic(y)
    assert np.all(np.diff(fit) >= 0)
    assert fit.sum() == pytest.approx(y.sum())
    for _ in range(200):  # no monotone sequence nearby is closer
        other = np.sort(fit + rng.normal(0, 0.3, 40))
        assert np.sum((other - y) ** 2) >= np.sum((fit - y) ** 2) - 1e-9


def test_curve_interpolates_power_laws_exactly_and_extrapolates_them():
    x = np.array([1.0, 4.0, 32.0, 256.0])
    curve = Curve.fit(x, 2e-3 * x**1.3)
    at = np.array([2.0, 100.0, 1024.0])
    np.testing.assert_allclose(curve(at), 2e-3 * at**1.3, rtol=1e-12)
    assert curve(0.0) == 0.0
    assert curve(0.5) == pytest.approx(2e-3)


def test_duplicates_take_their_median_and_outliers_are_found():
    curve = Curve.fit([1, 2, 2, 2, 4], [1.0, 2.0, 50.0, 2.2, 4.0])
    assert curve(2.0) == pytest.approx(2.2)
    x = np.array([1.0, 2, 4, 8, 16])
    assert outliers(x, np.array([1.0, 2, 112, 8, 16])).tolist() == [False, False, True, False, False]
    assert not outliers(x, x).any()


def test_surface_is_bilinear_in_logs():
    b, c = (v.ravel() for v in np.meshgrid([1.0, 4, 16], [128.0, 1024, 8192]))
    surface = Surface.fit(b, c, 1e-9 * b**0.7 * c**0.9)
    np.testing.assert_allclose(surface(8.0, 3000.0), 1e-9 * 8**0.7 * 3000**0.9, rtol=1e-9)
    assert surface(0.0, 100.0) == 0.0
    assert surface.scaled(2.0, batch_factor=4.0, label="x")(2.0, 3000.0) == pytest.approx(
        2 * float(surface(8.0, 3000.0))
    )

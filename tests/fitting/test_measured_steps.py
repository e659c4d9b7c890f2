"""Calibrations from a CSV of measured steps: form, standard errors, draws."""

from dataclasses import replace

import numpy as np
import pytest

from qmodel.fitting.gpus import gpu_named
from qmodel.fitting.measured_steps import MeasuredSteps, calibrate_steps
from qmodel.fitting.models import load_model
from qmodel.fitting.steplaw import Form
from qmodel.io.calibrations import load_calibration, read_calibration
from qmodel.laws import PNormLaw, StepSamples
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.studies.calibration import calibrate
from qmodel.system import predict


def measured(step, prefill=None, noise=0.03, rows=240, prompts=60, seed=1):
    """Random steps as an engine with these laws would take them, each off by its own noise."""
    rng = np.random.default_rng(seed)
    n = rows + (prompts if prefill else 0)
    batch = np.floor(np.exp(rng.uniform(0, np.log(256), n)))
    batch[rows:] = 0
    context = batch * np.floor(np.exp(rng.uniform(np.log(128), np.log(4096), n)))
    chunk = np.where((rng.random(n) < 0.4) | (batch == 0), np.floor(np.exp(rng.uniform(4, np.log(4096), n))), 0.0)
    done = np.where((chunk > 0) & (batch > 0), np.floor(rng.uniform(0, 4096, n)), 0.0)
    reloaded, quadratic = np.where(chunk > 0, done, 0.0), chunk * (done + chunk / 2)
    laws = np.where(batch > 0, 0, 1)
    times = [np.asarray(law.step_time_s(batch, context, chunk, quadratic, reloaded)) for law in (step, prefill or step)]
    time = np.choose(laws, times) * np.exp(noise * rng.standard_normal(n))
    return StepSamples(batch=batch, context=context, chunk=chunk, done=done, time_s=time)


def from_steps(samples, model="llama-3.1-8b"):
    return calibrate_steps(samples, load_model(model), gpu_named("a100"), 1, "test")


def write_csv(path, s):
    rows = zip(s.batch, s.context, s.chunk, s.done, s.time_s * 1e3, strict=True)
    path.write_text("\n".join(["B,K,chi,done,t_ms", *(",".join(f"{v:.9g}" for v in row) for row in rows)]))
    return path


def test_steps_say_how_sure_they_are_and_predictions_carry_it(tmp_path):
    truth = load_calibration("llama-3.1-8b")
    path = write_csv(tmp_path / "steps.csv", measured(truth.step, truth.prefill))
    result = calibrate("llama-3.1-8b", profiles=str(path))
    result.save(tmp_path / "cal.json")
    cal = read_calibration(tmp_path / "cal.json")
    assert {"step.c_s", "step.context_s", "prefill.c_s"} <= set(cal.standard_errors)
    assert cal.provenance["prefill_law"].startswith("fitted")
    assert "5-fold cross-validation" in cal.provenance["law_choice"]
    found = predict(
        Cluster(prefill=1, decode=1, calibration=cal),
        Workload.poisson(3.0, prompt_tokens=1000, output_tokens=100),
        SLO(ttft_s=1.0, tbt_s=0.06),
        draws=8,
    )
    low, high = found.calibration_interval.intervals["p95_ttft_s"]
    assert low < high


def test_standard_errors_are_the_spread_of_fits_to_fresh_measurements():
    """Two ways to the same number; rows drawn twice tell less than fresh ones, so the bootstrap errs to the wide side."""
    law = PNormLaw(t0_s=4e-3, w_s=7e-3, c_s=5.6e-5, p=2.0, context_s=8e-8, attention_s=3e-9)
    one = from_steps(measured(law, noise=0.05))
    natural = Form("dense")
    fresh = [MeasuredSteps(measured(law, noise=0.05, seed=s)).fit(natural).step for s in range(2, 14)]
    for name in ("c_s", "context_s"):
        values = [getattr(f, name) for f in fresh]
        assert 0.5 < one.standard_errors[f"step.{name}"] / np.std(values, ddof=1) < 2.5
        assert abs(getattr(one.step, name) - getattr(law, name)) < 4 * one.standard_errors[f"step.{name}"]


def test_exact_steps_have_next_to_no_error_and_the_same_rows_the_same_file():
    law = load_calibration("llama-3.1-8b").step
    exact, noisy = (from_steps(measured(law, noise=noise)) for noise in (0.0, 0.04))
    assert exact.standard_errors["step.c_s"] < 0.1 * noisy.standard_errors["step.c_s"]
    again = from_steps(measured(law, noise=0.04))
    assert again.standard_errors == noisy.standard_errors
    assert again.correlations == noisy.correlations


def test_few_prompts_take_the_step_law_and_are_drawn_with_it():
    cal = from_steps(measured(load_calibration("llama-3.1-8b").step))
    assert cal.prefill == cal.step
    assert "prefill_mape" not in cal.fit
    for drawn in cal.draws(5, np.random.default_rng(3)):
        assert drawn.prefill.c_s == pytest.approx(drawn.step.c_s, rel=1e-6)
        assert drawn.prefill.t0_s == pytest.approx(drawn.step.t0_s, rel=1e-6, abs=1e-9)


def test_saturating_experts_are_taken_where_the_steps_show_them():
    mixtral = load_calibration("mixtral-8x7b", "a100", 4)
    smooth = replace(mixtral.step, jump_s=0.0)
    saturating = calibrate_steps(measured(smooth, noise=0.01), load_model("mixtral-8x7b"), gpu_named("a100"), 4, "test")
    assert saturating.step.expert_share == 2 / 8
    assert saturating.provenance["law_choice"].startswith("experts")
    growing = replace(load_calibration("qwen3-30b-a3b").step, jump_s=0.0, expert_share=0.0)
    plain = from_steps(measured(growing, noise=0.01), "qwen3-30b-a3b")
    assert plain.step.expert_share == 0.0


def test_a_dozen_steps_are_enough():
    cal = from_steps(measured(load_calibration("llama-3.1-8b").step, rows=12))
    assert all(np.isfinite(list(cal.standard_errors.values())))
    assert len(cal.draws(10, np.random.default_rng(0))) == 10


def test_steps_without_chunks_do_not_speak_of_them(tmp_path):
    s = measured(load_calibration("llama-3.1-8b").step)
    result = calibrate("llama-3.1-8b", profiles=str(write_csv(tmp_path / "d.csv", s.take(s.chunk == 0))))
    assert "chunk_increment_mape" not in result.calibration.fit
    assert "chunk" not in " ".join(result.lines())


def test_pictures_of_steps_name_what_the_laws_were_fitted_to(monkeypatch, tmp_path):
    from matplotlib.figure import Figure

    seen = []
    monkeypatch.setattr("qmodel.plotting.calibration.save_figure", lambda figure, path: seen.append(figure))
    from_csv = write_csv(tmp_path / "s.csv", measured(load_calibration("llama-3.1-8b").step))
    calibrate("llama-3.1-8b", profiles=str(from_csv)).draw(tmp_path / "c.png")
    (figure,) = seen
    assert isinstance(figure, Figure)
    labels = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert "engine steps" in labels
    assert "kernels" not in labels
    assert any("chunk increment, mean" in text.get_text() for axes in figure.axes for text in axes.texts)

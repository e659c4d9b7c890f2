import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qmodel.errors import InputError
from qmodel.fitting.engine import decode_times_s, fit_engine, prompt_times_s
from qmodel.io.calibrations import load_calibration, load_calibrations, read_calibrations, save_calibration
from qmodel.laws import DecodeTimes, EngineCorrection, PromptTimes
from qmodel.laws.interpolation import at_tp
from qmodel.studies.calibration import calibrate
from qmodel.studies.calibration_validation import validate_calibration

HEADER = (
    "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,"
    "prompt_time,token_time,e2e_time,tensor_parallel"
)
SHRINKAGE = 0.02  # what the priors pull a correction by when it is two of their widths away, with 15 rows


def measured(correction, degrees=(2, 8), noise=0.0, seed=0):
    """Rows that an engine with a known correction would give: decode steps and prompt batches."""
    rng = np.random.default_rng(seed)
    engine = [c.with_engine(correction) for c in load_calibrations("llama-2-70b")]
    tp, b = (x.ravel().astype(float) for x in np.meshgrid(degrees, [1, 2, 4, 8, 16, 32, 64, 128, 256]))
    decode = DecodeTimes(tp=tp, batch=b, context=600 * b, time_s=np.ones(len(b)), peak=0 * b)
    tp, L, n = (x.ravel().astype(float) for x in np.meshgrid(degrees, [64, 128, 512, 2048, 8192], [1, 2, 8]))
    prompt = PromptTimes(tp=tp, prompts=n, tokens=L, time_s=np.ones(len(L)), peak=0 * L)
    times = [decode_times_s(engine, decode), prompt_times_s(engine, prompt)]
    times = [t * np.exp(noise * rng.standard_normal(len(t))) for t in times]
    return (
        DecodeTimes(tp=decode.tp, batch=decode.batch, context=decode.context, time_s=times[0], peak=decode.peak),
        PromptTimes(tp=prompt.tp, prompts=prompt.prompts, tokens=prompt.tokens, time_s=times[1], peak=prompt.peak),
    )


@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    floor=st.floats(0.03, 0.07),
    request=st.floats(5e-5, 4e-4),
    gain=st.floats(1.05, 1.4),
    prefill_floor=st.floats(0.04, 0.09),
    prefill_gain=st.floats(1.05, 1.4),
    exponent=st.floats(0.0, 0.2),
    noise=st.floats(0.0, 0.05),
)
def test_known_corrections_are_recovered(floor, request, gain, prefill_floor, prefill_gain, exponent, noise):
    truth = EngineCorrection(
        floor_s=floor,
        floor_per_request_s=request,
        gain=gain,
        prefill_floor_s=prefill_floor,
        prefill_gain=prefill_gain,
        batch_exponent=exponent,
    )
    decode, prompt = measured(truth, noise=noise)
    fit = fit_engine(load_calibrations("llama-2-70b"), decode, prompt, "eager")
    fitted = [c.with_engine(fit.correction) for c in load_calibrations("llama-2-70b")]
    clean = measured(truth)
    allowed = SHRINKAGE + noise
    assert np.mean(np.abs(decode_times_s(fitted, clean[0]) / clean[0].time_s - 1)) < allowed
    assert np.mean(np.abs(prompt_times_s(fitted, clean[1]) / clean[1].time_s - 1)) < allowed
    assert fit.correction.prefill_gain == pytest.approx(prefill_gain, rel=SHRINKAGE + 2 * noise)
    assert fit.correction.batch_exponent == pytest.approx(exponent, abs=SHRINKAGE + noise)


def test_standard_errors_cover_the_truth_and_shrink_with_data():
    truth = EngineCorrection(floor_s=0.05, floor_per_request_s=1e-4, gain=1.2, prefill_floor_s=0.06, prefill_gain=1.2)
    fits = [fit_engine(load_calibrations("llama-2-70b"), *measured(truth, noise=0.03, seed=s), "eager") for s in (1, 2)]
    for fit in fits:
        for name in ("floor_s", "prefill_gain"):
            error = fit.standard_errors[f"engine.{name}"]
            assert abs(getattr(fit.correction, name) - getattr(truth, name)) < 4 * error
            assert 0 < error < 0.1 * getattr(truth, name)
    drawn = load_calibrations("llama-2-70b")[0].with_engine(fits[0].correction)
    drawn = replace(drawn, standard_errors=dict(drawn.standard_errors) | dict(fits[0].standard_errors))
    gains = [c.engine.gain for c in drawn.draws(200, np.random.default_rng(0))]
    assert np.std(gains) == pytest.approx(fits[0].standard_errors["engine.gain"], rel=0.2)


def test_graph_engines_are_told_from_eager_ones():
    graph = EngineCorrection(floor_s=0.004, floor_per_request_s=2e-5, gain=1.1, prefill_floor_s=0.01, prefill_gain=1.15)
    fit = fit_engine(load_calibrations("llama-2-70b"), *measured(graph), "eager")
    assert fit.launches == "graph"
    assert fit.correction.gain == pytest.approx(1.1, rel=0.02)


def test_rows_beyond_the_cache_or_the_fitted_tp_are_set_aside():
    ones = np.ones(2)
    rows = DecodeTimes(
        tp=np.array([2.0, 16.0]), batch=ones, context=512 * ones, time_s=0.05 * ones, peak=np.array([1e6, 600.0])
    )
    none = PromptTimes(**{n: np.zeros(0) for n in ("tp", "prompts", "tokens", "time_s", "peak")})
    with pytest.raises(InputError, match=r"KV cache exceeds the 32738 tokens.*tp for llama-2-70b on a100 is 16"):
        fit_engine(load_calibrations("llama-2-70b"), rows, none)


def test_correcting_twice_is_refused():
    engine = EngineCorrection(gain=1.2)
    once = load_calibrations("llama-2-70b")[0].with_engine(engine)
    with pytest.raises(InputError, match="corrected already"):
        once.with_engine(engine)
    assert once.without_engine().fingerprint == load_calibrations("llama-2-70b")[0].fingerprint


def test_interpolated_tp_lies_between_its_neighbours():
    two, four, eight = load_calibrations("llama-2-70b")
    between = at_tp([two, eight], 4)
    assert "interpolated" in between.provenance["interpolation"]
    for batch in (1.0, 32.0, 256.0):
        times = [float(c.decode_step_s(batch, 600 * batch)) for c in (eight, between, two)]
        assert times == sorted(times)
        assert times[1] == pytest.approx(float(four.decode_step_s(batch, 600 * batch)), rel=0.15)
    with pytest.raises(InputError, match="within 2, 8"):
        at_tp([two, eight], 16)


def test_interpolated_prompts_take_their_share_of_a_measured_all_reduce():
    two, four, eight = load_calibrations("llama-2-70b")
    between = at_tp([two, eight], 4)
    lengths = np.array([64.0, 400.0, 3000.0, 8000.0])
    times = [c.lone_prefill_s(lengths) for c in (eight, between, two)]
    assert np.all(times[0] < times[1])
    assert np.all(times[1] < times[2])
    np.testing.assert_allclose(times[1], four.lone_prefill_s(lengths), rtol=0.25)
    tripled = replace(eight.prefill, allreduce_s=tuple(3 * t for t in eight.prefill.allreduce_s))
    halfway = at_tp([replace(eight, tp=2), replace(eight, prefill=tripled)], 4)
    assert halfway.prefill.allreduce_s == pytest.approx([2 * t for t in eight.prefill.allreduce_s])
    assert halfway.prefill.c_s == pytest.approx(eight.prefill.c_s)


def test_files_keep_a_measured_all_reduce(tmp_path):
    eight = load_calibration("llama-2-70b", tp=8)
    save_calibration(eight, tmp_path / "cal.json")
    again = load_calibration(str(tmp_path / "cal.json"))
    assert again.prefill == eight.prefill
    assert len(again.prefill.allreduce_s) == 16
    flat = replace(eight, prefill=replace(eight.prefill, allreduce_tokens=(), allreduce_s=()))
    assert flat.fingerprint != eight.fingerprint == again.fingerprint


def write_splitwise(path: Path, prompt, model="llama2-70b", gpu="a100-80gb"):
    lines = [HEADER]
    for tp, L, b, t in zip(prompt.tp, prompt.tokens, prompt.prompts, prompt.time_s, strict=True):
        lines.append(f"{model},{gpu},{L:g},{b:g},128,1,1,{t * 1e3},50,1000,{tp:g}")
    path.write_text("\n".join(lines))
    return path


def test_calibrate_and_validate_from_files(tmp_path):
    truth = EngineCorrection(floor_s=0.045, gain=1.2, prefill_floor_s=0.06, prefill_gain=1.2, batch_exponent=0.1)
    _, prompt = measured(truth)
    file = write_splitwise(tmp_path / "m.csv", prompt)
    result = calibrate("llama-2-70b", "a100", 4, measured=file)
    result.save(tmp_path / "cal.json")
    assert [c.tp for c in read_calibrations(tmp_path / "cal.json")] == [4, 2, 8]
    assert load_calibration(str(tmp_path / "cal.json")).tp == 4
    assert load_calibration(str(tmp_path / "cal.json"), tp=8).tp == 8
    with pytest.raises(InputError, match="one of 4, 2, 8"):
        load_calibration(str(tmp_path / "cal.json"), tp=16)
    out = validate_calibration(tmp_path / "cal.json", file).to_dict()
    assert json.loads(json.dumps(out)) == out
    assert out["prompt_time_mape"] < 0.01
    assert set(out["by_tp"]) == {"2", "8"}
    result.draw(tmp_path / "fit.png")
    validate_calibration(tmp_path / "cal.json", file).draw(tmp_path / "val.png")
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="of opt-13b on a100-80gb"):
        calibrate("llama-2-70b", measured=write_splitwise(tmp_path / "o.csv", prompt, model="opt-13b"))


def test_power_capped_variants_are_not_mixed_in(tmp_path):
    _, prompt = measured(EngineCorrection(prefill_floor_s=0.05, prefill_gain=1.2))
    plain = write_splitwise(tmp_path / "plain.csv", prompt).read_text()
    capped = plain.replace("a100-80gb", "a100-80gb-pcap").replace(",128,1,1,", ",128,1,1,9")
    (tmp_path / "both.csv").write_text(plain + "\n" + "\n".join(capped.splitlines()[1:]))
    alone, both = (calibrate("llama-2-70b", measured=tmp_path / f"{n}.csv") for n in ("plain", "both"))
    assert alone.engine.correction == both.engine.correction
    assert "llama2-70b on a100-80gb-pcap set aside" in " ".join(both.notes)
    found = validate_calibration(both.calibrations, tmp_path / "both.csv")
    assert found.prompt_rows == validate_calibration(both.calibrations, tmp_path / "plain.csv").prompt_rows
    assert "pcap set aside" in " ".join(found.notes)


def test_rows_of_another_gpu_use_its_shipped_laws_and_say_so(tmp_path):
    _, prompt = measured(EngineCorrection(prefill_floor_s=0.05, prefill_gain=1.2))
    result = calibrate("llama-2-70b", measured=write_splitwise(tmp_path / "a.csv", prompt))
    other = write_splitwise(tmp_path / "h.csv", prompt, gpu="h100-80gb")
    found = validate_calibration(result.calibrations, other)
    assert "shipped laws under the engine correction of llama-2-70b_a100" in " ".join(found.notes)
    assert found.calibrations[0].gpu == "h100"
    assert found.calibrations[0].engine.prefill_floor_s < result.engine.correction.prefill_floor_s


@pytest.mark.data
def test_each_tp_of_the_published_engine_is_predicted_from_the_other(shared_data, tmp_path):
    """Acceptance: token time within 6 % and prompt time within 12 % on average."""
    text = (shared_data / "profiles" / "splitwise_llama2-70b_a100_tp2_tp8.csv").read_text("utf-8")
    rows = list(csv.reader(text.splitlines()))
    files = {}
    for tp in ("2", "8"):
        files[tp] = tmp_path / f"tp{tp}.csv"
        files[tp].write_text("\n".join(",".join(r) for r in rows if r[-1] in (tp, "tensor_parallel")))
    for fitted, other in (("2", "8"), ("8", "2")):
        result = calibrate("llama-2-70b", "a100", 4, measured=files[fitted])
        found = validate_calibration(result.calibrations, files[other])
        assert found.token_time_mape <= 0.06
        assert found.prompt_time_mape <= 0.12

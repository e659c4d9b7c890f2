"""Figures are tables first: the tables are checked, and each picture is drawn from the CSV that is written."""

import numpy as np
import pandas as pd
import pytest

import qmodel
from qmodel.errors import InputError
from qmodel.scenario import SLO, Cluster, Workload
from qmodel.studies.figures import FIGURES, figure_named, make_figures
from qmodel.studies.figures_laws import with_engine
from qmodel.studies.figures_panels import summarised
from qmodel.studies.scenes import POLICIES, Scene, Stage, scenes


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    cluster = Cluster.parse("2P2D", qmodel.load_calibration("deepseek-v2-lite"))
    chosen = tuple(
        Scene(
            panel=name, sweep=t, source="built-in models", cluster=cluster, slo=SLO(),
            workload=Workload.builtin(name).at_load(t, cluster),
        )
        for name, t in (("azure-conv", 0.6), ("azure-conv", 0.9), ("azure-code", 0.9))
    )  # fmt: skip
    return Stage(scenes=chosen, seeds=(0, 1), requests=1500, folder=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def tables(stage):
    return {figure.name: figure.table(stage) for figure in FIGURES}


@pytest.fixture(scope="module")
def made(stage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return folder, make_figures(folder, stage=stage)


def test_every_figure_has_its_three_files_and_no_others(made):
    folder, written = made
    assert {path.name for path in folder.iterdir()} == {path.name for path in written}
    assert len(written) == 3 * len(FIGURES)
    assert all(path.stat().st_size > 0 for path in written)


def test_deleting_outputs_and_making_them_again_gives_the_same_bytes(made, stage, tmp_path):
    folder, written = made
    again = make_figures(tmp_path, names=["fig02", "fig14"], stage=stage.smaller(folder=tmp_path / "runs"))
    for path in again:
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert len(written) > len(again)


def test_an_interrupted_job_goes_on_where_it_was(stage, made, monkeypatch):
    folder, _ = made

    def fail(*_):
        raise AssertionError("simulated again")

    monkeypatch.setattr(Stage, "_run", fail)
    monkeypatch.setattr("qmodel.studies.figures_plan.threshold_map", fail)
    make_figures(folder, names=["fig04", "fig14"], stage=stage)


def test_runs_are_kept_to_the_last_digit(stage):
    scene = stage.scenes[0]
    kept = stage.runs(["kairos"], [scene])
    fresh = stage.smaller(folder=None).runs(["kairos"], [scene])
    pd.testing.assert_frame_equal(kept, fresh, check_exact=True)


def test_other_laws_or_seeds_are_other_runs(stage):
    scene = stage.scenes[0]
    assert stage.smaller(seeds=(3,))._key(scene) != stage._key(scene)
    assert stage.smaller(requests=99)._key(scene) != stage._key(scene)


def test_parts_of_ttft_add_up_to_it(stage, tables):
    parts = tables["fig02_ttft_parts"]
    runs = stage.runs(["disaggregated"], stage.at_centre())
    p95 = runs[runs["metric"] == "p95_ttft_s"].groupby("panel")["value"].mean()
    sums = parts.groupby("panel")["mean_s"].sum()
    np.testing.assert_allclose(sums[p95.index], p95, rtol=1e-9)
    np.testing.assert_allclose(parts.groupby("panel")["share"].sum(), 1.0)


def test_p95_agrees_with_a_simulation_and_policies_are_all_there(stage, tables):
    table = tables["fig04_p95_ttft"]
    assert set(table["policy"]) == set(POLICIES)
    scene = stage.scenes[1]
    values = [
        qmodel.simulate(scene.cluster, scene.workload, scene.slo, None, seed=seed, requests=1500).ttft_s(0.95)
        for seed in stage.seeds
    ]
    row = table[
        (table["panel"] == scene.panel) & (table["sweep"] == scene.sweep) & (table["policy"] == "disaggregated")
    ]
    assert row["mean"].iloc[0] == pytest.approx(np.mean(values), rel=1e-12)


def test_laws_of_ttft_fall_with_t(tables):
    for _, law in tables["fig06_ttft_laws"].groupby(["panel", "policy"]):
        ordered = law.sort_values("share_above", ascending=False)
        assert (np.diff(ordered["ttft_s"]) >= 0).all()


def test_a_chunk_never_shortens_a_step_and_the_engine_is_the_law_with_floor_and_gain(tables):
    table = tables["fig01_chunk_cost"]
    assert (table["increase_s"] >= -1e-12).all()
    for _, line in table.groupby(["panel", "engine", "done_tokens"]):
        assert (np.diff(line.sort_values("chunk_tokens")["increase_s"]) >= -1e-12).all()
    kernels = qmodel.load_calibration("deepseek-v2-lite").step
    engine = with_engine(kernels)
    assert engine.step_time_s(1, 100) == engine.floor_s > kernels.step_time_s(1, 100)
    assert engine.step_time_s(256, 500_000) == pytest.approx(engine.gain * kernels.step_time_s(256, 500_000))


def test_thresholds_on_the_map_rise_with_waiting_work_and_agree_with_the_formula(stage, tables):
    table = tables["fig14_threshold_map"]
    square = table[table["view"] == "backlog"].pivot(
        index="decode_backlog_s", columns="prompt_tokens", values="threshold_s"
    )
    assert (square.diff().dropna(how="all").dropna(axis=1).to_numpy() > 0).all()
    assert (table["threshold_s"].dropna() < 3600).all()


def test_intervals_over_seeds():
    rows = [
        {"panel": "a", "sweep": 1.0, "source": "s", "policy": "p", "seed": seed, "metric": "m", "value": value}
        for seed, value in enumerate((1.0, 2.0, 3.0))
    ]
    out = summarised(pd.DataFrame(rows), ["m"]).iloc[0]
    assert out["mean"] == 2.0
    assert out["half_width"] == pytest.approx(2.484, abs=1e-3)  # t_2 at 97.5 %: 4.303, over sqrt(3)


def test_names_are_unique_beginnings():
    assert [figure_named(figure.name.split("_")[0]) for figure in FIGURES] == list(FIGURES)
    with pytest.raises(InputError, match="fig01"):
        figure_named("fig99")


def test_without_shared_traces_the_built_in_workloads_stand_in(monkeypatch):
    monkeypatch.setattr("qmodel.studies.scenes.shared_data", lambda: None)
    found = scenes()
    assert {scene.source for scene in found} == {"built-in models"}
    for scene in found:
        assert scene.workload.load(scene.cluster) == pytest.approx(scene.sweep)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    target = tmp_path / "file"
    target.write_text("x")
    with pytest.raises(InputError, match="a folder"):
        make_figures(target)
    assert target.read_text() == "x"


def test_the_command_writes_a_figure(tmp_path, capsys, monkeypatch, stage):
    from qmodel.cli import main

    monkeypatch.setattr("qmodel.studies.figures.stage_for", lambda *_: stage)
    with pytest.raises(SystemExit) as left:
        main(["figures", "--only", "fig02", "-o", str(tmp_path / "new")])
    assert left.value.code == 0
    assert (tmp_path / "new" / "fig02_ttft_parts.csv").exists()


def test_an_unknown_figure_is_bad_input_and_leaves_nothing(tmp_path, capsys):
    from qmodel.cli import main

    with pytest.raises(SystemExit) as left:
        main(["figures", "--only", "fig99", "-o", str(tmp_path / "new")])
    assert left.value.code == 2
    assert "fig99" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

"""Figures are tables first: the tables are checked, and each picture is drawn from the CSV that is written."""

import numpy as np
import pandas as pd
import pytest

import qmodel
from qmodel.errors import InputError
from qmodel.io.tables import read_table
from qmodel.queueing import erlang_c
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.studies import evaluation_cases, figures_cost, figures_plan, figures_queue
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
def made(stage, tmp_path_factory):
    """Return the folder and the files of all figures, on small grids."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as small:
        small.setattr(figures_cost, "SIZES", (1, 2))
        small.setattr(figures_queue, "PATH_ARRIVALS", 20_000)
        small.setattr(figures_plan, "LOADS", (0.4, 0.8))
        small.setattr(evaluation_cases, "CONDITIONS", evaluation_cases.CONDITIONS[:2])
        return folder, make_figures(folder, stage=stage)


@pytest.fixture(scope="module")
def tables(made):
    folder, _ = made
    return {figure.name: read_table(folder / f"{figure.name}.csv") for figure in FIGURES}


def test_every_figure_has_its_three_files_and_no_others(made):
    folder, written = made
    assert {path.name for path in folder.iterdir()} == {path.name for path in written}
    assert len(written) == 3 * len(FIGURES) + len(["published.csv", "published.md"])
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


def test_a_policy_that_no_figure_knows_is_refused(stage):
    with pytest.raises(InputError, match="one of disaggregated"):
        stage.smaller(folder=None).runs(["kairo"], stage.scenes[:1])


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


def test_a_lone_prompt_is_backlog_until_it_is_prefilled_and_then_a_decode_step():
    cluster = Cluster.parse("1P1D", qmodel.load_calibration("deepseek-v2-lite"))
    requests = Requests.from_arrays([1.0], [4096], [200])
    scene = Scene(
        panel="one", sweep=1.0, source="test", cluster=cluster, slo=SLO(), workload=Workload.from_requests(requests)
    )
    run = qmodel.simulate(cluster, requests, SLO(), warmup=0.0)
    row = run.requests.iloc[0]
    times = np.array([0.5, 1.0, 1.0 + row["prefill_s"] / 2, 1.001 + row["prefill_s"]])
    backlog = figures_queue.backlog_per_instance_s(scene, run, times)
    work = float(cluster.work_s(4096.0))
    np.testing.assert_allclose(backlog, [0.0, work, work / 2, 0.0], rtol=1e-9)
    middle = np.array([row["arrival_s"] + row["ttft_s"] + (row["finish_s"] - row["arrival_s"] - row["ttft_s"]) / 2])
    step = figures_queue.decode_step_s(scene, run, np.append(middle, row["finish_s"] + 1))
    assert step[0] == pytest.approx(float(cluster.decode_calibrations[0].decode_step_s(1, 4096 + 100)))
    assert step[1] == 0.0


def test_the_derived_prices_are_the_rule_of_the_other_figures(stage, tables):
    table = tables["fig07_price_frontier"]
    chosen = table[table["chosen"] & (table["metric"] == "p95_ttft_s")]
    runs = stage.runs(["kairos", "thresholds at dispatch"], [stage.congested()])
    p95 = runs[runs["metric"] == "p95_ttft_s"].groupby("policy")["value"].mean()
    assert len(chosen) == 3
    for row in chosen.itertuples():
        assert row.mean == pytest.approx(p95[row.policy])


def test_the_usual_split_is_that_of_the_other_figures(tables):
    splits, usual = tables["fig08_static_splits"], tables["fig04_p95_ttft"]
    assert set(splits["cluster"]) == {"1P3D", "2P2D", "3P1D"}
    here = splits[(splits["cluster"] == "2P2D") & (splits["metric"] == "p95_ttft_s")]
    both = here.merge(usual, on=["panel", "sweep", "policy"])
    assert len(both) == len(here) > 0
    np.testing.assert_allclose(both["mean_x"], both["mean_y"])


def test_a_decision_looks_up_each_instance_once_or_twice_and_the_search_is_more(tables):
    table = tables["fig09_decision_cost"].pivot(index="decode_instances", columns="quantity", values="median")
    assert (table["look-ups, thresholds"] >= table.index).all()
    assert (table["look-ups, thresholds"] <= 2 * table.index).all()
    assert (table["law evaluations, Kairos"] > table["look-ups, thresholds"]).all()


def test_predictions_are_those_of_predict_and_near_the_simulation(stage, tables):
    table = tables["fig11_model"]
    scene = stage.scenes[1]
    workload = Workload.from_requests(scene.workload.requests(count=stage.requests))
    said = qmodel.predict(scene.cluster, workload, scene.slo).ttft_s(0.95)
    here = table[(table["panel"] == scene.panel) & (table["sweep"] == scene.sweep)]
    row = here[(here["policy"] == "disaggregated") & (here["metric"] == "p95_ttft_s")].iloc[0]
    assert row["predicted"] == pytest.approx(said)
    assert row["simulated"] == pytest.approx(said, rel=0.15)


def test_waits_of_the_exponential_law_are_erlangs(tables):
    table = tables["fig12_mgk_errors"]
    rows = table[(table["law"] == "exponential") & (table["metric"] == "mean") & (table["method"] == "auto")]
    for row in rows.itertuples():
        delayed = erlang_c(row.servers, row.load * row.servers)
        assert row.truth_s == pytest.approx(delayed / (row.servers * (1 - row.load)))
    assert (table[table["law"] == "exponential"].groupby("method")["truth_half_width_s"].max() == 0).all()


def test_law_errors_are_those_of_the_files(tables):
    table = tables["fig13_law_errors"]
    row = table[(table["calibration"] == "llama-3.1-8b_a100_tp1") & (table["measure"] == "step")].iloc[0]
    assert row["error"] == qmodel.load_calibration("llama-3.1-8b").fit["step_mape"]


def test_an_instance_is_worth_more_under_load(tables):
    table = tables["fig15_shadow_prices"]
    here = table[table["resource"] == "prefill instance"].pivot(index="panel", columns="load", values="mean_ttft_s")
    assert (here[0.8] > here[0.4]).all()


def test_a_fault_at_prefill_hurts_whoever_never_deflects(tables):
    table = tables["fig16_robustness"]
    here = table[(table["policy"] == "disaggregated") & (table["metric"] == "p95_ttft_s")].set_index("condition")
    assert here["mean"]["prefill instance down 60 s"] > here["mean"]["as planned"]


def test_published_numbers_stand_beside_those_of_the_tables(made, tables):
    folder, _ = made
    table = read_table(folder / "published.csv").set_index(["figure", "published"])
    parts = tables["fig02_ttft_parts"]
    share = parts[(parts["part"] == "prefill") & (parts["panel"] == "azure-code")]["share"].iloc[0]
    assert f"azure-code {share:.1%}" in table.loc[("fig02", "2%-23%"), "ours"]
    assert ("fig04", "-81%") in table.index
    assert ("fig05", "+79%") in table.index
    assert (folder / "published.md").read_text().count("\n") == 2 + len(table)


def test_the_papers_best_case_is_marked_relative_to_never_deflecting(tables):
    for name, ratio, most in (("fig04_p95_ttft", 0.19, np.inf), ("fig05_attainment", 1.79, 1.0)):
        table = tables[name]
        plain = table[table["policy"] == "disaggregated"].set_index(["panel", "sweep"])["mean"]
        for row in table.itertuples():
            assert row.published == pytest.approx(min(most, ratio * plain[row.panel, row.sweep]))


def test_other_simulators_stand_beside_ours(tables):
    table = tables["fig17_job_cost"].set_index("job")
    assert table.loc["Vidur, elsewhere", "seconds"] == pytest.approx(1 / 165)
    assert table.loc["simulate, disaggregated", "seconds"].max() < table.loc["BLIS, elsewhere", "seconds"]


def test_runs_under_faults_that_were_stopped_are_not_run_again(stage, tmp_path, monkeypatch):
    from qmodel.studies import evaluation, figures_robust

    monkeypatch.setattr(evaluation_cases, "CONDITIONS", evaluation_cases.CONDITIONS[:1])
    here = stage.smaller(folder=tmp_path, progress=None)
    run, seen = evaluation.run_row, []

    def until(limit):
        def once(row):
            if len(seen) == limit:
                raise KeyboardInterrupt
            seen.append((row["condition"], row["policy"], row["seed"]))
            return run(row)

        return once

    monkeypatch.setattr(evaluation, "run_row", until(3))
    with pytest.raises(KeyboardInterrupt):
        figures_robust.robustness(here)
    monkeypatch.setattr(evaluation, "run_row", until(99))
    table = figures_robust.robustness(here)
    assert len(seen) == len(set(seen)) == 2 * len(figures_robust.POLICIES)
    assert set(table["policy"]) == set(figures_robust.POLICIES)


def test_panels_with_the_same_prices_are_drawn_once():
    from qmodel.plotting.figures_plan import _alike

    rows = [{"panel": panel, "mean_ttft_s": value} for panel, value in (("LL", 1.0), ("HL", 2.0), ("HH", 1.0))]
    assert _alike(pd.DataFrame(rows)) == {"LL, HH": "LL", "HL": "HL"}


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

"""The main job, end to end, as `make demo` runs it."""

import json
from pathlib import Path

import jsonschema
import pytest

import qmodel as package

WORDS = [
    "--model",
    "deepseek-v2-lite",
    "--gpu",
    "a100",
    "--cluster",
    "2P2D",
    "--workload",
    "azure-conv",
    "--load",
    "0.9",
    "--ttft-slo",
    "1s",
    "--tbt-slo",
    "60ms",
]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Run the main job once; return its folder and what it printed."""
    import contextlib
    import io

    from qmodel.cli import main

    folder = tmp_path_factory.mktemp("job")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        main(["thresholds", *WORDS, "-o", str(folder / "plan.json"), "--plot", str(folder / "plan.png")])
    assert left.value.code == 0, err.getvalue()
    return folder, out.getvalue(), err.getvalue()


def test_it_shows_what_was_promised(job):
    _, out, err = job
    for text in (
        "azure-conv", "Static split", "One more prefill instance", "Deflect when the prefill backlog exceeds",
        "disaggregated", "kairos", "earliest completion", "thresholds", "predicted", "Where P95 TTFT goes",
        "queue", "execution", "transfer", "decode admission", "±",
    ):  # fmt: skip
        assert text in out, text
    assert "plan.json" in err
    assert "plan.png" in err


def test_the_plan_file_validates_against_its_schema(job):
    folder, _, _ = job
    schema = json.loads((Path(package.__file__).parent / "data/schemas/plan.schema.json").read_text())
    jsonschema.validate(json.loads((folder / "plan.json").read_text()), schema)


def test_simulating_the_plan_reproduces_its_numbers_to_the_last_digit(job, qmodel):
    folder, _, _ = job
    simulated = json.loads((folder / "plan.json").read_text())["simulated"]
    recorded = simulated["policies"]["thresholds"]
    for place, seed in enumerate(simulated["seeds"]):
        run = qmodel("simulate", "--policy", folder / "plan.json", *WORDS, "--seed", seed, "--json")
        assert run.code == 0, run.err
        again = json.loads(run.out)["simulated"]
        assert again == {name: metric["by_seed"][place] for name, metric in recorded.items()}


def test_a_plan_brings_its_own_scenario(job, qmodel):
    folder, _, _ = job
    bare = qmodel("simulate", "--policy", folder / "plan.json", "--seed", 1, "--json")
    full = qmodel("simulate", "--policy", folder / "plan.json", *WORDS, "--seed", 1, "--json")
    assert json.loads(bare.out) == json.loads(full.out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "llama-3.1-8b"), "derived for deepseek-v2-lite_a100_tp1, not llama-3.1-8b_a100_tp1"),
        (("--cluster", "3P2D"), "derived for 2P2D, not 3P2D"),
        (("--tbt-slo", "50ms"), "TBT 60 ms, not TTFT 1 s and TBT 50 ms"),
        ((), ""),
    ],
)
def test_a_plan_used_for_another_scenario_says_so(job, qmodel, words, says):
    folder, _, _ = job
    run = qmodel("simulate", "--policy", folder / "plan.json", "--requests", "500", *words)
    assert run.code == 0, run.err
    warned = [line for line in run.err.splitlines() if line.startswith("warning: the plan was")]
    assert len(warned) == bool(says)
    assert says in run.err


def test_p95_ttft_is_at_most_half_of_kairos_and_tbt_attainment_not_lower(job):
    folder, _, _ = job
    policies = json.loads((folder / "plan.json").read_text())["simulated"]["policies"]
    ours, kairos = policies["thresholds"], policies["kairos"]
    assert len(ours["p95_ttft_s"]["by_seed"]) == 5
    assert ours["p95_ttft_s"]["mean"] <= 0.5 * kairos["p95_ttft_s"]["mean"]
    assert ours["tbt_attainment"]["mean"] >= kairos["tbt_attainment"]["mean"]
    assert ours["slo_attainment"]["mean"] >= kairos["slo_attainment"]["mean"]


def test_the_picture_is_a_picture(job):
    folder, _, _ = job
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_job_on_a_file_of_ones_own(qmodel):
    rows = [f"{i * 0.07:.3f},{300 + (i * 37) % 1900},{10 + i % 90}" for i in range(1500)]
    Path("mine.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    run = qmodel("thresholds", "--model", "llama-3.1-8b", "--workload", "mine.csv", "--seeds", "2", "-o", "plan.json")
    assert run.code in (0, 1), run.err
    assert Path("plan.json").is_file()
    assert ("warning" in run.err) == (run.code == 1)


def test_json_is_the_plan(qmodel):
    run = qmodel("thresholds", *WORDS, "--no-confirm", "--json", "-o", "plan.json")
    assert run.code == 0, run.err
    assert json.loads(run.out) == json.loads(Path("plan.json").read_text())


@pytest.mark.parametrize("command", ["predict", "simulate", "compare"])
def test_every_command_prints_a_table_or_json(qmodel, command):
    extra = [] if command == "predict" else ["--requests", "2000"]
    table = qmodel(command, *WORDS, *extra)
    data = qmodel(command, *WORDS, *extra, "--json")
    assert (table.code, data.code) == (0, 0), table.err + data.err
    assert "TTFT" in table.out or "p95_ttft_s" in table.out
    assert "p95_ttft_s" in json.dumps(json.loads(data.out))


def test_flags_win_over_the_configuration_file(qmodel):
    Path("q.yaml").write_text("model: deepseek-v2-lite\nworkload: azure-conv\nload: 0.5\ncluster: 4P4D\n")
    run = qmodel("predict", "--config", "q.yaml", "--cluster", "2P2D", "--json")
    assert run.code == 0, run.err
    scenario = json.loads(run.out)["scenario"]
    assert (scenario["cluster"], scenario["load"], scenario["model"]) == ("2P2D", 0.5, "deepseek-v2-lite")

"""The comparison of predictions with simulation: errors, journal, page and the table of half-widths."""

from pathlib import Path

import numpy as np
import pytest

from qmodel.studies.validation import Case, Row, cases, covered, validate
from qmodel.studies.validation_page import fitted_errors, page, scatter_rows

QUICK = [
    Case(group="poisson", traffic="code", load=0.5, replications=2, requests=5_000),
    Case(group="poisson + policy", traffic="code", load=0.9, policy="kairos", replications=2, requests=5_000),
    Case(group="trace", traffic="conv", load=0.7, cluster="1P1D"),
    Case(group="poisson", traffic="r1", load=0.9, replications=1, requests=5_000),  # overloads decode: left out
]


@pytest.mark.data
def test_rows_are_right_and_a_run_goes_on_from_its_journal(shared_data, tmp_path):
    journal = tmp_path / "rows.jsonl"
    lines: list[str] = []
    rows, complete = validate(QUICK[:1], journal, shared_data)
    assert complete
    size = journal.stat().st_size
    rows, complete = validate(QUICK, journal, shared_data, report=lines.append)
    assert complete
    assert len(rows) == 3
    assert any(line.startswith("left out") and "decode load" in line for line in lines)
    assert journal.read_bytes()[:size].count(b"\n") == 2  # the first case's simulation and row were kept
    again, complete = validate(QUICK, journal, shared_data, seconds=0.0)
    assert complete
    assert again == rows
    partly, complete = validate(QUICK, tmp_path / "other.jsonl", shared_data, seconds=0.0)
    assert (partly, complete) == ([], False)
    for row in rows:
        assert abs(row.error("p95_ttft_s")) < 0.1
        assert row.noise["p95_ttft_s"] > 0 or row.case.group == "trace"


def row(error: float, half_width: float, **case: object) -> Row:
    metrics = ("p50_ttft_s", "p95_ttft_s", "p99_ttft_s", "p99_tbt_s")
    shares = ("ttft_attainment", "tbt_attainment", "slo_attainment", "deflected_share")
    simulated = dict.fromkeys(metrics, 2.0) | dict.fromkeys(shares, 0.5)
    predicted = dict.fromkeys(metrics, 2.0 * (1 + error)) | dict.fromkeys(shares, 0.5 + error)
    return Row(
        case=Case(group="panel", traffic="HH", **({"load": 0.9} | case)),
        method="trace",
        predicted=predicted,
        simulated=simulated,
        noise=dict.fromkeys((*metrics, *shares), 0.0),
        stated=dict.fromkeys((*metrics, *shares), half_width),
        cpu_s=0.01,
    )


def test_errors_and_coverage():
    rows = [row(0.04, 0.05), row(-0.06, 0.05), row(0.01, 0.02), row(0.01, 0.03)]
    assert rows[1].error("p95_ttft_s") == pytest.approx(-0.06)
    assert rows[1].error("slo_attainment") == pytest.approx(-0.06)
    assert covered(rows, "p95_ttft_s") == (0.75, pytest.approx(0.04))


def test_half_widths_are_percentiles_of_the_errors_of_half_of_the_cells():
    rows = [row(0.001 * i, 0.0, load=0.5 + 0.01 * i) for i in range(200)]
    width = fitted_errors(rows)["trace"]["p95_ttft_s"]
    assert width == pytest.approx(0.19, abs=0.012)
    share = np.mean([abs(r.error("p95_ttft_s")) <= width for r in rows])
    assert 0.9 <= share <= 1.0


def test_the_page_names_parts_worst_cases_and_all_cells(tmp_path: Path):
    from qmodel.plotting.validation import draw_scatter

    rows = [row(0.01 * i, 0.05, load=0.5 + 0.1 * i, policy="late" if i % 2 else "none") for i in range(8)]
    text = page(rows, worst=2)
    assert text.count("| HH ") == 2 + 8
    assert "shortest first" in text
    assert "| HH 1.2 | 2P2D | late | trace | 2 s | +7.0 |" in text
    draw_scatter(scatter_rows(rows), tmp_path / "scatter.png")
    assert (tmp_path / "scatter.png").stat().st_size > 10_000


def test_the_grid_covers_every_panel_policy_and_cluster():
    grid = list(cases())
    assert len({(c.scene, c.method) for c in grid}) == len(grid)
    panels = {(c.traffic, c.load, c.cluster, c.policy) for c in grid if c.group == "panel"}
    for cluster in ("1P1D", "2P2D", "3P1D", "1P3D", "4P4D", "8P8D"):
        for policy in ("none", "kairos", "thresholds"):
            assert sum(p[2:] == (cluster, policy) for p in panels) == 13
            assert any(c.group.startswith("poisson") and (c.cluster, c.policy) == (cluster, policy) for c in grid)

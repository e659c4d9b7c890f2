"""The pictures of the queueing pages: their tables agree with simulation, their files are written and are shown."""

from pathlib import Path

import numpy as np
import pytest

from qmodel.studies.queueing_figures import FIGURES, make_queueing_figures

PAGES = Path(__file__).parents[2] / "docs" / "queueing"


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_models_lie_on_the_simulation(figure):
    table = figure.table(40_000)
    assert len(table) >= 8
    assert np.isfinite(table[["x", "model", "simulation"]].to_numpy()).all()
    apart = (table["model"] - table["simulation"]).abs()
    assert (apart <= 0.15 * table["simulation"].abs() + 0.05 * table["simulation"].max()).mean() > 0.9
    assert f"]({figure.name}.png)" in (PAGES / f"{figure.name}.md").read_text()
    assert (PAGES / f"{figure.name}.png").is_file()


def test_the_same_pictures_each_time(tmp_path):
    one, two = (make_queueing_figures(tmp_path / name, arrivals=10_000) for name in "ab")
    assert [path.name for path in one] == [f"{figure.name}.png" for figure in FIGURES]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))

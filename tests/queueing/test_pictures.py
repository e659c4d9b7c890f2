"""The pictures of the queueing pages: their tables agree with simulation, their files are written and are shown."""

from pathlib import Path

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.plotting.queueing import draw_waits, waits_table
from qmodel.queueing import mmk
from qmodel.studies.queueing_pictures import PICTURES, make_queueing_pictures

PAGES = Path(__file__).parents[2] / "docs" / "queueing"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_models_lie_on_the_simulation(picture):
    table = picture.table(40_000)
    assert len(table) >= 8
    assert np.isfinite(table[["x", "model", "simulation"]].to_numpy()).all()
    apart = (table["model"] - table["simulation"]).abs()
    assert (apart <= 0.15 * table["simulation"].abs() + 0.05 * table["simulation"].max()).mean() > 0.9
    assert f"]({picture.name}.png)" in (PAGES / f"{picture.name}.md").read_text()
    assert (PAGES / f"{picture.name}.png").is_file()


def test_waits_are_drawn_from_a_table():
    queues = {f"{k} servers": mmk(0.8 * k, k, 1.0) for k in (1, 4)}
    table = waits_table(queues)
    assert list(table.columns) == ["queue", "t_s", "tail"]
    last = queues["1 servers"].wait_quantile_s(0.999)
    assert table["t_s"].max() == pytest.approx(last)
    one = table[table["queue"] == "1 servers"]
    np.testing.assert_allclose(one["tail"], 0.8 * np.exp(-0.2 * one["t_s"]))
    axes = draw_waits(queues, reach_s=5.0).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(queues)
    assert axes.get_yscale() == "log"
    with pytest.raises(InputError, match="queues is missing"):
        draw_waits({})


def test_the_same_pictures_each_time(tmp_path):
    one, two = (make_queueing_pictures(tmp_path / name, arrivals=10_000) for name in "ab")
    assert [path.name for path in one] == [f"{picture.name}.png" for picture in PICTURES]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))

"""Panels: thinning, compression and the loads they are solved for."""

from __future__ import annotations

import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.io.calibrations import load_calibration
from qmodel.scenario import Cluster, Requests
from qmodel.studies.panels import CELLS, Cell, capacity_tokens, cell_requests, halves, multipliers, superpose


@pytest.fixture(scope="module")
def cluster():
    return Cluster(prefill=2, decode=2, calibration=load_calibration("deepseek-v2-lite"))


def stream(rate, span, prompt, output, seed):
    rng = np.random.default_rng(seed)
    n = int(rate * span)
    return Requests.from_arrays(np.sort(rng.random(n)) * span, np.full(n, prompt), np.full(n, output))


def test_thirteen_cells():
    assert len(CELLS) == 13
    assert len({cell.name for cell in CELLS}) == 13


def test_capacity_is_where_the_step_takes_its_share(cluster):
    calibration = cluster.calibration
    tokens = capacity_tokens(calibration)
    assert float(calibration.decode_step_s(tokens / 1500, tokens)) == pytest.approx(0.036, rel=1e-6)
    assert capacity_tokens(calibration, 10.0) == calibration.kv_capacity_tokens


def test_superposition_meets_its_loads(cluster):
    first, second = stream(4, 2000, 2000, 30, 1), stream(6, 2500, 1000, 400, 2)
    cell = Cell(panel="XX", sweep=1.0, sources=("a", "b"), load_prefill=0.8, load_decode=0.4)
    m1, m2 = multipliers(cell, cluster, first, second)
    both = superpose(first, second, m1, m2)
    work = np.asarray(cluster.work_s(both.prompt_tokens.astype(float)))
    held = both.output_tokens * (both.prompt_tokens + both.output_tokens / 2)
    assert work.sum() / both.span_s / 2 == pytest.approx(0.8, rel=0.03)
    full = capacity_tokens(cluster.calibration)
    assert held.sum() / both.span_s * 0.036 / (2 * full) == pytest.approx(0.4, rel=0.03)


def test_thinning_keeps_the_clock_and_compression_the_requests():
    first, second = stream(10, 1000, 100, 10, 1), stream(10, 1000, 200, 10, 2)
    both = superpose(first, second, 0.25, 2.0)
    assert both.span_s == pytest.approx(500, rel=0.01)
    assert np.sum(both.prompt_tokens == 200) == pytest.approx(10_000, rel=0.01)
    assert np.sum(both.prompt_tokens == 100) == pytest.approx(1250, rel=0.1)


def test_unreachable_loads_are_refused(cluster):
    first, second = stream(4, 500, 2000, 30, 1), stream(6, 500, 2000, 30, 2)
    cell = Cell(panel="XX", sweep=1.0, sources=("a", "b"), load_prefill=0.1, load_decode=0.9)
    with pytest.raises(InputError, match="multipliers"):
        multipliers(cell, cluster, first, second)


def test_halves_share_out_the_requests():
    requests = stream(10, 100, 100, 10, 3)
    early, late = halves(requests)
    assert len(early) + len(late) == len(requests)
    assert early.span_s <= 50
    assert late.arrival_s[0] < 1
    assert late.span_s <= 50


@pytest.mark.data
def test_cells_of_the_shared_traces_can_be_built(cluster, shared_data):
    for cell in CELLS:
        requests = cell_requests(cell, cluster, shared_data)
        work = np.asarray(cluster.work_s(requests.prompt_tokens.astype(float)))
        assert work.sum() / requests.span_s / 2 == pytest.approx(cell.load_prefill, rel=0.1), cell.name

"""The path of two pools: cells, its kernels against their own Python source, and its errors against its spread."""

import numpy as np
import pytest

from qmodel._kernels import queueing_pools as kernels
from qmodel.queueing import pool_path
from qmodel.queueing.pool_grid import checked_inputs
from qmodel.queueing.pool_path import PoolPath, count_pools, edges_of
from qmodel.queueing.sampling import Choice

RATES, WORK, HOST = np.array([2.0, 0.4]), np.array([0.2, 1.0]), np.array([0.3, 2.0])


def inputs(servers, hosts, limits=(0.5, 2.0)):
    return checked_inputs(RATES * servers, WORK, HOST, list(limits), 0.0, servers, hosts, None, None)


def test_cells_lie_between_their_edges():
    edges = edges_of(60, 8)
    assert np.all(np.diff(edges)[:16] == 1)
    np.testing.assert_allclose(np.diff(edges)[16:24], 2)
    for x in (0.0, 0.5, 15.9, 16.0, 17.9, 18.0, 100.0, 300.0):
        cell, part = kernels.cell_of.py_func(x, 8)
        assert edges[cell] + part * (edges[cell + 1] - edges[cell]) == pytest.approx(x)
        assert kernels.cell_of(x, 8) == (cell, part)


def test_infinite_thresholds_hold_up_to_the_next_node():
    values = np.array([1.0, 3.0, np.inf, np.inf])
    assert [kernels.between(values, at, 0.5) for at in range(4)] == [2.0, 3.0, np.inf, np.inf]


@pytest.mark.parametrize(("servers", "hosts"), [(1, 1), (3, 2), (16, 14)])
def test_kernels_are_their_python_source(servers, hosts):
    rng, cells = np.random.default_rng(2), 40
    choice = Choice(WORK, RATES)
    gaps, ranks = rng.exponential(0.4 / servers, 400), rng.random(400)
    thetas = np.array([np.linspace(0.1, 3.0, 60), np.full(60, np.inf)])
    found = []
    for path in (kernels.pools_path, kernels.pools_path.py_func):
        near, far, state, sums = np.zeros(servers), np.zeros(hosts), np.array([0.0, 0.0, 2.0]), np.zeros(5)
        joint, times = np.zeros((cells, cells)), np.zeros(60)
        tally = np.zeros((2, cells)), np.zeros((2, cells)), np.zeros((2, cells))
        law = (choice.cumulative, choice.first)
        path(
            gaps, ranks, law, WORK, HOST, thetas, (4, 8), (9.0, 7.0, 5.0, 3.0), near, far, state, joint, tally, times,
            sums,
        )  # fmt: skip
        found.append([np.sort(near), np.sort(far), state, joint, *tally, times, sums])
    for compiled, plain in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-12)
    joint, kept, moved = found[0][3:6]
    assert joint.sum() == kept.sum() + moved.sum() == 400
    assert found[0][8][2] == moved.sum()


def test_shares_and_mixtures_are_their_python_source():
    rng = np.random.default_rng(3)
    joint, edges = rng.random((6, 9)), edges_of(8, 2)
    limits = np.array([[-1.0, 0.0, 0.5, 3.0, 7.0, np.inf], np.full(6, 2.0)])
    found = []
    for split in (kernels.split_by_class, kernels.split_by_class.py_func):
        kept, moved = np.zeros((2, 9)), np.zeros((2, 6))
        split(joint, edges, limits, kept, moved)
        np.testing.assert_allclose(kept.sum(axis=1) + moved.sum(axis=1), joint.sum())
        found.append((kept, moved))
    np.testing.assert_allclose(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1])
    # No wait is kept at threshold 0, half of the first cell at .5.
    assert found[0][1][0, 1] == pytest.approx(joint[1, 1:].sum())
    assert found[0][1][0, 2] == pytest.approx(joint[2, 2:].sum() + 0.5 * joint[2, 1])
    t, at, heights = np.linspace(-1.0, 9.0, 30), np.linspace(0.0, 6.0, 7), np.sort(rng.random((2, 7)), axis=1)
    for mixture in (kernels.mixture_cdf, kernels.mixture_cdf.py_func):
        total = np.zeros(30)
        mixture(t, np.array([0.5, 2.0]), np.array([0.3, 0.7]), at, heights, total)
        want = [np.where(t < a, 0.0, np.interp(t - a, at, row)) for a, row in zip((0.5, 2.0), heights, strict=True)]
        np.testing.assert_allclose(total, 0.3 * want[0] + 0.7 * want[1])


def test_the_error_says_how_far_seeds_spread(monkeypatch):
    shares, errors = [], []
    for seed in range(12):
        monkeypatch.setattr(pool_path, "SEED", seed)
        found = count_pools(inputs(2, 2), first_arrivals=1 << 17, last_arrivals=1 << 17)
        errors.append(found.error_estimate["deflected"] / pool_path.STANDARD_ERRORS)
        shares.append(float(RATES @ found.moved.sum(axis=1)) / RATES.sum())
    assert 0.5 < np.std(shares, ddof=1) / np.mean(errors) < 1.8


def test_regression_saves_noise_near_capacity(monkeypatch):
    path = PoolPath(inputs(2, 2, (1.0, 1.0)))
    path.extend(20_000)
    known = path.errors()["mean"]
    monkeypatch.setattr(pool_path, "HIGHEST_CONTROL", 0.0)
    assert known < path.errors()["mean"]

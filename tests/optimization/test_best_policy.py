"""The best policy of two backlogs: against textbook queues, the sparse chain, and any other rule."""

from __future__ import annotations

import numpy as np
import pytest

from qmodel.errors import ConvergenceError
from qmodel.optimization.best_policy import BacklogChain, best_policy, cost_of, threshold_choice
from qmodel.queueing import priced_thresholds, two_pools

MIX = np.array([0.6, 0.3, 0.1])
WORK, HOST = np.array([2, 8, 24]), np.array([4, 20, 90])


def chain(load, slot_s=0.02, size=(120, 120)):
    rates = load * MIX / float(MIX @ WORK * 0.02)
    scale = round(0.02 / slot_s)
    return BacklogChain(
        slot_s=slot_s, rates_per_s=rates, work=scale * WORK, host=scale * HOST, transfer_s=np.zeros(3), size=size
    )


def test_without_a_second_pool_it_is_m_g_1():
    one = BacklogChain(
        slot_s=0.01, rates_per_s=np.array([4.0]), work=np.array([15]), host=np.array([100_000]),
        transfer_s=np.array([0.0]), size=(400, 2),
    )  # fmt: skip
    best = best_policy(one)
    assert not best.deflects.any()
    # Pollaczek-Khinchine: wait rho*s/(2*(1 - rho)).
    assert best.mean_time_s == pytest.approx(0.15 + 0.6 * 0.15 / (2 * 0.4), rel=0.05)


@pytest.mark.full
def test_thresholds_cost_what_the_sparse_chain_says():
    one = chain(0.8, slot_s=0.01, size=(300, 300))
    prices = 6.0, 4.0
    ours = cost_of(one, threshold_choice(one, *prices))
    seconds = WORK * 0.02, HOST * 0.02
    pools = two_pools(one.rates_per_s, *seconds, priced_thresholds(*seconds, np.zeros(3), *prices))
    assert ours == pytest.approx(pools.mean_time_s, rel=0.06)


@pytest.mark.parametrize(("load", "most"), [(0.5, 0.01), (0.85, 0.03), (0.95, 0.05)])
def test_closed_form_is_near_the_best_of_all(load, most):
    one = chain(load)
    best = best_policy(one)
    # Prices of the M/G/1 split that keeps the two longer classes and deflects the short one.
    lam, s, h, z = one.rates_per_s, WORK * 0.02, HOST * 0.02, np.array([0.0, 0.9, 1.0])
    g_P = float(lam @ z) / (2 * (1 - float(lam @ (z * s))))
    g_D = float(lam @ (1 - z)) / (2 * (1 - float(lam @ ((1 - z) * h))))
    ours = cost_of(one, threshold_choice(one, g_P, g_D))
    blind = cost_of(one, threshold_choice(one, 0.0, 0.0))
    assert best.mean_time_s <= ours <= (1 + most) * best.mean_time_s
    assert best.mean_time_s <= blind
    if load > 0.6:
        assert ours < blind  # prices beat earliest completion


def test_the_best_policy_is_a_threshold():
    best = best_policy(chain(0.85))
    inner = best.deflects[:, :60, :25]  # further out the longest prompts would leave the grid
    assert np.all(np.diff(inner.astype(int), axis=1) >= 0)  # more prefill backlog: deflect
    assert np.all(np.diff(inner.astype(int), axis=2) <= 0)  # more decode backlog: keep


def test_it_costs_what_value_iteration_says():
    one = chain(0.85)
    best = best_policy(one)
    assert cost_of(one, best.deflects) == pytest.approx(best.mean_time_s, rel=1e-3)
    rng = np.random.default_rng(2)
    flipped = best.deflects ^ (rng.random(best.deflects.shape) < 0.1)
    assert cost_of(one, flipped) > best.mean_time_s


def test_says_when_values_do_not_settle(monkeypatch):
    monkeypatch.setattr("qmodel.optimization.best_policy._SWEEPS", 20)
    with pytest.raises(ConvergenceError, match="value iteration"):
        best_policy(chain(0.9))

"""The tail constraint of stage 1: against a simulated queue, against its own derivative, and when nothing meets it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qmodel.errors import InfeasibleError, InputError
from qmodel.optimization import static_split
from qmodel.optimization.program import solve_box_lp
from qmodel.optimization.shadow import shadow_prices
from qmodel.scenario import SLO


@pytest.fixture(scope="module")
def busy(prompts):
    return replace(prompts, rate_per_s=22.0)


@pytest.fixture(scope="module")
def one(cluster):
    return cluster.with_(prefill=1, decode=1)


TIGHT = SLO(ttft_s=0.5, tbt_s=0.060)


def late(split, t, n=400_000):
    """Return P(wait > t) of kept prompts at one FCFS server with Poisson arrivals, by Lindley's recursion."""
    rng = np.random.default_rng(1)
    rate = split.problem.bins.rate_per_s * split.kept
    gaps = rng.exponential(1 / rate.sum(), n)
    work = rng.choice(split.problem.bins.work_s, n, p=rate / rate.sum())
    path = np.concatenate([[0.0], np.cumsum(work[:-1] - gaps[1:])])
    return float(np.mean(path - np.minimum.accumulate(path) > t))


def test_the_tail_is_kept_where_the_mean_alone_lets_it_go(one, busy):
    free, held = static_split(one, busy, TIGHT), static_split(one, busy, TIGHT, late_share=0.02)
    assert late(held, TIGHT.ttft_s) <= 0.02
    assert late(free, TIGHT.ttft_s) > 0.02
    assert held.load_prefill < free.load_prefill
    assert "prefill_tail" in held.binding


def test_a_loose_tail_changes_nothing(one, busy):
    light = replace(busy, rate_per_s=16.0)
    free, loose = static_split(one, light, TIGHT), static_split(one, light, TIGHT, late_share=0.1)
    assert loose.cost == pytest.approx(free.cost, rel=1e-3)
    assert loose.duals["prefill_tail"] == pytest.approx(0.0, abs=1e-6)


def test_the_dual_is_the_price_of_the_limit(one, busy):
    split = static_split(one, busy, TIGHT, late_share=0.02)
    row, step = list(split.problem.row_names).index("prefill_tail"), 1e-4
    program, _ = split.problem.program(split.wait_prefill_s, split.wait_decode_s)

    def value(change):
        limits = program.limits + change * np.eye(len(program.limits))[row]
        return solve_box_lp(replace(program, limits=limits)).value

    looser, tighter = (value(0.0) - value(step)) / step, (value(-step) - value(0.0)) / step
    assert looser - 1e-6 <= split.duals["prefill_tail"] <= tighter + 1e-6  # a kink where no bin is split
    assert tighter > 0


def test_shadow_prices_know_the_tail(one, busy):
    split = static_split(one, busy, TIGHT, late_share=0.02)
    prices = {p.resource: p for p in shadow_prices(one, busy, TIGHT, split, tuple(range(2048, 0, -32)))}
    free = static_split(one, busy, TIGHT)
    without = {p.resource: p for p in shadow_prices(one, busy, TIGHT, free, tuple(range(2048, 0, -32)))}
    assert prices["prefill instance"].mean_ttft_s > 0
    assert prices["decode instance"].mean_ttft_s != without["decode instance"].mean_ttft_s
    assert all(p.sentence.endswith(".") for p in prices.values())


def test_impossible_tails_name_the_nearest(one, busy):
    crowded = replace(busy, rate_per_s=24.0)
    with pytest.raises(InfeasibleError, match="nearest feasible: ") as refused:
        static_split(one, crowded, TIGHT, late_share=0.02)
    near = float(str(refused.value).rsplit("nearest feasible: ", 1)[1].split()[0].rstrip(".,;"))
    assert static_split(one, crowded, TIGHT, late_share=near).load_prefill < 1
    with pytest.raises(InputError, match="late_share"):
        static_split(one, busy, TIGHT, late_share=1.5)

"""The recursion's shared queue of late binding against the rule that sorts it anew, and against full looks at it."""

import numpy as np
import pytest

from qmodel._kernels import policies, policies_order, sim_state, system_late, system_queue
from qmodel._kernels.policies_late import late_pull, late_queue
from qmodel._kernels.sim_state import L_COUNT, L_HEAD, R_DONE, R_NEED, R_NEXT, R_PREV
from qmodel._kernels.system_state import ARRIVAL, REQUEST_COLUMNS

LIMIT_S, SERVERS = 1.0, 2


def _in_order(lists, R):
    r, found = lists[0, L_HEAD], []
    while r >= 0:
        found.append(int(r))
        r = R[r, R_NEXT]
    return found


def _empty(n):
    lists, R = np.array([[-1, -1, 0]]), np.zeros((n, sim_state.REQUEST_INTS), np.int32)
    R[:, [R_NEXT, R_PREV]] = -1
    return lists, R


@pytest.mark.parametrize("seed", range(4))
def test_order_of_due_times_is_that_of_the_rule_whatever_happened_before(seed):
    rng = np.random.default_rng(seed)
    n, now, coming = 400, 0.0, 0
    lists, R = _empty(n)
    R[:, R_NEED] = rng.integers(1, 12, n) * 400  # many of equal work
    work_of = np.array([[4e-5, 0.0, 0.0, 2048.0]])
    K, F = np.zeros((n, sim_state.REQUEST_FLOATS)), np.zeros((n, REQUEST_COLUMNS))
    shelves = np.full(system_queue.SHELVES, -1)
    floats, ints = np.zeros((3, n)), np.zeros((3, n), np.int64)
    ends, slo, law, moved = np.full(2, -1), np.array([[LIMIT_S, 0.06]]), np.zeros((1, 12)), 0
    while coming < n or lists[0, L_COUNT]:
        now += rng.exponential(0.05)
        for _ in range(min(int(rng.integers(0, 4)), n - coming)):
            F[coming, ARRIVAL] = now
            work = 4e-5 * R[coming, R_NEED]
            system_queue.join_due(coming, work, lists, R, K, shelves, floats, ints, ends)
            coming += 1
        ahead = rng.uniform(0.0, 1.5)  # also less than before: who was given up may be in time again
        before = _in_order(lists, R)
        system_queue.order_due(now, SERVERS, ahead, LIMIT_S, lists, R, K, F, shelves, floats, ints, ends)
        found = _in_order(lists, R)
        plain, links = _empty(n)
        links[:, R_NEED] = R[:, R_NEED]
        for r in before:
            sim_state.push(plain, links, 0, r)
        if before:
            policies_order.sort_due(
                now, SERVERS, ahead, 0, np.inf, plain, links, F, slo, work_of, law, np.zeros((1, 1))
            )
        assert found == _in_order(plain, links)
        moved += found != before
        for r in rng.permutation(found)[: rng.integers(0, 3)]:
            system_queue.take(r, lists, R, K, shelves)
            system_queue.leave_due(r, ints, ends)
    assert moved > 50


def test_no_prompt_gains_where_the_bound_says_so():
    rng = np.random.default_rng(5)
    lengths, grid = np.array([100.0, 400.0, 1600.0, 6400.0]), np.array([0.0, 100.0])
    batches, contexts = grid, 1e4 * grid[None]
    PK, PF = np.zeros(policies.POLICY_INTS, np.int64), np.zeros(policies.POLICY_FLOATS)
    PK[policies.K_ORDER], PF[policies.P_RELIEF] = policies.FCFS, 1.0
    UF, UI = np.zeros((3, sim_state.UNIT_FLOATS)), np.zeros((3, sim_state.UNIT_INTS), np.int64)
    UF[:, sim_state.U_END] = np.inf
    seen, scratch, said = np.zeros((3, policies.OBSERVED)), np.zeros((2, len(lengths))), []
    for _ in range(400):
        n = int(rng.integers(33, 60))
        lists, R = _empty(n)
        R[:, R_NEED] = rng.integers(20, 8000, n)
        for r in range(n):
            sim_state.push(lists, R, 0, r)
        curves = np.stack([np.sort(rng.uniform(0, 0.4, 4)), np.sort(rng.uniform(0, 0.01, 4))])
        tables = rng.uniform(0, 1, (2, 1, 4, 2, 2)) * 10.0 ** rng.uniform(-1, 3)
        seen[2, [policies.OB_HOST, policies.OB_BATCH, policies.OB_CONTEXT]] = rng.uniform(0, [1.0, 100.0, 1e6])
        most = np.zeros(4)
        system_late._most_of(R[:, R_NEED].astype(np.int64), R[:, R_DONE].astype(np.int64), lengths, curves, most)
        none = system_late._none_gains(2, 0, n, 0.0, 2, most, seen, PF, lengths, batches, contexts, tables)
        rows = late_queue(0.0, 2, R, UF, UI, lists, lengths, curves, np.ones((1, 2)))
        found, _ = late_pull(2, 0, rows, seen, PK, PF, 0.0, batches, contexts, tables, scratch)
        assert not (none and found >= 0)
        said.append(none)
    assert 20 < sum(said) < 380

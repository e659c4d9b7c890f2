"""The prefill recursion against a plain Python engine that runs one packed step at a time."""

from collections import deque

import numpy as np
import pytest

from qmodel.scenario import Cluster
from qmodel.system.prefill import prefill_path


def packed_steps(cluster: Cluster, arrival, prompt):
    """Return when each prompt's last step ends; least outstanding work, FCFS, one step at a time."""
    cal, budget = cluster.calibration, cluster.max_num_batched_tokens
    law = cal.prefill
    queue = [deque() for _ in range(cluster.prefill_count)]
    free, done, end = [0.0] * len(queue), [0] * len(prompt), [0.0] * len(prompt)

    def rest(r):
        left = int(prompt[r] - done[r])
        m = -(-left // budget) - 1
        return (
            left * law.base_s(float(budget)) / budget
            + law.attention_s * left * (done[r] + left / 2)
            + law.reload_s * (budget * m * (m + 1) / 2 + done[r] * (m + 1))
        )

    def step(i):
        room, tokens, quadratic, reloaded, ended = budget, 0, 0.0, 0.0, []
        while queue[i] and room > 0:
            r = queue[i][0]
            chunk = min(room, int(prompt[r]) - done[r])
            quadratic += chunk * (done[r] + chunk / 2)
            reloaded += done[r]
            done[r] += chunk
            tokens += chunk
            room -= chunk
            if done[r] == prompt[r]:
                ended.append(queue[i].popleft())
        free[i] += law.step_time_s(0.0, 0.0, float(tokens), quadratic, reloaded)
        for r in ended:
            end[r] = free[i]

    for r, t in enumerate(arrival):
        for i in range(len(queue)):
            while queue[i] and free[i] < t:
                step(i)
        work = [sum(rest(x) for x in queue[i]) + max(free[i] - t, 0.0) for i in range(len(queue))]
        best = int(np.argmin(work))
        queue[best].append(r)
        free[best] = max(free[best], t)
    for i in range(len(queue)):
        while queue[i]:
            step(i)
    return np.array(end)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("mean_tokens", [300, 9_000])
def test_prefill_path_equals_one_step_at_a_time(calibration, k, mean_tokens):
    rng = np.random.default_rng(k)
    cluster = Cluster(prefill=k, decode=2, calibration=calibration)
    prompt = 1 + rng.geometric(1 / mean_tokens, 600)
    gap = float(np.mean(cluster.work_s(prompt.astype(float)))) / (0.9 * k)
    arrival = np.cumsum(rng.exponential(gap, len(prompt)))
    cached = np.zeros(len(prompt), np.int64)
    path = prefill_path(cluster, arrival, prompt, cached, np.zeros(len(prompt)))
    assert np.allclose(path.finish_s, packed_steps(cluster, arrival, prompt), rtol=0, atol=1e-9)
    assert np.all(path.start_s >= arrival)
    assert np.all(path.placed_s > path.finish_s)


def test_lone_prompts_take_their_zero_load_time(calibration):
    cluster = Cluster(prefill=1, decode=1, calibration=calibration)
    prompt = np.array([10, 2048, 2049, 30_000])
    cached = np.array([0, 100, 0, 9_000])
    arrival = np.arange(4) * 100.0
    path = prefill_path(cluster, arrival, prompt, cached, np.zeros(len(prompt)))
    expected = cluster.execution_s(prompt.astype(float), cached.astype(float))
    assert np.allclose(path.finish_s - arrival, expected)
    assert np.allclose(path.placed_s - path.finish_s, cluster.transfer_law().exposed_s(prompt - cached))


def test_without_packing_the_path_is_the_plain_fcfs_queue(calibration):
    from qmodel._kernels.system import fcfs_waits

    rng = np.random.default_rng(2)
    cluster = Cluster(prefill=3, decode=1, calibration=calibration, packing=False)
    prompt = rng.integers(1, 9_000, 500)
    cached = np.zeros(500, np.int64)
    arrival = np.cumsum(rng.exponential(0.06, 500))
    path = prefill_path(cluster, arrival, prompt, cached, np.zeros(len(prompt)))
    work = np.asarray(calibration.lone_prefill_s(prompt.astype(float)))
    assert np.allclose(path.start_s - arrival, fcfs_waits(arrival, work, 3))


def test_requests_of_one_instant_share_a_step(calibration):
    cluster = Cluster(prefill=1, decode=1, calibration=calibration)
    prompt, cached = np.array([500, 500]), np.zeros(2, np.int64)
    path = prefill_path(cluster, np.zeros(2), prompt, cached, np.zeros(2))
    together = calibration.prefill.step_time_s(0.0, 0.0, 1000.0, 2 * 500 * 250.0, 0.0)
    assert np.allclose(path.finish_s, together)

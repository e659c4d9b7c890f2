"""The bursty steady state: its modulation, its limits, and simulation of the process it means."""

import numpy as np
import pytest

from qmodel.errors import InputError, UnstableError
from qmodel.policies import Kairos
from qmodel.scenario import SLO, Cluster, Requests, Workload
from qmodel.simulation import simulate
from qmodel.system import predict
from qmodel.system.bursty import modulation


def switching(rng, count, rates, stay_s, lengths):
    """Return requests whose Poisson rate switches between two levels, each held for an exponential time."""
    times, now, level = [], 0.0, 0
    while len(times) < count:
        end = now + rng.exponential(stay_s)
        times.extend(np.sort(rng.uniform(now, end, rng.poisson(rates[level] * (end - now)))))
        now, level = end, 1 - level
    arrival = np.array(times[:count])
    prompt = rng.choice(lengths[0], count, p=lengths[1])
    return Requests.from_arrays(arrival, prompt, 1 + rng.geometric(1 / 60, count))


def test_modulation_recovers_the_chain_that_made_the_windows():
    rng = np.random.default_rng(5)
    state, states = 0, []
    for _ in range(20_000):
        state = state if rng.random() > (0.1, 0.3)[state] else 1 - state
        states.append(state)
    rates, switch = modulation(np.array([2.0, 8.0])[states], 10.0)
    assert rates == pytest.approx([2.0, 8.0], rel=0.05)
    stay = -10.0 / np.log(1 - 0.1 - 0.3)  # the chain's memory, and the shares of time it spends in each state
    assert 1 / (switch[0, 1] + switch[1, 0]) == pytest.approx(stay, rel=0.05)
    assert switch[0, 1] / (switch[0, 1] + switch[1, 0]) == pytest.approx(np.mean(states), abs=0.02)


@pytest.mark.parametrize("k", [1, 2])
def test_it_matches_the_simulation_of_a_switching_process(calibration, chat_lengths, k):
    rng = np.random.default_rng(k)
    cluster = Cluster(prefill=k, decode=k, calibration=calibration)
    workload = Workload.from_requests(switching(rng, 300_000, (6.0, 20.0), 60.0, chat_lengths)).at_load(0.55, cluster)
    predicted, simulated = predict(cluster, workload, SLO(), method="bursty"), simulate(cluster, workload, SLO())
    assert "MMPP" in predicted.method
    poisson = predict(cluster, workload, SLO(), method="stationary")
    assert poisson.ttft_s(0.95) < 0.85 * simulated.ttft_s(0.95)  # what burstiness is worth
    for q in (0.5, 0.95, 0.99):
        assert predicted.ttft_s(q) == pytest.approx(simulated.ttft_s(q), rel=0.25)
    assert predicted.slo_attainment == pytest.approx(simulated.slo_attainment, abs=0.03)
    assert predicted.tbt_s(0.99) == pytest.approx(simulated.tbt_s(0.99), rel=0.1)


def test_windows_of_one_rate_are_the_poisson_steady_state(calibration):
    rng = np.random.default_rng(2)
    n = 40_000
    even = (np.arange(n) + rng.random(n)) * 0.1  # every window of 10 s has its 100 arrivals
    trace = Requests.from_arrays(even, rng.integers(100, 3_000, n), rng.integers(2, 80, n))
    cluster = Cluster(prefill=2, decode=2, calibration=calibration)
    workload = Workload.from_requests(trace).at_load(0.8, cluster)
    bursty, poisson = (predict(cluster, workload, SLO(), method=method) for method in ("bursty", "stationary"))
    assert bursty.ttft_s(0.95) == pytest.approx(poisson.ttft_s(0.95), rel=0.1)


def test_it_is_refused_with_a_policy_and_in_overload(calibration, chat_lengths):
    cluster = Cluster(prefill=1, decode=1, calibration=calibration)
    workload = Workload.from_requests(switching(np.random.default_rng(0), 2_000, (6.0, 24.0), 20.0, chat_lengths))
    with pytest.raises(InputError, match="policy of method bursty"):
        predict(cluster, workload.at_load(0.5, cluster), SLO(), Kairos(), method="bursty")
    with pytest.raises(UnstableError):
        predict(cluster, workload.at_load(1.2, cluster), SLO(), method="bursty")

"""Agreement with BLIS (inference-sim), whose results, laws and rules are in the shared data set `peers`."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from qmodel.errors import InputError
from qmodel.policies import Colocated, Disaggregated, RequestView, StaticLength
from qmodel.scenario import SLO, Requests
from qmodel.simulation import simulate
from qmodel.studies.blis import BlisRouting, BlisScenario, blis_agreement, blis_cluster
from qmodel.studies.go_random import GoRandom

RULES = {"routing": "requests", "decode_choice": "arrival_landed", "count_until": "last_step_starts"}
BUILT_IN = {
    "blis_pd_16rps_1000": lambda seed: Disaggregated(**RULES, tie_seed=seed),
    "blis_pd_80rps_2000": lambda seed: Disaggregated(**RULES, tie_seed=seed),
    "blis_static512_16rps_10000": lambda seed: StaticLength(512, inclusive=True, chunks=None, **RULES, tie_seed=seed),
    "blis_colocated4_16rps_10000": lambda seed: Colocated(2048, count_until="last_step_starts", tie_seed=seed),
}
SEEDS = range(1, 17)


def statistics(requests, ttft, e2e, gap):
    """Return means and P99 of what two simulators count alike."""
    several = (requests.output_tokens > 2).to_numpy()
    values = ttft, e2e, gap[several]
    return np.array([of(x) for x in values for of in (np.mean, lambda v: np.quantile(v, 0.99))])


@pytest.mark.data
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_request_ends_in_their_microsecond(shared_data, name):
    table = blis_agreement(shared_data / "peers" / f"{name}.csv.gz")
    assert (table.same == 1.0).all()
    assert table.error.abs().max() < 1e-6


@pytest.mark.data
@pytest.mark.parametrize("name", BUILT_IN)
def test_theirs_is_one_draw_of_the_ties_of_ours(shared_data, name):
    """Built-in policies with the same rules, continuous time and ties of our own: theirs lies among our runs."""
    theirs = pd.read_csv(shared_data / "peers" / f"{name}.csv.gz")
    requests = Requests.from_arrays(theirs.arrival_s, theirs.prompt_tokens, theirs.output_tokens)
    scenario = BlisScenario(prefill=2, decode=2)
    runs = []
    for seed in SEEDS:
        run = simulate(blis_cluster(scenario, clock_tick_s=0.0), requests, SLO(), BUILT_IN[name](seed), warmup=0)
        runs.append(statistics(theirs, *(run.columns[c] for c in ("ttft_s", "e2e_s", "tbt_mean_s"))))
    gaps = theirs.output_tokens - np.where(run.columns["deflected"], 1, 2)
    other = statistics(theirs, theirs.ttft_s, theirs.e2e_s, ((theirs.e2e_s - theirs.ttft_s) / gaps).to_numpy())
    spread = np.std(runs, axis=0, ddof=1) * np.sqrt(1 + 1 / len(SEEDS))
    assert np.all(np.abs(other - np.mean(runs, axis=0)) < 3 * spread + 1e-3 * other)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "change", "column", "least"),
    [
        ("blis_pd_80rps_2000", {"decode_choice": "prefilled"}, "tbt_mean_s", 0.5),
        ("blis_pd_80rps_2000", {"decode_choice": "arrival"}, "tbt_mean_s", 0.5),
        ("blis_static512_16rps_10000", {"routing": "work"}, "ttft_s", 0.02),
        ("blis_static512_16rps_10000", {"tie_seed": 0}, "ttft_s", 0.02),
    ],
)
def test_each_rule_makes_a_difference(shared_data, name, change, column, least):
    theirs = pd.read_csv(shared_data / "peers" / f"{name}.csv.gz")
    requests = Requests.from_arrays(theirs.arrival_s, theirs.prompt_tokens, theirs.output_tokens)
    policy = replace(BUILT_IN[name](1), **change)
    ours = simulate(blis_cluster(BlisScenario(), clock_tick_s=0.0), requests, SLO(), policy, warmup=0).columns[column]
    other = theirs.ttft_s if column == "ttft_s" else theirs.mean_tbt_s
    assert abs(np.nanmean(ours) / other.mean() - 1) > least


@pytest.mark.parametrize(
    ("name", "cluster", "expected"),
    [
        ("blis_pd_16rps_1000.csv.gz", "2P2D", (2, 2, 0.0)),
        ("x/blis_static512_80rps_10.csv", "1P3D", (1, 3, 512.0)),
        ("blis_pd_3p1d_16rps_10.csv", "2P2D", (3, 1, 0.0)),
        ("blis_colocated8_16rps_10000.csv", "2P2D", (0, 8, np.inf)),
    ],
)
def test_a_file_name_tells_its_scenario(name, cluster, expected):
    found = BlisScenario.parse(name, cluster)
    assert (found.prefill, found.decode, found.local_tokens) == expected


@pytest.mark.parametrize("name", ["results.csv", "blis_static_16rps_10.csv", "blis_pd512_16rps_10.csv"])
def test_another_file_name_is_refused(name):
    with pytest.raises(InputError, match="results file of BLIS"):
        BlisScenario.parse(name)


def test_requests_of_one_microsecond_weigh_half():
    """Prefill counts [0, 1]: the second of two goes where the first went, whom a whole count would have tied."""

    class Two:
        decode_requests, prefill_requests = np.array([3.0, 3.0]), np.array([0.0, 1.0])

    requests = Requests.from_arrays([1.0, 1.0, 2.0], [600, 600, 600], [5, 5, 5])
    routing = BlisRouting(requests=requests)
    view = RequestView(arrival_s=1.0, prompt_tokens=600, cached_tokens=0, ttft_slo_s=1.0, tbt_slo_s=1.0)
    assert [routing.decide(Two, view).instance for _ in range(2)] == [0, 0]
    assert Two.prefill_requests.tolist() == [0.0, 1.0]
    assert len(routing.routes) == 2


def test_go_random_draws_what_go_prints():
    """`rand.Seed(1)` in Go: the tour's "My favorite number is 1", and Intn(100) of many a question about it."""
    assert GoRandom(1).below(10) == 1
    draws = GoRandom(1)
    assert [draws.below(100) for _ in range(10)] == [81, 87, 47, 59, 81, 18, 25, 40, 56, 0]


def test_go_random_takes_every_seed():
    assert GoRandom(0).below(2**31 - 1) != GoRandom(1).below(2**31 - 1)
    assert GoRandom(-1).below(100) == GoRandom(2**31 - 2).below(100)  # Go reduces seeds modulo 2^31 - 1

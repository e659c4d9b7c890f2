"""Agreement with BLIS (inference-sim), whose results, laws and rules are in the shared data set `peers`."""

import numpy as np
import pandas as pd
import pytest

from qmodel.laws import Calibration, ValidRange
from qmodel.laws.roofline import RooflineLaw
from qmodel.policies import Colocated, Disaggregated, StaticLength
from qmodel.scenario import SLO, Cluster, Requests
from qmodel.simulation import simulate

pytestmark = pytest.mark.data

# Their routing: requests counted, not work; a batch that ends with the step that has just started no longer counts;
# a decode instance is chosen at arrival and counts what has landed there; ties at random.
ROUTING = {"routing": "requests", "decode_choice": "arrival_landed", "count_until": "last_batch_starts"}
SCENARIOS = {
    "blis_pd_16rps_1000": lambda seed: Disaggregated(**ROUTING, tie_seed=seed),
    "blis_pd_80rps_2000": lambda seed: Disaggregated(**ROUTING, tie_seed=seed),
    "blis_static512_16rps_10000": lambda seed: StaticLength(
        512, inclusive=True, chunks=None, token_budget=2048, **ROUTING, tie_seed=seed
    ),
    "blis_colocated4_16rps_10000": lambda seed: Colocated(2048, count_until="last_batch_starts", tie_seed=seed),
}
TIE_SEEDS = range(1, 9)  # theirs is one draw of the ties; a single one of ours moves the P99 of 1,000 requests by 3 %
MEANS, TAILS = 0.02, 0.05  # stated in the data set's README as agreement


def setting():
    """Return the data set's cluster: Llama-2-7B on A100, its roofline, transfers without contention."""
    law = RooflineLaw.of_transformer(
        layers=32, hidden=4096, heads=32, head_dim=128, feed_forward=11_008, value_bytes=2,
        prefill_flops_per_s=312e12 * 0.38, decode_flops_per_s=312e12 * 0.18, bytes_per_s=2.039e12,
    )  # fmt: skip
    cal = Calibration(
        model="llama-2-7b", gpu="a100", tp=1, step=law, prefill=law, layers=32, kv_bytes_per_token=524_288,
        kv_capacity_tokens=200_000 * 16,
        valid_range=ValidRange(batch=256, context_tokens=10**6, chunk_tokens=2048, prompt_tokens=4096),
    )  # fmt: skip
    return Cluster(
        prefill=2, decode=2, calibration=cal, bandwidth_gb_s=25, efficiency=1.0, transfer_fixed_s=50e-6,
        link_sharing="none",
    )  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_agreement(shared_data, name):
    theirs = pd.read_csv(shared_data / "peers" / f"{name}.csv.gz")
    requests = Requests.from_arrays(theirs.arrival_s, theirs.prompt_tokens, theirs.output_tokens)
    several = (theirs.output_tokens > 2).to_numpy()
    values = {"ttft": theirs.ttft_s, "e2e": theirs.e2e_s, "tbt": theirs.mean_tbt_s[several]}
    columns = {"ttft": "ttft_s", "e2e": "e2e_s", "tbt": "tbt_mean_s"}
    runs = [simulate(setting(), requests, SLO(), SCENARIOS[name](seed), warmup=0).columns for seed in TIE_SEEDS]
    for metric, other in values.items():
        ours = [run[columns[metric]][several] if metric == "tbt" else run[columns[metric]] for run in runs]
        mean, tail = np.mean(ours), np.mean(np.quantile(ours, 0.99, axis=1))
        assert mean == pytest.approx(np.mean(other), rel=MEANS), f"mean {metric}"
        assert tail == pytest.approx(np.quantile(other, 0.99), rel=TAILS), f"P99 {metric}"


def test_their_rules_make_the_difference(shared_data):
    """With our own routing at arrival the two disagree in deep overload: the rule above is what explains it."""
    theirs = pd.read_csv(shared_data / "peers" / "blis_pd_80rps_2000.csv.gz")
    requests = Requests.from_arrays(theirs.arrival_s, theirs.prompt_tokens, theirs.output_tokens)
    ours = simulate(setting(), requests, SLO(), warmup=0).columns["tbt_mean_s"]
    assert np.mean(ours) < 0.5 * theirs.mean_tbt_s.mean()

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

ROUTING = {"routing": "requests", "decode_choice": "arrival"}
SCENARIOS = {
    "blis_pd_16rps_1000": Disaggregated(**ROUTING),
    "blis_pd_80rps_2000": Disaggregated(**ROUTING),
    "blis_static512_16rps_10000": StaticLength(512, inclusive=True, chunks=None, token_budget=2048, **ROUTING),
    "blis_colocated4_16rps_10000": Colocated(2048),
}
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
    ours = simulate(setting(), requests, SLO(), SCENARIOS[name], warmup=0).requests
    several = theirs.output_tokens > 2
    pairs = {
        "ttft": (ours.ttft_s, theirs.ttft_s),
        "e2e": (ours.e2e_s, theirs.e2e_s),
        "tbt": (ours.tbt_mean_s[several], theirs.mean_tbt_s[several]),
    }
    for metric, (mine, other) in pairs.items():
        assert np.mean(mine) == pytest.approx(np.mean(other), rel=MEANS), f"mean {metric}"
        assert np.quantile(mine, 0.99) == pytest.approx(np.quantile(other, 0.99), rel=TAILS), f"P99 {metric}"

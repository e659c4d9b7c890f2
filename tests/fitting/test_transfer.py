import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmodel.errors import InputError
from qmodel.fitting.transfer import fit_transfer, read_send_recv
from qmodel.laws.network import NETWORKS, network_named

SIZES = np.geomspace(1e4, 1e9, 30)


@settings(deadline=None, max_examples=50)
@given(fixed=st.floats(1e-6, 1e-2), rate=st.floats(1e9, 1e11), noise=st.floats(0, 0.05), seed=st.integers(0, 99))
def test_known_transfers_are_recovered(fixed, rate, noise, seed):
    exact = fixed + SIZES / rate
    time = exact * np.exp(noise * np.random.default_rng(seed).standard_normal(30))
    fit = fit_transfer(SIZES, time)
    # Four standard errors: ten points or so decide each end.
    np.testing.assert_allclose(fit.fixed_s + SIZES / fit.bytes_per_s, exact, rtol=1e-6 + 4 * noise)


@pytest.mark.data
@pytest.mark.parametrize(("nodes", "fixed_ms", "rate", "mape"), [(1, 0.029, 7.8e9, 0.015), (2, 0.013, 286e9, 0.10)])
def test_published_a100_pairs(shared_data, nodes, fixed_ms, rate, mape):
    """Facts stated in the README of the shared profiles."""
    fit = fit_transfer(*read_send_recv(shared_data / "profiles" / "vidur_a100_dgx_send_recv.csv", nodes))
    assert fit.fixed_s * 1e3 == pytest.approx(fixed_ms, rel=0.05)
    assert fit.bytes_per_s == pytest.approx(rate, rel=0.02)
    assert fit.mape == pytest.approx(mape, rel=0.1)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_presets_have_a_source_and_ordered_cases(name):
    network = network_named(name)
    assert len(network.source) > 20
    slow, typical, fast = (network.transfer_law(1e5, case=c).exposed_s(4096) for c in ("low", "typical", "high"))
    assert slow >= typical >= fast > 0


def test_streams_and_gpus_raise_the_rate_up_to_the_link():
    network = network_named("nccl-single-stream")
    rates = [network.transfer_law(1e5, streams=n).bytes_per_s for n in (1, 2, 4, 8)]
    assert rates == pytest.approx([7.8e9, 15.6e9, 18.75e9, 18.75e9])
    assert network.transfer_law(1e5, gpus=4).bytes_per_s == pytest.approx(4 * 7.8e9)


def test_pipelining_hides_all_but_the_last_layer_behind_a_long_prefill():
    law = network_named("infiniband-hdr").transfer_law(1e5, layers=32, pipelined=True)
    link = law.link_time_s(8192)
    assert law.exposed_s(8192, prefill_s=10 * link) == pytest.approx(law.fixed_s + link / 32)
    assert law.exposed_s(8192, prefill_s=0.0) == pytest.approx(law.fixed_s + link)


@pytest.mark.parametrize(
    ("sizes", "times", "message"),
    [
        ([1, 2], [1, 2], ">= 3 pairs"),
        ([1e6, 1e7, -1], [1, 2, 3], "bytes of transfer 3"),
        ([1e6, 1e7, 1e8], [1, np.nan, 3], "seconds of transfer 2"),
        ([1e6, 1e7, 1e8], [3, 2, 1e-3], "not growing"),
    ],
)
def test_bad_transfers_are_refused(sizes, times, message):
    with pytest.raises(InputError, match=message):
        fit_transfer(sizes, times)


def test_unknown_network():
    with pytest.raises(InputError, match="one of infiniband-hdr"):
        network_named("pigeon")

"""The least number of servers that meets targets."""

import numpy as np
import pytest

from qmodel.errors import InputError, OutOfRangeError, UnstableError
from qmodel.queueing import (
    MmppArrivals,
    PoissonArrivals,
    ServiceTime,
    WindowedArrivals,
    erlang_c,
    ggk,
    least_servers,
    mgk,
    mmk,
)

ONE = ServiceTime.exponential(1.0)


@pytest.mark.parametrize("rate", [0.3, 7.0, 55.0, 900.0])
@pytest.mark.parametrize(("wait", "late"), [(0.0, 0.5), (0.1, 0.2), (2.0, 0.01)])
def test_enough_and_one_fewer_is_not(rate, wait, late):
    servers = least_servers(rate, ONE, wait_s=wait, late_share=late)
    assert mmk(rate, servers, 1.0).wait_tail(wait) <= late
    if servers - 1 > rate:
        assert mmk(rate, servers - 1, 1.0).wait_tail(wait) > late
    else:
        with pytest.raises((UnstableError, InputError)):
            mmk(rate, servers - 1, 1.0)


def test_targets_bind_one_by_one_and_together():
    rate, law = 20.0, ServiceTime.gamma(1.0, 2.0)
    by_load = least_servers(rate, law, utilisation=0.8)
    assert by_load == 25
    assert least_servers(rate, law, utilisation=1 - 1e-9) == 21
    by_mean = least_servers(rate, law, mean_wait_s=0.02)
    assert mgk(rate, by_mean, law).mean_wait_s <= 0.02 < mgk(rate, by_mean - 1, law).mean_wait_s
    by_tail = least_servers(rate, law, wait_s=0.5, late_share=0.001)
    together = least_servers(rate, law, wait_s=0.5, late_share=0.001, mean_wait_s=0.02, utilisation=0.8)
    assert together == max(by_load, by_mean, by_tail)
    # The textbook: 80 % within 20 s, 400 calls an hour of 3 minutes.
    agents = least_servers(400 / 3600, ServiceTime.exponential(180.0), wait_s=20.0, late_share=0.2)
    assert agents == 24
    assert erlang_c(24, 20.0) < 0.35 < erlang_c(23, 20.0)


def test_bursts_need_more_and_so_do_busy_hours():
    law = ServiceTime.lognormal(180.0, 1.5)
    target = {"wait_s": 20.0, "late_share": 0.2}
    calm = least_servers(PoissonArrivals(rate_per_s=0.125), law, **target)
    assert calm == least_servers(0.125, law, **target)
    bursts = MmppArrivals(rates_per_s=(0.05, 0.2), switch_per_s=(0.01, 0.01))
    more = least_servers(bursts, law, **target)
    assert more > calm + 3
    assert ggk(bursts, more, law).wait_tail(20.0) <= 0.2 < ggk(bursts, more - 1, law).wait_tail(20.0)
    # Half hours of one day: the peak has more to do than the mean says.
    rates = np.array([20, 40, 90, 120, 100, 80, 70, 60, 50, 30, 20, 10]) / 1800
    day = WindowedArrivals(edges_s=1800.0 * np.arange(13), rates_per_s=rates)
    assert least_servers(day, law, **target) > least_servers(day.rate_per_s, law, **target)


def test_what_is_asked_must_be_whole():
    with pytest.raises(InputError, match="late_share is missing"):
        least_servers(0.5, ONE, wait_s=1.0)
    with pytest.raises(InputError, match="wait_s is missing"):
        least_servers(0.5, ONE, late_share=0.1)
    with pytest.raises(InputError, match="targets is missing"):
        least_servers(0.5, ONE)
    with pytest.raises(InputError, match=r"80 % within wait_s is late_share=0.2"):
        least_servers(0.5, ONE, wait_s=1.0, late_share=80)
    with pytest.raises(OutOfRangeError, match="relax the targets"):
        least_servers(1.99e6, ONE, wait_s=0.0, late_share=0.001)

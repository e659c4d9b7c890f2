"""Nothing fails in silence: each kind of trouble has its own error, with what, value, limit and, where useful, remedy."""

import itertools
import math

import numpy as np
import pytest

from qmodel.errors import ConvergenceError, InputError, OutOfRangeError, QModelError, UnstableError
from qmodel.queueing import (
    ServiceTime,
    busy_period,
    erlang_c,
    heavy_traffic_mean_s,
    kingman_bound_s,
    lundberg_rate,
    mgk,
    mgk_balking,
    mmk,
    mmkn,
    mmpp_k,
    mtgk,
)
from qmodel.queueing.metrics import ExponentialSum, QueueMetrics, search_quantile

ONE = ServiceTime.exponential(1.0)
CASES = {
    "overload": (UnstableError, lambda: mgk(2.0, 2, ONE)),
    "overload, beyond": (UnstableError, lambda: mgk(2.66, 2, ONE)),
    "overload of bursts": (UnstableError, lambda: mmpp_k([1.0, 3.0], [1.0, 1.0], 1, ONE)),
    "overload of Erlang C": (UnstableError, lambda: erlang_c(2, 2.0)),
    "overload of those without a threshold": (UnstableError, lambda: mgk_balking([1.0], [1.0], math.inf, 1)),
    "overload of a bound": (UnstableError, lambda: kingman_bound_s(1.0, 1.0, 1, 1.0, 1.0)),
    "no MGF": (OutOfRangeError, lambda: ServiceTime.lognormal(1.0, 2.0).mgf(0.1)),
    "MGF at its pole": (OutOfRangeError, lambda: ONE.mgf(1.0)),
    "no exponential decay": (OutOfRangeError, lambda: lundberg_rate(0.5, 2, ServiceTime.lognormal(1.0, 2.0))),
    "no closed form": (OutOfRangeError, lambda: busy_period(1.0, 2, ServiceTime.gamma(1.0, 2.0))),
    "no number holds it": (OutOfRangeError, lambda: busy_period(990.0, 1000, ONE)),
    "rate": (InputError, lambda: mgk(math.nan, 1, ONE)),
    "servers": (InputError, lambda: mgk(0.5, 1.5, ONE)),
    "absurd mean": (InputError, lambda: ServiceTime.exponential(math.inf)),
    "mean beyond numbers": (InputError, lambda: ServiceTime.exponential(1e150)),
    "mean below numbers": (InputError, lambda: ServiceTime.hyperexponential([0.5, 0.5], [1.0, 1e-150])),
    "moments beyond numbers": (InputError, lambda: ServiceTime.lognormal(1.0, 1e306)),
    "bound below the whole law": (InputError, lambda: ServiceTime.lognormal(1e6, 0.01, 1e3)),
    "absurd SCV": (InputError, lambda: ServiceTime.gamma(1.0, -1.0)),
    "absurd phases": (InputError, lambda: ServiceTime.erlang(math.nan, 1.0)),
    "absurd weights": (InputError, lambda: ServiceTime.hyperexponential([1.5, -0.5], [1.0, 2.0])),
    "absurd exponent": (InputError, lambda: ONE.mgf(math.nan)),
    "SCV of a bound": (InputError, lambda: kingman_bound_s(0.5, -1.0, 1, 1.0, 1.0)),
    "mean of a bound": (InputError, lambda: kingman_bound_s(0.5, 1.0, 1, -1.0, 1.0)),
    "SCV of heavy traffic": (InputError, lambda: heavy_traffic_mean_s(0.5, 1.0, 1, 1.0, math.nan)),
    "room": (InputError, lambda: mmkn(1.0, 3, math.nan, 1.0)),
    "endless room": (InputError, lambda: mmkn(1.0, 3, math.inf, 1.0)),
    "time": (InputError, lambda: mmk(0.5, 1, 1.0).wait_tail([0.0, math.nan])),
    "time of a density": (InputError, lambda: mmk(0.5, 1, 1.0).density_per_s(math.nan)),
    "level": (InputError, lambda: mmk(0.5, 1, 1.0).wait_quantile_s(1.0)),
    "time of windows": (InputError, lambda: mtgk([0.0, 9.0], [0.5], ONE, 1).wait_cdf([0.0, math.nan])),
    "time under thresholds": (InputError, lambda: mgk_balking([0.5], [1.0], 2.0, 1).virtual_wait_cdf(math.nan)),
    "threshold": (InputError, lambda: mgk_balking([1.0], [1.0], math.nan, 1)),
}


@pytest.mark.parametrize(("error", "call"), CASES.values(), ids=CASES)
def test_each_trouble_has_its_error(error, call):
    with pytest.raises(QModelError, match="must be") as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.what
    assert caught.value.limit
    if error in (UnstableError, OutOfRangeError):
        assert caught.value.remedy


class _Stuck:
    """A law whose tail never falls."""

    def tail(self, t):
        return np.full(np.shape(t), 0.5)

    def quantile(self, q, scale):
        return search_quantile(self, q, scale)


def test_what_does_not_converge_says_so():
    with pytest.raises(ConvergenceError, match="must be"):
        _Stuck().quantile(0.9, 1.0)
    law = ExponentialSum(coefficients=np.array([0.5 + 0j]), rates=np.array([1.0 + 0j]))
    for wait, chance in ((math.nan, 0.5), (-1.0, 0.5), (math.inf, 0.5), (1.0, 1.5), (1.0, math.nan)):
        with pytest.raises(ConvergenceError, match="choose another method"):
            QueueMetrics(
                arrival_rate_per_s=1.0, servers=2, mean_service_s=1.0, mean_wait_s=wait, wait_probability=chance,
                wait_law=law, method="a test",
            )  # fmt: skip


@pytest.mark.parametrize("servers", [0.5, 2.5, 17.3, 1000.25])
def test_erlang_formulas_for_servers_that_are_not_whole(servers):
    from scipy.integrate import quad

    from qmodel.queueing import erlang_b

    load = 0.8 * servers
    # 1/B = integral of exp(-u) (1 + u/a)^k, u = a*t (Jagerman, eq. 4), by quadrature in pieces.
    edges = [0.0, 1.0, 10.0, 100.0, 400.0, 2000.0]
    inverse = sum(
        quad(lambda u: math.exp(-u + servers * math.log1p(u / load)), a, b, limit=200)[0]
        for a, b in itertools.pairwise(edges)
    )
    assert erlang_b(servers, load) == pytest.approx(1 / inverse, rel=1e-7)
    # The recursion holds for any k: B(k+1) = a B/(k + 1 + a B).
    one = erlang_b(servers, load)
    assert erlang_b(servers + 1, load) == pytest.approx(load * one / (servers + 1 + load * one), rel=1e-9)


def test_erlang_formulas_for_many_servers():
    # Halfin & Whitt: C -> 1/(1 + sqrt(2 pi) b Phi(b) exp(b^2/2)), b = (1 - rho) sqrt(k).
    from scipy.stats import norm

    servers, b = 10**6, 0.7
    load = servers - b * math.sqrt(servers)
    want = 1 / (1 + math.sqrt(2 * math.pi) * b * norm.cdf(b) * math.exp(b * b / 2))
    assert erlang_c(servers, load) == pytest.approx(want, rel=2e-3)


def test_finite_queues_against_their_neighbours():
    # No waiting room is Erlang B; a large one M/M/k; any one satisfies its balance equations.
    from qmodel.queueing import erlang_b

    assert mmkn(3.0, 4, 4, 1.0).loss_probability == pytest.approx(erlang_b(4, 3.0), rel=1e-12)
    assert mmkn(3.0, 4, 2000, 1.0).mean_wait_s == pytest.approx(mmk(3.0, 4, 1.0).mean_wait_s, rel=1e-9)
    law = mmkn(9.0, 4, 30, 1.0).number_law
    np.testing.assert_allclose(law[1:] * np.minimum(np.arange(1, 31), 4), law[:-1] * 9.0, rtol=1e-10)
    assert mmkn(5e3, 10, 10**5, 1.0).loss_probability == pytest.approx(1 - 10 / 5e3, rel=1e-9)

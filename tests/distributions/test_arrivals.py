"""Arrival laws: rate, SCV and dispersion against samples; fits recover what they were made from."""

import numpy as np
import pytest

from qmodel.distributions import (
    MmppArrivals,
    PoissonArrivals,
    RenewalArrivals,
    ServiceTime,
    WindowedArrivals,
    fit_arrivals,
    fit_mmpp,
    measured_dispersion,
)
from qmodel.errors import InputError, OutOfRangeError, QModelError

# No divisors of the cycle of the windowed law: its windows begin at any phase alike.
WINDOWS = [0.513, 3.137, 10.71, 43.9]
LAWS = {
    "poisson": PoissonArrivals(rate_per_s=3.0),
    "gamma .3": RenewalArrivals.gamma(3.0, 0.3),
    "gamma 4": RenewalArrivals.gamma(3.0, 4.0),
    "h2": RenewalArrivals.hyperexponential(3.0, 4.0),
    "fixed": RenewalArrivals(gap=ServiceTime.deterministic(0.3)),
    "mmpp": MmppArrivals(rates_per_s=(1.0, 10.0), switch_per_s=(0.05, 0.2)),
    "windows": WindowedArrivals(edges_s=np.array([0.0, 10.0, 15.0, 30.0]), rates_per_s=np.array([1.0, 0.0, 4.0])),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_what_a_law_says_is_what_it_draws(law):
    times = law.sample(300_000, np.random.default_rng(1))
    assert times.size == 300_000
    assert np.all(np.diff(times) >= 0)
    rate, scv, _, idc = measured_dispersion(times, WINDOWS)
    assert rate == pytest.approx(law.rate_per_s, rel=0.03)
    assert scv == pytest.approx(law.scv, rel=0.05, abs=1e-9)
    for window, found in zip(WINDOWS, idc, strict=True):
        assert law.idc(window) == pytest.approx(found, rel=0.1, abs=0.03)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_same_seed_gives_the_same_arrivals(law):
    one, two = (law.sample(1000, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert law.sample(0, np.random.default_rng(5)).size == 0


def test_renewal_dispersion_of_h2_is_that_of_its_map():
    # H2 renewals as a MAP: Var N(t) from the phase process, by the matrix exponential.
    from scipy.linalg import expm

    law = RenewalArrivals.hyperexponential(2.0, 5.0)
    quiet, arrive, exact = law.as_map()
    assert exact
    generator = quiet + arrive
    pi = np.array([generator[1, 0], generator[0, 1]]) / (generator[1, 0] + generator[0, 1])
    one = np.ones(2)
    rate = pi @ arrive @ one
    away = np.linalg.inv(np.outer(one, pi) - generator)
    for t in (0.3, 2.0, 9.0, 400.0):
        inner = away @ arrive @ one
        variance = rate * t * (1 - 2 * rate) + 2 * t * (pi @ arrive @ inner)
        variance -= 2 * pi @ arrive @ (np.eye(2) - expm(generator * t)) @ away @ inner
        assert law.idc(t) == pytest.approx(variance / (rate * t), rel=3e-3)


@pytest.mark.parametrize(
    ("rates", "switch"), [((1.0, 6.0), (0.05, 0.2)), ((0.0, 20.0), (1.0, 3.0)), ((5.0, 8.0), (0.01, 0.01))]
)
def test_the_fit_recovers_an_mmpp(rates, switch):
    law = MmppArrivals(rates_per_s=rates, switch_per_s=switch)
    windows = np.geomspace(0.2, 500.0, 6)
    fit = fit_mmpp(law.rate_per_s, law.scv, windows, [law.idc(t) for t in windows])
    assert fit.worst < 0.02
    assert fit.arrivals.rate_per_s == pytest.approx(law.rate_per_s, rel=1e-9)
    assert fit.arrivals.scv == pytest.approx(law.scv, rel=0.02)


def test_a_fit_says_how_badly_it_fits():
    # Dispersion that rises, falls and rises again is no MMPP's.
    fit = fit_mmpp(1.0, 3.0, [1.0, 10.0, 100.0], [5.0, 2.0, 9.0])
    assert fit.worst > 0.2
    assert fit.idc_error.shape == (3,)


def test_traces_give_the_law_they_came_from():
    rng = np.random.default_rng(4)
    bursty = fit_arrivals(LAWS["mmpp"].sample(200_000, rng))
    assert isinstance(bursty.arrivals, MmppArrivals)
    assert bursty.worst < 0.15
    assert bursty.arrivals.rates_per_s == pytest.approx((1.0, 10.0), rel=0.1)
    assert isinstance(fit_arrivals(LAWS["poisson"].sample(50_000, rng)).arrivals, PoissonArrivals)
    even = fit_arrivals(LAWS["gamma .3"].sample(50_000, rng))
    assert isinstance(even.arrivals, RenewalArrivals)
    assert even.arrivals.scv == pytest.approx(0.3, rel=0.05)


def test_windows_of_a_trace_keep_its_counts():
    law = LAWS["windows"]
    times = law.sample(2000, np.random.default_rng(2))
    found = WindowedArrivals.from_times(times, 5.0)
    assert found.rates_per_s @ np.diff(found.edges_s) == pytest.approx(2000)
    flat = WindowedArrivals(edges_s=np.array([0.0, 4.0, 10.0]), rates_per_s=np.array([2.0, 2.0]))
    assert flat.scv == pytest.approx(1.0)
    assert flat.idc(3.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PoissonArrivals(rate_per_s=0.0),
        lambda: PoissonArrivals(rate_per_s=float("nan")),
        lambda: RenewalArrivals.gamma(1.0, -1.0),
        lambda: RenewalArrivals.hyperexponential(1.0, 0.5),
        lambda: MmppArrivals(rates_per_s=(0.0, 0.0), switch_per_s=(1.0, 1.0)),
        lambda: MmppArrivals(rates_per_s=(1.0, 2.0), switch_per_s=(0.0, 1.0)),
        lambda: WindowedArrivals(edges_s=np.array([0.0, 0.0]), rates_per_s=np.array([1.0])),
        lambda: WindowedArrivals(edges_s=np.array([0.0, 1.0]), rates_per_s=np.array([0.0])),
        lambda: fit_mmpp(1.0, 0.5, [1.0], [2.0]),
        lambda: fit_mmpp(1.0, 2.0, [1.0], [0.5]),
        lambda: fit_mmpp(1.0, 2.0, [1.0, 2.0], [2.0]),
        lambda: fit_arrivals([0.0]),
        lambda: fit_arrivals([0.0, 2.0, 1.0]),
        lambda: fit_arrivals([1.0, 1.0, 1.0]),
        lambda: fit_arrivals(np.arange(10.0), [100.0]),
        lambda: LAWS["poisson"].idc(0.0),
        lambda: LAWS["mmpp"].sample(-1, np.random.default_rng(0)),
    ],
)
def test_bad_laws_are_refused(make):
    with pytest.raises(QModelError, match="must be"):
        make()


def test_windows_show_themselves_in_a_line_and_say_what_they_take():
    assert repr(LAWS["windows"]).startswith("WindowedArrivals(windows=")
    with pytest.raises(InputError, match=r"wrap lists in numpy\.array"):
        WindowedArrivals(edges_s=[0.0, 1.0], rates_per_s=[1.0])


def test_the_only_field_may_come_without_its_name():
    assert PoissonArrivals(2.0) == PoissonArrivals(rate_per_s=2.0)
    assert RenewalArrivals(ServiceTime.erlang(4, 1.0)).rate_per_s == 1.0


def test_too_regular_is_out_of_range():
    with pytest.raises(OutOfRangeError, match="above 1"):
        fit_mmpp(1.0, 0.5, [1.0], [2.0])
    with pytest.raises(InputError):
        fit_mmpp(1.0, np.inf, [1.0], [2.0])


@pytest.mark.parametrize("scv", [0.04, 0.09, 0.25, 0.3, 0.34, 0.45])
def test_regular_gaps_keep_two_moments_as_phases(scv):
    gaps = RenewalArrivals.gamma(2.0, scv)
    quiet, arrive, exact = gaps.as_map()
    assert not exact
    one = np.ones(len(quiet))
    np.testing.assert_allclose((quiet + arrive).sum(), 0.0, atol=1e-9)
    start, inverse = arrive[-1] / arrive[-1].sum(), np.linalg.inv(-quiet)
    mean, second = start @ inverse @ one, 2 * start @ inverse @ inverse @ one
    assert mean == pytest.approx(0.5)
    assert second / mean**2 - 1 == pytest.approx(scv)
    assert len(gaps.as_map(5)[0]) <= 5
    assert RenewalArrivals(gap=ServiceTime.erlang(4, 1.0)).as_map()[2]

"""Service laws: moments, residual life and transforms against numerical integration."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad

from qmodel.distributions import ServiceTime, fit_phase_type
from qmodel.errors import InputError, OutOfRangeError

LAWS = {
    "deterministic": ServiceTime.deterministic(0.4),
    "exponential": ServiceTime.exponential(0.4),
    "erlang": ServiceTime.erlang(3, 0.4),
    "gamma": ServiceTime.gamma(0.4, 2.5),
    "hypoexponential": ServiceTime.hypoexponential(0.1, 0.3),
    "hyperexponential": ServiceTime.hyperexponential([0.8, 0.2], [0.2, 1.2]),
    "lognormal": ServiceTime.lognormal(0.4, 2.0),
    "truncated lognormal": ServiceTime.lognormal(0.4, 2.0, upper_s=3.0),
    "samples": ServiceTime.from_samples([0.1, 0.3, 0.3, 2.0], [1, 2, 1, 0.5]),
    "mixture": ServiceTime.mixture([0.5, 0.5], [ServiceTime.deterministic(0.2), ServiceTime.exponential(1.0)]),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_moments_follow_from_the_tail(law):
    edges = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0, 3.0, 10.0, 60.0, 400.0, 1e4]
    for order in (1, 2, 3):
        pieces = [
            quad(lambda t, n=order: n * t ** (n - 1) * float(law.tail(t)), a, b, epsabs=1e-13, limit=200)[0]
            for a, b in itertools.pairwise(edges)
        ]
        assert math.fsum(pieces) == pytest.approx(law.moment(order), rel=1e-6)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_residual_life_integrates_the_tail(law):
    for start in (0.0, 0.15, 0.9):
        edges = [start, *[e for e in (0.2, 0.3, 0.4, 1.0, 2.0, 3.0, 10.0, 60.0, 400.0) if e > start]]
        area = math.fsum(
            quad(lambda u: float(law.tail(u)), a, b, epsabs=1e-13, limit=200)[0] for a, b in itertools.pairwise(edges)
        )
        assert float(law.tail_integral(start)) == pytest.approx(area, abs=1e-6 * law.mean_s)
    assert float(law.residual_tail(0.0)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_transform_has_the_right_derivatives(law):
    h = 1e-4 / law.mean_s
    assert float(law.laplace(0.0).real) == pytest.approx(1.0, rel=1e-12)
    slope = float((1 - law.laplace(h)).real) / h
    assert slope == pytest.approx(law.mean_s - h * law.moment(2) / 2, rel=1e-5)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_samples_have_the_law(law):
    drawn = law.sample(40_000, np.random.default_rng(3))
    assert drawn.mean() == pytest.approx(law.mean_s, abs=5 * math.sqrt(law.scv / 40_000) * law.mean_s + 1e-12)
    for t in (0.15, 0.5, 1.5):
        p = float(law.tail(t))
        assert (drawn > t).mean() == pytest.approx(p, abs=5 * math.sqrt(max(p * (1 - p), 1e-12) / 40_000) + 1e-12)
    assert drawn.max() <= law.upper_s


def test_scaling_scales():
    for law in LAWS.values():
        twice = law.scaled(2.0)
        assert twice.mean_s == pytest.approx(2 * law.mean_s, rel=1e-12)
        assert twice.scv == pytest.approx(law.scv, rel=1e-9, abs=1e-9)
        assert float(twice.tail(0.8)) == pytest.approx(float(law.tail(0.4)), rel=1e-9)


def test_no_exponential_moment_is_said():
    with pytest.raises(OutOfRangeError, match="bound the service times first"):
        ServiceTime.lognormal(1.0, 2.0).mgf(0.1)
    with pytest.raises(OutOfRangeError):
        ServiceTime.exponential(1.0).mgf(1.0)
    assert ServiceTime.exponential(1.0).mgf(0.5) == pytest.approx(2.0)
    assert ServiceTime.lognormal(1.0, 2.0, upper_s=20.0).mgf(0.1) > 1.0


@pytest.mark.parametrize("moments", [(1.0, 1.8), (2.0, 4.0), (0.3, 1.0), (1.0, 0.7), (5.0, 0.5)])
def test_phase_type_fit_keeps_two_moments(moments):
    mean, scv = moments
    fit = fit_phase_type(ServiceTime.gamma(mean, scv)).law
    assert fit.mean_s == pytest.approx(mean, rel=1e-9)
    assert fit.scv == pytest.approx(scv, rel=1e-6)


def test_three_moment_fit_recovers_its_own_law():
    law = ServiceTime.hyperexponential([0.8, 0.2], [0.2, 1.2])
    values = np.concatenate([law.sample(10, np.random.default_rng(0)), [0.0]])
    assert fit_phase_type(law).moments_matched == 0
    fit = fit_phase_type(ServiceTime.gamma(1.0, 3.0)).law
    assert fit.moment(3) == pytest.approx(ServiceTime.gamma(1.0, 3.0).moment(3), rel=1e-9)
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: ServiceTime.from_samples([]),
        lambda: ServiceTime.from_samples([1.0, -2.0]),
        lambda: ServiceTime.from_samples([1.0, math.nan]),
        lambda: ServiceTime.from_samples([0.0, 0.0]),
        lambda: ServiceTime.from_samples([1.0], [0.0]),
        lambda: ServiceTime.from_samples([1.0, 2.0], [1.0]),
        lambda: ServiceTime.deterministic(0.0),
        lambda: ServiceTime.exponential(math.inf),
        lambda: ServiceTime.erlang(0, 1.0),
        lambda: ServiceTime.hyperexponential([0.5, 0.6], [1.0, 2.0]),
        lambda: ServiceTime.hyperexponential([0.5], [1.0, 2.0]),
        lambda: ServiceTime.lognormal(1.0, -1.0),
    ],
)
def test_absurd_laws_are_refused(build):
    with pytest.raises(InputError):
        build()


@pytest.mark.parametrize("q", [0.0, 0.05, 0.5, 0.7, 0.99])
@pytest.mark.parametrize(
    "law",
    [
        ServiceTime.gamma(1.0, 0.4),
        ServiceTime.lognormal(2.0, 3.0, upper_s=20.0),
        ServiceTime.from_samples([1.0, 2.0, 5.0], [5, 2, 3]),
        ServiceTime.mixture([0.5, 0.5], [ServiceTime.deterministic(1.0), ServiceTime.exponential(2.0)]),
    ],
    ids=repr,
)
def test_quantiles_invert_the_law(law, q):
    t = law.quantile_s(q)
    assert law.cdf(t) >= q - 1e-12
    assert t == 0 or law.cdf(t * (1 - 1e-9)) < q + 1e-9 or q == 0
    assert law.std_s == pytest.approx((law.moment(2) - law.mean_s**2) ** 0.5)


def test_moments_of_any_order_and_no_other():
    law = ServiceTime.exponential(2.0)
    assert [law.moment(n) for n in (0, 4)] == pytest.approx([1.0, 24 * 16.0])
    with pytest.raises(InputError, match="order of a moment is -1"):
        law.moment(-1)  # it is infinite


def test_a_fit_says_how_well_it_fits():
    law = ServiceTime.hyperexponential([0.7, 0.3], [0.5, 3.0])
    assert max(map(abs, fit_phase_type(law).misfit(law).values())) < 1e-12
    heavy = ServiceTime.lognormal(1.0, 2.0, upper_s=30.0)
    found = fit_phase_type(heavy).misfit(heavy)
    assert [found[name] for name in ("mean", "scv", "third_moment")] == pytest.approx([0, 0, 0], abs=1e-9)
    grid = np.linspace(0, 30, 300_001)
    assert found["tail"] == pytest.approx(
        np.abs(fit_phase_type(heavy).law.tail(grid) - heavy.tail(grid)).max(), rel=1e-3
    )
    regular = ServiceTime.from_samples([0.0, 2.0], [0.4, 0.6])  # two moments alone, and a jump at 0
    fit = fit_phase_type(regular)
    assert abs(fit.misfit(regular)["third_moment"]) > 0.01
    assert fit.misfit(regular)["tail"] == pytest.approx(0.6 - float(fit.law.tail(2.0)), rel=1e-9)


def test_a_law_shows_what_it_is_in_one_line():
    assert repr(ServiceTime.lognormal(2.0, 1.5, upper_s=30.0)).startswith("ServiceTime(lognormal, mean_s=1.9")
    assert len(repr(ServiceTime.from_samples(np.arange(1.0, 500.0)))) < 100

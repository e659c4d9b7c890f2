"""Whatever is given in place of an argument, every law answers or raises one QModelError."""

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
    fit_phase_type,
    measured_dispersion,
)
from qmodel.errors import QModelError

ONE = ServiceTime.exponential(1.0)
GOOD = {
    "deterministic": (ServiceTime.deterministic, (1.0,)),
    "erlang": (ServiceTime.erlang, (2, 1.0)),
    "exponential": (ServiceTime.exponential, (1.0,)),
    "from_samples": (ServiceTime.from_samples, ([1.0, 2.0], [0.5, 0.5])),
    "gamma": (ServiceTime.gamma, (1.0, 2.0)),
    "hyperexponential": (ServiceTime.hyperexponential, ([0.5, 0.5], [1.0, 2.0])),
    "hypoexponential": (ServiceTime.hypoexponential, (1.0, 2.0)),
    "lognormal": (ServiceTime.lognormal, (1.0, 2.0, 9.0)),
    "mixture": (ServiceTime.mixture, ([0.5, 0.5], [ONE, ONE])),
    "scaled": (ONE.scaled, (2.0,)),
    "mgf": (ONE.mgf, (0.5,)),
    "moment": (ONE.moment, (4,)),
    "tail": (ONE.tail, ([0.5, 1.0],)),
    "quantile": (ONE.quantile_s, (0.5,)),
    "laplace": (ONE.laplace, (0.5,)),
    "service times": (ONE.sample, (3, np.random.default_rng(0))),
    "two phases": (fit_phase_type, (ONE,)),
    "dispersion": (measured_dispersion, (np.arange(200.0) ** 1.01,)),
    "Poisson": (lambda rate: PoissonArrivals(rate_per_s=rate), (1.0,)),
    "MMPP": (lambda rates, switch: MmppArrivals(rates_per_s=rates, switch_per_s=switch), ((1.0, 2.0), (0.1, 0.2))),
    "renewal": (lambda gap: RenewalArrivals(gap=gap), (ONE,)),
    "renewal gamma": (RenewalArrivals.gamma, (1.0, 2.0)),
    "renewal hyperexponential": (RenewalArrivals.hyperexponential, (1.0, 2.0)),
    "windows": (
        lambda edges, rates: WindowedArrivals(edges_s=edges, rates_per_s=rates),
        (np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0])),
    ),
    "windows of times": (WindowedArrivals.from_times, ([0.0, 1.0, 2.0], 1.0)),
    "arrivals in a window": (PoissonArrivals(rate_per_s=1.0).idc, (1.0,)),
    "number of arrivals": (lambda count: PoissonArrivals(rate_per_s=1.0).sample(count, np.random.default_rng(0)), (3,)),
    "fit to indices": (fit_mmpp, (1.0, 2.0, [1.0, 10.0], [1.5, 2.0])),
    "fit to times": (fit_arrivals, (np.arange(200.0) ** 1.01,)),
}
CASES = [(name, place) for name, (_, good) in GOOD.items() for place in range(len(good))]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_wrong_argument_is_one_error(name, place):
    function, good = GOOD[name]
    function(*good)
    for wrong in ("a", object(), 1 + 2j, [], {}, np.nan, -np.inf, [[1.0]], b"1", 10**400):
        try:
            function(*good[:place], wrong, *good[place + 1 :])
        except QModelError as error:
            assert "must be" in str(error)


@pytest.mark.parametrize(
    "law", [ONE, PoissonArrivals(rate_per_s=1.0), MmppArrivals(rates_per_s=(1, 2), switch_per_s=(1, 1))]
)
def test_a_seed_in_place_of_a_generator_says_what_to_pass(law):
    with pytest.raises(QModelError, match=r"default_rng\(seed\)"):
        law.sample(10, 0)

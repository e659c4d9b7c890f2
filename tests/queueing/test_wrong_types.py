"""Whatever is given in place of an argument, every function of qmodel.queueing answers or raises one QModelError."""

import inspect

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmodel import queueing
from qmodel.errors import InputError, QModelError
from qmodel.queueing import RenewalArrivals, ServiceTime, mmk

ONE = ServiceTime.exponential(1.0)
GOOD = {
    "approximate": (1.2, 2, ONE, "lee-longton"),
    "busy_period": (0.5, 1, ONE),
    "compare_methods": (1.2, 2, ONE),
    "decode_batch": (5.0, 20.0, 0.01, 8),
    "departure_scv": (0.7, 1, ONE, 1.0),
    "erlang_b": (2, 1.0),
    "erlang_c": (2, 1.0),
    "fcfs_link": (0.5, ONE, 0.1, 1),
    "ggk": (RenewalArrivals.gamma(0.8, 2.0), 1, ONE),
    "ggk_bounds_s": (RenewalArrivals.gamma(0.8, 2.0), 1, ONE),
    "ggk_lower_bound_s": (RenewalArrivals.gamma(0.8, 2.0), 1, ONE),
    "heavy_traffic_mean_s": (0.5, 1.0, 1, 1.0, 1.0),
    "kiefer_wolfowitz": ([0.0, 1.0], [1.0, 1.0], 1),
    "daley_bound_s": (0.5, 1.0, 1, 1.0, 1.0),
    "kingman_bound_s": (0.5, 1.0, 1, 1.0, 1.0),
    "whitt_bound_s": (0.5, 1.0, 1, 1.0, 1.0),
    "least_servers": (0.5, ONE),
    "lundberg_rate": (0.5, 1, ONE),
    "map_k": ([[-1.0]], [[1.0]], 2, ONE),
    "mgk": (1.2, 2, ONE, "auto"),
    "mgk_balking": ([0.5, 0.2], [1.0, 2.0], [3.0, 1.0], 1),
    "mmk": (0.5, 1, 1.0),
    "mmkn": (0.5, 1, 3, 1.0),
    "mmpp_k": ([0.2, 0.6], [1.0, 1.0], 1, ONE),
    "mtgk": ([0.0, 60.0], [0.5], ONE, 1),
    "priced_thresholds": ([0.1], [0.2], [0.0], 1.0, 1.0, 0.0),
    "queue_length_tail": (mmk(0.5, 1, 1.0), [0, 1]),
    "shared_link": (0.5, ONE, 0.1),
    "sojourn_quantile_s": (mmk(0.5, 1, 1.0), ONE, 0.9),
    "sojourn_tail": (mmk(0.5, 1, 1.0), ONE, [0.5, 1.0]),
    "two_pools": ([2.0, 0.4], [0.2, 1.0], [0.3, 2.5], [0.5, 2.0]),
    "two_pools_over_time": ([0.0, 5.0], [[2.0, 0.4]], [0.2, 1.0], [0.3, 2.5], [0.5, 2.0]),
}
WRONG = st.one_of(
    st.sampled_from([None, object(), {}, [], [1.0, None], ["a"], np.array([1.0, 2.0, 3.0]), 10**400]),
    st.sampled_from(
        [np.nan, np.inf, -np.inf, -1.0, [[1.0, 2.0], [3.0, 4.0]], [np.nan], ONE, "2", b"2", np.zeros((0, 2))]
    ),
    st.text(max_size=5),
    st.complex_numbers().filter(lambda z: z.imag != 0),
)
CASES = [
    (name, place)
    for name, good in GOOD.items()
    for place in range(len(good))
    # The fits belong to the distributions; answers to strange numbers of these two take long.
    if (name, place) != ("two_pools_over_time", 0)
]


def test_every_function_is_tried():
    functions = {name for name in queueing.__all__ if inspect.isfunction(getattr(queueing, name))}
    assert functions - {"fit_arrivals", "fit_mmpp", "fit_phase_type", "measured_dispersion"} == GOOD.keys()


@pytest.mark.parametrize(("name", "place"), CASES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(wrong=WRONG)
def test_a_wrong_argument_is_one_error(name, place, wrong):
    arguments = list(GOOD[name])
    arguments[place] = wrong
    options = {"cells": 24} if name.startswith("two_pools") else {}
    options |= {"mean_wait_s": 1.0} if name == "least_servers" else {}
    try:
        getattr(queueing, name)(*arguments, **options)
    except QModelError as error:
        assert "must be" in str(error)


@pytest.mark.parametrize("servers", [None, "2", 1 + 2j, [1, 2], object(), np.nan])
@pytest.mark.parametrize(
    "name", [name for name, good in GOOD.items() if "servers" in inspect.signature(getattr(queueing, name)).parameters]
)
def test_servers_are_a_number(name, servers):
    function = getattr(queueing, name)
    arguments = inspect.signature(function).bind(*GOOD[name]).arguments | {"servers": servers}
    with pytest.raises(InputError, match=r"servers is .* must be"):
        function(**arguments)


@pytest.mark.parametrize("target", ["wait_s", "late_share", "mean_wait_s", "utilisation"])
@pytest.mark.parametrize("wrong", ["a", object(), [0.5], 1j, np.nan, -1.0, np.inf, {}])
def test_targets_are_numbers_in_range(target, wrong):
    targets = {"wait_s": 1.0, "late_share": 0.2, "mean_wait_s": 1.0, "utilisation": 0.8} | {target: wrong}
    with pytest.raises(InputError, match=f"{target} is .* must be"):
        queueing.least_servers(0.5, ONE, **targets)


@pytest.mark.parametrize("wrong", [None, "a", [0.5], 1j])
def test_levels_and_times_are_numbers(wrong):
    with pytest.raises(InputError, match="must be"):
        mmk(0.5, 1, 1.0).wait_quantile_s(wrong)
    if not isinstance(wrong, list):
        with pytest.raises(InputError, match="must be"):
            mmk(0.5, 1, 1.0).wait_tail(wrong)

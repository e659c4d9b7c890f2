import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmodel.errors import InfeasibleError, InputError, QModelError
from qmodel.units import format_duration, parse_bandwidth_gb_s, parse_duration_s, parse_rate_per_s


@pytest.mark.parametrize(
    ("text", "seconds"), [("60ms", 0.06), ("1s", 1.0), ("2 min", 120.0), ("1e3us", 1e-3), (".5h", 1800.0)]
)
def test_durations_with_units(text, seconds):
    assert parse_duration_s(text) == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize("text", ["5", "", "ms", "-1s", "0s", "nan s", "infs", "1 parsec", "1e400s", "60m s"])
def test_durations_that_are_refused(text):
    with pytest.raises(InputError, match="--tbt-slo"):
        parse_duration_s(text, "--tbt-slo")


@pytest.mark.parametrize(("text", "per_s"), [("30/s", 30.0), ("120/min", 2.0), ("3600/h", 1.0)])
def test_rates_with_units(text, per_s):
    assert parse_rate_per_s(text) == pytest.approx(per_s, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "gb_s"), [("25GB/s", 25.0), ("200 Gb/s", 25.0), ("100Gbps", 12.5), ("500MB/s", 0.5), ("1e2GB/s", 100.0)]
)
def test_bandwidths_with_units(text, gb_s):
    assert parse_bandwidth_gb_s(text) == pytest.approx(gb_s, rel=1e-15)


@pytest.mark.parametrize("text", ["25", "", "GB/s", "-1GB/s", "0Gb/s", "25 GiB/s", "1e400GB/s"])
def test_bandwidths_that_are_refused(text):
    with pytest.raises(InputError, match="unit"):
        parse_bandwidth_gb_s(text)


@given(st.text(max_size=12))
def test_any_text_gives_a_duration_or_an_input_error(text):
    try:
        value = parse_duration_s(text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert math.isfinite(value)
        assert value > 0


def test_durations_for_people():
    assert [format_duration(x) for x in (0.0, 5e-7, 0.0123, 1.5, 40496.0)] == [
        "0 ms", "0.5 us", "12.3 ms", "1.5 s", "40,496 s",
    ]  # fmt: skip


def test_messages_hold_what_value_limit_and_remedy_on_one_line():
    error = InputError("load", -1, "finite\nand > 0", "give e.g. 0.9")
    assert str(error) == "load is -1; it must be finite and > 0; give e.g. 0.9"
    assert isinstance(error, QModelError)
    assert (error.exit_code, InfeasibleError("x").exit_code) == (2, 1)

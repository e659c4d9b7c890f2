"""The roofline law against its own formulas and against a table of steps worked out by hand."""

import pytest

from qmodel.errors import InputError
from qmodel.laws.roofline import RooflineLaw


def small():
    return RooflineLaw.of_transformer(
        layers=1, hidden=2, heads=1, head_dim=2, feed_forward=3, value_bytes=2, prefill_flops_per_s=100.0,
        decode_flops_per_s=50.0, bytes_per_s=10.0,
    )  # fmt: skip


def test_compute_bound_prompt_by_hand():
    # A token: 2*(4 + 2*2*2) + 2*4 + 2*2 + 4*2*3 = 60 operations, a pair 4*2 + 5 = 13; 3 tokens after 2 done see
    # contexts of 2 + 1 on average: 3*60 + 13*3*3 = 297 operations, 2.97 s.
    law = small()
    assert law.step_time_s(0, 0, 3, 3 * (2 + 1.5), 2) == pytest.approx(max(2.97, memory(3, 5)))


def memory(new, seen):
    """Bytes over bandwidth: weights (2*(2+4) + 4 + 12)*2, caches 2*2*2 a token seen, activations 4 a new token."""
    return ((2 * (2 + 4) + 4 + 12) * 2 + 8 * seen + 4 * new) / 10


def test_memory_bound_decode_by_hand():
    law = small()
    # One decode request with 4 tokens of context: 60 + 13*4 operations at 50/s against its bytes.
    assert law.step_time_s(1, 4) == pytest.approx(max((60 + 52) / 50, memory(1, 5)))


def test_negative_coefficients_are_refused():
    with pytest.raises(InputError):
        RooflineLaw(memory_constant_s=-1.0)

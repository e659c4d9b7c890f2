from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmodel.errors import InputError
from qmodel.laws import LinearLaw, PNormLaw

LAW = PNormLaw(t0_s=4.662e-3, w_s=6.73e-3, c_s=5.597e-5, p=1.841, context_s=8.182e-8, attention_s=2.866e-9)


def written_out(law, B, K, n, q, r):
    """The formula of the docstring, term by term."""
    m = B + n
    touched = 1 - (1 - law.expert_share) ** m if law.expert_share else 1.0
    joint = ((law.w_s * m**law.a * touched) ** law.p + (law.c_s * m) ** law.p) ** (1 / law.p)
    reduced, points = 0.0, list(zip(law.allreduce_tokens, law.allreduce_s, strict=True))
    if points:  # held before the first point, on the segment that m lies in, and on the last one beyond it
        inside = [pair for pair in pairwise(points) if pair[0][0] <= max(m, points[0][0])]
        (m1, t1), (m2, t2) = inside[-1]
        reduced = t1 + (max(m, points[0][0]) - m1) / (m2 - m1) * (t2 - t1)
    risen = np.interp(m, [law.jump_from_tokens, law.jump_to_tokens], [0.0, 1.0]) if law.jump_s else 0.0
    kernels = (
        law.t0_s + law.jump_s * risen + reduced + joint + law.context_s * K + law.attention_s * q + law.reload_s * r
    )
    return max(law.floor_s + law.floor_per_request_s * B, law.gain * kernels)


@given(
    B=st.integers(1, 256),
    ctx=st.integers(1, 8192),
    n=st.integers(0, 8192),
    done=st.integers(0, 16384),
    a=st.floats(0, 0.9),
    p=st.floats(1, 8),
    gain=st.floats(0.5, 3),
    floor=st.floats(0, 0.1),
    share=st.sampled_from([0.0, 6 / 64, 0.25]),
    jump=st.sampled_from([0.0, 4e-3]),
    points=st.sampled_from([((), ()), ((16.0, 100.0), (1e-3, 2e-3)), ((64.0, 256.0, 1000.0), (2e-3, 9e-3, 2e-2))]),
)
def test_p_norm_law_is_its_formula(B, ctx, n, done, a, p, gain, floor, share, jump, points):
    law = PNormLaw(
        t0_s=1e-3, w_s=5e-3, c_s=4e-5, a=a, p=p, context_s=5e-8, attention_s=2e-9, reload_s=5e-7,
        gain=gain, floor_s=floor, floor_per_request_s=1e-5,
        expert_share=share, jump_s=jump, jump_from_tokens=128.0, jump_to_tokens=320.0,
        allreduce_tokens=points[0], allreduce_s=points[1],
    )  # fmt: skip
    q, r = n * (done + n / 2), done * (n > 0)
    got = law.step_time_s(B, B * ctx, n, q, r)
    assert got == pytest.approx(written_out(law, B, B * ctx, n, q, r), rel=1e-12)


@given(B=st.integers(1, 200), K=st.integers(0, 300_000), n=st.integers(0, 4096), more=st.integers(1, 500))
def test_step_time_grows_with_every_sum(B, K, n, more):
    base = LAW.step_time_s(B, K, n, n * n / 2)
    assert LAW.step_time_s(B + more, K, n, n * n / 2) > base
    assert LAW.step_time_s(B, K + more, n, n * n / 2) > base
    assert LAW.step_time_s(B, K, n + more, n * n / 2) > base


@given(x=st.floats(1, 5000), y=st.floats(1, 5000), share=st.floats(0, 1))
def test_dense_law_is_convex_in_tokens(x, y, share):
    middle = LAW.base_s(share * x + (1 - share) * y)
    assert middle <= share * LAW.base_s(x) + (1 - share) * LAW.base_s(y) + 1e-15


def test_large_p_is_the_roofline():
    law = PNormLaw(t0_s=0.0, w_s=8e-3, c_s=5e-5, p=200.0)
    tokens = np.array([1.0, 50.0, 400.0, 4000.0])
    np.testing.assert_allclose(law.base_s(tokens), np.maximum(8e-3, 5e-5 * tokens), rtol=5e-3)


@pytest.mark.parametrize("tokens", [1, 3, 10, 40])
def test_share_of_experts_read_is_that_of_random_choices(tokens):
    """Oracle: draw two of eight experts for each token, as a balanced router does, and count the distinct ones."""
    rng = np.random.default_rng(3)
    runs = 4000
    touched = np.zeros((runs, 8), dtype=bool)
    for _ in range(tokens):
        chosen = rng.random((runs, 8)).argsort(axis=1)[:, :2]
        np.put_along_axis(touched, chosen, True, axis=1)
    share = PNormLaw(t0_s=0.0, w_s=1.0, c_s=0.0, expert_share=2 / 8).base_s(tokens)
    assert share == pytest.approx(touched.mean(), abs=5 * 0.25 / np.sqrt(runs))


def test_kernels_hold_the_same_law():
    """The table over B + n that kernels look up is the law without context, whatever its terms."""
    from qmodel._kernels import laws as kernel_laws
    from qmodel._kernels.law_tables import canonical

    law = PNormLaw(
        t0_s=1e-3, w_s=5e-3, c_s=4e-5, a=0.1, p=2.5, context_s=5e-8, attention_s=2e-9, reload_s=5e-7, gain=1.2,
        floor_s=8e-3, floor_per_request_s=1e-5, expert_share=0.25, jump_s=4e-3, jump_from_tokens=128.0,
        jump_to_tokens=320.0, allreduce_tokens=(8.0, 128.0, 512.0), allreduce_s=(1e-3, 3e-3, 2e-2),
    )  # fmt: skip
    coef, base = canonical(law.kernel_params(), 1024)
    for B, K, n, q, r in ((1, 100, 0, 0, 0), (9, 9000, 119, 7000, 50), (64, 1e5, 300, 1e5, 900), (0, 0, 1023, 5e5, 0)):
        got = kernel_laws.law_time(coef[None], base[None], 0, B, float(K), n, float(q), float(r))
        assert got == pytest.approx(law.step_time_s(B, K, n, q, r), rel=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"w_s": -1e-3},
        {"p": 0.5},
        {"c_s": float("nan")},
        {"gain": float("inf")},
        {"expert_share": 1.0},
        {"jump_s": 1e-3, "jump_from_tokens": 512.0, "jump_to_tokens": 256.0},
        {"allreduce_tokens": (1.0, 2.0), "allreduce_s": (1e-3,)},
        {"allreduce_tokens": (1.0,), "allreduce_s": (1e-3,)},
        {"allreduce_tokens": (2.0, 2.0), "allreduce_s": (1e-3, 1e-3)},
        {"allreduce_tokens": (1.0, 2.0), "allreduce_s": (1e-3, -1e-3)},
        {"allreduce_tokens": (1.0, 2.0), "allreduce_s": (1e-3, float("nan"))},
    ],
)
def test_bad_coefficients_are_refused(change):
    with pytest.raises(InputError, match="law coefficient"):
        PNormLaw(**({"t0_s": 0.0, "w_s": 1e-3, "c_s": 1e-5} | change))


def test_linear_law_is_its_formula():
    law = LinearLaw(alpha_s=1e-2, batch_s=1e-4, context_s=1e-7, prompt_s=5e-5, attention_s=1e-9)
    assert law.step_time_s(10, 1000, 200, 3e4) == pytest.approx(1e-2 + 1e-3 + 1e-4 + 1e-2 + 3e-5)
    assert law.kernel_params()[:6].tolist() == [1.0, 1e-2, 1e-4, 1e-7, 5e-5, 1e-9]

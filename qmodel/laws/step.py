"""Step-time laws: how long one engine step takes, from the tokens it carries.

A law sees a step through five sums, so that one law serves decode steps, chunk-hosting steps and packed prefill
steps alike (DESIGN of the project, section 2):

    batch      B   decode requests in the step, one token each
    context    K   tokens of context of those decode requests, summed
    prompt     n   prompt tokens of all chunks in the step, sum of chi_i
    quadratic  q   sum of chi_i * (done_i + chi_i / 2), the attention work of the chunks
    reloaded   r   sum of done_i over chunks with chi_i > 0, tokens whose cached latents are read again
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError

__all__ = [
    "KERNEL_WIDTH",
    "KIND_LINEAR",
    "KIND_PNORM",
    "KIND_ROOFLINE",
    "FloatLike",
    "LinearLaw",
    "PNormLaw",
    "StepLaw",
    "check_coefficients",
    "curve_s",
]

FloatLike = float | npt.NDArray[np.float64]

KIND_PNORM, KIND_LINEAR, KIND_ROOFLINE = 0, 1, 2
KERNEL_WIDTH = 16  # numbers of `kernel_params` before the points of a curve


def check_coefficients(law: object, what: str = "law coefficient", remedy: str = "fit the law again") -> None:
    """Raise when a coefficient of a law is not finite and >= 0.

    Parameters
    ----------
    law : dataclass with slots
        Law.
    what : str
        What its numbers are called.
    remedy : str
        What to do about a bad one.

    Raises
    ------
    InputError
        With the coefficient's name and value.
    """
    for name in law.__slots__:  # type: ignore[attr-defined]  # every law is a dataclass with slots
        value = getattr(law, name)
        numbers = np.asarray(value, dtype=float)
        if not np.all(np.isfinite(numbers) & (numbers >= 0)):
            raise InputError(f"{what} {name}", value, "finite and >= 0", remedy)


def curve_s(tokens: npt.ArrayLike, at: tuple[float, ...], times_s: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return times [s] along a curve through points, held before the first and carried on beyond the last.

    Parameters
    ----------
    tokens : array_like
        Where.
    at, times_s : tuple of float
        Tokens, ascending, and times [s] of at least two points; without points the curve is 0.

    Returns
    -------
    ndarray
        Times [s], shape of `tokens`.
    """
    m = np.asarray(tokens, dtype=float)
    if not at:
        return np.zeros(m.shape)
    slope = (times_s[-1] - times_s[-2]) / (at[-1] - at[-2])
    return np.asarray(np.interp(m, at, times_s) + slope * np.maximum(m - at[-1], 0.0))


class StepLaw(Protocol):
    """Anything that says how long a step takes."""

    def step_time_s(
        self,
        batch: FloatLike,
        context: FloatLike,
        prompt: FloatLike = 0.0,
        quadratic: FloatLike = 0.0,
        reloaded: FloatLike = 0.0,
    ) -> FloatLike:
        """Return the step time [s] from the five sums of the module docstring; arrays broadcast."""
        ...

    def kernel_params(self) -> npt.NDArray[np.float64]:
        """Return 16 numbers, the kind of law and its coefficients, then points, as `_kernels.law_tables` reads them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PNormLaw:
    """Weights read against tokens multiplied, joined by a p-norm; *empirical*.

    T = max(o0 + o1*B, g*(t0 + [(w*m^a*D(m))^p + (c*m)^p]^(1/p) + j*J(m) + R(m) + cK*K + ca*q + cx*r)),   m = B + n
    D(m) = 1 - (1 - e)^m, 1 for e = 0;   J(m) = (m - m1)/(m2 - m1), held to [0, 1];   R through its points

    Parameters
    ----------
    t0_s : float
        Constant of a step [s].
    w_s : float
        Time to read the weights [s]: at one token, with `expert_share` those of every expert.
    a : float
        Growth of weights read with tokens: 0 for dense models, about 0.3 for mixtures of experts.
    c_s : float
        Compute time of one token [s].
    p : float
        Sharpness of the change from memory-bound to compute-bound, >= 1.
    context_s : float
        cK, time per token of decode context [s].
    attention_s : float
        ca, time per unit of the chunks' quadratic attention work [s/token^2].
    reload_s : float
        cx, time per reloaded token of chunk context [s].
    floor_s, floor_per_request_s : float
        o0 and o1, the host-bound floor of a step [s] and per decode request [s].
    gain : float
        g, engine time over kernel time.
    expert_share : float
        e, experts of one token over all: m tokens that choose at random read a share D(m) of the experts. 0 for
        dense models, and for mixtures whose reading m^a alone follows better.
    jump_s : float
        j, how much longer a step takes once kernels have changed algorithm [s]; all-reduces on A100 do at 2 to 4 MB.
    jump_from_tokens, jump_to_tokens : float
        m1 and m2, tokens between which they change.
    allreduce_tokens, allreduce_s : tuple of float
        Points of R, the step's all-reduces as measured [tokens, s]: straight between, held before the first, carried on
        beyond the last. Empty where the other terms have them.

    Notes
    -----
    Dense models (a = 0) without a jump are jointly convex in B, K and chi at fixed done.

    Examples
    --------
    >>> law = PNormLaw(t0_s=0.0, w_s=6.113e-3, a=0.3012, c_s=3.761e-5, p=5.93, context_s=4.736e-8)
    >>> round(law.step_time_s(40, 60_000), 6)
    0.021411
    """

    t0_s: float
    w_s: float
    c_s: float
    a: float = 0.0
    p: float = 1.0
    context_s: float = 0.0
    attention_s: float = 0.0
    reload_s: float = 0.0
    floor_s: float = 0.0
    floor_per_request_s: float = 0.0
    gain: float = 1.0
    expert_share: float = 0.0
    jump_s: float = 0.0
    jump_from_tokens: float = 0.0
    jump_to_tokens: float = 0.0
    allreduce_tokens: tuple[float, ...] = ()
    allreduce_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_coefficients(self)
        if self.p < 1:
            raise InputError("law coefficient p", self.p, ">= 1", "fit the law again")
        if self.expert_share >= 1:
            raise InputError("law coefficient expert_share", self.expert_share, "< 1", "0 for dense models")
        if self.jump_s > 0 and self.jump_to_tokens <= self.jump_from_tokens:
            limit = f"> jump_from_tokens, {self.jump_from_tokens:g}"
            raise InputError("law coefficient jump_to_tokens", self.jump_to_tokens, limit, "fit the law again")
        tokens, times = self.allreduce_tokens, self.allreduce_s
        if len(tokens) != len(times) or len(tokens) == 1 or any(b <= a for a, b in pairwise(tokens)):
            limit = "ascending, none or at least two, as many as allreduce_s"
            raise InputError("law coefficient allreduce_tokens", tokens, limit, "fit the law again")

    def base_s(self, tokens: FloatLike) -> FloatLike:
        """Return t0 + [(w*m^a*D)^p + (c*m)^p]^(1/p) + j*J + R [s] for m tokens; the larger term is factored out."""
        t0, w, a, c, p, e = self.t0_s, self.w_s, self.a, self.c_s, self.p, self.expert_share
        m = np.asarray(tokens, dtype=float)
        memory = w * m**a
        if e > 0:
            memory = memory * -np.expm1(m * np.log1p(-e))
        compute = c * m
        high = np.maximum(memory, compute)
        low = np.minimum(memory, compute)
        ratio = np.divide(low, high, out=np.zeros_like(high), where=high > 0)
        total = t0 + high * (1.0 + ratio**p) ** (1.0 / p)
        if self.jump_s > 0:
            m1, m2 = self.jump_from_tokens, self.jump_to_tokens
            total = total + self.jump_s * np.clip((m - m1) / (m2 - m1), 0.0, 1.0)
        if self.allreduce_tokens:
            total = total + self.allreduce_time_s(m)
        return float(total) if np.ndim(tokens) == 0 else total

    def allreduce_time_s(self, tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return R [s] at so many tokens; 0 without points."""
        return curve_s(tokens, self.allreduce_tokens, self.allreduce_s)

    def step_time_s(
        self,
        batch: FloatLike,
        context: FloatLike,
        prompt: FloatLike = 0.0,
        quadratic: FloatLike = 0.0,
        reloaded: FloatLike = 0.0,
    ) -> FloatLike:
        """Return the step time [s] from the five sums of the module docstring; arrays broadcast."""
        cK, ca, cx = self.context_s, self.attention_s, self.reload_s
        kernels = self.base_s(batch + prompt) + cK * context + ca * quadratic + cx * reloaded
        total = np.maximum(self.floor_s + self.floor_per_request_s * batch, self.gain * kernels)
        return float(total) if np.ndim(total) == 0 else total

    def kernel_params(self) -> npt.NDArray[np.float64]:
        """Return kind 0, t0, w, a, c, p, cK, ca, cx, o0, o1, g, e, j, m1, m2, then tokens and times of R's points."""
        return np.array([
            KIND_PNORM, self.t0_s, self.w_s, self.a, self.c_s, self.p, self.context_s, self.attention_s,
            self.reload_s, self.floor_s, self.floor_per_request_s, self.gain,
            self.expert_share, self.jump_s, self.jump_from_tokens, self.jump_to_tokens,
            *self.allreduce_tokens, *self.allreduce_s,
        ])  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLaw:
    """The linear law in common use, kept as a baseline; *empirical*.

    T = alpha + c0*B + c1*K + cpf*n + cattn*q

    Parameters
    ----------
    alpha_s : float
        Constant of a step [s].
    batch_s : float
        c0, time per decode request [s].
    context_s : float
        c1, time per token of decode context [s].
    prompt_s : float
        cpf, time per prompt token [s].
    attention_s : float
        cattn, time per unit of quadratic attention work [s/token^2].
    """

    alpha_s: float
    batch_s: float
    context_s: float
    prompt_s: float
    attention_s: float

    def __post_init__(self) -> None:
        check_coefficients(self)

    def step_time_s(
        self,
        batch: FloatLike,
        context: FloatLike,
        prompt: FloatLike = 0.0,
        quadratic: FloatLike = 0.0,
        reloaded: FloatLike = 0.0,
    ) -> FloatLike:
        """Return the step time [s] from the five sums of the module docstring; arrays broadcast."""
        del reloaded
        total = (
            self.alpha_s
            + self.batch_s * np.asarray(batch)
            + self.context_s * np.asarray(context)
            + self.prompt_s * np.asarray(prompt)
            + self.attention_s * np.asarray(quadratic)
        )
        return float(total) if np.ndim(total) == 0 else total

    def kernel_params(self) -> npt.NDArray[np.float64]:
        """Return shape (16,): kind 1, alpha, c0, c1, cpf, cattn."""
        out = np.zeros(KERNEL_WIDTH)
        out[:6] = (KIND_LINEAR, self.alpha_s, self.batch_s, self.context_s, self.prompt_s, self.attention_s)
        return out

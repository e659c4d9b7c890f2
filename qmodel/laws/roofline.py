"""Roofline law: a step takes the longer of its memory time and its compute time, both linear in the five sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.laws.step import KERNEL_WIDTH, KIND_ROOFLINE, FloatLike, check_coefficients

__all__ = ["RooflineLaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineLaw:
    """The larger of two affine functions of the five sums; *empirical*.

    T = max(m0 + mB*B + mK*K + mn*n + mr*r,  f0 + fB*B + fK*K + fn*n + fq*q)

    Parameters
    ----------
    memory_constant_s, memory_batch_s, memory_context_s, memory_prompt_s, memory_reload_s : float
        m0, mB, mK, mn, mr: time to move weights and caches [s], [s/token].
    compute_constant_s, compute_batch_s, compute_context_s, compute_prompt_s : float
        f0, fB, fK, fn: time to multiply [s], [s/token].
    compute_quadratic_s : float
        fq, per unit of the chunks' quadratic attention work [s/token^2].
    """

    memory_constant_s: float
    memory_batch_s: float = 0.0
    memory_context_s: float = 0.0
    memory_prompt_s: float = 0.0
    memory_reload_s: float = 0.0
    compute_constant_s: float = 0.0
    compute_batch_s: float = 0.0
    compute_context_s: float = 0.0
    compute_prompt_s: float = 0.0
    compute_quadratic_s: float = 0.0

    def __post_init__(self) -> None:
        check_coefficients(self, remedy="check the hardware numbers")

    @classmethod
    def of_transformer(
        cls,
        *,
        layers: int,
        hidden: int,
        heads: int,
        head_dim: int,
        feed_forward: int,
        value_bytes: int,
        prefill_flops_per_s: float,
        decode_flops_per_s: float,
        bytes_per_s: float,
    ) -> RooflineLaw:
        """Return the law of a dense multi-head transformer from its shape and a GPU's effective rates.

        Operations and bytes are counted as inference-sim (BLIS) does: per layer and new token the projections, the
        two matrices of the feed-forward block, attention over c tokens of context at 4*head_dim + 5 operations a
        head, and 2*hidden; bytes are the weights, keys and values of every token seen, and activations.

        Parameters
        ----------
        layers, hidden, heads, head_dim, feed_forward : int
            Shape of the model.
        value_bytes : int
            Bytes of a number.
        prefill_flops_per_s, decode_flops_per_s : float
            Effective compute rate for prompt and for decode tokens [1/s].
        bytes_per_s : float
            Memory bandwidth [bytes/s].
        """
        wide = heads * head_dim
        projections = hidden * hidden + 2 * hidden * wide
        token = layers * (2 * projections + 2 * hidden**2 + 2 * hidden + 4 * hidden * feed_forward)
        pair = layers * (4 * heads * head_dim + 5 * heads)
        weights = layers * (projections + hidden**2 + 2 * hidden * feed_forward) * value_bytes
        cache, activation = 2 * layers * wide * value_bytes, layers * hidden * value_bytes
        return cls(
            memory_constant_s=weights / bytes_per_s,
            memory_batch_s=(cache + activation) / bytes_per_s,
            memory_context_s=cache / bytes_per_s,
            memory_prompt_s=(cache + activation) / bytes_per_s,
            memory_reload_s=cache / bytes_per_s,
            compute_batch_s=token / decode_flops_per_s,
            compute_context_s=pair / decode_flops_per_s,
            compute_prompt_s=(token - pair / 2) / prefill_flops_per_s,
            compute_quadratic_s=pair / prefill_flops_per_s,
        )

    def step_time_s(
        self,
        batch: FloatLike,
        context: FloatLike,
        prompt: FloatLike = 0.0,
        quadratic: FloatLike = 0.0,
        reloaded: FloatLike = 0.0,
    ) -> FloatLike:
        """Return the step time [s] from the five sums of `laws.step`; arrays broadcast."""
        B, K, n, q, r = (np.asarray(x, dtype=float) for x in (batch, context, prompt, quadratic, reloaded))
        memory = self.memory_constant_s + self.memory_batch_s * B + self.memory_context_s * K
        memory = memory + self.memory_prompt_s * n + self.memory_reload_s * r
        compute = self.compute_constant_s + self.compute_batch_s * B + self.compute_context_s * K
        compute = compute + self.compute_prompt_s * n + self.compute_quadratic_s * q
        total = np.maximum(memory, compute)
        return float(total) if np.ndim(total) == 0 else total

    def kernel_params(self) -> npt.NDArray[np.float64]:
        """Return shape (16,): kind 2, then m0, mB, mK, mn, mq = 0, mr, f0, fB, fK, fn, fq, fr = 0."""
        out = np.zeros(KERNEL_WIDTH)
        out[:13] = (
            KIND_ROOFLINE, self.memory_constant_s, self.memory_batch_s, self.memory_context_s, self.memory_prompt_s,
            0.0, self.memory_reload_s, self.compute_constant_s, self.compute_batch_s, self.compute_context_s,
            self.compute_prompt_s, self.compute_quadratic_s, 0.0,
        )  # fmt: skip
        return out

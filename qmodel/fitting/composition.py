"""A step's time as the sum of its kernels: matrix products, attention, experts and all-reduces of every layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.fitting.curves import Array, Curve, Surface
from qmodel.fitting.models import BYTES, ModelShape
from qmodel.fitting.sources import KernelSource

__all__ = ["StepComposition", "compose"]

_LATENCY_BYTES = 65_536.0  # smaller messages take the same time whatever their size
_JUMP = 1.2  # time that grows this much faster than the message: another algorithm


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepComposition:
    """Kernels of one engine step of one model on `tp` GPUs; *empirical*, host time not included.

    Parameters
    ----------
    tokens : tuple of (float, Curve)
        How often each kernel over all tokens of the step runs, and its time.
    sampled : tuple of (float, Curve)
        Kernels over the tokens that are sampled (the head): one per decode request and one for a chunk.
    decoded : tuple of (float, Curve)
        Kernels over decode requests alone (absorbed projections of latent attention).
    chunked : tuple of (float, Curve)
        Kernels over a chunk's tokens alone.
    reloaded : tuple of (float, Curve)
        Kernels over the tokens already processed when a chunk runs (projection of cached latents).
    reduced : tuple of (float, Curve)
        All-reduces, against bytes; `reduced_bytes` bytes per token.
    reduced_bytes : float
        Bytes per token of one all-reduce.
    context, generation : Curve, Surface
        Attention of one layer for a prompt, and for decode requests.
    layers : int
        Layers.
    """

    tokens: tuple[tuple[float, Curve], ...]
    sampled: tuple[tuple[float, Curve], ...]
    decoded: tuple[tuple[float, Curve], ...]
    chunked: tuple[tuple[float, Curve], ...]
    reloaded: tuple[tuple[float, Curve], ...]
    reduced: tuple[tuple[float, Curve], ...]
    reduced_bytes: float
    context: Curve
    generation: Surface
    layers: int

    def step_time_s(
        self,
        batch: npt.ArrayLike,
        context_each: npt.ArrayLike,
        chunk: npt.ArrayLike = 0.0,
        done: npt.ArrayLike = 0.0,
    ) -> Array:
        """Return the kernel time of steps [s]; arguments broadcast.

        Parameters
        ----------
        batch : array_like
            Decode requests B.
        context_each : array_like
            Context of each of them, K/B [tokens].
        chunk, done : array_like
            Prompt tokens in the step, and those of the same prompt already processed.

        Returns
        -------
        ndarray
            Sum of kernel times [s].
        """
        b, c, chi, d = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (batch, context_each, chunk, done)))
        total = np.zeros(b.shape)
        reload_ = np.where(chi > 0, d, 0.0)
        for kernels, size in (
            (self.tokens, b + chi),
            (self.sampled, b + (chi > 0)),
            (self.decoded, b),
            (self.chunked, chi),
            (self.reloaded, reload_),
            (self.reduced, (b + chi) * self.reduced_bytes),
        ):
            for times, curve in kernels:
                total = total + times * curve(size)
        return total + self.layers * (self.generation(b, c) + self._chunk_attention(chi, d))

    def _chunk_attention(self, chi: Array, done: Array) -> Array:
        """Return the attention of one layer of a chunk: its share of the whole prompt's, full(s)*(s^2-done^2)/s^2.

        The tables were measured without a cached prefix. The chunk's own part runs as measured; the rectangle
        against the prefix has the same rate as a prompt of that length.
        """
        s = np.maximum(chi + done, 1.0)
        share = 1.0 - (done / s) ** 2
        return np.where(chi > 0, np.maximum(self.context(s) * share, self.context(chi)), 0.0)

    @property
    def jump_tokens(self) -> tuple[float, ...]:
        """Tokens between which the all-reduce changes algorithm: the steepest rise of its table, or () without one."""
        for _, curve in self.reduced:
            rise = np.where(curve.x[1:] >= _LATENCY_BYTES, curve.y_s[1:] / curve.y_s[:-1], 0.0)
            at = int(np.argmax(rise)) if len(rise) else 0
            if len(rise) and rise[at] >= _JUMP * curve.x[at + 1] / curve.x[at]:
                return float(curve.x[at] / self.reduced_bytes), float(curve.x[at + 1] / self.reduced_bytes)
        return ()

    @property
    def allreduce_points(self) -> tuple[tuple[float, float], ...]:
        """Points of all of a step's all-reduces [tokens, s] from one token on, as their table has them; () without."""
        return tuple(
            (float(size / self.reduced_bytes), float(times * time))
            for times, curve in self.reduced
            for size, time in zip(curve.x, curve.y_s, strict=True)
            if size >= self.reduced_bytes
        )

    def resampled(self, rng: np.random.Generator) -> StepComposition:
        """Return the composition with every kernel's table noise drawn anew.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.
        """

        def again(kernels: tuple[tuple[float, Curve], ...]) -> tuple[tuple[float, Curve], ...]:
            return tuple((times, curve.resampled(rng)) for times, curve in kernels)

        return replace(
            self,
            tokens=again(self.tokens),
            sampled=again(self.sampled),
            decoded=again(self.decoded),
            chunked=again(self.chunked),
            reloaded=again(self.reloaded),
            reduced=again(self.reduced),
            context=self.context.resampled(rng),
            generation=self.generation.resampled(rng),
        )


def compose(model: ModelShape, source: KernelSource, tp: int) -> StepComposition:
    """Return the kernels of a model's step on `tp` GPUs.

    Parameters
    ----------
    model : ModelShape
        Dimensions.
    source : KernelSource
        Kernel times.
    tp : int
        Tensor-parallel degree: 1, 2, 4 or 8, a divisor of the attention heads.

    Returns
    -------
    StepComposition
        Sum of kernels, ready to evaluate.

    Raises
    ------
    InputError
        When the model cannot be split `tp` ways, or the source lacks a kernel.
    """
    if tp < 1 or model.heads % tp:
        raise InputError("tp", tp, f"a divisor of {model.name}'s {model.heads} attention heads", "use 1, 2, 4 or 8")
    layers = float(model.layers)
    moe_layers = float(model.layers - model.dense_layers) if model.is_moe else 0.0
    tokens = [*_attention_gemms(model, source, tp), *_mlp(model, source, tp, layers - moe_layers, model.inter, "mlp")]
    tokens.append((layers, _elementwise(model, source, tp)))
    if moe_layers:
        tokens.append((moe_layers, source.experts(model, tp)))
        tokens.append((moe_layers, source.gemm("router", model.experts, model.hidden)))
        if model.shared_experts:
            inner = model.shared_experts * model.expert_inter
            tokens += _mlp(model, source, tp, moe_layers, inner, "shared experts")
    decoded, chunked, reloaded = _latent_parts(model, source, tp)
    reduced = ((2 * layers, source.all_reduce(tp)),) if tp > 1 else ()
    return StepComposition(
        tokens=tuple(tokens),
        sampled=((1.0, source.gemm("head", _split(model.vocab, tp), model.hidden)),),
        decoded=decoded,
        chunked=chunked,
        reloaded=reloaded,
        reduced=reduced,
        reduced_bytes=float(model.hidden * BYTES),
        context=source.context_attention(model, tp),
        generation=source.generation_attention(model, tp),
        layers=model.layers,
    )


def _elementwise(m: ModelShape, source: KernelSource, tp: int) -> Curve:
    """Return two fused add-and-norms, the rotation and the activation of one layer (experts activate inside)."""
    inner = m.inter if not m.is_moe else m.shared_experts * m.expert_inter
    heads = (m.heads + (1 if m.is_mla else m.kv_heads)) * (m.qk_rope or m.head_dim)
    norms = 2 * 4 * m.hidden
    activation = 3 * inner / tp
    rotation = 2 * heads / tp
    return source.elementwise("norms and activations", 3 + (inner > 0), BYTES * (norms + activation + rotation))


def _split(size: int, tp: int) -> int:
    return -(-size // tp)


def _attention_gemms(m: ModelShape, source: KernelSource, tp: int) -> list[tuple[float, Curve]]:
    layers = float(m.layers)
    if not m.is_mla:
        width = (m.heads // tp + 2 * max(1, m.kv_heads // tp)) * m.head_dim
        out = m.heads * m.head_dim // tp
        return [(layers, source.gemm("qkv", width, m.hidden)), (layers, source.gemm("o", m.hidden, out))]
    query = m.heads // tp * (m.qk_nope + m.qk_rope)
    latent = m.kv_lora + m.qk_rope
    gemms = [(layers, source.gemm("o", m.hidden, m.heads // tp * m.v_head))]
    if m.q_lora:
        gemms.append((layers, source.gemm("q_b", query, m.q_lora)))
        gemms.append((layers, source.gemm("q_a and kv_a", m.q_lora + latent, m.hidden)))
    else:
        gemms.append((layers, source.gemm("q", query, m.hidden)))
        gemms.append((layers, source.gemm("kv_a", latent, m.hidden)))
    return gemms


def _mlp(
    m: ModelShape, source: KernelSource, tp: int, layers: float, inner: int, role: str
) -> list[tuple[float, Curve]]:
    if not layers:
        return []
    wide = (2 if m.gated else 1) * _split(inner, tp)
    return [
        (layers, source.gemm(f"{role} up", wide, m.hidden)),
        (layers, source.gemm(f"{role} down", m.hidden, _split(inner, tp))),
    ]


Kernels = tuple[tuple[float, Curve], ...]


def _latent_parts(m: ModelShape, source: KernelSource, tp: int) -> tuple[Kernels, Kernels, Kernels]:
    """Return the kernels that latent attention adds: over decode requests, a chunk's tokens, reloaded tokens."""
    if not m.is_mla:
        return (), (), ()
    layers = float(m.layers)
    expand = source.gemm("kv_b", m.heads // tp * (m.qk_nope + m.v_head), m.kv_lora)
    return ((layers, source.latent_projection(m, tp)),), ((layers, expand),), ((layers, expand),)

"""KV-transfer law: a fixed hand-over plus bytes over effective bandwidth, optionally pipelined by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qmodel.errors import InputError
from qmodel.laws.step import FloatLike

__all__ = ["TransferLaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLaw:
    """Time to move a prompt's KV cache between two instances; *empirical*.

    X(L) = a + Y,  Y = b*m*ceil(L/m) / (eta * bw * gpus);  exposed when pipelined: a + max(Y/nl, Y - S*(nl - 1)/nl)

    Parameters
    ----------
    fixed_s : float
        a, hand-over time of one request [s].
    bytes_per_s : float
        eta * bw * gpus, effective rate of one instance's link [bytes/s].
    kv_bytes_per_token : float
        b, size of the cache of one token [bytes].
    layers : int
        nl, layers of the model.
    pipelined : bool
        Whether layers are sent while later ones are computed.
    block_tokens : int
        m, tokens of a block; whole blocks are sent.
    """

    fixed_s: float
    bytes_per_s: float
    kv_bytes_per_token: float
    layers: int = 1
    pipelined: bool = False
    block_tokens: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.fixed_s) and self.fixed_s >= 0):
            raise InputError("transfer fixed time [s]", self.fixed_s, "finite and >= 0", "give e.g. 0.001")
        if not (np.isfinite(self.bytes_per_s) and self.bytes_per_s > 0):
            raise InputError("bandwidth [bytes/s]", self.bytes_per_s, "finite and > 0", "give e.g. 25 GB/s")
        if not (np.isfinite(self.kv_bytes_per_token) and self.kv_bytes_per_token >= 0):
            raise InputError("KV bytes per token", self.kv_bytes_per_token, "finite and >= 0", "check the model")
        if not (isinstance(self.block_tokens, (int, np.integer)) and self.block_tokens >= 1):
            raise InputError("tokens of a KV block", self.block_tokens, "a whole number >= 1", "vLLM's default is 16")

    def link_time_s(self, prompt_tokens: FloatLike) -> FloatLike:
        """Return Y(L), the time the link is busy with `prompt_tokens` [tokens], without the fixed part [s]."""
        if self.block_tokens > 1:
            prompt_tokens = self.block_tokens * np.ceil(np.asarray(prompt_tokens, dtype=float) / self.block_tokens)
        y = self.kv_bytes_per_token * prompt_tokens / self.bytes_per_s
        return float(y) if np.ndim(y) == 0 else y

    def exposed_s(self, prompt_tokens: FloatLike, prefill_s: FloatLike = 0.0) -> FloatLike:
        """Return X(L), the time between the end of prefill and the cache being in place [s].

        Parameters
        ----------
        prompt_tokens : float or ndarray
            Tokens whose cache moves [tokens].
        prefill_s : float or ndarray, optional
            Execution time S of the prefill [s], used when pipelined.
        """
        y = self.link_time_s(prompt_tokens)
        if not self.pipelined:
            return self.fixed_s + y
        nl = self.layers
        exposed = self.fixed_s + np.maximum(y / nl, y - prefill_s * (nl - 1) / nl)
        return float(exposed) if np.ndim(exposed) == 0 else exposed

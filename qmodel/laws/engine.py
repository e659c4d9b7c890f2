"""What an engine adds to its kernels: a host-bound floor, a gain, and dearer batches of prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qmodel.errors import InputError
from qmodel.laws.step import FloatLike, PNormLaw, StepLaw, check_coefficients

__all__ = ["BATCH_REFERENCE_TOKENS", "EngineCorrection"]

BATCH_REFERENCE_TOKENS = 2048.0  # tokens of a step beyond which an unchunked batch costs more than its kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCorrection:
    """Engine time over kernel time, the same at every tensor-parallel degree; *empirical*.

    decode    max(o0 + o1*B, g*kernels)        prompts    max(f, gp*kernels) * [b*max(1, n/2048)]^e

    Parameters
    ----------
    floor_s, floor_per_request_s : float
        o0 and o1, host-bound time of a decode step [s] and of each decode request [s].
    gain : float
        g, decode step over its kernels.
    prefill_floor_s, prefill_gain : float
        f and gp, the same of a prefill step.
    batch_exponent : float
        e, super-linear growth of an unchunked batch of b prompts with n tokens; 0 for engines that bound the tokens
        of a step, whose laws it leaves as they are.
    """

    floor_s: float = 0.0
    floor_per_request_s: float = 0.0
    gain: float = 1.0
    prefill_floor_s: float = 0.0
    prefill_gain: float = 1.0
    batch_exponent: float = 0.0

    def __post_init__(self) -> None:
        check_coefficients(self, "engine correction", "calibrate again")

    def step_law(self, kernels: StepLaw) -> PNormLaw:
        """Return the decode law of the engine from that of its kernels.

        Parameters
        ----------
        kernels : PNormLaw
            Law without a correction.
        """
        law = _uncorrected(kernels)
        return replace(law, floor_s=self.floor_s, floor_per_request_s=self.floor_per_request_s, gain=self.gain)

    def prefill_law(self, kernels: StepLaw) -> PNormLaw:
        """Return the prefill law of the engine from that of its kernels.

        Parameters
        ----------
        kernels : PNormLaw
            Law without a correction.
        """
        law = _uncorrected(kernels)
        return replace(law, floor_s=self.prefill_floor_s, floor_per_request_s=0.0, gain=self.prefill_gain)

    def batch_factor(self, prompts: FloatLike, tokens: FloatLike) -> FloatLike:
        """Return [b*max(1, n/2048)]^e for b prompts with n tokens in one unchunked step.

        Parameters
        ----------
        prompts, tokens : float or ndarray
            Prompts b in the step, and their tokens n.
        """
        b, n = np.asarray(prompts, dtype=float), np.asarray(tokens, dtype=float)
        factor = (b * np.maximum(1.0, n / BATCH_REFERENCE_TOKENS)) ** self.batch_exponent
        return float(factor) if np.ndim(factor) == 0 else np.asarray(factor)


def _uncorrected(law: StepLaw) -> PNormLaw:
    if not isinstance(law, PNormLaw):
        limit = "a p-norm law, which has a floor and a gain"
        raise InputError("law to correct", type(law).__name__, limit, "calibrate with another family")
    if (law.floor_s, law.floor_per_request_s, law.gain) != (0.0, 0.0, 1.0):
        raise InputError("law to correct", "one that is corrected already", "a law of kernels alone")
    return law

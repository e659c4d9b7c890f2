"""Numbers that others published, or that their programs gave, with sources; figures show ours beside them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published"]

_KAIROS = "arXiv 2607.02043, abstract and public descriptions"
_PEERS = "their own programs on one core, run beforehand on another machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A number from elsewhere.

    Parameters
    ----------
    what : str
        What it says, in a few words.
    low, high : float
        The value, or the range it spans; equal for a single value.
    unit : str
        Unit; empty for a ratio.
    source : str
        Where it stands.
    """

    what: str
    low: float
    high: float
    unit: str
    source: str


PUBLISHED = {
    "flat_chunk_tokens": Published(
        what="chunk up to which a decode step grows little", low=512, high=512, unit="tokens", source=_KAIROS
    ),
    "flat_chunk_s": Published(
        what="growth of a decode step by a chunk of 512 tokens, at most", low=0.0, high=0.030, unit="s", source=_KAIROS
    ),
    "large_chunk_s": Published(
        what="growth of a decode step by a chunk of 2,048 tokens under the heavy panels, at least",
        low=0.200, high=0.200, unit="s", source=_KAIROS,
    ),
    "execution_share": Published(
        what="share of prefill execution in P95 TTFT, without deflection; queueing and KV transfer are the rest",
        low=0.02, high=0.23, unit="", source=_KAIROS,
    ),
    "p95_ttft_ratio": Published(
        what="P95 TTFT against the best scheduler that never deflects, at best", low=0.19, high=0.19, unit="",
        source=_KAIROS,
    ),
    "attainment_ratio": Published(
        what="SLO attainment against the best scheduler that never deflects, at best", low=1.79, high=1.79, unit="",
        source=_KAIROS,
    ),
    "decision_s": Published(what="one routing decision, at most", low=0.0, high=1e-3, unit="s", source=_KAIROS),
    "step_law_mape": Published(
        what="mean error of the analytical step model, at most", low=0.0, high=0.10, unit="", source=_KAIROS
    ),
    "engine_prompt_gain": Published(
        what="measured prompt time over composed kernels, median", low=1.30, high=1.30, unit="",
        source="Splitwise profiles (ISCA 24) of Llama-2-70B on A100, 2023 engine, against composed kernels",
    ),
    "engine_floor_s": Published(
        what="decode step that the host does not get below", low=0.042, high=0.046, unit="s",
        source="Splitwise profiles (ISCA 24) of Llama-2-70B on A100, 2023 engine",
    ),
    "blis_request_s": Published(
        what="BLIS, one simulated request at 2P2D", low=1 / 2000, high=1 / 1300, unit="s", source=_PEERS
    ),
    "vidur_request_s": Published(
        what="Vidur, one simulated request at 2P2D", low=1 / 165, high=1 / 165, unit="s", source=_PEERS
    ),
    "splitwise_sim_request_s": Published(
        what="splitwise-sim, one simulated request at 2P2D", low=1 / 76, high=1 / 76, unit="s", source=_PEERS
    ),
}  # fmt: skip

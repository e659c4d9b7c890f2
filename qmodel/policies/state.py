"""What a policy sees and says: the observed cluster, the arriving request, the chosen route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.laws.prefill import chunked_prefill_s
from qmodel.laws.step import StepLaw
from qmodel.policies.rule import Order, ThresholdRule

__all__ = [
    "CHUNKS",
    "UNAVAILABLE",
    "ClusterState",
    "KernelSpec",
    "Policy",
    "RequestView",
    "Route",
    "largest_safe_chunk",
]

FloatArray = npt.NDArray[np.float64]

DecodeChoice = Literal["prefilled", "arrival", "arrival_sent", "arrival_landed"]
CountUntil = Literal["finished", "last_step_starts"]

#: Work, tokens, requests or load that an instance shows while it is down.
UNAVAILABLE = 1e15

# What the words of a policy may be.
_KNOWN: dict[str, tuple[str, ...]] = {
    "order": get_args(Order),
    "wait": ("steps", "exact", "short"),
    "decode_choice": get_args(DecodeChoice),
    "count_until": get_args(CountUntil),
}

#: Candidate chunk sizes [tokens] that public descriptions of Kairos give.
CHUNKS = (2048, 1024, 512, 256, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """The request to be routed.

    Parameters
    ----------
    arrival_s : float
        When it arrived [s].
    prompt_tokens, cached_tokens : int
        Prompt length and the part of it found in a prefix cache [tokens].
    ttft_slo_s, tbt_slo_s : float
        Limits of its SLO class [s].
    """

    arrival_s: float
    prompt_tokens: int
    cached_tokens: int
    ttft_slo_s: float
    tbt_slo_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request's prefill runs.

    Parameters
    ----------
    pool : {"prefill", "decode"}
        Default path or deflected.
    instance : int
        Instance within the pool, from 0.
    host_s : float
        Host time of a deflected prompt there, as the policy estimates it [s]; others see it as work that waits.
    decode_instance : int, optional
        Decode instance of a request on the default path, from 0; it counts as load there as the policy's
        `decode_choice` says, with "prefilled" from its transfer on. Without it the simulator takes the one with the
        fewest requests.
    """

    pool: Literal["prefill", "decode"]
    instance: int
    host_s: float = 0.0
    decode_instance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClusterState:
    """The cluster as the router observes it, and the laws it estimates with.

    Parameters
    ----------
    time_s : float
        Time of the decision [s].
    prefill_work_s : ndarray, shape (k,)
        w, outstanding work per prefill instance: W of what waits and the rest of the running step [s].
    prefill_tokens : ndarray, shape (k,)
        Prompt tokens not yet computed there, those of the running step included [tokens].
    prefill_requests : ndarray, shape (k,)
        Requests there, waiting or running.
    link_free_s : ndarray, shape (k,)
        When the outgoing link has sent what is booked on it [s].
    deflected_work_s : ndarray, shape (d,)
        v, host time of deflected prompts at admission less what is done, and the rest of a hosting step [s].
    batch, context_tokens : ndarray, shape (d,)
        Resident requests and their context after the last finished step [tokens].
    hosting : ndarray of bool, shape (d,)
        Whether a deflected prompt waits or runs there.
    decode_requests : ndarray, shape (d,)
        Resident, waiting and incoming requests.
    step_rest_s : ndarray, shape (d,)
        Rest of the step in progress [s].
    strictest_tbt_s : ndarray, shape (d,)
        Strictest TBT SLO among the residents [s], inf if there are none.
    kv_share : ndarray, shape (d,)
        Used share of the KV capacity.
    slowdown : ndarray, shape (d,)
        Time of the last finished step over what the router's law says of it.
    prefill_laws, decode_laws : sequence of StepLaw
        Law per instance.
    budget : int
        Tokens of a prefill step.
    transfer_s : FloatArray
        X of this request from each prefill instance [s], shape (k,).
    """

    time_s: float
    prefill_work_s: FloatArray
    prefill_tokens: FloatArray
    prefill_requests: FloatArray
    link_free_s: FloatArray
    deflected_work_s: FloatArray
    batch: FloatArray
    context_tokens: FloatArray
    hosting: npt.NDArray[np.bool_]
    decode_requests: FloatArray
    step_rest_s: FloatArray
    strictest_tbt_s: FloatArray
    kv_share: FloatArray
    slowdown: FloatArray
    prefill_laws: Sequence[StepLaw]
    decode_laws: Sequence[StepLaw]
    budget: int
    transfer_s: FloatArray

    def execution_s(self, instance: int, request: RequestView) -> float:
        """Return the request's prefill time alone at a prefill instance, in budget-sized chunks [s]."""
        law = self.prefill_laws[instance]
        return float(chunked_prefill_s(law, request.prompt_tokens, self.budget, request.cached_tokens))

    def schedule_s(self, instance: int, request: RequestView, chunks: Sequence[int], limit_s: float) -> float | None:
        """Return the time of the request's chunk schedule beside the frozen batch [s]; None if no chunk is safe.

        Parameters
        ----------
        instance : int
            Decode instance.
        request : RequestView
            The request to host.
        chunks : sequence of int
            Candidate sizes, largest first [tokens].
        limit_s : float
            Longest step allowed [s].
        """
        law, B, K = self.decode_laws[instance], self.batch[instance], self.context_tokens[instance]
        done, total = request.cached_tokens, 0.0
        while done < request.prompt_tokens:
            chunk = largest_safe_chunk(law, B, K, done, request.prompt_tokens - done, chunks, limit_s)
            if chunk == 0:
                return None
            total += float(law.step_time_s(B, K, chunk, chunk * (done + chunk / 2), done))
            done += chunk
        return total

    def limit_s(self, instance: int, request: RequestView, beta: float = 1.0) -> float:
        """Return beta times the strictest TBT SLO among the residents, the request's own if there are none [s]."""
        strictest = float(self.strictest_tbt_s[instance])
        return beta * (request.tbt_slo_s if np.isinf(strictest) else strictest)


def largest_safe_chunk(
    law: StepLaw, batch: float, context: float, done: int, left: int, chunks: Sequence[int], limit_s: float
) -> int:
    """Return the largest candidate, cut to what is left, whose step stays within the limit; 0 if none does.

    Parameters
    ----------
    law : StepLaw
        Law of the decode instance.
    batch, context : float
        Its residents and their context [tokens].
    done, left : int
        Tokens of the prompt already computed and still to compute.
    chunks : sequence of int
        Candidate sizes, largest first [tokens].
    limit_s : float
        Longest step allowed [s].
    """
    for candidate in chunks:
        chunk = min(candidate, left)
        if law.step_time_s(batch, context, chunk, chunk * (done + chunk / 2), done) <= limit_s:
            return chunk
    return 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelSpec:
    """A built-in policy as data, for the compiled simulator; fields that a kind does not use keep their default.

    Parameters
    ----------
    kind : str
        Name of the compiled rule.
    order : {"fcfs", "spf", "aged", "due"}
        Order of the prefill queues.
    chunks : tuple of int
        Candidate sizes of hosted chunks, largest first [tokens].
    host_budget : int
        Tokens of a step at a decode instance that packs hosted prompts beside its batch; 0: one chunk a step.
    host_packing : bool
        Whether a hosted prompt that ends within a step leaves what the step still holds to the next ones that wait.
    limit_s : float
        Longest step that a hosted chunk may cause [s]; 0: `beta` times the strictest TBT SLO of the residents.
    route_by_requests : bool
        Prefill routing by number of requests instead of work.
    decode_choice : str
        When the decode instance is chosen: at the end of prefill, or when a request arrives, counting as load there
        at once, from its transfer on, or once it has landed.
    count_until : {"finished", "last_step_starts"}
        How long a request counts as load of an instance.
    tie_seed : int
        Which of equally loaded instances is taken: 0 the lowest id, else one that a hash of seed and request picks.
    rule : ThresholdRule, optional
        Prices and tables.
    decide : callable, optional
        A user's compiled decision, kind "compiled".
    parameters : ndarray, optional
        Its numbers.
    """

    kind: Literal["none", "static", "kairos", "earliest", "thresholds", "late", "colocated", "external", "compiled"]
    order: Order = "fcfs"
    chunks: tuple[int, ...] = CHUNKS
    host_budget: int = 0
    host_packing: bool = False
    limit_s: float = 0.0
    beta: float = 1.0
    alpha: float = 1.0
    wait: Literal["steps", "exact", "short"] = "steps"
    ageing_per_s: float = 0.0
    route_by_requests: bool = False
    decode_choice: DecodeChoice = "prefilled"
    count_until: CountUntil = "finished"
    tie_seed: int = 0
    static_tokens: float = 0.0
    static_inclusive: bool = False
    static_ratio: float = np.inf
    static_prompt_tokens: float = 0.0
    static_prefill_busy: float = np.inf
    static_decode_busy: float = np.inf
    rule: ThresholdRule | None = None
    decide: Any = None
    parameters: FloatArray | None = None

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} of a policy", repr(getattr(self, name)), f"one of {', '.join(known)}")
        if not self.chunks or any(isinstance(c, float) or not 1 <= c < 2**31 for c in self.chunks):
            raise InputError("chunks of a policy", self.chunks, "one or more whole numbers >= 1 [tokens]")
        if not (np.isfinite(self.ageing_per_s) and self.ageing_per_s >= 0):
            raise InputError("ageing_per_s of a policy", self.ageing_per_s, "finite and >= 0")


class Policy(Protocol):
    """Who prefills where. Objects with numbers and no state of their own.

    A policy may also offer ``kernel_spec() -> KernelSpec``; without it the simulator asks `decide` at every arrival,
    which is slower.
    """

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    def decide(self, state: ClusterState, request: RequestView) -> Route:
        """Return where the request's prefill runs."""
        ...

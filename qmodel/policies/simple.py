"""Policies without estimates: never deflect, deflect by length, or do not disaggregate at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qmodel.errors import InputError
from qmodel.policies.rule import Order
from qmodel.policies.state import (
    CHUNKS,
    UNAVAILABLE,
    ClusterState,
    CountUntil,
    DecodeChoice,
    KernelSpec,
    RequestView,
    Route,
)

__all__ = ["Colocated", "Disaggregated", "StaticLength"]


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Never deflect: every prompt goes to the prefill instance with the least outstanding work.

    Parameters
    ----------
    order : {"fcfs", "spf", "aged", "due"}
        Order of the prefill queues.
    ageing_per_s : float
        Order "aged": seconds of work by which a second of waiting advances a request.
    routing : {"work", "requests"}
        Prefill instance with the least outstanding work, or with the fewest requests.
    decode_choice : {"prefilled", "arrival", "arrival_sent", "arrival_landed"}
        When the decode instance is chosen: at the end of prefill, or at arrival; in the last two forms a request
        counts as load there only from its transfer or its landing on.
    count_until : {"finished", "last_step_starts"}
        How long a request counts as load of an instance: to its end, or until the step begins in which its prefill or
        its decode ends there, as with schedulers that account for a step when they start it.
    tie_seed : int
        Which of equally loaded instances is taken: 0 the lowest id, else one that a hash of seed and request picks.
    """

    order: Order = "fcfs"
    ageing_per_s: float = 0.0
    routing: Literal["work", "requests"] = "work"
    decode_choice: DecodeChoice = "prefilled"
    count_until: CountUntil = "finished"
    tie_seed: int = 0

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "disaggregated" if self.order == "fcfs" else f"disaggregated {self.order}"

    def decide(self, state: ClusterState, request: RequestView) -> Route:
        """Return the least loaded prefill instance."""
        del request
        return _least_loaded_prefill(state, self.routing)

    def kernel_spec(self) -> KernelSpec:
        """Return the policy as data."""
        return KernelSpec(
            kind="none",
            order=self.order,
            ageing_per_s=self.ageing_per_s,
            route_by_requests=_by_requests(self.routing),
            decode_choice=self.decode_choice,
            count_until=self.count_until,
            tie_seed=self.tie_seed,
        )


def _by_requests(routing: str) -> bool:
    if routing not in ("work", "requests"):
        raise InputError("routing of a policy", repr(routing), "work or requests")
    return routing == "requests"


def _least_loaded_prefill(state: ClusterState, routing: str) -> Route:
    load = state.prefill_work_s if routing == "work" else state.prefill_requests
    return Route(pool="prefill", instance=int(np.argmin(load)))


@dataclass(frozen=True, slots=True)
class StaticLength:
    """Deflect short prompts, as Dynamo, TensorRT-LLM and llm-d ship it.

    With n the prompt tokens not found in the prefix cache and w the prompt tokens that wait or run at the least
    loaded prefill instance, a prompt is prefilled on the decode instance with the fewest requests iff

        (n < max_local_prefill_tokens  [<= if `inclusive`]  and  n < max_local_ratio * prompt tokens)
        or  prompt tokens < min_prompt_tokens  or  w > prefill_busy * token budget

    unless more than `decode_busy` of that instance's cache is used. `trtllm`, `llm_d` and `dynamo` give each
    vendor's predicate.

    Parameters
    ----------
    max_local_prefill_tokens : float
        Length limit [tokens].
    inclusive : bool
        Whether the limit itself is local.
    max_local_ratio : float
        Limit on the uncached share of the prompt; inf switches it off.
    min_prompt_tokens : float
        Prompts shorter than this are always local [tokens].
    prefill_busy, decode_busy : float
        Backlog in token budgets above which everything is local; used share of the decode cache that forbids it.
    chunks : tuple of int or None
        Candidate chunk sizes, limited by the TBT SLO; None: the engine fills its token budget, whatever the TBT.
    token_budget : int
        That budget of the decode engine [tokens], with ``chunks=None``.
    order : {"fcfs", "spf", "aged", "due"}
        Order of the prefill queues.
    ageing_per_s : float
        Order "aged": seconds of work by which a second of waiting advances a request.
    routing, decode_choice, count_until, tie_seed : object
        As in `Disaggregated`.
    """

    max_local_prefill_tokens: float
    inclusive: bool = False
    max_local_ratio: float = np.inf
    min_prompt_tokens: float = 0.0
    prefill_busy: float = np.inf
    decode_busy: float = np.inf
    chunks: tuple[int, ...] | None = CHUNKS
    token_budget: int = 2048
    order: Order = "fcfs"
    ageing_per_s: float = 0.0
    routing: Literal["work", "requests"] = "work"
    decode_choice: DecodeChoice = "prefilled"
    count_until: CountUntil = "finished"
    tie_seed: int = 0

    def __post_init__(self) -> None:
        if not self.max_local_prefill_tokens >= 0:
            raise InputError("max_local_prefill_tokens", self.max_local_prefill_tokens, ">= 0", "give e.g. 512")

    @classmethod
    def trtllm(cls, max_local_prefill_length: int) -> StaticLength:
        """Return TensorRT-LLM's ``conditional_disagg_config``: uncached tokens <= the limit stay local."""
        return cls(max_local_prefill_length, inclusive=True)

    @classmethod
    def llm_d(cls, non_cached_tokens: int, prompt_tokens: int = 0) -> StaticLength:
        """Return llm-d's ``prefix-based-pd-decider``: local below `non_cached_tokens`; 0 = never disaggregate."""
        return cls(np.inf if non_cached_tokens == 0 else non_cached_tokens, min_prompt_tokens=prompt_tokens)

    @classmethod
    def dynamo(
        cls,
        policy: Literal["isl_bounding", "prefill_load", "isl_or_load"],
        eff_isl_threshold: int = 0,
        eff_isl_ratio_threshold: float = 1.0,
        prefill_busy_threshold: float = np.inf,
        decode_busy_threshold: float = np.inf,
    ) -> StaticLength:
        """Return Dynamo's conditional disaggregation.

        Parameters
        ----------
        policy : {"isl_bounding", "prefill_load", "isl_or_load"}
            Which conditions count.
        eff_isl_threshold : int
            Uncached tokens below which a prompt may run locally.
        eff_isl_ratio_threshold : float
            Uncached share below which it may; strict, so 1.0 keeps prompts without cached tokens away.
        prefill_busy_threshold, decode_busy_threshold : float
            Prefill backlog in token budgets that sends prompts to decode, and the decode cache share that forbids it.
        """
        by_length, by_load = policy != "prefill_load", policy != "isl_bounding"
        return cls(
            eff_isl_threshold if by_length else 0,
            max_local_ratio=eff_isl_ratio_threshold,
            prefill_busy=prefill_busy_threshold if by_load else np.inf,
            decode_busy=decode_busy_threshold,
        )

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"static:{self.max_local_prefill_tokens:g}"

    def decide(self, state: ClusterState, request: RequestView) -> Route:
        """Return a decode instance for short prompts, the least loaded prefill instance for others."""
        prefill = _least_loaded_prefill(state, self.routing)
        n, T = request.prompt_tokens - request.cached_tokens, self.max_local_prefill_tokens
        short = n <= T if self.inclusive else n < T
        local = short and (np.isinf(self.max_local_ratio) or n < self.max_local_ratio * request.prompt_tokens)
        local = local or request.prompt_tokens < self.min_prompt_tokens
        local = local or state.prefill_tokens[prefill.instance] > self.prefill_busy * state.budget
        host = int(np.argmin(state.decode_requests))
        if not local or state.kv_share[host] > self.decode_busy or state.decode_requests[host] >= UNAVAILABLE:
            return prefill
        schedule = state.schedule_s(host, request, self.chunks or CHUNKS, state.limit_s(host, request))
        return Route(pool="decode", instance=host, host_s=schedule or 0.0)

    def kernel_spec(self) -> KernelSpec:
        """Return the policy as data."""
        return KernelSpec(
            kind="static",
            order=self.order,
            ageing_per_s=self.ageing_per_s,
            chunks=self.chunks or CHUNKS,
            host_budget=0 if self.chunks else self.token_budget,
            route_by_requests=_by_requests(self.routing),
            decode_choice=self.decode_choice,
            count_until=self.count_until,
            tie_seed=self.tie_seed,
            static_tokens=self.max_local_prefill_tokens,
            static_inclusive=self.inclusive,
            static_ratio=self.max_local_ratio,
            static_prompt_tokens=self.min_prompt_tokens,
            static_prefill_busy=self.prefill_busy,
            static_decode_busy=self.decode_busy,
        )


@dataclass(frozen=True, slots=True)
class Colocated:
    """No disaggregation: chunked prefill beside decode on all k + d instances (Sarathi-Serve, OSDI 24).

    Parameters
    ----------
    chunk : int
        Token budget of a step, decode tokens included [tokens].
    count_until, tie_seed : object
        As in `Disaggregated`.
    """

    chunk: int = 512
    count_until: CountUntil = "finished"
    tie_seed: int = 0

    def __post_init__(self) -> None:
        if not self.chunk >= 1:
            raise InputError("chunk", self.chunk, ">= 1 [tokens]", "give e.g. 512")

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"colocated:{self.chunk}"

    def decide(self, state: ClusterState, request: RequestView) -> Route:
        """Return the instance with the fewest requests."""
        del request
        return Route(pool="decode", instance=int(np.argmin(state.decode_requests)))

    def kernel_spec(self) -> KernelSpec:
        """Return the policy as data."""
        return KernelSpec(
            kind="colocated", host_budget=self.chunk, count_until=self.count_until, tie_seed=self.tie_seed
        )

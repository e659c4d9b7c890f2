"""Policies that compare estimated completion times: the paper's rule and the complete comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qmodel.errors import InputError
from qmodel.policies.rule import Order
from qmodel.policies.state import CHUNKS, ClusterState, KernelSpec, RequestView, Route

__all__ = ["EarliestCompletion", "Kairos"]


@dataclass(frozen=True, slots=True)
class Kairos:
    """The rule of arXiv 2607.02043, as its abstract and public descriptions give it.

    1. prefill estimate = queue wait + execution, least over prefill instances; queue wait = (A/b)*T(b, context A/2),
       A the prompt tokens ahead and b the token budget; execution in budget-sized chunks;
    2. decode estimate, over instances that host no prompt: at each step the largest candidate chunk whose step time
       is within beta * (strictest TBT SLO among the residents);
    3. deflect iff the decode estimate is <= alpha * prefill estimate and <= the request's TTFT SLO.

    Parameters
    ----------
    alpha, beta : float
        Tolerances of steps 3 and 2.
    chunks : tuple of int
        Candidate chunk sizes, largest first [tokens].
    wait : {"steps", "exact", "short"}
        Queue wait as above, the exact outstanding work, or with min(b, prompt) for b as one re-implementation has it.
    order : {"fcfs", "spf", "aged", "due"}
        Order of the prefill queues.
    ageing_per_s : float
        Order "aged": seconds of work by which a second of waiting advances a request.
    """

    alpha: float = 1.3
    beta: float = 1.0
    chunks: tuple[int, ...] = CHUNKS
    wait: Literal["steps", "exact", "short"] = "steps"
    order: Order = "fcfs"
    ageing_per_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"Kairos {name}", value, "finite and > 0", "the paper uses 1.3 and 1.0")

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "kairos" if self.order == "fcfs" else f"kairos {self.order}"

    def prefill_estimate_s(self, state: ClusterState, instance: int, request: RequestView) -> float:
        """Return queue wait + execution at a prefill instance [s]."""
        ahead = float(state.prefill_tokens[instance])
        if self.wait == "exact":
            wait = float(state.prefill_work_s[instance])
        else:
            b, half = state.budget, ahead / 2
            if self.wait == "short":
                b = min(b, request.prompt_tokens - request.cached_tokens)
            law = state.prefill_laws[instance]
            wait = ahead / b * float(law.step_time_s(0.0, 0.0, b, b * (half + b / 2), half))
        return wait + state.execution_s(instance, request)

    def decide(self, state: ClusterState, request: RequestView) -> Route:
        """Return the best decode instance if it is good enough, else the best prefill instance."""
        estimates = [self.prefill_estimate_s(state, i, request) for i in range(len(state.prefill_work_s))]
        best = int(np.argmin(estimates))
        host, at_decode = -1, np.inf
        for j in np.flatnonzero(~state.hosting):
            estimate = state.schedule_s(int(j), request, self.chunks, state.limit_s(int(j), request, self.beta))
            if estimate is not None and estimate < at_decode:
                host, at_decode = int(j), estimate
        if host >= 0 and at_decode <= self.alpha * estimates[best] and at_decode <= request.ttft_slo_s:
            return Route(pool="decode", instance=host, host_s=at_decode)
        return Route(pool="prefill", instance=best)

    def kernel_spec(self) -> KernelSpec:
        """Return the policy as data."""
        return KernelSpec(
            kind="kairos",
            order=self.order,
            ageing_per_s=self.ageing_per_s,
            chunks=self.chunks,
            alpha=self.alpha,
            beta=self.beta,
            wait=self.wait,
        )


@dataclass(frozen=True, slots=True)
class EarliestCompletion:
    """Run each prompt where its prefill completes first, by complete estimates on both sides.

    Prefill: outstanding work, execution, the link's booking and the transfer. Decode: the rest of the step in
    progress, the deflected work that waits, and the prompt's own chunk schedule; several may wait at one instance.

    Parameters
    ----------
    beta : float
        Hosted chunks may use beta * (strictest TBT SLO among the residents).
    chunks : tuple of int
        Candidate chunk sizes, largest first [tokens].
    order : {"fcfs", "spf", "aged", "due"}
        Order of the prefill queues.
    ageing_per_s : float
        Order "aged": seconds of work by which a second of waiting advances a request.
    margin : float
        Deflect iff margin * (decode side) < prefill side. Above 1 it stands in for the delay that a prompt causes to
        those behind it, which the rule itself does not see.
    """

    beta: float = 1.0
    chunks: tuple[int, ...] = CHUNKS
    order: Order = "fcfs"
    ageing_per_s: float = 0.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "margin"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"EarliestCompletion {name}", value, "finite and > 0", "1.0 compares as estimated")

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "earliest" if self.order == "fcfs" else f"earliest {self.order}"

    def decide(self, state: ClusterState, request: RequestView) -> Route:
        """Return the path that completes first; a tie goes to prefill."""
        best, at_prefill = 0, np.inf
        for i, work in enumerate(state.prefill_work_s):
            ready = float(work) + state.execution_s(i, request)
            total = max(ready, float(state.link_free_s[i]) - state.time_s) + float(state.transfer_s[i])
            if total < at_prefill:
                best, at_prefill = i, total
        host, at_decode, own = -1, np.inf, 0.0
        for j in range(len(state.batch)):
            estimate = state.schedule_s(j, request, self.chunks, state.limit_s(j, request, self.beta))
            if estimate is None:
                continue
            ready = estimate + float(state.deflected_work_s[j] if state.hosting[j] else state.step_rest_s[j])
            if ready < at_decode:
                host, at_decode, own = j, ready, estimate
        if host >= 0 and self.margin * at_decode < at_prefill:
            return Route(pool="decode", instance=host, host_s=own)
        return Route(pool="prefill", instance=best)

    def kernel_spec(self) -> KernelSpec:
        """Return the policy as data."""
        return KernelSpec(
            kind="earliest",
            order=self.order,
            ageing_per_s=self.ageing_per_s,
            chunks=self.chunks,
            beta=self.beta,
            alpha=self.margin,
        )

"""The threshold rule: prices of backlog and the tables that turn them into a deflection decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError

__all__ = ["ORDER_WORDS", "Binding", "DecodeTables", "Order", "ThresholdRule"]

FloatArray = npt.NDArray[np.float64]
Binding = Literal["dispatch", "late"]
Order = Literal["fcfs", "spf", "aged", "due"]
#: What reports and pictures call an order.
ORDER_WORDS: dict[Order, str] = {
    "fcfs": "first come first served",
    "spf": "shortest prefill first",
    "aged": "shortest first, with ageing",
    "due": "by due times",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeTables:
    """What hosting costs at one kind of decode instance, over the lengths and batches of a rule.

    Parameters
    ----------
    contexts : ndarray, shape (n_K,)
        Decode contexts [tokens], increasing, from 0; the last is the capacity of the KV cache.
    host_s, harm_s : ndarray, shape (n_L, n_B, n_K)
        As in `ThresholdRule` [s].
    step_s : ndarray, shape (n_B, n_K), optional
        Decode step without a hosted chunk [s], for those who measure.
    """

    contexts: FloatArray
    host_s: FloatArray
    harm_s: FloatArray
    step_s: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ThresholdRule:
    """When to deflect, as numbers that a router or the simulator can apply in microseconds.

    A prompt of length L meets the least loaded prefill instance with backlog w [s] and, at a decode instance with
    batch B and context K, v [s] of deflected work that waits there. With s = W(L), x = X(L) and host time
    h = h(L, B, K), the cost of each path is its own delay plus the delay it causes to those who come after:

        a(w, s) = w + s + g*((w + s)^2 - w^2)
        deflect iff  a_P(w, s) + x  >  min over decode instances of  a_D(v, h) + harm

    Parameters
    ----------
    binding : {"dispatch", "late"}
        Whether the decision is taken at arrival or while the request waits.
    order : {"fcfs", "spf", "aged", "due"}
        Order of the prefill queue: first come, shortest prefill first, shortest first with ageing, or by due times:
        first come, the longest being put behind while somebody would miss the TTFT SLO.
    price_prefill_per_s, price_decode_per_s : float
        g_P and g_D, cost of backlog at one instance of each pool [1/s].
    harm_weight : float
        c_R, what a second of delay of one resident is worth in seconds of TTFT.
    chunks : tuple of int
        Candidate chunk sizes [tokens], largest first.
    tbt_limit_s : float
        Longest step a hosted chunk may cause [s].
    max_waiting_tokens : int
        Late binding: most deflected prompt tokens that wait at a decode instance [tokens].
    ageing_per_s : float
        Order "aged": seconds of work by which a second of waiting advances a request.
    lengths : ndarray, shape (n_L,)
        Prompt lengths of the tables [tokens], increasing; interpolated linearly, extrapolated linearly beyond.
    batches : ndarray, shape (n_B,)
        Decode batches of the tables, increasing, from 0.
    contexts : ndarray, shape (n_K,)
        Decode contexts of the tables [tokens], increasing, from 0.
    work_s, execution_s, transfer_s : ndarray, shape (n_L,)
        W(L), S_b(L) and X(L) [s].
    host_s : ndarray, shape (n_L, n_B, n_K)
        Host time of a prompt's whole chunk schedule [s]; a large finite number where no chunk is TBT-safe.
    harm_s : ndarray, shape (n_L, n_B, n_K)
        Delay of the residents by that schedule, summed over them [s].
    relief_weight : float
        Late binding: how much the time that a pull saves those behind it counts in whether to pull; 0 or more.
    deadline_s : float
        Longest v + h with which a decode instance is considered [s]; 0 for any.
    max_batch : int
        A decode instance with this many residents or more hosts nothing new; 0 for no limit.
    fault_harm : float
        Factor on `harm_weight` while a decode instance is down or slow: the others have less room for its residents.
    patience_s : float
        Late binding, order "due": how long a request waits until it goes first, from when a decode instance is down or
        slow and no other has room until nobody has waited for so long [s]; 0: never.
    slow_factor : float
        A decode instance whose steps take more than this many times what its law says hosts nothing; 0: any may.
    step_s : ndarray, shape (n_B, n_K), optional
        Decode step without a hosted chunk [s], for those who measure.
    kinds : tuple of DecodeTables
        Tables of each kind of decode instance where there are several; `contexts`, `host_s`, `harm_s` and `step_s` then
        are those of a mean instance, for whoever knows no kinds.
    kind_of : tuple of int
        Place in `kinds` of each decode instance; empty where there is one kind.
    """

    binding: Binding
    order: Order
    price_prefill_per_s: float
    price_decode_per_s: float
    harm_weight: float
    chunks: tuple[int, ...]
    tbt_limit_s: float
    max_waiting_tokens: int
    ageing_per_s: float
    lengths: FloatArray
    batches: FloatArray
    contexts: FloatArray
    work_s: FloatArray
    execution_s: FloatArray
    transfer_s: FloatArray
    host_s: FloatArray
    harm_s: FloatArray
    relief_weight: float = 0.0
    deadline_s: float = 0.0
    max_batch: int = 0
    fault_harm: float = 1.0
    patience_s: float = 0.0
    slow_factor: float = 0.0
    step_s: FloatArray | None = None
    kinds: tuple[DecodeTables, ...] = ()
    kind_of: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "price_prefill_per_s",
            "price_decode_per_s",
            "harm_weight",
            "ageing_per_s",
            "relief_weight",
            "deadline_s",
            "max_batch",
            "fault_harm",
            "patience_s",
            "slow_factor",
        ):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"threshold rule {name}", value, "finite and >= 0", "derive the plan again")
        for name in ("lengths", "batches", "contexts"):
            if np.any(np.diff(getattr(self, name)) <= 0):
                raise InputError(f"threshold rule {name}", "not increasing", "strictly increasing")
        for name in ("work_s", "execution_s", "transfer_s"):
            if getattr(self, name).shape != self.lengths.shape:
                raise InputError(f"threshold rule {name}", getattr(self, name).shape, f"of shape {self.lengths.shape}")
        for tables in (self._mean_tables, *self.kinds):
            self._check(tables)
        if any(not 0 <= kind < len(self.kinds) for kind in self.kind_of) or bool(self.kinds) != bool(self.kind_of):
            raise InputError("threshold rule kind_of", self.kind_of, f"places in its {len(self.kinds)} kinds")

    def _check(self, tables: DecodeTables) -> None:
        shape = (len(self.lengths), len(self.batches), len(self.contexts))
        if tables.contexts.shape != shape[2:] or np.any(np.diff(tables.contexts) <= 0):
            raise InputError("threshold rule contexts", tables.contexts, f"{shape[2]}, strictly increasing")
        for name in ("host_s", "harm_s"):
            table = getattr(tables, name)
            if table.shape != shape or not np.all(np.isfinite(table)) or np.any(table < 0):
                raise InputError(f"threshold rule {name}", f"of shape {table.shape}", f"finite, >= 0 and {shape}")
        step = tables.step_s
        if step is not None and (step.shape != shape[1:] or not np.all(np.isfinite(step)) or np.any(step <= 0)):
            raise InputError("threshold rule step_s", f"of shape {step.shape}", f"finite, > 0 and {shape[1:]}")

    @property
    def _mean_tables(self) -> DecodeTables:
        return DecodeTables(contexts=self.contexts, host_s=self.host_s, harm_s=self.harm_s, step_s=self.step_s)

    def tables_of(self, instance: int) -> DecodeTables:
        """Return the tables that hold for a decode instance, by its number from 0."""
        return self.kinds[self.kind_of[instance]] if self.kinds else self._mean_tables

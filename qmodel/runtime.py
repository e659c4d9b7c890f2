"""Decide deflections from a plan file with the standard library only: copy this file into a router.

    plan = load_plan("plan.json")
    decision = plan.decide(prompt_tokens, cached_tokens, prefill_backlog_s, decode_states)
    if decision.deflect: ...send to decode instance decision.instance

Whatever it is given, `decide` and `pull` return: on stale, impossible or missing signals the answer is "do not
deflect". A rule is immutable and replaced whole, so threads need no lock to decide; see `WatchedPlan` for plans that
are reloaded when their file changes. Long for a module, since a router takes one file and nothing else.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Decision", "DecodeState", "PlanError", "RuntimePlan", "Waiting", "WatchedPlan", "load_plan"]

SCHEMA_VERSION = 2
# Limits that no honest signal passes; beyond them the answer is the default.
MAX_TOKENS = 100_000_000
MAX_SECONDS = 1e6
MAX_CONTEXT = 1e12
MAX_INSTANCES = 4096
MAX_WAITING = 100_000
MAX_BYTES = 64 * 1024 * 1024
# A host time from here on means that some step has no TBT-safe chunk.
NO_SCHEDULE_S = 5e5
# Order "due": the share of the TTFT SLO in which a prefill should end.
DUE_SHARE = 0.85
# Share of its cache from which on a decode instance counts as full.
CACHE_FULL = 0.9
_INF = math.inf


class PlanError(ValueError):
    """The file is no plan that this version can apply; the message says why."""


class DecodeState(NamedTuple):
    """What a router knows of one decode instance.

    Parameters
    ----------
    batch : float
        Resident requests.
    context_tokens : float
        Their context [tokens].
    deflected_work_s : float
        Deflected prefill work that waits there, the running one included [s].
    age_s : float
        Age of this observation [s].
    waiting_tokens : float
        Deflected prompt tokens that wait there [tokens]; late binding only.
    slowdown : float
        Time of its last steps over what the plan expects (`RuntimePlan.expected_step_s` for steps that host no chunk);
        infinite while the instance is down.
    kind : int
        Which of the plan's kinds of decode instances it is, from 0; the first where there is one.
    """

    batch: float
    context_tokens: float
    deflected_work_s: float = 0.0
    age_s: float = 0.0
    waiting_tokens: float = 0.0
    slowdown: float = 1.0
    kind: int = 0


class Decision(NamedTuple):
    """The answer for one request.

    Parameters
    ----------
    deflect : bool
        Whether its prefill runs on a decode instance.
    instance : int
        That decode instance, by its place in the list; -1 when not deflected.
    host_s : float
        Time its chunk schedule takes there [s]: what to add to that instance's deflected work; 0 when not deflected.
    reason : str
        ``threshold``, ``below threshold``, ``no safe instance`` or ``bad signal``.
    """

    deflect: bool
    instance: int
    host_s: float
    reason: str


class Waiting(NamedTuple):
    """A request in the shared queue, for late binding; listed in the plan's order, head first.

    Parameters
    ----------
    prompt_tokens, cached_tokens : int
        Prompt and cached prefix [tokens].
    waited_s : float
        Time since its arrival [s]; order "due" only.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    waited_s: float = 0.0


class _Kind(NamedTuple):
    """Tables of one kind of decode instance."""

    contexts: list[float]
    per_context: list[float]
    last: int
    capacity: float
    host: list[list[list[float]]]
    harm: list[list[list[float]]]
    step: list[list[float]]


_UNSAID = (math.nan, math.nan, 0.0, 0.0, 0.0, 1.0, 0)  # fields that a plain tuple leaves out
_FIELDS = len(_UNSAID)
_new_tuple = tuple.__new__  # half the time of `Decision(...)`
_KEEP = Decision(False, -1, 0.0, "below threshold")
_UNSAFE = Decision(False, -1, 0.0, "no safe instance")
_BAD = Decision(False, -1, 0.0, "bad signal")


class RuntimePlan:
    """A plan, ready to decide; immutable.

    Parameters
    ----------
    data : dict
        The plan file's content.
    max_age_s : float
        Oldest observation of a decode instance that is used [s].

    Raises
    ------
    PlanError
        When the content is not a usable plan.
    """

    __slots__ = (
        "_batches",
        "_kinds",
        "_lengths",
        "_moved",
        "_per_batch",
        "_pull_deadline",
        "_pull_harm",
        "_room",
        "_slowest",
        "_work",
        "ageing_per_s",
        "deadline_s",
        "due_s",
        "fault_harm",
        "harm_weight",
        "late",
        "max_age_s",
        "max_batch",
        "order",
        "patience_s",
        "prefill_instances",
        "price_decode_per_s",
        "price_prefill_per_s",
        "relief_weight",
        "version",
    )  # fmt: skip

    def __init__(self, data: Any, max_age_s: float = 5.0) -> None:
        try:
            self._read(data)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as bad:
            if isinstance(bad, PlanError):
                raise
            raise PlanError(f"not a usable plan: {type(bad).__name__}: {str(bad)[:120]}") from None
        self.max_age_s = max_age_s

    def _read(self, data: Any) -> None:
        if not isinstance(data, dict):
            raise PlanError("a plan is a JSON object")
        version = data["schema_version"]
        if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
            raise PlanError(f"schema version {version!r} is not one of 1..{SCHEMA_VERSION}")
        self.version = str(data["qmodel_version"])
        tables, at_dispatch, late = data["tables"], data["dispatch_rule"], data["late_rule"]
        self.late = late is not None
        rule = late if self.late else at_dispatch
        self.order = str(rule["order"])
        self.price_prefill_per_s = _finite(at_dispatch["price_prefill_per_s"], "price_prefill_per_s")
        self.price_decode_per_s = _finite(at_dispatch["price_decode_per_s"], "price_decode_per_s")
        self.harm_weight = _finite(at_dispatch["harm_weight"], "harm_weight")
        self._pull_harm = _finite(rule["harm_weight"], "harm_weight")
        self.deadline_s = _finite(at_dispatch.get("deadline_s", 0.0), "deadline_s")
        self._pull_deadline = _finite(rule.get("deadline_s", 0.0), "deadline_s")
        self.relief_weight = _finite(rule.get("relief_weight", 0.0), "relief_weight")
        self.ageing_per_s = _finite(rule.get("ageing_per_s", 0.0), "ageing_per_s")
        self.max_batch = _finite(rule.get("max_batch", 0), "max_batch")
        self.due_s = DUE_SHARE * _finite(data["inputs"]["slo"]["ttft_s"], "ttft_s")
        self.fault_harm = _finite(at_dispatch.get("fault_harm", 1.0), "fault_harm")
        self.patience_s = _finite(rule.get("patience_s", 0.0), "patience_s")
        # Without a factor only an instance that is down is too slow.
        self._slowest = _finite(rule.get("slow_factor", 0.0), "slow_factor") or sys.float_info.max
        self._room = _finite(rule["max_waiting_tokens"], "max_waiting_tokens")
        self.prefill_instances = max(1, int(_finite(data["inputs"]["cluster"]["prefill"], "prefill")))
        self._lengths, self._batches = _grid(tables, "lengths"), _grid(tables, "batches")
        self._per_batch = _steps_of(self._batches)
        n = len(self._lengths)
        self._work, self._moved = (_column(tables, name, n) for name in ("work_s", "transfer_s"))
        each = data.get("decode_kinds") or {"tables": [tables]}
        self._kinds = [_kind(one, n, len(self._batches)) for one in each["tables"]]
        if not self._kinds:
            raise PlanError("decode_kinds has no tables")

    def decide(
        self,
        prompt_tokens: float,
        cached_tokens: float,
        prefill_backlog_s: float,
        decode_states: Sequence[Any],
    ) -> Decision:
        """Return where a request's prefill runs, decided when it arrives.

        Deflect iff w + s + g_P*((w + s)^2 - w^2) + x > v + h + g_D*((v + h)^2 - v^2) + harm at the cheapest decode
        instance.

        Parameters
        ----------
        prompt_tokens, cached_tokens : float
            Prompt and cached prefix [tokens].
        prefill_backlog_s : float
            Work ahead at the least loaded prefill instance [s].
        decode_states : sequence of DecodeState
            One per decode instance; plain tuples in the same order of fields are accepted.

        Returns
        -------
        Decision
            Never deflects on signals that are stale or impossible.
        """
        try:
            need = prompt_tokens - cached_tokens
            if not (cached_tokens >= 0 and 0 < need <= MAX_TOKENS and 0.0 <= prefill_backlog_s <= MAX_SECONDS):
                return _BAD
            if len(decode_states) > MAX_INSTANCES:
                return _BAD
            lengths = self._lengths
            i = bisect_right(lengths, need, 1, len(lengths) - 1) - 1
            f = (need - lengths[i]) / (lengths[i + 1] - lengths[i])
            work, moved = self._work, self._moved
            s = work[i] + f * (work[i + 1] - work[i])
            x = moved[i] + f * (moved[i + 1] - moved[i])
            keep = prefill_backlog_s + s + self.price_prefill_per_s * s * (2.0 * prefill_backlog_s + s) + x
            weight = self.harm_weight
            for state in decode_states:
                if len(state) > 5 and state[5] > self._slowest:
                    weight *= self.fault_harm
                    break
            return self._cheapest(keep, prompt_tokens, i, f, weight, decode_states)
        except (TypeError, ValueError, IndexError, OverflowError, AttributeError, KeyError, ArithmeticError):
            return _BAD

    def _cheapest(
        self, keep: float, prompt_tokens: float, i: int, f: float, weight: float, decode_states: Sequence[Any]
    ) -> Decision:
        """Return the decision between keeping a prompt at cost `keep` and the cheapest decode instance."""
        best, cheapest, own, usable, safe, of = -1, keep, 0.0, False, False, -1
        gd, deadline, max_age, slowest = self.price_decode_per_s, self.deadline_s, self.max_age_s, self._slowest
        batches, per_b, last_b, most = self._batches, self._per_batch, len(self._batches) - 1, self.max_batch or _INF
        for j, state in enumerate(decode_states):
            if len(state) == _FIELDS:
                batch, context, v, age, _, slowdown, kind = state
            else:
                batch, context, v, age, _, slowdown, kind = _completed(state)
            fine = 0.0 <= batch <= MAX_TOKENS and 0.0 <= context <= MAX_CONTEXT and 0.0 <= v <= MAX_SECONDS
            if not (fine and 0.0 <= age <= max_age and slowdown >= 0.0 <= kind):
                continue
            usable = True
            if kind != of:
                contexts, per_c, last_c, capacity, host, harm, _ = self._kinds[kind]
                low_host, high_host, of = host[i], host[i + 1], kind
            # Bilinear in batch and context, held to the grid: brackets (b, g) and (c, k).
            b = bisect_right(batches, batch, 1, last_b) - 1
            g = (batch - batches[b]) * per_b[b]
            c = bisect_right(contexts, context, 1, last_c) - 1
            k = (context - contexts[c]) * per_c[c]
            g, k = 1.0 if g > 1.0 else g, 1.0 if k > 1.0 else k
            # `_blend`, written out: a call costs as much as what it does.
            then, row, nxt = c + 1, low_host[b], low_host[b + 1]
            p, q = row[c], row[then]
            p += g * (nxt[c] - p)
            p += k * (q + g * (nxt[then] - q) - p)
            row, nxt = high_host[b], high_host[b + 1]
            h, q = row[c], row[then]
            h += g * (nxt[c] - h)
            h = p + f * (h + k * (q + g * (nxt[then] - q) - h) - p)
            h = h if h > 0.0 else 0.0
            full = slowdown > slowest or batch >= most or context + prompt_tokens > capacity
            if full or h >= NO_SCHEDULE_S or 0.0 < deadline < v + h:
                continue
            safe = True
            cost = v + h + gd * h * (2.0 * v + h)
            if weight > 0.0 and cost < cheapest:
                low, high = harm[i], harm[i + 1]
                cost += weight * _blend(low[b], low[b + 1], high[b], high[b + 1], c, f, g, k)
            if cost < cheapest:
                best, cheapest, own = j, cost, h
        if best >= 0:
            return _new_tuple(Decision, (True, best, own, "threshold"))
        return _KEEP if safe else _UNSAFE if usable else _BAD

    def _cell(self, of: _Kind, batch: float, context: float) -> tuple[int, float, int, float]:
        """Return the brackets of a batch and a context, both held to the grid of a kind."""
        batches, contexts = self._batches, of.contexts
        b = bisect_right(batches, batch, 1, len(batches) - 1) - 1
        c = bisect_right(contexts, context, 1, of.last) - 1
        g, k = (batch - batches[b]) * self._per_batch[b], (context - contexts[c]) * of.per_context[c]
        return b, min(1.0, g), c, min(1.0, k)

    def _at(self, table: list[list[list[float]]], i: int, f: float, cell: tuple[int, float, int, float]) -> float:
        """Return a table at the brackets of a length and of a decode state."""
        b, g, c, k = cell
        low, high = table[i], table[i + 1]
        return _blend(low[b], low[b + 1], high[b], high[b + 1], c, f, g, k)

    def _curve(self, table: list[float], need: float) -> tuple[float, int, float]:
        lengths = self._lengths
        i = min(max(bisect_right(lengths, need) - 1, 0), len(lengths) - 2)
        f = (need - lengths[i]) / (lengths[i + 1] - lengths[i])
        return max(0.0, table[i] + f * (table[i + 1] - table[i])), i, f

    def expected_step_s(self, batch: float, context_tokens: float, kind: int = 0) -> float:
        """Return what a decode step without a hosted chunk takes beside a batch [s]; 0 when the plan does not say.

        Parameters
        ----------
        batch, context_tokens : float
            Resident requests and their context [tokens].
        kind : int
            Kind of the instance, as in `DecodeState`.

        Returns
        -------
        float
            What the last steps of an instance are to be divided by for its `DecodeState.slowdown`.
        """
        try:
            if not (0.0 <= batch <= MAX_TOKENS and 0.0 <= context_tokens <= MAX_CONTEXT and kind >= 0):
                return 0.0
            of = self._kinds[kind]
            if not of.step:
                return 0.0
            b, g, c, k = self._cell(of, batch, context_tokens)
            return _blend(of.step[b], of.step[b + 1], of.step[b], of.step[b + 1], c, 0.0, g, k)
        except (TypeError, IndexError):
            return 0.0

    def overdue_first(self, before: bool, waiting: Iterable[Any], decode_states: Sequence[Any]) -> bool:
        """Return whether requests that have waited for `patience_s` go first; late binding in order "due".

        They do from when a decode instance is down or slow and no other has room, until nobody has waited for so long.

        Parameters
        ----------
        before : bool
            The last answer; False at first.
        waiting : iterable of Waiting
            The shared queue in any order.
        decode_states : sequence of DecodeState
            One per decode instance.

        Returns
        -------
        bool
            What `arrange` is to be told; False when a signal is impossible.
        """
        if not self.patience_s > 0.0:
            return False
        try:
            faulty, full = False, True
            for state in decode_states:
                batch, context, _, _, _, slowdown, kind = _completed(state)
                faulty = faulty or slowdown > self._slowest
                busy = 0.0 < self.max_batch <= batch or context >= CACHE_FULL * self._kinds[kind].capacity
                full = full and (busy or slowdown == _INF)
            overdue = (one[2] > self.patience_s for one in waiting if len(one) > 2)
            return (faulty and full) or (before and any(overdue))
        except (TypeError, ValueError, IndexError):
            return False

    def pull(
        self, waiting: Iterable[Any], decode_state: Any, prefill_backlog_s: float = 0.0, decode_fault: bool = False
    ) -> int:
        """Return which waiting request a decode instance takes now, or -1; late binding.

        gain = expected wait + s + x - v - h - harm, relief = (requests behind)*s/k; among those with
        gain + relief_weight*relief > 0 and v + h within the rule's deadline the first, or in order "fcfs" the one of
        largest (gain + relief)/h. Takes time in proportion to the queue.

        Parameters
        ----------
        waiting : iterable of Waiting
            The shared queue in the plan's order (see `arrange`), head first; plain tuples are accepted.
        decode_state : DecodeState
            The instance that asks.
        prefill_backlog_s : float
            Rest of the running prefill steps and begun prompts, summed over the prefill instances [s].
        decode_fault : bool
            Whether another decode instance is down or slow: harm to residents then counts `fault_harm` times.

        Returns
        -------
        int
            Place in `waiting`, or -1: when the plan does not bind late, nothing gains, there is no room, the instance
            is slow, or a signal is stale or impossible.
        """
        try:
            price = self._pull_harm * (self.fault_harm if decode_fault else 1.0)
            return self._pull(list(waiting), decode_state, prefill_backlog_s, price)
        except (TypeError, ValueError, IndexError, OverflowError, AttributeError, KeyError, ArithmeticError):
            return -1

    def _pull(self, queue: list[Any], decode_state: Any, prefill_backlog_s: float, price: float) -> int:
        batch, context, v, age, room, slowdown, kind = _completed(decode_state)
        fine = 0.0 <= batch <= MAX_TOKENS and 0.0 <= context <= MAX_CONTEXT and 0.0 <= v <= MAX_SECONDS
        if not (self.late and fine and 0.0 <= age <= self.max_age_s and 0.0 <= room < self._room):
            return -1
        if len(queue) > MAX_WAITING or not 0.0 <= prefill_backlog_s <= MAX_SECONDS or 0.0 < self.max_batch <= batch:
            return -1
        if not 0.0 <= slowdown <= self._slowest or kind < 0:
            return -1
        of = self._kinds[kind]
        cell, capacity = self._cell(of, batch, context), of.capacity
        ahead, k, best, best_value = prefill_backlog_s, self.prefill_instances, -1, 0.0
        for place, (prompt, cached, *_) in enumerate(queue):
            need = prompt - cached
            if not (cached >= 0 and 0 < need <= MAX_TOKENS):
                continue
            s, i, f = self._curve(self._work, need)
            x = self._curve(self._moved, need)[0]
            h = max(1e-9, self._at(of.host, i, f, cell))
            late = 0.0 < self._pull_deadline < v + h
            gain = ahead / k + s + x - v - h
            if price > 0.0:
                gain -= price * self._at(of.harm, i, f, cell)
            relief = (len(queue) - 1 - place) * s / k
            value = (gain + relief) / h
            safe = not late and h < NO_SCHEDULE_S and context + prompt <= capacity
            if safe and gain + self.relief_weight * relief > 0.0 and value > best_value:
                if self.order != "fcfs":
                    return place
                best, best_value = place, value
            ahead += s
        return best

    def arrange(self, waiting: Iterable[Any], prefill_backlog_s: float = 0.0, overdue_first: bool = False) -> list[int]:
        """Return the places of waiting requests in the plan's order; prefill instances take the first.

        "fcfs" as they came, "spf" shortest prefill first, "aged" the same with a second of waiting worth `ageing_per_s`
        seconds of work, "due" as they came, the longest being put behind while somebody would end late.

        Parameters
        ----------
        waiting : iterable of Waiting
            In order of arrival; plain tuples are accepted.
        prefill_backlog_s : float
            As in `pull`.
        overdue_first : bool
            Order "due": whoever has waited for longer than `patience_s` goes first, in order of arrival; the answer of
            `overdue_first`.

        Returns
        -------
        list of int
            A permutation of the places; as they came when a signal is impossible.
        """
        try:
            queue = [(*request, 0.0, 0.0)[:3] for request in waiting]
        except TypeError:
            return []
        places = list(range(len(queue)))
        try:
            work = [self._curve(self._work, prompt - cached)[0] for prompt, cached, _ in queue]
            if not all(0.0 <= value < _INF for row in queue for value in row) or not 0.0 <= prefill_backlog_s < _INF:
                return places
            if self.order == "fcfs":
                return places
            if self.order == "due":
                patience = self.patience_s if overdue_first else _INF
                return self._due(work, [row[2] for row in queue], prefill_backlog_s, patience)
            ageing = self.ageing_per_s if self.order == "aged" else 0.0
            return sorted(places, key=lambda place: work[place] - ageing * queue[place][2])
        except (TypeError, ValueError, IndexError, OverflowError, ArithmeticError):
            return places

    def _due(self, work: list[float], waited: list[float], ahead: float, patience: float = _INF) -> list[int]:
        heap: list[tuple[float, int]] = []
        first, lost = [place for place, so_far in enumerate(waited) if so_far > patience], set[int]()
        k, begun = self.prefill_instances, set(first)
        for place, s in enumerate(work):
            if place in begun:
                ahead += s
                continue
            heapq.heappush(heap, (-s, place))
            ahead += s
            if waited[place] + (ahead - s) / k + s > self.due_s:
                longest = heapq.heappop(heap)[1]
                ahead -= work[longest]
                lost.add(longest)
        kept = [p for p in range(len(work)) if p not in lost and p not in begun]
        return first + kept + sorted(lost, key=lambda p: (work[p], p))

    def adapted(
        self, rate_prefill_per_s: float, load_prefill: float, rate_decode_per_s: float, load_decode: float
    ) -> RuntimePlan:
        """Return a copy with prices from measured rates and loads per instance: g = lam/(2*(1 - rho)).

        Parameters
        ----------
        rate_prefill_per_s, rate_decode_per_s : float
            Kept and deflected requests per second of one instance [1/s].
        load_prefill, load_decode : float
            Loads of the two pools; held to [0, 0.98].

        Returns
        -------
        RuntimePlan
            This plan itself when a measurement is impossible.
        """
        measured = (rate_prefill_per_s, load_prefill, rate_decode_per_s, load_decode)
        try:
            if not all(0.0 <= value < _INF for value in measured):
                return self
        except TypeError:
            return self
        copy = object.__new__(RuntimePlan)
        for name in RuntimePlan.__slots__:
            setattr(copy, name, getattr(self, name))
        copy.price_prefill_per_s = rate_prefill_per_s / (2.0 * (1.0 - min(load_prefill, 0.98)))
        copy.price_decode_per_s = rate_decode_per_s / (2.0 * (1.0 - min(load_decode, 0.98)))
        return copy


def _blend(
    a: list[float], b: list[float], c: list[float], d: list[float], at: int, f: float, g: float, k: float
) -> float:
    """Return the value between rows a, b (shorter prompt) and c, d (longer one) at weights f, g and k, >= 0."""
    then = at + 1
    low, high = a[at] + g * (b[at] - a[at]), a[then] + g * (b[then] - a[then])
    first = low + k * (high - low)
    low, high = c[at] + g * (d[at] - c[at]), c[then] + g * (d[then] - c[then])
    value = first + f * (low + k * (high - low) - first)
    return value if value > 0.0 else 0.0


def _completed(state: Any) -> tuple[Any, ...]:
    """Return a decode state with the fields that a plain tuple leaves out."""
    return (*state, *_UNSAID[len(state) :])


def _finite(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not 0.0 <= value <= 1e12:
        raise PlanError(f"{name} is {str(value)[:40]!r}, it must be a number >= 0")
    return float(value)


def _grid(tables: Any, name: str) -> list[float]:
    values = [_finite(value, name) for value in tables[name]]
    if name != "lengths" and values[:1] != [0.0]:
        raise PlanError(f"{name} must begin at 0")
    if len(values) < 2 or any(b <= a for a, b in pairwise(values)):
        raise PlanError(f"{name} must increase strictly and have at least two points")
    return values


def _column(tables: Any, name: str, n: int) -> list[float]:
    values = [_finite(value, name) for value in tables[name]]
    if len(values) != n:
        raise PlanError(f"{name} has {len(values)} values, it must have {n}")
    return values


def _cube(tables: Any, name: str, shape: tuple[int, int, int]) -> list[list[list[float]]]:
    cube = [[[_finite(value, name) for value in row] for row in page] for page in tables[name]]
    if len(cube) != shape[0] or any(len(p) != shape[1] or any(len(r) != shape[2] for r in p) for p in cube):
        raise PlanError(f"{name} must have shape {shape}")
    return cube


def _steps_of(grid: list[float]) -> list[float]:
    return [1.0 / (above - below) for below, above in pairwise(grid)]


def _kind(tables: Any, n: int, batches: int) -> _Kind:
    """Return the tables of one kind of decode instance, for n lengths."""
    contexts = _grid(tables, "contexts")
    shape = n, batches, len(contexts)
    host, harm = (_cube(tables, name, shape) for name in ("host_s", "harm_s"))
    said = tables.get("step_s")
    step = [] if said is None else _cube({"step_s": [said]}, "step_s", (1, *shape[1:]))[0]
    return _Kind(contexts, _steps_of(contexts), len(contexts) - 1, contexts[-1], host, harm, step)


def load_plan(path: str | os.PathLike[str], max_age_s: float = 5.0) -> RuntimePlan:
    """Read a plan file.

    Parameters
    ----------
    path : str or path
        File written by `qmodel thresholds`.
    max_age_s : float
        Oldest observation of a decode instance that is used [s].

    Returns
    -------
    RuntimePlan
        Ready to decide.

    Raises
    ------
    PlanError
        When the file is missing, too large, or no usable plan.
    """
    try:
        file = Path(path)
        if file.stat().st_size > MAX_BYTES:
            raise PlanError(f"{path} is larger than {MAX_BYTES} bytes")
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as bad:
        if isinstance(bad, PlanError):
            raise
        raise PlanError(f"cannot read {path}: {str(bad)[:120]}") from None
    return RuntimePlan(data, max_age_s)


class WatchedPlan:
    """A plan that follows its file: a changed file is loaded, a broken one refused and the old plan kept.

    Parameters
    ----------
    path : str or path
        File to follow.
    every_s : float
        Least time between two looks at the file [s].
    max_age_s : float
        Oldest observation of a decode instance that is used [s].
    """

    def __init__(self, path: str | os.PathLike[str], every_s: float = 1.0, max_age_s: float = 5.0) -> None:
        self._path, self._every_s, self._max_age_s = path, every_s, max_age_s
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._looked = time.monotonic()
        self.plan = load_plan(path, max_age_s)
        self.last_error: str | None = None

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = Path(self._path).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def refresh(self) -> bool:
        """Look at the file now; return whether a new plan was taken. `last_error` says why one was refused."""
        with self._lock:
            self._looked = time.monotonic()
            stamp = self._stamp()
            if stamp is None or stamp == self._seen:
                return False
            self._seen = stamp
            try:
                self.plan = load_plan(self._path, self._max_age_s)
            except PlanError as bad:
                self.last_error = str(bad)
                return False
            self.last_error = None
            return True

    def decide(
        self, prompt_tokens: float, cached_tokens: float, prefill_backlog_s: float, decode_states: Sequence[Any]
    ) -> Decision:
        """Return `RuntimePlan.decide` of the current plan, after a look at the file when one is due."""
        if time.monotonic() - self._looked >= self._every_s:
            self.refresh()
        return self.plan.decide(prompt_tokens, cached_tokens, prefill_backlog_s, decode_states)

    def pull(
        self, waiting: Iterable[Any], decode_state: Any, prefill_backlog_s: float = 0.0, decode_fault: bool = False
    ) -> int:
        """Return `RuntimePlan.pull` of the current plan, after a look at the file when one is due."""
        if time.monotonic() - self._looked >= self._every_s:
            self.refresh()
        return self.plan.pull(waiting, decode_state, prefill_backlog_s, decode_fault)

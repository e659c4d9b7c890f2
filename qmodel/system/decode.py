"""Decode pool in steady state: residents by the product form, and the laws of its step times."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qmodel.errors import UnstableError
from qmodel.scenario import Cluster
from qmodel.system.streams import Residence, at_ranks

__all__ = ["DecodePool", "Joins", "decode_pool", "light_joins"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_TAIL = 1e-9  # probability of longer queues that is left out
_MAX_WAITING = 20_000  # longest queue for a slot that is kept, however close the load is to 1
_NEGLIGIBLE = 1e-7  # batches that make a smaller share of tokens are left out of laws of step times
_GRID = 200  # points of that law, interpolated between
_SPREAD = 4.0  # standard deviations around the outermost batches that its grid covers
_SHORTEST = 0.5  # no first step is shorter than this share of a lone request's
_PROBE = 1_000.0  # tokens of context over which the time per token is read off


class Joins(NamedTuple):
    """Wait for the next step, own first step, and step of the batch joined, by request [s]."""

    admission_s: FloatArray
    first_step_s: FloatArray
    step_s: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodePool:
    """Steady state of d equal decode instances with balanced residents.

    Parameters
    ----------
    instances : int
        d.
    residents_cdf : ndarray, shape (n,)
        P(residents and waiting of the pool <= i).
    cap : int
        Largest batch N of one instance, by `max_num_seqs` or KV memory.
    batch : ndarray, shape (N,)
        Batches 1..N of one instance.
    step_s, step_sd_s : ndarray, shape (N,)
        Mean and standard deviation of the step time at each batch [s]; it varies with the residents' contexts.
    token_weight : ndarray, shape (N,)
        Share of tokens made at each batch.
    context_per_request : float
        Mean context of a resident [tokens].
    context_s : float
        Time per token of context [s].
    completions_per_s : float
        Steps the pool makes per second at its cap, summed over residents [1/s].
    mean_steps : float
        Mean decode steps of a request.
    load : float
        Needed steps per second over that capacity.
    busy_share : float
        Share of time in which an instance makes steps.
    overfull : float
        Share of tokens made by batches whose contexts and next tokens would not fit the cache.
    """

    instances: int
    residents_cdf: FloatArray
    cap: int
    batch: FloatArray
    step_s: FloatArray
    step_sd_s: FloatArray
    token_weight: FloatArray
    context_per_request: float
    context_s: float
    completions_per_s: float
    mean_steps: float
    load: float
    busy_share: float
    overfull: float

    @property
    def mean_batch(self) -> float:
        """Mean batch over the tokens made."""
        return float(self.batch @ self.token_weight)

    @property
    def mean_step_s(self) -> float:
        """Mean step over the tokens made [s]."""
        return float(self.step_s @ self.token_weight)

    def decode_s(self, output_tokens: IntArray) -> FloatArray:
        """Return how long requests are decoded, at the mean step over the tokens made [s]."""
        return np.maximum(output_tokens - 1, 1) * self.mean_step_s

    def joins(self, prompt_tokens: IntArray, uniform: FloatArray, phase: FloatArray) -> Joins:
        """Return how requests that find a state drawn by `uniform` get their first token; *approximation*.

        A request joins at the next step boundary of the instance with the fewest residents (at once when idle),
        and its first step carries one more request and its own context.

        Parameters
        ----------
        prompt_tokens : ndarray
            Prompt lengths [tokens].
        uniform, phase : ndarray
            In [0, 1): which state is met, the values (i + 1/2)/n in any order, and how far its step in progress has
            come.
        """
        found = at_ranks(self.residents_cdf, uniform)
        beside = np.minimum(found // self.instances, self.cap - 1).astype(np.int64)
        waiting = np.maximum(found - self.instances * self.cap + 1, 0)
        now = np.where(beside > 0, self.step_s[np.maximum(beside - 1, 0)], 0.0)
        admission = phase * now + waiting * self.mean_steps / self.completions_per_s
        return self._joined(prompt_tokens, admission, beside)

    def _joined(self, prompt_tokens: IntArray, admission_s: FloatArray, beside: IntArray) -> Joins:
        own = self.context_s * (prompt_tokens - self.context_per_request)
        step = self.step_s[beside]
        return Joins(admission_s, np.maximum(step + own, self.step_s[0] * _SHORTEST), step)

    def tbt_cdf(self, time_s: FloatArray) -> FloatArray:
        """Return the share of tokens whose time since the one before is <= `time_s` [s]."""
        from scipy.special import ndtr

        met = self.token_weight > _NEGLIGIBLE
        sd = np.maximum(self.step_sd_s[met], 1e-9)
        weight = self.token_weight[met] / self.token_weight[met].sum()
        return np.asarray(ndtr((np.asarray(time_s)[..., None] - self.step_s[met]) / sd) @ weight)

    def tbt_grid_s(self) -> FloatArray:
        """Return times that cover the law of step times [s]."""
        met = np.flatnonzero(self.token_weight > _NEGLIGIBLE)
        low, high = met[0], met[-1]
        spread = _SPREAD * self.step_sd_s
        return np.linspace(self.step_s[low] - spread[low] - 1e-6, self.step_s[high] + spread[high] + 1e-6, _GRID)

    def violation_probability(self, steps: FloatArray, limit_s: float, arrival_rate_per_s: float) -> FloatArray:
        """Return P(some step of a request's life exceeds `limit_s`) by its decode steps; *approximation*.

        Up-crossings of the first batch that is too slow are taken as a Poisson stream, of rate
        arrival rate * P(one resident below it), beside the chance of meeting such a batch on arrival.
        """
        slow = np.flatnonzero(self.step_s + 2.0 * self.step_sd_s > limit_s)
        if not len(slow):
            return np.zeros(np.shape(steps))
        level = self.instances * int(slow[0])
        cdf = self.residents_cdf
        if level == 0:
            return np.ones(np.shape(steps))
        if level >= len(cdf):
            return np.zeros(np.shape(steps))
        below = cdf[level - 1]
        mass = below - (cdf[level - 2] if level > 1 else 0.0)
        crossings = arrival_rate_per_s * mass / max(below, 1e-12) * steps * self.mean_step_s
        return np.asarray(1.0 - below * np.exp(-crossings))


def light_joins(
    pool: DecodePool, prompt_tokens: IntArray, steps: IntArray, landed_s: FloatArray, first_counted: int
) -> tuple[DecodePool, Joins]:
    """Return the pool with the batches that a path of landings makes, and how its requests join; *approximation*.

    With a few residents an instance, percentiles sit on single batches, and two things show that the product form
    neglects: residents leave at random, so that batches are not even, and packed prefill steps hand over several
    requests at once.

    Parameters
    ----------
    pool : DecodePool
        Steady state by the product form.
    prompt_tokens, steps : ndarray of int, shape (n,)
        Prompt lengths [tokens] and decode steps of each request.
    landed_s : ndarray, shape (n,)
        When each is ready for decode [s].
    first_counted : int
        Requests before it only warm up.
    """
    from qmodel._kernels.system_decode import light_batches

    order = np.argsort(landed_s, kind="stable")
    wait, met, tokens, busy = light_batches(order, landed_s, steps, pool.step_s, pool.instances, first_counted)
    met = np.minimum(met, pool.cap) - 1
    tokens -= np.bincount(met[first_counted:], minlength=pool.cap)  # the first step ends the TTFT and is no TBT
    tokens = np.maximum(tokens, 0.0)
    weight = tokens / tokens.sum() if tokens.sum() > 0 else pool.token_weight
    busy_share = float(busy.mean() / landed_s[order[-1]])
    seen = replace(pool, token_weight=weight, busy_share=min(busy_share, 1.0))
    return seen, seen._joined(prompt_tokens, wait, met)


def decode_pool(cluster: Cluster, arrival_rate_per_s: float, residence: Residence) -> DecodePool:
    """Return the decode pool's steady state under Poisson arrivals; *exact* for exponential step counts.

    pi(n) ~ prod_{j<=n} lam*E[steps] / sum_i b_i/T(b_i), the sum over instances that share j residents evenly
    (Cohen, Acta Informatica 12, 1979: insensitive to the law of the steps below the cap).

    Parameters
    ----------
    cluster : Cluster
        Its decode instances; unequal ones are averaged.
    arrival_rate_per_s : float
        Requests that reach the pool [1/s].
    residence : Residence
        What the lengths mean for decode.

    Returns
    -------
    DecodePool
        Residents, step-time laws and utilisation.

    Raises
    ------
    UnstableError
        When the pool cannot make tokens as fast as they are asked for.
    """
    from scipy.special import ndtr

    lam, d = arrival_rate_per_s, cluster.decode_count
    E, context, square = residence
    capacity = min(c.kv_capacity_tokens for c in cluster.decode_calibrations)
    cap = max(1, min(cluster.max_num_seqs, int(capacity / context)))
    batch = np.arange(1, cap + 1, dtype=float)
    step, per_context = _mean_step(cluster, cap, context)
    rate = batch / step
    asked = lam * E
    limit = d * float(np.max(rate))
    if asked >= limit:
        raise UnstableError(
            "decode load", asked / limit, "below 1 for a steady state", "add decode instances or lower the rate"
        )
    pi, tokens, most = _product_form(asked, rate, d)
    weight, own = tokens / tokens.sum(), np.sqrt(max(square - context**2, 0.0))
    room = (capacity - batch * (context + 1.0)) / np.maximum(np.sqrt(batch) * own, 1e-9)
    return DecodePool(
        instances=d,
        residents_cdf=np.cumsum(pi),
        cap=cap,
        batch=batch,
        step_s=step,
        step_sd_s=per_context * np.sqrt(batch) * own,
        token_weight=weight,
        context_per_request=context,
        context_s=per_context,
        completions_per_s=most,
        mean_steps=E,
        load=asked / limit,
        busy_share=float(pi[1:] @ np.minimum(np.arange(1, len(pi)), d)) / d,
        overfull=float(weight @ ndtr(-room)),
    )


def _product_form(asked: float, rate: FloatArray, d: int) -> tuple[FloatArray, FloatArray, float]:
    """Return P(residents and waiting), tokens made by batch and steps per second with all slots taken.

    `asked` steps per second are needed of d instances that make rate[b - 1] steps per second with b residents.
    """
    cap = len(rate)
    n = np.arange(1, d * cap + 1)
    low, more = n // d, n % d
    padded = np.concatenate([[0.0], rate, [0.0]])
    pool_rate = more * padded[low + 1] + (d - more) * padded[low]
    log_pi = np.concatenate([[0.0], np.cumsum(np.log(asked / pool_rate))])
    ratio = asked / pool_rate[-1]
    tail = min(_MAX_WAITING, int(np.log(_TAIL) / np.log(ratio)) + 1) if ratio < 1 else _MAX_WAITING
    log_pi = np.concatenate([log_pi, log_pi[-1] + np.log(ratio) * np.arange(1, tail + 1)])
    pi = np.exp(log_pi - np.max(log_pi))
    pi /= pi.sum()
    made = np.zeros(cap + 2)
    served = pi[1 : len(n) + 1].copy()
    served[-1] += pi[len(n) + 1 :].sum()
    np.add.at(made, low + 1, served * more * padded[low + 1])
    np.add.at(made, low, served * (d - more) * padded[low])
    return pi, made[1 : cap + 1], float(pool_rate[-1])


def _mean_step(cluster: Cluster, cap: int, context: float) -> tuple[FloatArray, float]:
    """Return T(b, b*context) for b = 1..cap and the time per context token, averaged over unequal instances."""
    batch = np.arange(1, cap + 1, dtype=float)
    total, slope = np.zeros(cap), 0.0
    for cal, count in Counter(cluster.decode_calibrations).items():
        step = np.asarray(cal.step.step_time_s(batch, batch * context))
        total += count * step
        more = float(np.asarray(cal.step.step_time_s(float(cap), cap * context + _PROBE)))
        slope += count * (more - float(step[-1])) / _PROBE
    return total / cluster.decode_count, slope / cluster.decode_count

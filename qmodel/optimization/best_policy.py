"""The best that any policy of the two backlogs can do, one instance a pool: the check of the thresholds from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.errors import ConvergenceError

__all__ = ["BacklogChain", "BestPolicy", "best_policy", "cost_of", "threshold_choice"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
# Most slots of value iteration, and the relative span of a slot's cost at which it ends.
_SWEEPS = 200_000
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BacklogChain:
    """Two backlogs, kept and deflected work, on a grid of slots; an approximation of order `slot_s`.

    In each slot both backlogs fall by one slot and at most one prompt arrives; its class and the backlogs are seen, and
    it is kept or deflected. Its cost is the time to the end of its prefill. A backlog beyond the grid is held there.

    Parameters
    ----------
    slot_s : float
        Slot [s].
    rates_per_s : ndarray, shape (classes,)
        Poisson arrivals [1/s]; their sum times `slot_s` is < 1.
    work, host : ndarray of int, shape (classes,)
        Prefill work and host time [slots].
    transfer_s : ndarray, shape (classes,)
        Transfer of a kept prompt [s].
    size : tuple of int
        Grid of the two backlogs [slots].
    """

    slot_s: float
    rates_per_s: FloatArray
    work: npt.NDArray[np.int64]
    host: npt.NDArray[np.int64]
    transfer_s: FloatArray
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BestPolicy:
    """The optimum over all policies that see the two backlogs.

    Parameters
    ----------
    mean_time_s : float
        Mean time from arrival to the end of prefill, transfer included [s].
    deflects : ndarray of bool, shape (classes, prefill backlogs, decode backlogs)
        Whether it deflects.
    """

    mean_time_s: float
    deflects: BoolArray


def best_policy(chain: BacklogChain) -> BestPolicy:
    """Return the policy with the least mean time, by relative value iteration; *exact* on the chain.

        v(w, d) = sum_b p_b*min(w + s_b + x_b + v(w + s_b - 1, d - 1), d + h_b + v(w - 1, d + h_b - 1))
                  + (1 - sum p)*v(w - 1, d - 1) - g

    Parameters
    ----------
    chain : BacklogChain
        Arrivals and works.

    Raises
    ------
    ConvergenceError
        When values have not settled after 200,000 slots, as under overload.

    Examples
    --------
    >>> chain = BacklogChain(slot_s=0.1, rates_per_s=np.array([1.0]), work=np.array([5]), host=np.array([500]),
    ...                      transfer_s=np.array([0.0]), size=(200, 20))
    >>> best = best_policy(chain)
    >>> bool(best.deflects.any())
    False
    """
    cost, deflects = _iterate(chain, None)
    return BestPolicy(mean_time_s=cost, deflects=deflects)


def cost_of(chain: BacklogChain, deflects: BoolArray) -> float:
    """Return the mean time [s] of a policy given as a table; *exact* on the chain.

    Parameters
    ----------
    chain : BacklogChain
        Arrivals and works.
    deflects : ndarray of bool, shape (classes, prefill backlogs, decode backlogs)
        Whether the policy deflects.
    """
    return _iterate(chain, deflects)[0]


def threshold_choice(chain: BacklogChain, price_prefill_per_s: float, price_decode_per_s: float) -> BoolArray:
    """Return what the closed form of stage 2 does on the chain: deflect iff a_P(w, s) + x > a_D(v, h).

    Parameters
    ----------
    chain : BacklogChain
        Arrivals and works.
    price_prefill_per_s, price_decode_per_s : float
        g_P and g_D [1/s].
    """
    w, v = (np.asarray(np.arange(n) * chain.slot_s, dtype=np.float64) for n in chain.size)
    s, h = (np.asarray(work * chain.slot_s, dtype=np.float64) for work in (chain.work, chain.host))
    x = chain.transfer_s

    def admission(backlog: FloatArray, work: FloatArray, price: float) -> FloatArray:
        both = backlog[None, :] + work[:, None]
        return both + price * (both**2 - backlog[None, :] ** 2)

    kept = admission(w, s, price_prefill_per_s) + x[:, None]
    moved = admission(v, h, price_decode_per_s)
    return np.asarray(kept[:, :, None] > moved[:, None, :])


def _iterate(chain: BacklogChain, deflects: BoolArray | None) -> tuple[float, BoolArray]:
    """Return mean time and decisions, of the best policy where none is given."""
    (n, m), p = chain.size, chain.rates_per_s * chain.slot_s
    w, d = np.arange(n), np.arange(m)
    down_w, down_d = np.maximum(w - 1, 0), np.maximum(d - 1, 0)
    joined_w = [np.clip(w + s - 1, 0, n - 1) for s in chain.work]
    joined_d = [np.clip(d + h - 1, 0, m - 1) for h in chain.host]
    at_prefill = [(w + s) * chain.slot_s + x for s, x in zip(chain.work, chain.transfer_s, strict=True)]
    at_decode = [(d + h) * chain.slot_s for h in chain.host]
    value, chosen = np.zeros(chain.size), np.zeros((len(p), n, m), dtype=bool)
    rate = float(chain.rates_per_s.sum())
    for sweep in range(_SWEEPS):
        new = (1 - p.sum()) * value[np.ix_(down_w, down_d)]
        for b, share in enumerate(p):
            kept = at_prefill[b][:, None] + value[np.ix_(joined_w[b], down_d)]
            moved = at_decode[b][None, :] + value[np.ix_(down_w, joined_d[b])]
            chosen[b] = moved < kept if deflects is None else deflects[b]
            new += share * np.where(chosen[b], moved, kept)
        change = new - value
        low, high = float(change.min()), float(change.max())
        value = new - new[0, 0]
        if sweep > 10 and high - low <= _TOLERANCE * max(high, 1e-12):
            return 0.5 * (low + high) / (rate * chain.slot_s), chosen
    raise ConvergenceError(
        "value iteration of the two backlogs", high - low, f"<= {_TOLERANCE * high:.3g}", "lower load"
    )

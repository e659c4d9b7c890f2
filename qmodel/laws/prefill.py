"""Prefill times that follow from a step law: a prompt in chunks, alone or as a share of full steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qmodel.laws.step import FloatLike, StepLaw

__all__ = ["chunked_prefill_s", "lone_prefill_s", "prefill_work_s"]

Tokens = float | npt.ArrayLike


def _shaped(value: npt.NDArray[np.float64], like: Tokens) -> FloatLike:
    return float(value) if np.ndim(like) == 0 else value


def lone_prefill_s(law: StepLaw, prompt_tokens: Tokens, cached_tokens: Tokens = 0.0) -> FloatLike:
    """Return S(L), the time of a lone prompt in a single unchunked step; *empirical*.

    Parameters
    ----------
    law : StepLaw
        Prefill law.
    prompt_tokens : float or array_like
        Prompt length L [tokens].
    cached_tokens : float or array_like, optional
        Prefix already in the cache [tokens], < L.

    Returns
    -------
    float or ndarray
        S(L) [s] = base(L) + ca*L^2/2 when nothing is cached; shape of `prompt_tokens`.
    """
    done = np.asarray(cached_tokens, dtype=float)
    chi = np.asarray(prompt_tokens, dtype=float) - done
    time = law.step_time_s(0.0 * chi, 0.0 * chi, chi, chi * (done + chi / 2), done)
    return _shaped(np.asarray(time), prompt_tokens)


def chunked_prefill_s(law: StepLaw, prompt_tokens: Tokens, budget: int, cached_tokens: Tokens = 0.0) -> FloatLike:
    """Return S_b(L), the time of a lone prompt in its own steps of at most `budget` tokens; *exact* sum.

    Parameters
    ----------
    law : StepLaw
        Prefill law.
    prompt_tokens : float or array_like
        Prompt length L [tokens].
    budget : int
        Tokens a step may carry.
    cached_tokens : float or array_like, optional
        Prefix already in the cache [tokens], < L.

    Returns
    -------
    float or ndarray
        S_b(L) [s], equal to S(L) when the prompt fits one step; shape of `prompt_tokens`.
    """
    done = np.atleast_1d(np.asarray(cached_tokens, dtype=float)).astype(float)
    total = np.atleast_1d(np.asarray(prompt_tokens, dtype=float))
    done, total = (x.copy() for x in np.broadcast_arrays(done, total))
    time = np.zeros_like(total)
    while True:
        open_ = np.flatnonzero(total > done)
        if not len(open_):
            break
        d = done[open_]
        chi = np.minimum(budget, total[open_] - d)
        time[open_] += law.step_time_s(0.0 * chi, 0.0 * chi, chi, chi * (d + chi / 2), d)
        done[open_] += chi
    shape = np.broadcast_shapes(np.shape(prompt_tokens), np.shape(cached_tokens))
    return float(time[0]) if shape == () else time.reshape(shape)


def prefill_work_s(law: StepLaw, prompt_tokens: Tokens, budget: int, cached_tokens: Tokens = 0.0) -> FloatLike:
    """Return W(L), a prompt's share of full steps on a busy prefill instance; *approximation* below `budget`.

    W(L) = L*step(b)/b + ca*L^2/2 + cx*b*m*(m+1)/2 with m = ceil(L/b) - 1, for L tokens without a cached prefix;
    equal to S_b(L) at multiples of the budget b and below it elsewhere. A cached prefix of h tokens leaves
    L - h tokens to compute, whose attention and reloads also see the prefix.

    Parameters
    ----------
    law : StepLaw
        Prefill law.
    prompt_tokens : float or array_like
        Prompt length L [tokens].
    budget : int
        Tokens a full step carries.
    cached_tokens : float or array_like, optional
        Prefix already in the cache [tokens], < L.

    Returns
    -------
    float or ndarray
        W(L) [s]; shape of `prompt_tokens`.
    """
    h = np.asarray(cached_tokens, dtype=float)
    n = np.asarray(prompt_tokens, dtype=float) - h
    b = float(budget)
    full = float(np.asarray(law.step_time_s(0.0, 0.0, b, 0.0, 0.0)))
    one, reload_ = _slopes(law)
    m = np.ceil(n / b) - 1
    quadratic = n * (h + n / 2)
    reloaded = b * m * (m + 1) / 2 + h * (m + 1)
    work = n * full / b + one * quadratic + reload_ * reloaded
    return _shaped(np.asarray(work), np.broadcast_to(0.0, np.broadcast_shapes(n.shape, h.shape)))


def _slopes(law: StepLaw) -> tuple[float, float]:
    """Return the time per unit of quadratic attention work and per reloaded token [s], away from any floor."""
    n, q, r = 1e5, 1e9, 1e6
    base, more, again = (
        float(np.asarray(law.step_time_s(0.0, 0.0, n, *extra))) for extra in ((0.0, 0.0), (q, 0.0), (0.0, r))
    )
    return (more - base) / q, (again - base) / r

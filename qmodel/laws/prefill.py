"""Prefill times that follow from a step law: a prompt in chunks, alone or as a share of full steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qmodel.laws.step import FloatLike, StepLaw

__all__ = ["chunked_prefill_s", "lone_prefill_s", "prefill_work_s", "work_constants"]

Tokens = float | npt.ArrayLike


# Where step laws are probed for their slopes in q and r: far above every floor, in tokens and in either sum.
_PROBE_TOKENS, _PROBE_QUADRATIC, _PROBE_RELOADED = 1e5, 1e9, 1e6


def _plain(value: npt.NDArray[np.float64]) -> FloatLike:
    return float(value) if value.ndim == 0 else value


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
        S(L) [s] = base(L) + ca*L^2/2 when nothing is cached; shape of both arguments together.
    """
    done = np.asarray(cached_tokens, dtype=float)
    chi = np.asarray(prompt_tokens, dtype=float) - done
    time = law.step_time_s(0.0 * chi, 0.0 * chi, chi, chi * (done + chi / 2), done)
    return _plain(np.asarray(time))


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
        S_b(L) [s], equal to S(L) when the prompt fits one step; shape of both arguments together.
    """
    both = np.broadcast_arrays(np.asarray(cached_tokens, dtype=float), np.asarray(prompt_tokens, dtype=float))
    done, total = (x.flatten() for x in both)
    time = np.zeros_like(total)
    while True:
        open_ = np.flatnonzero(total > done)
        if not len(open_):
            break
        d = done[open_]
        chi = np.minimum(budget, total[open_] - d)
        time[open_] += law.step_time_s(0.0 * chi, 0.0 * chi, chi, chi * (d + chi / 2), d)
        done[open_] += chi
    return _plain(time.reshape(both[0].shape))


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
        W(L) [s]; shape of both arguments together.
    """
    h = np.asarray(cached_tokens, dtype=float)
    n = np.asarray(prompt_tokens, dtype=float) - h
    b = float(budget)
    token, ca, cx = work_constants(law, budget)
    m = np.ceil(n / b) - 1
    quadratic = n * (h + n / 2)
    reloaded = b * m * (m + 1) / 2 + h * (m + 1)
    return _plain(np.asarray(n * token + ca * quadratic + cx * reloaded))


def work_constants(law: StepLaw, budget: int) -> tuple[float, float, float]:
    """Return the constants of W(L): per token of a full step, per unit of quadratic attention work, per reloaded token.

    Parameters
    ----------
    law : StepLaw
        Prefill law.
    budget : int
        Tokens a full step carries.

    Returns
    -------
    tuple of float
        step(b)/b [s], ca [s/token^2] and cx [s], the last two away from any floor.
    """
    n, q, r = _PROBE_TOKENS, _PROBE_QUADRATIC, _PROBE_RELOADED
    full, base, more, again = (
        float(np.asarray(law.step_time_s(0.0, 0.0, *sums)))
        for sums in ((float(budget), 0.0, 0.0), (n, 0.0, 0.0), (n, q, 0.0), (n, 0.0, r))
    )
    return full / budget, (more - base) / q, (again - base) / r

"""Derivations of the closed forms in sympy, which tests compare with the code; needs the `notebooks` extra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Derived", "backlog_price", "pollaczek_khinchine", "product_form", "step_span", "threshold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """A derived expression and its symbols by name.

    Parameters
    ----------
    expression : sympy.Expr
        The closed form.
    symbols : Mapping
        Name to symbol.
    """

    expression: Any
    symbols: Mapping[str, Any]


def backlog_price() -> Derived:
    """Return g of the relative value v(w) = g*w^2 + b*w of backlog w in M/G/1 FCFS, cost = waiting; *exact*.

    From backlog w the server works at rate 1 until empty, and each arrival waits the backlog it meets. With mean wait W
    per arrival, the relative value solves

        lam*(w - W) - v'(w) + lam*E[v(w + S) - v(w)] = 0.

    A quadratic v = g*w^2 + b*w solves it: the terms in w give g, those in w^0 give b and W.

    Returns
    -------
    Derived
        g in lam and rho = lam*E[S].
    """
    import sympy as sp

    w, lam, rho, g, b = sp.symbols("w lam rho g b", positive=True)
    m2, wait = sp.symbols("m2 W", positive=True)
    mean = rho / lam
    jump = g * (2 * w * mean + m2) + b * mean  # E[v(w + S) - v(w)], with E[S^2] = m2
    balance = sp.expand(lam * (w - wait) - (2 * g * w + b) + lam * jump)
    solution = sp.solve(sp.Poly(balance, w).coeff_monomial(w), g)[0]
    return Derived(expression=sp.simplify(solution), symbols={"lam": lam, "rho": rho})


def threshold() -> Derived:
    """Return theta, the prefill backlog at which both paths cost the same; *exact*.

    a(w, s) = w + s + g*((w + s)^2 - w^2) on either path; theta solves a_P(theta, s) + x = a_D(v, h) + harm.

    Returns
    -------
    Derived
        theta in s, x, h, v, g_P, g_D and harm.
    """
    import sympy as sp

    names = "theta s x h v g_P g_D harm"
    theta, s, x, h, v, g_P, g_D, harm = sp.symbols(names, nonnegative=True)

    def admission(backlog: Any, work: Any, price: Any) -> Any:
        return backlog + work + price * ((backlog + work) ** 2 - backlog**2)

    kept, moved = admission(theta, s, g_P) + x, admission(v, h, g_D) + harm
    (solution,) = sp.solve(sp.expand(kept - moved), theta)
    symbols = dict(zip(names.split()[1:], (s, x, h, v, g_P, g_D, harm), strict=True))
    return Derived(expression=sp.simplify(solution), symbols=symbols)


def pollaczek_khinchine() -> Derived:
    """Return the mean wait in M/G/1 from the law of large numbers for backlog; *exact*.

    The square of the backlog V is in balance: it falls at 2*V while the server works, an arrival of work S raises it by
    2*V*S + S^2. With V independent of S (arrivals see time averages), 2*E[V] = lam*(2*E[V]*m1 + m2).

    Returns
    -------
    Derived
        E[W] = E[V] in lam, m1 and m2.
    """
    import sympy as sp

    lam, m1, m2, wait = sp.symbols("lam m1 m2 W", positive=True)
    (solution,) = sp.solve(sp.Eq(2 * wait, lam * (2 * wait * m1 + m2)), wait)
    return Derived(expression=sp.factor(solution), symbols={"lam": lam, "m1": m1, "m2": m2})


def product_form(most: int = 5) -> Derived:
    """Return P(n residents)/P(none) of a decode batch from its global balance equations; *exact*.

    Arrivals come at rate lam; n residents of E[O] = tokens steps each leave at rate n/(tokens*T(n)); at most `most`.

    Parameters
    ----------
    most : int, optional
        Most residents.

    Returns
    -------
    Derived
        Tuple over n = 0 .. most, in lam, tokens and T1 .. Tmost.
    """
    import sympy as sp

    lam, tokens = sp.symbols("lam tokens", positive=True)
    steps, shares = sp.symbols(f"T1:{most + 1}", positive=True), sp.symbols(f"p1:{most + 1}", positive=True)
    law = (sp.Integer(1), *shares)

    def leave(n: int) -> Any:
        return n / (tokens * steps[n - 1]) if n else sp.Integer(0)

    balance = []
    for n in range(most):
        out = law[n] * (lam + leave(n))
        into = (lam * law[n - 1] if n else 0) + law[n + 1] * leave(n + 1)
        balance.append(sp.Eq(out, into))
    solution = sp.solve(balance, shares, dict=True)[0]
    expression = sp.Tuple(sp.Integer(1), *(sp.factor(solution[share]) for share in shares))
    symbols = {"lam": lam, "tokens": tokens} | {f"T{n}": step for n, step in enumerate(steps, start=1)}
    return Derived(expression=expression, symbols=symbols)


def step_span() -> Derived:
    """Return the time of m decode steps between joins and leaves, the first c on one line, then another; *exact*.

    Each step adds a token to every resident, so step i takes x + s*i while one term of the law rules, then y + z*i.

    Returns
    -------
    Derived
        Sum in x, s, y, z, c and m.
    """
    import sympy as sp

    x, s, y, z, c, m, i = sp.symbols("x s y z c m i", nonnegative=True)
    whole = sp.summation(x + s * i, (i, 0, c - 1)) + sp.summation(y + z * i, (i, c, m - 1))
    return Derived(expression=sp.expand(whole), symbols={"x": x, "s": s, "y": y, "z": z, "c": c, "m": m})

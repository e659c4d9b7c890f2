"""Derivations of the closed forms in sympy, which tests compare with the code; needs the `notebooks` extra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Derived", "backlog_price", "threshold"]


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

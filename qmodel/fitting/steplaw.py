"""Fits of step laws: relative least squares, non-negative, by variable projection from several starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qmodel.errors import ConvergenceError, InputError
from qmodel.laws.samples import StepSamples
from qmodel.laws.step import LinearLaw, PNormLaw, curve_s

__all__ = ["Family", "FitErrors", "Form", "errors_of", "fit_step_law", "law_times_s", "loss_of"]

Array = npt.NDArray[np.float64]
Family = Literal["linear", "dense", "moe", "experts"]

P_RANGE = (1.0, 8.0)  # beyond 8 the joint is a corner and p is not identified
A_RANGE = (0.0, 0.9)  # at 1 reading weights grows like multiplying tokens and the two are not told apart
CROSSING_RANGE = (1.0, 1e5)  # tokens at which reading weights and multiplying tokens take equal time, for a = 0


class Form(NamedTuple):
    """What a law may be made of.

    Parameters
    ----------
    family : {"linear", "dense", "moe", "experts"}
        ``dense``: a = 0; ``moe``: t0 = 0 and a free, for experts touched grow with tokens; ``experts``: both free, and
        the share of experts that are read saturates, 1 - (1 - e)^m.
    expert_share : float
        e, experts of one token over all, for the last.
    jump : tuple of float
        Tokens between which kernels change algorithm, empty for none.
    allreduce : tuple of (float, float)
        Points [tokens, s] of all-reduces that the law has as measured beside what is fitted, empty for none.
    """

    family: Family
    expert_share: float = 0.0
    jump: tuple[float, ...] = ()
    allreduce: tuple[tuple[float, float], ...] = ()

    @property
    def allreduce_curve(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Tokens and times [s] of the points of `allreduce`."""
        return tuple(tokens for tokens, _ in self.allreduce), tuple(time for _, time in self.allreduce)

    def __str__(self) -> str:
        if not self.jump:
            return self.family
        return f"{self.family} with a jump from {self.jump[0]:g} to {self.jump[1]:g} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitErrors:
    """Relative errors of a law on samples.

    Parameters
    ----------
    mape, p95, worst : float
        Mean, 95th percentile and largest |predicted/measured - 1|.
    """

    mape: float
    p95: float
    worst: float


def law_times_s(law: PNormLaw | LinearLaw, s: StepSamples) -> Array:
    """Return the law's times [s] at the samples.

    Parameters
    ----------
    law : PNormLaw or LinearLaw
        Law.
    s : StepSamples
        Steps.
    """
    return np.asarray(law.step_time_s(s.batch, s.context, s.chunk, s.quadratic, s.reloaded))


def errors_of(law: PNormLaw | LinearLaw, samples: StepSamples) -> FitErrors:
    """Return how far a law is from samples.

    Parameters
    ----------
    law : PNormLaw or LinearLaw
        Law.
    samples : StepSamples
        Steps with their times.
    """
    error = np.abs(law_times_s(law, samples) / samples.time_s - 1)
    return FitErrors(mape=float(error.mean()), p95=float(np.quantile(error, 0.95)), worst=float(error.max()))


def fit_step_law(
    samples: StepSamples,
    form: Form | Family,
    *,
    weights: Array | None = None,
    start: PNormLaw | None = None,
    reload_s: float | None = None,
) -> PNormLaw | LinearLaw:
    """Return the law of a family nearest to samples in relative least squares; *empirical*.

    The coefficients that enter linearly are found by non-negative least squares inside a simplex search over the
    others (variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10, 1973).

    Parameters
    ----------
    samples : StepSamples
        Steps with their times; at least as many as coefficients.
    form : Form or str
        What the law may be made of, or the name of a family alone.
    weights : ndarray, optional
        Weight of each sample's squared relative error.
    start : PNormLaw, optional
        Where to start from instead of several places; for bootstraps.
    reload_s : float, optional
        cx to hold fixed [s per token], for samples that do not show it.

    Returns
    -------
    PNormLaw or LinearLaw
        Fitted law.

    Raises
    ------
    InputError
        When there are fewer samples than coefficients.
    ConvergenceError
        When no start converged.
    """
    if len(samples) < 6:
        raise InputError("steps to fit", len(samples), ">= 6", "measure more steps")
    form = Form(form) if isinstance(form, str) else form
    root, target = _relative(samples, weights, reload_s)
    if form.family == "linear":
        one = np.ones(len(samples))
        columns = [one, samples.batch, samples.context, samples.chunk, samples.quadratic]
        x, _ = _nnls(np.column_stack(columns) * root[:, None], target)
        return LinearLaw(alpha_s=x[0], batch_s=x[1], context_s=x[2], prompt_s=x[3], attention_s=x[4])
    target = target - root * curve_s(samples.batch + samples.chunk, *form.allreduce_curve)
    problem = _Projection(samples, root, target, form, free_reload=reload_s is None)
    best = _search(problem.loss, problem.starts(start))
    return problem.law(best, reload_s or 0.0)


def loss_of(law: PNormLaw | LinearLaw, samples: StepSamples, weights: Array) -> float:
    """Return the weighted root-mean-square relative error of a law on samples.

    Parameters
    ----------
    law : PNormLaw or LinearLaw
        Law.
    samples : StepSamples
        Steps with their times.
    weights : ndarray
        Weight of each sample's squared relative error.
    """
    error = law_times_s(law, samples) / samples.time_s - 1
    return float(np.sqrt(np.average(error**2, weights=weights)))


def _relative(samples: StepSamples, weights: Array | None, reload_s: float | None) -> tuple[Array, Array]:
    """Return the factor that makes errors relative and weighted, and the times times it, known reloads taken off."""
    root = np.sqrt(np.ones(len(samples)) if weights is None else np.asarray(weights, dtype=float)) / samples.time_s
    return root, root * (samples.time_s - (reload_s or 0.0) * samples.reloaded)


class _Projection:
    """Loss over (log crossing, p[, a]) with the linear coefficients solved for."""

    def __init__(self, samples: StepSamples, root: Array, target: Array, form: Form, *, free_reload: bool) -> None:
        self.form, self.root, self.target = form, root, target
        self.growing = form.family in ("moe", "experts")
        self.tokens = samples.batch + samples.chunk
        self.log_tokens = np.log(self.tokens)
        self.log_read = np.zeros(len(samples))
        if form.family == "experts":
            self.log_read = np.log(-np.expm1(self.tokens * np.log1p(-form.expert_share)))
        columns = {} if form.family == "moe" else {"t0_s": np.ones(len(samples))}
        columns |= {"context_s": samples.context, "attention_s": samples.quadratic}
        if free_reload:
            columns["reload_s"] = samples.reloaded
        if form.jump:
            first, last = form.jump
            columns["jump_s"] = np.clip((self.tokens - first) / (last - first), 0.0, 1.0)
        self.names = list(columns)
        self.fixed = np.column_stack(list(columns.values())) * root[:, None]
        self.scale = np.maximum(np.linalg.norm(self.fixed, axis=0), 1e-300)
        self.fixed = self.fixed / self.scale
        logs = (np.log(CROSSING_RANGE[0]), np.log(CROSSING_RANGE[1]))
        self.bounds = [logs, P_RANGE] + ([A_RANGE] if self.growing else [])

    def starts(self, law: PNormLaw | None) -> list[Array]:
        if law is not None and law.c_s > 0 and law.w_s > 0:
            crossing = np.log(law.w_s / law.c_s)
            return [np.array([crossing, law.p] + ([law.a] if self.growing else []))]
        tail = [0.3] if self.growing else []
        return [np.array([np.log(x), p, *tail]) for x, p in ((150.0, 2.0), (60.0, 5.0), (400.0, 3.0), (20.0, 1.5))]

    def basis(self, theta: Array) -> Array:
        ratio, p = theta[0], theta[1]
        a = theta[2] if len(theta) > 2 else 0.0
        memory = ratio + a * self.log_tokens + self.log_read
        high = np.maximum(memory, self.log_tokens)
        gap = np.abs(memory - self.log_tokens)
        base = np.exp(high) * (1.0 + np.exp(-p * gap)) ** (1.0 / p)
        return np.asarray(base * self.root)

    def solve(self, theta: Array) -> tuple[Array, float]:
        base = self.basis(theta)
        size = float(np.linalg.norm(base))
        x, loss = _nnls(np.column_stack([base / size, self.fixed]), self.target)
        return np.concatenate([[x[0] / size], x[1:] / self.scale]), loss

    def loss(self, theta: Array) -> float:
        low, high = zip(*self.bounds, strict=True)
        inside = np.clip(theta, low, high)
        outside = float(np.sum((theta - inside) ** 2))
        return self.solve(inside)[1] * (1.0 + outside)

    def law(self, theta: Array, reload_s: float) -> PNormLaw:
        low, high = zip(*self.bounds, strict=True)
        theta = np.clip(theta, low, high)
        x, _ = self.solve(theta)
        c = float(x[0])
        linear = {"t0_s": 0.0, "reload_s": reload_s} | dict(zip(self.names, x[1:].tolist(), strict=True))
        if linear.get("jump_s"):
            linear |= {"jump_from_tokens": self.form.jump[0], "jump_to_tokens": self.form.jump[1]}
        return PNormLaw(
            w_s=float(c * np.exp(theta[0])),
            a=float(theta[2]) if self.growing else 0.0,
            c_s=c,
            p=float(theta[1]),
            expert_share=self.form.expert_share if self.form.family == "experts" else 0.0,
            allreduce_tokens=self.form.allreduce_curve[0],
            allreduce_s=self.form.allreduce_curve[1],
            **linear,
        )


def _nnls(matrix: Array, target: Array) -> tuple[Array, float]:
    """Return the non-negative least-squares solution and its sum of squares, through the small triangular factor."""
    from scipy.optimize import nnls

    q, r = np.linalg.qr(matrix)
    projected = q.T @ target
    x, rest = nnls(r, projected)
    return x, float(rest**2 + target @ target - projected @ projected)


def _search(loss: Callable[[Array], float], starts: Sequence[Array]) -> Array:
    """Return the best end of simplex searches from each start; every start is deterministic."""
    from scipy.optimize import minimize

    best: tuple[float, Array] | None = None
    for start in starts:
        result = minimize(
            loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 600, "maxfev": 900}
        )
        if np.isfinite(result.fun) and (best is None or result.fun < best[0]):
            best = (float(result.fun), np.asarray(result.x))
    if best is None:
        raise ConvergenceError("step-law fit", "no finite loss from any start", "finite", "check the step times")
    return best[1]

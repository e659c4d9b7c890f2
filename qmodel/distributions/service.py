"""Service-time laws: mixtures of simple parts, with moments, residual life, transforms and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qmodel.distributions.checks import check_array, check_count, check_number, check_positive, check_rng, shown
from qmodel.distributions.parts import Atoms, Gamma, LogNormal, Part, TwoPhase
from qmodel.errors import InputError, OutOfRangeError

__all__ = ["ServiceTime"]

FloatArray = npt.NDArray[np.float64]

#: Weights may miss a sum of one by rounding in a file, not by more.
WEIGHT_SUM_TOLERANCE = 1e-6
#: Shortest mean of a part [s], and one over the longest: fourth moments then stay within the range of numbers.
SHORTEST_S = 1e-60
#: Mean of a phase, relative to the other one, below which it is none: rounding.
NO_PHASE = 1e-15
#: Least share of a lognormal law that a bound may leave: less is rounding.
LEAST_SHARE = 1e-9
#: Orders of moments that need no look.
ORDERS = (1, 2, 3)
#: Rounding of summed weights.
WEIGHT_ROUNDING = 1e-14
#: Halvings of a bracket around a quantile: all that double precision holds.
HALVINGS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServiceTime:
    """Law of a service time: a mixture of parts.

    Build one with a class method: `from_samples`, `deterministic`, `exponential`, `erlang`, `gamma`,
    `hyperexponential`, `hypoexponential`, `lognormal` or `mixture`.

    Parameters
    ----------
    parts : tuple of Part
        Components.
    weights : tuple of float
        Probability of each component.
    name : str
        What to call the law in messages.

    Examples
    --------
    >>> law = ServiceTime.from_samples([1.0, 2.0, 5.0], weights=[5, 3, 2])
    >>> round(law.mean_s, 3), round(law.scv, 3)
    (2.1, 0.519)
    """

    parts: tuple[Part, ...]
    weights: tuple[float, ...]
    name: str

    def __post_init__(self) -> None:
        if not self.parts or len(self.parts) != len(self.weights):
            raise InputError(
                "service law", f"{len(self.parts)} parts, {len(self.weights)} weights", "one weight a part"
            )
        total = math.fsum(self.weights)
        if min(self.weights) < 0 or not abs(total - 1) <= WEIGHT_SUM_TOLERANCE:
            raise InputError("sum of service-law weights", total, "1, and no weight negative", "normalise them")
        for part in self.parts:
            mean = part.moment(1)
            if not (mean == 0 or SHORTEST_S <= mean <= 1 / SHORTEST_S):
                limit = f"between {SHORTEST_S:g} and {1 / SHORTEST_S:g} s"
                raise InputError("mean of a part of a service law", mean, limit, "choose another unit of time")
        if not (math.isfinite(self.moment(2)) and self.moment(1) > 0):
            raise InputError("mean service time", self.moment(1), "finite and > 0, with a finite second moment")

    def __repr__(self) -> str:
        bound = f", upper_s={self.upper_s:.6g}" if math.isfinite(self.upper_s) else ""
        return f"ServiceTime({self.name}, mean_s={self.mean_s:.6g}, scv={self.scv:.4g}{bound})"

    # -- construction ---------------------------------------------------------------------------------------------

    @classmethod
    def from_samples(
        cls, values_s: npt.ArrayLike, weights: npt.ArrayLike | None = None, name: str = "samples"
    ) -> ServiceTime:
        """Return the empirical law of samples, optionally weighted.

        Parameters
        ----------
        values_s : array_like
            Service times [s], finite and >= 0, not all zero.
        weights : array_like, optional
            Non-negative weights, normalised to sum 1; equal when absent.
        name : str
            What to call the law.

        Returns
        -------
        ServiceTime
            Point masses at the distinct values.

        Raises
        ------
        InputError
            When a value or weight is negative or not finite, or nothing remains.
        """
        values = check_array("service samples", values_s).ravel()
        share = np.full(values.shape, 1.0) if weights is None else check_array("sample weights", weights).ravel()
        if values.size == 0 or share.shape != values.shape:
            raise InputError(
                "service samples", f"{values.size} values, {share.size} weights", "as many as weights, > 0"
            )
        for what, array in (("service sample", values), ("sample weight", share)):
            bad = ~(np.isfinite(array) & (array >= 0))
            if bad.any():
                raise InputError(what, float(array[bad][0]), "finite and >= 0", "drop or mend that row")
        if not share.sum() > 0:
            raise InputError("sum of sample weights", float(share.sum()), "> 0")
        distinct, inverse = np.unique(values, return_inverse=True)
        mass = np.bincount(inverse.ravel(), weights=share / share.sum(), minlength=distinct.size).astype(np.float64)
        keep = mass > 0
        return cls(parts=(Atoms(values=distinct[keep], weights=mass[keep]),), weights=(1.0,), name=name)

    @classmethod
    def deterministic(cls, value_s: float) -> ServiceTime:
        """Return the law that is always `value_s` [s]."""
        return cls.from_samples([check_positive("service time", value_s)], name="deterministic")

    @classmethod
    def exponential(cls, mean_s: float) -> ServiceTime:
        """Return the exponential law of mean `mean_s` [s]."""
        part = Gamma(shape=1.0, mean_s=check_positive("mean service time", mean_s))
        return cls(parts=(part,), weights=(1.0,), name="exponential")

    @classmethod
    def erlang(cls, k: int, mean_s: float) -> ServiceTime:
        """Return the sum of `k` equal exponential phases, of mean `mean_s` [s] in all."""
        phases = check_number("number of Erlang phases", k)
        if not math.isfinite(phases) or phases != int(phases) or phases < 1:
            raise InputError("number of Erlang phases", phases, "a whole number >= 1")
        part = Gamma(shape=phases, mean_s=check_positive("mean service time", mean_s))
        return cls(parts=(part,), weights=(1.0,), name=f"Erlang-{int(phases)}")

    @classmethod
    def gamma(cls, mean_s: float, scv: float) -> ServiceTime:
        """Return the gamma law of mean `mean_s` [s] and squared coefficient of variation `scv`."""
        shape = 1.0 / check_positive("scv", scv)
        return cls(
            parts=(Gamma(shape=shape, mean_s=check_positive("mean service time", mean_s)),),
            weights=(1.0,),
            name="gamma",
        )

    @classmethod
    def hyperexponential(cls, probs: Sequence[float], means_s: Sequence[float]) -> ServiceTime:
        """Return a mixture of exponential laws: mean `means_s[i]` [s] with probability `probs[i]`."""
        weights, means = (check_array("phases", a) for a in (probs, means_s))
        if weights.ndim != 1 or weights.shape != means.shape or weights.size == 0:
            raise InputError("hyperexponential", f"of shapes {weights.shape}, {means.shape}", "one mean a probability")
        parts = tuple(Gamma(shape=1.0, mean_s=check_positive("phase mean", mean)) for mean in means.tolist())
        return cls(parts=parts, weights=tuple(weights.tolist()), name=f"H{len(parts)}")

    @classmethod
    def hypoexponential(cls, mean1_s: float, mean2_s: float) -> ServiceTime:
        """Return the sum of two independent exponential times of means `mean1_s` and `mean2_s` [s]."""
        first, second = check_positive("phase mean", mean1_s), check_positive("phase mean", mean2_s)
        if abs(first - second) <= 1e-6 * (first + second):
            return cls.erlang(2, first + second)
        if min(first, second) < NO_PHASE * max(first, second):
            return cls.exponential(first + second)
        return cls(parts=(TwoPhase(mean1_s=first, mean2_s=second),), weights=(1.0,), name="hypoexponential")

    @classmethod
    def lognormal(cls, mean_s: float, scv: float, upper_s: float = math.inf) -> ServiceTime:
        """Return the lognormal law of mean `mean_s` [s] and `scv`, conditioned on being at most `upper_s` [s].

        `mean_s` and `scv` are those of the untruncated law. Without a finite `upper_s` it has no exponential moment.
        """
        sigma2 = math.log1p(check_positive("scv", scv))
        mu = math.log(check_positive("mean service time", mean_s)) - sigma2 / 2
        upper_s = check_number("largest service time", upper_s)
        if not upper_s > 0:
            raise InputError("largest service time", upper_s, "> 0")
        part = LogNormal(mu=mu, sigma=math.sqrt(sigma2), upper=upper_s)
        share = part.mass(0)
        if not share >= LEAST_SHARE:
            limit = f"at least {LEAST_SHARE:g}"
            raise InputError("share of the lognormal law within upper_s", share, limit, "raise upper_s")
        return cls(parts=(part,), weights=(1.0,), name="lognormal")

    @classmethod
    def mixture(cls, probs: Sequence[float], laws: Sequence[ServiceTime]) -> ServiceTime:
        """Return the law that is `laws[i]` with probability `probs[i]`."""
        if not isinstance(laws, Sequence) or not all(isinstance(law, ServiceTime) for law in laws):
            raise InputError("laws of a mixture", shown(laws), "a list of ServiceTime")
        shares = check_array("probabilities of a mixture", probs)
        if shares.shape != (len(laws),) or len(laws) == 0:
            raise InputError("mixture", f"{shares.size} probabilities, {len(laws)} laws", "as many, >= 1")
        parts = tuple(part for law in laws for part in law.parts)
        weights = tuple(p * w for p, law in zip(shares.tolist(), laws, strict=True) for w in law.weights)
        return cls(parts=parts, weights=weights, name="mixture")

    def scaled(self, factor: float) -> ServiceTime:
        """Return the law of `factor` times this service time."""
        factor = check_positive("scale factor", factor)
        return ServiceTime(parts=tuple(p.scaled(factor) for p in self.parts), weights=self.weights, name=self.name)

    # -- what the law is ------------------------------------------------------------------------------------------

    def moment(self, order: int) -> float:
        """Return E[S^order] [s^order], order a whole number >= 0."""
        if order not in ORDERS:
            order = check_count("order of a moment", order)
        return math.fsum(w * part.moment(order) for w, part in zip(self.weights, self.parts, strict=True))

    @property
    def mean_s(self) -> float:
        """Mean service time [s]."""
        return self.moment(1)

    @property
    def scv(self) -> float:
        """Squared coefficient of variation, variance over squared mean."""
        return max(self.moment(2) / self.moment(1) ** 2 - 1.0, 0.0)

    @property
    def std_s(self) -> float:
        """Standard deviation [s]."""
        return self.mean_s * math.sqrt(self.scv)

    @property
    def upper_s(self) -> float:
        """Largest possible service time [s], infinity when unbounded."""
        return max(part.upper for part in self.parts)

    @property
    def mgf_limit_per_s(self) -> float:
        """Supremum of the exponents [1/s] at which E[exp(theta*S)] is finite; 0 when there is none."""
        return min(part.mgf_limit for part in self.parts)

    def atoms(self) -> tuple[FloatArray, FloatArray] | None:
        """Return (values [s], weights) when the law is made of point masses alone, else None."""
        pieces = [(part, w) for part, w in zip(self.parts, self.weights, strict=True) if w > 0]
        if not all(isinstance(part, Atoms) for part, _ in pieces):
            return None
        values = np.concatenate([part.values for part, _ in pieces if isinstance(part, Atoms)])
        mass = np.concatenate([w * part.weights for part, w in pieces if isinstance(part, Atoms)])
        distinct, inverse = np.unique(values, return_inverse=True)
        total = np.bincount(inverse.ravel(), weights=mass, minlength=distinct.size)
        return distinct, total.astype(np.float64)

    def tail(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(S > t), t in seconds."""
        at = check_array("time", t)
        return np.asarray(sum(w * part.tail(at) for w, part in zip(self.weights, self.parts, strict=True)))

    def cdf(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(S <= t), t in seconds."""
        return np.asarray(1.0 - self.tail(t))

    def quantile_s(self, q: float) -> float:
        """Return the q quantile [s], the least t with P(S <= t) >= q, 0 <= q < 1."""
        if not 0.0 <= check_number("quantile level", q) < 1.0:
            raise InputError("quantile level", q, "at least 0 and below 1")
        atoms = self.atoms()
        if atoms is not None:
            values, mass = atoms
            reached = np.cumsum(mass) >= q * (1 - WEIGHT_ROUNDING)
            return float(values[int(np.argmax(reached))])
        want = 1.0 - q
        low, high = 0.0, self.mean_s
        while float(self.tail(high)) > want:
            low, high = high, 2 * high
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
            low, high = (low, middle) if float(self.tail(middle)) <= want else (middle, high)
        return 0.0 if q == 0 else high

    def tail_integral(self, t: npt.ArrayLike) -> FloatArray:
        """Return the integral [s] of P(S > u) over u > t, which is E[(S - t)^+]."""
        at = check_array("time", t)
        return np.asarray(sum(w * part.tail_integral(at) for w, part in zip(self.weights, self.parts, strict=True)))

    def residual_tail(self, t: npt.ArrayLike) -> FloatArray:
        """Return P(S_e > t) of the residual life, E[(S - t)^+]/E[S]."""
        return np.asarray(self.tail_integral(t) / self.mean_s)

    def laplace(self, s: npt.ArrayLike) -> npt.NDArray[np.complex128]:
        """Return E[exp(-s*S)], real or complex s [1/s] with real part >= 0."""
        at = np.asarray(s)
        if at.dtype.kind not in "biufc":
            at = check_array("exponent of the Laplace transform", s)
        # Real exponentials take a third of the time.
        at = at if np.iscomplexobj(at) else at.astype(np.float64)
        total = sum(w * part.transform(at) for w, part in zip(self.weights, self.parts, strict=True))
        return np.asarray(total, dtype=np.complex128)

    def mgf(self, theta_per_s: float) -> float:
        """Return E[exp(theta*S)].

        Parameters
        ----------
        theta_per_s : float
            Exponent [1/s].

        Returns
        -------
        float
            The exponential moment.

        Raises
        ------
        OutOfRangeError
            When it is infinite: theta is at or above `mgf_limit_per_s`.
        """
        if math.isnan(check_number("exponent of the moment generating function", theta_per_s)):
            raise InputError("exponent of the moment generating function", theta_per_s, "a number")
        if theta_per_s > 0 and theta_per_s >= self.mgf_limit_per_s:
            raise OutOfRangeError(
                f"exponent of the moment generating function of the {self.name} law",
                theta_per_s,
                f"below {self.mgf_limit_per_s:.6g} /s",
                "bound the service times first, e.g. lognormal(..., upper_s=...)",
            )
        with np.errstate(over="ignore"):
            return float(self.laplace(-theta_per_s).real)

    def sample(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return `count` independent service times [s], `rng` one of numpy's generators."""
        count, rng = check_count("number of service times", count), check_rng(rng)
        if len(self.parts) == 1:
            return self.parts[0].sample(count, rng)
        which = rng.choice(len(self.parts), size=count, p=np.asarray(self.weights) / math.fsum(self.weights))
        drawn = np.empty(count)
        for i, part in enumerate(self.parts):
            mine = which == i
            drawn[mine] = part.sample(int(mine.sum()), rng)
        return drawn

"""Sparse Markov chain of two coupled pools: prefill backlog beside the backlog of deflected work on decode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qmodel.errors import ConvergenceError, OutOfRangeError
from qmodel.queueing.pool_axis import PoolAxis

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["PoolChain", "arrivals_in_a_step"]

FloatArray = npt.NDArray[np.float64]

#: Relative residual at which the Krylov iteration stops, and the largest change over a step that counts as converged.
RESIDUAL_TOLERANCE, WORST_CHANGE = 1e-8, 1e-6
#: Krylov vectors kept, and restarts.
KRYLOV, RESTARTS = 60, 10
#: States up to which the chain is solved directly; larger ones are corrected on a coarser lattice of at most as many.
DIRECT_STATES = 400
#: Expected arrivals a step up to which a cubic stands for their law; beyond, what probability of more is left out.
FEW_ARRIVALS, MISSED_ARRIVALS = 0.75, 1e-6
#: Most expected arrivals a step: beyond, the lattice is far too coarse to mean anything.
MOST_ARRIVALS = 200.0


def arrivals_in_a_step(mean: float) -> FloatArray:
    """Return the law of 0, 1, 2, ... arrivals in a step: Poisson, or with its first three factorial moments."""
    if mean <= FEW_ARRIVALS:
        a, b, c = mean, mean**2 / 2, mean**3 / 6
        return np.array([1 - a + b - c, a - 2 * b + 3 * c, b - 3 * c, c])
    if not mean <= MOST_ARRIVALS:
        raise OutOfRangeError(
            "arrivals during one cell of backlog",
            mean,
            f"at most {MOST_ARRIVALS:g}",
            "the longest work is too long beside the time between arrivals: give reach_s and cells, or split classes",
        )
    weights = [math.exp(-mean)]
    while len(weights) <= mean or weights[-1] > MISSED_ARRIVALS:
        weights.append(weights[-1] * mean / len(weights))
    return np.array(weights) / math.fsum(weights)


def krylov(operator: Callable[[FloatArray], FloatArray], right: FloatArray, target: float) -> FloatArray:
    """Return x with |operator(x) - right| < target by restarted GMRES (Saad & Schultz, SIAM J. Sci. Comp. 7, 1986).

    Orthogonalised against all vectors at once, twice: as stable as one by one and several times quicker in numpy.
    """
    x, rest = np.zeros_like(right), right
    basis = np.empty((KRYLOV + 1, right.size))
    for _ in range(RESTARTS):
        norm = float(np.linalg.norm(rest))
        if norm < target:
            break
        upper, goal = np.zeros((KRYLOV + 1, KRYLOV)), np.zeros(KRYLOV + 1)
        basis[0], goal[0] = rest / norm, norm
        for j in range(KRYLOV):
            new = operator(basis[j])
            for _ in range(2):
                along = basis[: j + 1] @ new
                new = new - along @ basis[: j + 1]
                upper[: j + 1, j] += along
            upper[j + 1, j] = np.linalg.norm(new)
            best, *_ = np.linalg.lstsq(upper[: j + 2, : j + 1], goal[: j + 2], rcond=None)
            left = float(np.linalg.norm(upper[: j + 2, : j + 1] @ best - goal[: j + 2]))
            if left < target or upper[j + 1, j] <= 1e-300:
                break
            basis[j + 1] = new / upper[j + 1, j]
        x = x + best @ basis[: best.size]
        rest = right - operator(x)
    return x


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolChain:
    """Transitions of two pools in steps of fixed length: arrivals and their routing, then the fall of both backlogs.

    State i*decode.size + j has prefill state i and decode state j. In a step the law goes p -> (sum_n c_n p J^n) fall,
    with J = sum_b rate_b/rate (keep share * keep(b) + (1 - keep share) * deflect(b)) and c_n the law of the number of
    arrivals: exact falls, so that no diffusion is added, and an error of second order in the step.

    Parameters
    ----------
    step_s : float
        Length of a step [s].
    prefill, decode : PoolAxis
        States of either pool.
    rates_per_s, work_s, host_s, transfer_s : ndarray, shape (classes,)
        Poisson rate [1/s], prefill work, host time and transfer [s] of each class.
    """

    step_s: float
    prefill: PoolAxis
    decode: PoolAxis
    rates_per_s: FloatArray
    work_s: FloatArray
    host_s: FloatArray
    transfer_s: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of prefill and of decode states."""
        return self.prefill.size, self.decode.size

    @property
    def states(self) -> int:
        """Number of states."""
        return self.prefill.size * self.decode.size

    @property
    def arrivals_per_step(self) -> float:
        """Mean number of arrivals in a step."""
        return float(self.rates_per_s.sum() * self.step_s)

    @property
    def prefill_wait_s(self) -> FloatArray:
        """Wait at prefill in each state of the chain [s]."""
        return np.repeat(self.prefill.wait_s, self.decode.size)

    @property
    def decode_wait_s(self) -> FloatArray:
        """Wait of deflected work in each state of the chain [s]."""
        return np.tile(self.decode.wait_s, self.prefill.size)

    def keep_cost_s(self, of_class: int) -> FloatArray:
        """Return wait + work + transfer of an arrival of a class that is kept, in each state [s]."""
        return np.asarray(self.prefill_wait_s + self.work_s[of_class] + self.transfer_s[of_class])

    def deflect_cost_s(self, of_class: int) -> FloatArray:
        """Return wait + host time of an arrival of a class that is deflected, in each state [s]."""
        return np.asarray(self.decode_wait_s + self.host_s[of_class])

    def keep(self, of_class: int) -> csr_matrix:
        """Return the transition of an arrival of a class that prefill keeps, without the fall."""
        from scipy.sparse import csr_matrix, identity, kron

        jump = csr_matrix(_rise_matrix(self.prefill, float(self.work_s[of_class])))
        return kron(jump, identity(self.decode.size), format="csr")

    def deflect(self, of_class: int) -> csr_matrix:
        """Return the transition of an arrival of a class that decode takes, without the fall."""
        from scipy.sparse import csr_matrix, identity, kron

        jump = csr_matrix(_rise_matrix(self.decode, float(self.host_s[of_class])))
        return kron(identity(self.prefill.size), jump, format="csr")

    def fall(self) -> csr_matrix:
        """Return the transition of a step's fall of both backlogs."""
        from scipy.sparse import csr_matrix, kron

        return kron(csr_matrix(self.prefill.fall()), csr_matrix(self.decode.fall()), format="csr")

    def routed(self, keep_share: FloatArray, rates_per_s: FloatArray | None = None) -> csr_matrix:
        """Return J, the transition of one arrival of any class.

        Parameters
        ----------
        keep_share : ndarray, shape (classes, prefill states, decode states)
            Probability that prefill keeps an arrival.
        rates_per_s : ndarray, shape (classes,), optional
            Other rates than the chain's [1/s].
        """
        from scipy.sparse import coo_matrix

        rates = self.rates_per_s if rates_per_s is None else rates_per_s
        mix = rates / rates.sum()
        kept = mix[:, None, None] * keep_share
        moved = mix[:, None, None] - kept
        rows, columns, values = [], [], []
        for axis, (pool, size, mass) in enumerate(
            ((self.prefill, self.work_s, kept), (self.decode, self.host_s, moved.transpose(0, 2, 1)))
        ):
            for start, target, value in _jumps(pool, size, mass):
                other = np.arange(value.shape[-1])
                here, beside = (self.decode.size, 1) if axis == 0 else (1, self.decode.size)
                source, sink = (np.add.outer(state * here, other * beside) for state in (start, target))
                used = value != 0
                rows.append(source[used])
                columns.append(sink[used])
                values.append(value[used])
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return coo_matrix(entries, shape=(self.states, self.states)).tocsr()

    def step(self, keep_share: FloatArray, rates_per_s: FloatArray | None = None) -> Callable[[FloatArray], FloatArray]:
        """Return the function that carries a law, shape (states,) or (states, n) for n laws, over one step.

        Parameters
        ----------
        keep_share : ndarray, shape (classes, prefill states, decode states)
            Probability that prefill keeps an arrival.
        rates_per_s : ndarray, shape (classes,), optional
            Other rates than the chain's [1/s].
        """
        rates = self.rates_per_s if rates_per_s is None else rates_per_s
        fall = self.fall().T.tocsr()
        if not rates.sum() > 0:
            return lambda law: np.asarray(fall @ law)
        share = arrivals_in_a_step(float(rates.sum() * self.step_s))
        jump = self.routed(keep_share, rates).T.tocsr()

        def carried(law: FloatArray) -> FloatArray:
            # Horner's rule for sum_n c_n p J^n.
            total = share[-1] * law
            for weight in share[-2::-1]:
                total = jump @ total + weight * law
            return np.asarray(fall @ total)

        return carried

    def stationary(
        self,
        keep_share: FloatArray,
        start: FloatArray | None = None,
        coarse: tuple[PoolChain, FloatArray] | None = None,
    ) -> FloatArray:
        """Return the stationary law under a policy.

        Small chains are solved directly. Larger ones by GMRES, preconditioned by a correction on a coarser lattice,
        where slow changes of the backlogs are solved for, and a sweep along the falls without arrivals.

        Parameters
        ----------
        keep_share : ndarray, shape (classes, prefill states, decode states)
            Probability that prefill keeps an arrival.
        start : ndarray, optional
            A law to start from; its margins say how mass is spread within coarse cells.
        coarse : tuple of PoolChain and ndarray, optional
            A chain on a coarser lattice of the same pools, and its policy.

        Returns
        -------
        ndarray, shape (prefill states, decode states)
            Probabilities.

        Raises
        ------
        ConvergenceError
            When the iteration does not converge.
        """
        carried = self.step(keep_share)
        if self.states <= DIRECT_STATES:
            moved = carried(np.eye(self.states))
            law = np.linalg.solve(np.eye(self.states) - moved + 1 / self.states, np.full(self.states, 1 / self.states))
        else:
            first = np.full(self.states, 1 / self.states) if start is None else start.ravel() / start.sum()

            def operator(law: FloatArray) -> FloatArray:
                return np.asarray(law - carried(law) + first * law.sum())

            better = self._preconditioner(operator, first, coarse)
            target = RESIDUAL_TOLERANCE * float(np.linalg.norm(first))
            law = first + better(krylov(lambda law: operator(better(law)), first - operator(first), target))
        law = np.maximum(law, 0.0)
        law /= law.sum()
        change = float(np.abs(carried(law) - law).sum())
        if not change < WORST_CHANGE:
            raise ConvergenceError(
                "change of the stationary law over a step", change, f"below {WORST_CHANGE:g}", "lower the load"
            )
        return np.asarray(law.reshape(self.shape))

    def _preconditioner(
        self,
        operator: Callable[[FloatArray], FloatArray],
        first: FloatArray,
        coarse: tuple[PoolChain, FloatArray] | None,
    ) -> Callable[[FloatArray], FloatArray]:
        """Return an approximate inverse of x - p(x) + first*sum(x)."""
        from scipy.linalg import lu_factor, lu_solve
        from scipy.sparse import identity
        from scipy.sparse.linalg import splu

        quiet = float(arrivals_in_a_step(self.arrivals_per_step)[0])
        matrix = (identity(self.states) - quiet * self.fall().T).tocsc()
        sweep = splu(matrix, permc_spec="NATURAL", options={"DiagPivotThresh": 0.0})
        if coarse is None:
            return lambda rest: np.asarray(sweep.solve(rest))
        chain, share = coarse
        law = first.reshape(self.shape)
        one, two = self.prefill.onto(chain.prefill), self.decode.onto(chain.decode)
        back_one, back_two = _spread(one, law.sum(axis=1)), _spread(two, law.sum(axis=0))
        middle = (one.T @ law @ two).ravel()
        moved = chain.step(share)(np.eye(chain.states))
        factor = lu_factor(np.eye(chain.states) - moved + np.outer(middle, np.ones(chain.states)))
        ratio = chain.step_s / self.step_s

        def better(rest: FloatArray) -> FloatArray:
            narrow = one.T @ rest.reshape(self.shape) @ two
            slow = lu_solve(factor, narrow.ravel() * ratio, check_finite=False).reshape(chain.shape)
            guess = np.ascontiguousarray(back_one @ slow @ back_two.T).ravel()
            return np.asarray(guess + sweep.solve(rest - operator(guess)))

        return better


def _spread(onto: FloatArray, mass: FloatArray) -> FloatArray:
    """Return how mass of coarse states is spread over fine ones: in proportion to what it came from."""
    weights = onto * np.maximum(mass, 1e-12)[:, None]
    return np.asarray(weights / np.maximum(weights.sum(axis=0), 1e-300))


def _rise_matrix(axis: PoolAxis, work_s: float) -> FloatArray:
    """Return the transition of an arrival at a pool, without the fall."""
    k, size = axis.servers, axis.size
    out = np.zeros((size, size))
    out[np.arange(k - 1), np.arange(1, k)] = 1.0
    for start, weights in ((k - 1, axis.rise(work_s, 0.5)), *((k - 1 + i, None) for i in range(1, axis.cells + 1))):
        law = axis.rise(work_s) if weights is None else weights
        room = size - start
        out[start, start:] = law[:room]
        out[start, -1] += law[room:].sum()
    return out


def _jumps(
    axis: PoolAxis, work_s: FloatArray, mass: FloatArray
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]]:
    """Return (from states, to states, weights (states, other states)) of arrivals with class mass at each state.

    `mass` has shape (classes, states of this pool, states of the other).
    """
    k, size = axis.servers, axis.size
    found = []
    if k > 1:
        idle = np.arange(k - 1)
        found.append((idle, idle + 1, mass[:, : k - 1].sum(axis=0)))
    top = size - 1
    for first, last, shift in ((k - 1, k, 0.5), (k, size, 0.0)):
        law = np.array([axis.rise(float(work), shift) for work in work_s])
        start, used = np.arange(first, last), np.flatnonzero(law.any(axis=0))
        weights = np.tensordot(law[:, used].T, mass[:, first:last], axes=1)
        found.extend((start, np.minimum(start + m, top), weight) for m, weight in zip(used, weights, strict=True))
    return found

"""The generator of Go's math/rand, whose draws break the ties of simulators written in Go; *exact*."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["GoRandom", "go_subsystem_seed"]

UintArray = npt.NDArray[np.uint64]

# math/rand's additive lagged Fibonacci generator y[n] = y[n-607] + y[n-273] (mod 2^64), started by Lehmer's
# x -> 48271*x mod 2^31-1; seeds are mixed with the state that seed 1 has reached after 7.8e12 draws (gen_cooked.go).
_LONG, _SHORT, _LEHMER, _MODULUS = 607, 273, 48271, 2**31 - 1
_COOKING = 7_800_000_000_000
_ZERO_SEED = 89482311  # math/rand's own stand-in for a seed of 0


def _lehmer_words(seed: int, shifts: tuple[int, int]) -> UintArray:
    """Return 607 words, each of three Lehmer numbers put together, after 20 that are thrown away."""
    x = seed % _MODULUS or _ZERO_SEED
    for _ in range(20):
        x = _LEHMER * x % _MODULUS
    words = np.empty(_LONG, np.uint64)
    for i in range(_LONG):
        word = 0
        for shift in (*shifts, 0):
            x = _LEHMER * x % _MODULUS
            word ^= x << shift
        words[i] = word & (2**64 - 1)
    return words


def _product(a: UintArray, b: UintArray) -> UintArray:
    """Return a*b modulo x^607 - x^334 - 1, the recurrence's polynomial, with coefficients modulo 2^64."""
    full = np.zeros(2 * _LONG - 1, np.uint64)
    for i in range(_LONG):
        full[i : i + _LONG] += a[i] * b
    gap = _LONG - _SHORT  # x^607 = x^334 + 1, so the highest powers fold down in blocks of 273
    for high in range(2 * _LONG - 1, _LONG, -_SHORT):
        low = max(_LONG, high - _SHORT)
        block = full[low:high].copy()
        full[low - _LONG : high - _LONG] += block
        full[low - _LONG + gap : high - _LONG + gap] += block
    return full[:_LONG]


def _leap(history: UintArray, steps: int) -> UintArray:
    """Return the latest 607 outputs, oldest first, after so many more steps of the recurrence."""
    power, base = np.zeros(_LONG, np.uint64), np.zeros(_LONG, np.uint64)
    power[0], base[1] = 1, 1
    while steps:
        if steps & 1:
            power = _product(power, base)
        base, steps = _product(base, base), steps >> 1
    longer = np.concatenate([history, np.zeros(_LONG, np.uint64)])
    for n in range(_LONG, 2 * _LONG):
        longer[n] = np.add(longer[n - _LONG : n - _LONG + 1], longer[n - _SHORT : n - _SHORT + 1])[0]
    return np.array([(power * longer[j : j + _LONG]).sum(dtype=np.uint64) for j in range(_LONG)], np.uint64)


# Go reads its words downwards from here.
_ORDER = (_LONG - _SHORT - 1 - np.arange(_LONG)) % _LONG


def _cooked() -> UintArray:
    """Return math/rand's table rngCooked, in its own order."""
    table = np.empty(_LONG, np.uint64)
    table[(_ORDER - _COOKING) % _LONG] = _leap(_lehmer_words(1, (20, 10))[_ORDER], _COOKING)
    return table


class GoRandom:
    """``rand.New(rand.NewSource(seed))`` of Go: the same draws in the same order.

    Parameters
    ----------
    seed : int
        Any 64-bit integer.
    """

    def __init__(self, seed: int) -> None:
        rest = abs(seed) % _MODULUS  # Go's remainder has the sign of the seed
        words = _lehmer_words(rest if seed >= 0 else -rest, (40, 20)) ^ _cooked()
        self._latest = [int(word) for word in words[_ORDER]]
        self._at = 0

    def below(self, n: int) -> int:
        """Return ``Intn(n)``, a whole number in 0..n-1; n in 1..2^31-1."""
        power = n & (n - 1) == 0
        most = 2**31 - 1 if power else 2**31 - 1 - 2**31 % n
        while True:
            # The list holds the latest 607 outputs in a ring, the oldest at `_at`.
            word = self._latest[self._at] + self._latest[(self._at - _SHORT) % _LONG] & (2**64 - 1)
            self._latest[self._at] = word
            self._at = (self._at + 1) % _LONG
            draw = (word & (2**63 - 1)) >> 32
            if draw <= most:
                return draw % n


def go_subsystem_seed(seed: int, subsystem: str) -> int:
    """Return inference-sim's seed of a part's own generator: the run's seed xor FNV-1a of the name.

    Parameters
    ----------
    seed : int
        Of the run.
    subsystem : str
        E.g. "router".

    Examples
    --------
    >>> go_subsystem_seed(0, "")
    -3750763034362895579
    """
    digest = 0xCBF29CE484222325
    for byte in subsystem.encode():
        digest = (digest ^ byte) * 0x100000001B3 & (2**64 - 1)
    return seed ^ (digest - 2**64 if digest >> 63 else digest)

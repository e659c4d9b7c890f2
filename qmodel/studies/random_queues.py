"""Random M/G/k queues: what the corrections of the interpolation are learnt from, and what they are judged by."""

from __future__ import annotations

import numpy as np

from qmodel.distributions.service import ServiceTime
from qmodel.errors import InputError
from qmodel.queueing.correction import RARE
from qmodel.queueing.erlang import mmk

__all__ = ["KINDS", "REACHES", "random_queue"]

#: Kinds of service laws.
KINDS = (
    "two atoms",
    "three atoms",
    "bounded Pareto",
    "bounded lognormal",
    "uniform",
    "gamma",
    "mixture",
    "200 atoms",
    "several atoms",
    "lattice",
    "bimodal",
    "sampled",
    "rare long",
    "narrow",
    "phases",
    "two phases",
)
#: How far queues go.
REACHES = ("ordinary", "wider", "farther")
#: Seeds of kinds are so far apart.
APART = 1_000_003
#: SCV of the laws of ordinary and wider queues, and of farther ones.
ORDINARY_SCV, FARTHER_SCV = (0.01, 5.0), (1e-4, 30.0)


def random_queue(reach: str, kind: str, number: int, seed: int) -> tuple[ServiceTime, int, float]:
    """Return a service law of mean 1, a number of servers and a load.

    Parameters
    ----------
    reach : {"ordinary", "wider", "farther"}
        ``ordinary``: SCV up to 5, 2 to 16 servers, loads of .5 to .95. ``wider``: the same laws, a third of the queues
        with up to 40 servers and loads of .25 to .985. ``farther``: SCV up to 30, three laws in ten with a rare long
        service added, up to 40 servers and loads of .03 to .998 at which some wait.
    kind : str
        One of `KINDS`.
    number : int
        Which of them.
    seed : int
        Seed of all.

    Returns
    -------
    tuple of ServiceTime, int and float
        Law, servers and load.

    Raises
    ------
    InputError
        When there is no such reach or kind.

    Examples
    --------
    >>> law, servers, load = random_queue("ordinary", "two atoms", 0, 1)
    >>> round(law.mean_s, 9), 2 <= servers <= 16, 0.5 <= load <= 0.95
    (1.0, True, True)
    """
    if reach not in REACHES:
        raise InputError("reach of random queues", repr(reach), f"one of {', '.join(REACHES)}")
    if kind not in KINDS:
        raise InputError("kind of service law", repr(kind), f"one of {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, APART * KINDS.index(kind) + number])
    return _farther(kind, rng) if reach == "farther" else _ordinary(kind, rng, wider=reach == "wider")


def _ordinary(kind: str, rng: np.random.Generator, *, wider: bool) -> tuple[ServiceTime, int, float]:
    law = _law(kind, rng)
    while not ORDINARY_SCV[0] < law.scv <= ORDINARY_SCV[1]:
        law = _law(kind, rng)
    servers, load = int(rng.integers(2, 17)), float(rng.uniform(0.5, 0.95))
    if wider and rng.random() < 0.35:
        servers = int(np.exp(rng.uniform(np.log(2), np.log(40.99))))
        load = float(1 - np.exp(rng.uniform(np.log(0.015), np.log(0.75))))
    return law.scaled(1 / law.mean_s), servers, load


def _farther(kind: str, rng: np.random.Generator) -> tuple[ServiceTime, int, float]:
    law = _with_rare_long(_law(kind, rng), rng)
    while not FARTHER_SCV[0] < law.scv <= FARTHER_SCV[1]:
        law = _with_rare_long(_law(kind, rng), rng)
    servers, load = 0, 0.0
    while load == 0 or mmk(load * servers, servers, 1.0).wait_probability < RARE:
        servers = int(np.exp(rng.uniform(np.log(2), np.log(40.99))))
        load = float(1 - np.exp(rng.uniform(np.log(0.002), np.log(0.97))))
    return law.scaled(1 / law.mean_s), servers, load


def _with_rare_long(law: ServiceTime, rng: np.random.Generator) -> ServiceTime:
    """Return a law to which, three times in ten, a rare long service is added."""
    if rng.random() > 0.3:
        return law
    rare, far = 10 ** rng.uniform(-4, -1), np.exp(rng.uniform(1, 5))
    return ServiceTime.mixture((1 - rare, rare), [law, ServiceTime.deterministic(law.mean_s * far)])


def _law(kind: str, rng: np.random.Generator) -> ServiceTime:
    """Return a law of the kind with random parameters."""
    if kind == "two atoms":
        rare = 10 ** rng.uniform(-2, -0.2)
        return ServiceTime.from_samples([1.0, np.exp(rng.uniform(0.4, 3.7))], [1 - rare, rare])
    if kind == "three atoms":
        return ServiceTime.from_samples(np.exp(rng.uniform(-2.3, 2.3, 3)), rng.dirichlet(np.ones(3)))
    if kind == "bounded Pareto":
        power, top = rng.uniform(1.05, 2.5), np.exp(rng.uniform(1.6, 5.7))
        ranks = (np.arange(400) + 0.5) / 400
        return ServiceTime.from_samples((1 - ranks * (1 - top**-power)) ** (-1 / power))
    if kind == "bounded lognormal":
        return ServiceTime.lognormal(1.0, rng.uniform(0.2, 8.0), upper_s=np.exp(rng.uniform(1.1, 4.0)))
    if kind == "uniform":
        return ServiceTime.from_samples(1 + rng.uniform(0.1, 1.0) * (2 * (np.arange(400) + 0.5) / 400 - 1))
    if kind == "gamma":
        return ServiceTime.gamma(1.0, rng.uniform(0.1, 5.0))
    if kind == "mixture":
        parts = [ServiceTime.gamma(np.exp(rng.uniform(-1.6, 2.5)), rng.uniform(0.02, 0.5)) for _ in range(3)]
        return ServiceTime.mixture(tuple(rng.dirichlet(np.ones(3))), parts)
    if kind == "200 atoms":
        long = rng.random(200) < 0.3
        body = rng.normal(0.0, rng.uniform(0.3, 1.0), 200)
        return ServiceTime.from_samples(np.exp(np.where(long, rng.normal(rng.uniform(1.0, 3.0), 0.5, 200), body)))
    return _further_law(kind, rng)


def _further_law(kind: str, rng: np.random.Generator) -> ServiceTime:
    """Return a law of one of the last kinds with random parameters."""
    if kind == "several atoms":
        count = int(rng.integers(3, 12))
        return ServiceTime.from_samples(
            np.exp(rng.uniform(-2.5, 2.5, count)), rng.dirichlet(np.full(count, rng.uniform(0.3, 2)))
        )
    if kind == "lattice":
        values, slope, power = np.arange(1, 201) / 200, rng.uniform(-8, 2), rng.uniform(-0.5, 2)
        weights = np.exp(slope * values) * values**power
        if rng.random() < 0.3:
            weights = weights * rng.dirichlet(np.full(200, 0.5))
        return ServiceTime.from_samples(values, weights / weights.sum())
    if kind == "bimodal":
        far, rare = np.exp(rng.uniform(0.3, 3.2)), 10 ** rng.uniform(-2, -0.2)
        laws = [ServiceTime.gamma(1.0, rng.uniform(0.02, 1)), ServiceTime.gamma(far, rng.uniform(0.01, 0.6))]
        return ServiceTime.mixture((1 - rare, rare), laws)
    if kind == "sampled":
        return _sampled_law(rng)
    if kind == "phases":
        return _law_of_phases(rng)
    if kind == "two phases":
        return _law_of_two_phases(rng)
    if kind == "rare long":
        rare = 10 ** rng.uniform(-2.3, -0.7)
        body = ServiceTime.gamma(1.0, rng.uniform(0.05, 2))
        return ServiceTime.mixture((1 - rare, rare), [body, ServiceTime.deterministic(np.exp(rng.uniform(0.5, 3.4)))])
    return _narrow_law(rng)


def _sampled_law(rng: np.random.Generator) -> ServiceTime:
    """Return 200 draws, perhaps of random weights, from a law of a random family, perhaps beside a fixed time."""
    family = rng.integers(4)
    if family == 0:
        values = rng.lognormal(0, rng.uniform(0.3, 1.5), 200)
    elif family == 1:
        values = rng.gamma(rng.uniform(0.3, 6), 1, 200)
    elif family == 2:
        values = 1 + rng.pareto(rng.uniform(1.2, 4), 200)
    else:
        values = rng.weibull(rng.uniform(0.5, 3), 200)
    values = np.maximum(values + rng.uniform(0, 1) * values.mean() * rng.integers(2), 1e-3)
    weights = rng.dirichlet(np.ones(200)) if rng.random() < 0.3 else np.full(200, 1 / 200)
    return ServiceTime.from_samples(values, weights)


def _narrow_law(rng: np.random.Generator) -> ServiceTime:
    """Return a law of little variability."""
    family = rng.integers(3)
    if family == 0:
        return ServiceTime.gamma(1.0, 10 ** rng.uniform(-2, -0.3))
    if family == 1:
        values = rng.beta(rng.uniform(0.3, 3), rng.uniform(0.3, 3), 200) + rng.uniform(0, 1)
        return ServiceTime.from_samples(np.maximum(values, 1e-3))
    share = rng.uniform(0.05, 0.95)
    other = ServiceTime.gamma(rng.uniform(0.3, 2.5), rng.uniform(0.02, 0.6))
    return ServiceTime.mixture((1 - share, share), [ServiceTime.deterministic(1.0), other])


def _law_of_phases(rng: np.random.Generator) -> ServiceTime:
    """Return a mixture of two to four Erlang laws of up to four phases, three times in ten of one."""
    count = int(rng.integers(2, 5))
    phases = np.ones(count) if rng.random() < 0.3 else rng.integers(1, 5, count)
    means, shares = np.exp(rng.uniform(-2.5, 2.5, count)), rng.dirichlet(np.full(count, rng.uniform(0.3, 2)))
    laws = [ServiceTime.erlang(int(n), float(mean)) for n, mean in zip(phases, means, strict=True)]
    return ServiceTime.mixture(tuple(shares), laws)


def _law_of_two_phases(rng: np.random.Generator) -> ServiceTime:
    """Return a law whose queue is solved exactly: hyperexponential, a quarter of them two phases in series."""
    if rng.random() < 0.25:
        return ServiceTime.hypoexponential(rng.uniform(0.05, 1), rng.uniform(0.05, 1))
    rare, far = 10 ** rng.uniform(-3, -0.3), np.exp(rng.uniform(0.3, 4.5))
    return ServiceTime.hyperexponential([1 - rare, rare], [1.0, far])

"""Learn what the interpolation of M/G/k misses, from simulated queues, and write qmodel/data/mgk_correction.json.

Run ``python bench/mgk_correction.py [--laws N] [--seed N]`` (five minutes); see docs/decisions/0019. Laws are those of
`mgk_family`, with another seed; four in ten queues have up to 40 servers and loads of .25 to .985. The truth is a
coupled path of a million arrivals. The networks are judged by `mgk_family`, whose laws they have not seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from mgk_family import KINDS, draw_case
from scipy.optimize import linprog, minimize

from qmodel.queueing import ServiceTime
from qmodel.queueing.correction import LEAST_SPARE, LEVELS, Traits, output
from qmodel.queueing.coupled import GRID_ERROR, STANDARD_ERRORS, solve_coupled
from qmodel.queueing.interpolation import law_facts, plain_answer

FloatArray = npt.NDArray[np.float64]

TARGET = Path(__file__).parents[1] / "qmodel" / "data" / "mgk_correction.json"
ARRIVALS = 1 << 20
#: Queues in which fewer wait are left out: the truth is too rough.
RARE = 2e-3
#: Hidden units, penalty on squared weights, error from which misses count linearly, and noise that halves a weight.
HIDDEN, PENALTY, LINEAR, NOISY = 12, 3e-9, 0.008, 0.006
#: Share of laws whose errors the estimates should hold.
HELD = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A queue: how its law differs from the solved ones, log misses by quantity, their standard errors."""

    traits: Traits
    misses: dict[str, float]
    noise: dict[str, float]


def wider_case(kind: str, rng: np.random.Generator) -> tuple[ServiceTime, int, float]:
    """Return a law, servers and a load, some beyond those of the family."""
    law, servers, load = draw_case(kind, rng)
    if rng.random() < 0.4:
        servers = int(np.exp(rng.uniform(np.log(2), np.log(40.99))))
        load = float(1 - np.exp(rng.uniform(np.log(0.015), np.log(0.75))))
    return law, servers, load


def simulated(laws: int, seed: int) -> Iterator[Case]:
    """Yield cases with what the plain interpolation misses in each."""
    for index, kind in enumerate(KINDS):
        for number in range(laws):
            law, servers, load = wider_case(kind, np.random.default_rng([seed, 10_000 * index + number]))
            rate = load * servers
            base, table, traits = plain_answer(rate, servers, law_facts(law))
            if traits.wait_probability < RARE:
                continue
            truth = solve_coupled(
                rate, servers, law, first_arrivals=ARRIVALS, last_arrivals=ARRIVALS, seed=seed * 7 + number
            )
            misses = {
                "mean": float(np.log(truth.mean_wait_s / base.mean_wait)),
                "delayed": float(np.log(truth.wait_probability / base.wait_probability)),
            }
            for name, beyond in LEVELS.items():
                want, got = truth.wait_quantile_s(1 - beyond), table.quantile(1 - beyond, 1.0)
                if np.log(traits.wait_probability / beyond) >= LEAST_SPARE and want > 0 and got > 0:
                    misses[name] = float(np.log(want / got))
            # That of P(W > 0) is not stated; it is about half of the mean's.
            half = (truth.error_estimate["mean"] + GRID_ERROR) / 2
            stated = {"p90": truth.error_estimate["p95"], "delayed": half, **truth.error_estimate}
            noise = {name: max(stated[name] - GRID_ERROR, 0.0) / STANDARD_ERRORS for name in misses}
            yield Case(traits=traits, misses=misses, noise=noise)


def inputs_of(cases: list[Case], name: str) -> FloatArray:
    """Return the inputs of a quantity's network, one row a case."""
    if name not in LEVELS:
        return np.array([case.traits.inputs for case in cases])
    spare = [np.log(case.traits.wait_probability / LEVELS[name]) for case in cases]
    return np.column_stack([np.array([case.traits.inputs for case in cases]), spare])


def fitted(inputs: FloatArray, misses: FloatArray, weights: FloatArray) -> dict[str, list]:
    """Return the network with one hidden layer that misses least."""
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
    known, count = (inputs - centre) / scale, inputs.shape[1]
    rng = np.random.default_rng(0)
    start = np.concatenate([rng.normal(0, 0.5 / np.sqrt(count), count * HIDDEN), rng.normal(0, 0.5, HIDDEN)])
    start = np.concatenate([start, rng.normal(0, 0.01, HIDDEN), [0.0]])

    def parts(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, float]:
        first, bias, out = np.split(values[:-1], [count * HIDDEN, (count + 1) * HIDDEN])
        return first.reshape(count, HIDDEN), bias, out, values[-1]

    def loss(values: FloatArray) -> tuple[float, FloatArray]:
        first, bias, out, offset = parts(values)
        hidden = np.tanh(known @ first + bias)
        rest = hidden @ out + offset - misses
        slope = np.sqrt(1 + (rest / LINEAR) ** 2)
        back = weights * rest / slope / len(rest)
        inner = np.outer(back, out) * (1 - hidden**2)
        gradient = np.concatenate([(known.T @ inner).ravel(), inner.sum(axis=0), hidden.T @ back, [back.sum()]])
        value = (weights * LINEAR**2 * (slope - 1)).mean() + PENALTY * values @ values
        return 1e4 * value, 1e4 * (gradient + 2 * PENALTY * values)

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 4000, "maxfun": 5000}).x
    first, bias, out, offset = parts(found)
    rounded = {"weights": first, "bias": bias, "out": out, "offset": np.array(offset), "centre": centre, "scale": scale}
    rounded |= {"low": inputs.min(axis=0), "high": inputs.max(axis=0)}
    return {part: np.array([float(f"{x:.5g}") for x in value.ravel()]).reshape(value.shape).tolist()
            for part, value in rounded.items()}  # fmt: skip


def error_row(doubts: FloatArray, errors: FloatArray) -> list[float]:
    """Return the non-negative quantile regression of errors on doubts, by linear programming."""
    count, width = doubts.shape
    cost = np.concatenate([np.zeros(width), np.full(count, HELD), np.full(count, 1 - HELD)])
    equal = np.hstack([doubts, np.eye(count), -np.eye(count)])
    found = linprog(cost, A_eq=equal, b_eq=errors, bounds=(0, None), method="highs")
    return [float(f"{x:.3g}") for x in found.x[:width]]


def learn(cases: list[Case]) -> dict[str, object]:
    """Return networks and errors."""
    networks, errors = {}, {kind: {} for kind in ("fitted", "near", "far")}
    for name in ("mean", "delayed", *LEVELS):
        mine = [case for case in cases if name in case.misses]
        inputs = inputs_of(mine, name)
        misses, noise = (np.array([getattr(case, what)[name] for case in mine]) for what in ("misses", "noise"))
        networks[name] = fitted(inputs, misses, 1 / (1 + (noise / NOISY) ** 2))
        network = {part: np.asarray(value) for part, value in networks[name].items()}
        before, after = np.abs(np.expm1(misses)), np.abs(np.expm1(output(network, inputs) - misses))
        aim = (0.02 if name in LEVELS else 0.01) + 2 * noise
        print(f"{name}: {len(mine)} laws, near enough {(before <= aim).mean():.1%} before, {(after <= aim).mean():.1%}")
        left = np.sqrt(np.maximum(after**2 - noise**2, 0.0))
        if name in ("delayed", "p90"):
            print(f"  {HELD:.0%} within {np.quantile(left, HELD):.2%}")
            continue
        kinds = np.array([case.traits.kind for case in mine])
        doubts = np.array([case.traits.doubts for case in mine])
        for kind, rows in errors.items():
            rows[name] = error_row(doubts[kinds == kind], left[kinds == kind])
    return {"networks": networks, "errors": errors}


def main() -> None:
    """Simulate, fit and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--laws", type=int, default=900, help="laws of each kind")
    parser.add_argument("--seed", type=int, default=904)
    options = parser.parse_args()
    cases = list(simulated(options.laws, options.seed))
    origin = f"bench/mgk_correction.py --laws {options.laws} --seed {options.seed}"
    learnt = {"provenance": {"origin": origin, "queues": len(cases), "arrivals": ARRIVALS}, **learn(cases)}
    TARGET.write_text(json.dumps(learnt, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

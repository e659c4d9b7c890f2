"""Learn what the interpolation of M/G/k misses, from simulated queues, and write qmodel/data/mgk_correction.json.

Run ``python calibration/mgk_correction.py [--keep FOLDER] [--jobs N]`` (an hour on two cores); see
docs/decisions/0019. The truths (`mgk_truths`) are coupled paths of .5 to 2 million arrivals. Error estimates are learnt
from further queues, with paths of 4 to 8 million. All are judged by `mgk_family`, whose laws they have not seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from mgk_truths import Truth, truths_of
from scipy.special import expit

from qmodel.io.atomic import write_text
from qmodel.queueing.correction import LEAST_SPARE, RARE, Network, with_head
from qmodel.queueing.interpolation import sketched
from qmodel.queueing.traits import law_facts, percentile_inputs

FloatArray = npt.NDArray[np.float64]

#: Laws of each kind: of the family somewhat widened and of a larger one, to learn from and to judge by.
LAWS = {"laws": 6000, "far": 2000, "checks": 400, "far_checks": 200}
TARGET = Path(__file__).parents[1] / "qmodel" / "data" / "mgk_correction.json"
#: Arrivals of a truth, at first and at most, as powers of two: to learn from, and to judge by.
LEARN, JUDGE = (19, 21), (22, 23)
#: Random percentiles of each queue that are learnt from beside P90, P95 and P99, and their least P(W > t).
PERCENTILES, LEAST_LEVEL = 4, 1.5e-3
#: Units of a hidden layer, passes over the queues, and queues of a step, for factors and for errors.
HIDDEN, PASSES, BATCH = 96, 60, 512
ERROR_HIDDEN, ERROR_PASSES, ERROR_NOISY = 16, {"head": 100, "percentile": 40}, 0.004
#: First step of Adam's method, over which it warms up, and the decay of its moments.
RATE, WARM_UP, FIRST, SECOND = 2e-3, 500, 0.9, 0.999
#: Misses (logarithms) beyond which they count linearly, and noise that halves a weight.
LINEAR, NOISY = {"head": 0.006, "percentile": 0.012}, {"head": 0.006, "percentile": 0.008}
#: Relative error of P(W > 0), which makes percentiles near P(W = 0) noisy.
PROBABILITY_NOISE = 0.0015
#: Misses beyond are faults of the truth; errors below are none.
FAULT, NO_ERROR = 1.0, 1e-4
#: Share of laws whose errors the estimates should hold, and of inputs beyond which they are cut off.
HELD, CUT = 0.95, 5e-4
#: Digits of a weight; queues of a job.
DIGITS, AT_ONCE = 4, 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What networks learn from: inputs, log misses of each output, and the truth's noise; one row a case."""

    inputs: FloatArray
    misses: FloatArray
    noise: FloatArray


def joined(parts: Sequence[Rows]) -> Rows:
    """Return rows one below the other."""
    return Rows(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in ("inputs", "misses", "noise")})


def head_rows(truths: Sequence[Truth]) -> Rows:
    """Return how far the interpolation misses means and probabilities of waiting."""
    inputs, misses, noise = [], [], []
    for truth in truths:
        law, servers, load = truth.queue
        sketch = sketched(load * servers, servers, law_facts(law))
        if truth.tail.log_tail[0] < np.log(RARE) or not truth.noise["mean"] > 0:
            continue
        inputs.append(sketch.traits.inputs)
        misses.append([np.log(truth.mean / sketch.mean_wait), truth.tail.log_tail[0] - np.log(sketch.wait_probability)])
        noise.append([truth.noise["mean"]] * 2)
    return Rows(inputs=np.array(inputs, np.float32), misses=np.array(misses), noise=np.array(noise))


def percentile_rows(truths: Sequence[Truth], head: Network) -> Rows:
    """Return how far percentiles are missed once mean and probability of waiting are right."""
    inputs, misses, noise, rng = [], [], [], np.random.default_rng([truths[0].seed, truths[0].number])
    for truth in truths:
        law, servers, load = truth.queue
        if truth.tail.log_tail[0] < np.log(RARE):
            continue
        sketch = sketched(load * servers, servers, law_facts(law))
        whole = sketch.traits.inputs
        tail = with_head(sketch, *(float(x) for x in head(whole)))
        delayed_share = float(np.exp(tail.log_tail[0]))
        between = np.log([LEAST_LEVEL, max(delayed_share, 1.1 * LEAST_LEVEL)])
        levels = np.concatenate([(0.1, 0.05, 0.01), np.exp(rng.uniform(*between, PERCENTILES))])
        levels = levels[np.log(delayed_share / levels) > LEAST_SPARE / 2]
        waits = np.array([tail.quantile(1 - level, 1.0) for level in levels])
        wanted = np.array([truth.wait(level) for level in levels])
        known = (waits > 0) & (wanted > 0)
        if not known.any():
            continue
        levels, waits, wanted = levels[known], waits[known], wanted[known]
        inputs.append(percentile_inputs(sketch.traits, whole, levels, waits, tail, sketch.renewal_at(waits)))
        misses.append(np.log(wanted / waits))
        own = np.where(levels > 0.03, truth.noise["p95"], truth.noise["p99"])
        own = np.where(own > 0, own, max(truth.noise.values()))
        noise.append(np.hypot(own, PROBABILITY_NOISE / np.log(delayed_share / levels)))
    return Rows(
        inputs=np.concatenate(inputs).astype(np.float32),
        misses=np.concatenate(misses)[:, None],
        noise=np.concatenate(noise)[:, None],
    )


def everywhere(function: Callable[..., Rows], truths: Sequence[Truth], jobs: int, *arguments: object) -> Rows:
    """Return rows of all queues, some queues in each job."""
    parts = [truths[at : at + AT_ONCE] for at in range(0, len(truths), AT_ONCE)]
    return joined(Parallel(jobs)(delayed(function)(part, *arguments) for part in parts))


def trained(rows: Rows, *, hidden: int, passes: int, weights: FloatArray, linear: float | None) -> Network:
    """Return the network that misses least: by squares up to `linear`, by the quantile where it is None (Adam)."""
    sample = rows.inputs[:: max(len(rows.inputs) // 50_000, 1)]
    low, high = np.quantile(sample, [CUT, 1 - CUT], axis=0)
    cut = np.clip(rows.inputs, low, high)
    centre, scale = cut.mean(axis=0, dtype=np.float64), cut.std(axis=0, dtype=np.float64) + 1e-9
    known = ((cut - centre) / scale).astype(np.float32)
    # Misses of a few per cent are numbers near one.
    size = 0.01 if linear else 1.0
    wanted, weights = (rows.misses / size).astype(np.float32), weights.astype(np.float32)
    rng = np.random.default_rng(0)
    shapes = [(known.shape[1], hidden), (hidden, hidden), (hidden, wanted.shape[1])]
    layers = [(rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32) for shape in shapes]
    layers[2] *= 0.1
    values = [*layers, *(np.zeros(shape[1], np.float32) for shape in shapes[:2]), wanted.mean(axis=0)]
    firsts, seconds = ([np.zeros_like(value) for value in values] for _ in range(2))
    steps = passes * (len(known) // BATCH)
    for step, batch in enumerate(batches(len(known), passes, rng), start=1):
        miss, inner, slopes = forward(values, known[batch], wanted[batch])
        force = miss / np.sqrt(1 + (miss * size / linear) ** 2) if linear else np.where(miss > 0, 1 - HELD, -HELD)
        slope = (weights[batch] * force / BATCH).astype(np.float32)
        rate = RATE * min(1.0, step / WARM_UP) * (1 + np.cos(np.pi * step / steps)) / 2
        ups = backward(values, inner, slopes, slope)
        for value, first, second, up in zip(values, firsts, seconds, ups, strict=True):
            first += (1 - FIRST) * (up - first)
            second += (1 - SECOND) * (up * up - second)
            value -= rate * first / (1 - FIRST**step) / (np.sqrt(second / (1 - SECOND**step)) + 1e-8)
    parts = [np.asarray(value, np.float64) for value in values]
    parts[2], parts[5] = parts[2] * size, parts[5] * size
    return Network(
        low=low, high=high, centre=centre, scale=scale, weights=tuple(parts[:3]), biases=tuple(parts[3:])
    )  # fmt: skip


def batches(count: int, passes: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Yield rows of each step."""
    for _ in range(passes):
        order = rng.permutation(count)
        yield from (order[at : at + BATCH] for at in range(0, count - BATCH + 1, BATCH))


def forward(values: list, known: FloatArray, wanted: FloatArray) -> tuple[FloatArray, list, list]:
    """Return misses, inputs of each layer and slopes of its units."""
    inner, slopes = [known], []
    for weight, bias in zip(values[:2], values[3:5], strict=True):
        raw = inner[-1] @ weight + bias
        gate = expit(raw)
        inner.append(raw * gate)
        slopes.append(gate * (1 + raw * (1 - gate)))
    return inner[-1] @ values[2] + values[5] - wanted, inner, slopes


def backward(values: list, inner: list, slopes: list, slope: FloatArray) -> list:
    """Return the gradients of weights and biases."""
    ups, biases = [], []
    for layer in (2, 1, 0):
        ups.insert(0, inner[layer].T @ slope)
        biases.insert(0, slope.sum(axis=0))
        if layer:
            slope = (slope @ values[layer].T) * slopes[layer - 1]
    return [*ups, *biases]


def corrections(rows: Rows, name: str) -> Network:
    """Return the network of factors."""
    right = (np.abs(rows.misses) < FAULT).all(axis=1)
    rows = Rows(inputs=rows.inputs[right], misses=rows.misses[right], noise=rows.noise[right])
    weights = 1 / (1 + (rows.noise / NOISY[name]) ** 2)
    return rounded(trained(rows, hidden=HIDDEN, passes=PASSES, weights=weights, linear=LINEAR[name]))


def errors(rows: Rows, network: Network, name: str) -> Network:
    """Return the network of the logarithm of the error that `HELD` of like queues keep, the truth's noise taken off."""
    misses = np.expm1(network(rows.inputs)[:, :1] - rows.misses[:, :1])
    aim = 0.01 if name == "head" else 0.02
    within = np.abs(misses) <= aim + 2 * rows.noise[:, :1]
    print(f"{name}: {len(misses)} unseen, within {aim:.0%}: {within.mean():.2%}")
    left = np.sqrt(np.maximum(misses**2 - rows.noise[:, :1] ** 2, NO_ERROR**2))
    logs = Rows(inputs=rows.inputs, misses=np.log(left), noise=rows.noise[:, :1])
    weights = 1 / (1 + (logs.noise / ERROR_NOISY) ** 2)
    return rounded(trained(logs, hidden=ERROR_HIDDEN, passes=ERROR_PASSES[name], weights=weights, linear=None))


def rounded(network: Network) -> Network:
    """Return the network as its file will hold it."""
    return Network(
        **{name: shortened(getattr(network, name)) for name in ("low", "high", "centre", "scale")},
        weights=tuple(shortened(weight) for weight in network.weights),
        biases=tuple(shortened(bias) for bias in network.biases),
    )


def shortened(values: FloatArray) -> FloatArray:
    """Return values with as many digits as are kept."""
    return np.array([float(f"{x:.{DIGITS}g}") for x in values.ravel()]).reshape(values.shape)


def as_lists(network: Network) -> dict[str, list]:
    """Return the network as lists."""
    parts = {name: getattr(network, name).tolist() for name in ("low", "high", "centre", "scale")}
    return parts | {name: [part.tolist() for part in getattr(network, name)] for name in ("weights", "biases")}


def main() -> None:
    """Simulate, fit and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--laws", type=int, default=LAWS["laws"], help="laws of each kind to learn from")
    parser.add_argument("--far", type=int, default=LAWS["far"], help="further ones of a larger family")
    parser.add_argument("--checks", type=int, default=LAWS["checks"], help="laws of each kind to learn errors from")
    parser.add_argument("--far-checks", type=int, default=LAWS["far_checks"], help="further ones of the larger family")
    parser.add_argument("--seed", type=int, default=11, help="seed; the next three are used too")
    parser.add_argument("--keep", type=Path, help="folder to keep simulated queues in")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    seed, rest = options.seed, (options.keep, options.jobs)
    truths = truths_of("wider", options.laws, seed, LEARN, *rest)
    truths += truths_of("farther", options.far, seed + 2, LEARN, *rest)
    checks = truths_of("wider", options.checks, seed + 1, JUDGE, *rest)
    checks += truths_of("farther", options.far_checks, seed + 3, JUDGE, *rest)
    head = corrections(everywhere(head_rows, truths, options.jobs), "head")
    mean_error = errors(everywhere(head_rows, checks, options.jobs), head, "head")
    percentile = corrections(everywhere(percentile_rows, truths, options.jobs, head), "percentile")
    percentile_error = errors(everywhere(percentile_rows, checks, options.jobs, head), percentile, "percentile")
    learnt = {"head": head, "percentile": percentile, "mean_error": mean_error, "percentile_error": percentile_error}
    asked = " ".join(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in (*LAWS, "seed"))
    provenance = {"origin": f"calibration/mgk_correction.py {asked}", "queues": len(truths), "checks": len(checks)}
    data = {"provenance": provenance, "networks": {name: as_lists(network) for name, network in learnt.items()}}
    write_text(TARGET, json.dumps(data, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

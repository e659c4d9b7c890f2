"""Engine corrections from measurements: floor, gain and prompt-batch exponent on top of kernel laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.fitting.gpus import GPUS
from qmodel.fitting.unit_checks import check_ratio
from qmodel.laws import Calibration, DecodeTimes, EngineCorrection, PromptTimes
from qmodel.laws.interpolation import at_tp
from qmodel.units import MS

__all__ = [
    "EngineFit",
    "carried_engine",
    "decode_times_s",
    "expected_engine",
    "fit_engine",
    "fitting_rows",
    "prompt_times_s",
]

Array = npt.NDArray[np.float64]

_DECODE_NAMES = ("engine.floor_s", "engine.floor_per_request_s", "engine.gain")
_PROMPT_NAMES = ("engine.prefill_floor_s", "engine.prefill_gain", "engine.batch_exponent")

# A benchmark that never leaves one regime does not tell floor from gain, so each starts from what is known elsewhere.
LAUNCHES_PER_LAYER = 12  # norms 2, products 4, rotation, cache write, attention, activation, all-reduces 2
GAIN, GAIN_SPREAD = 1.2, 0.1  # Vidur's measured A100 products over the kernel tables: 1.28, 1.24, 1.19, 1.04, 1.18
REQUEST_S, REQUEST_SPREAD = 0.1 * MS, 0.7  # host time per request and step of Python engines; within a factor of 2
PREFILL_FLOOR_SPREAD = 0.3  # at least: prompts add tokenisation and sampling to the launches
GRAPH_FLOOR_S, GRAPH_SPREAD = 3.0 * MS, 1.2  # scheduling when kernels are captured in a graph: 1 to 10 ms
EXPONENT, EXPONENT_SPREAD = 0.1, 0.2
ODDS = 3.0  # log odds for the launches that a file's format is usually measured with; data outweigh it
ENGINE_RANGE = (0.1, 50.0)  # an engine over its kernels; a wrong unit is off by 1000
NOISE = 0.08  # relative; equal states measured twice lie up to 9 % apart, and the laws themselves are 3 % off


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFit:
    """A correction with how it came about.

    Parameters
    ----------
    correction : EngineCorrection
        What the engine adds.
    launches : str
        ``eager`` or ``graph``: how kernels reach the GPU, by which floor explains the data better.
    token_time_mape, prompt_time_mape : float
        Mean relative errors on the data of the fit; 0 where there are no such rows.
    token_rows, prompt_rows : int
        Rows used.
    notes : tuple of str
        Rows that were set aside, and why.
    standard_errors : Mapping
        Standard error of each number, by ``engine.gain`` and the like; Laplace approximation of the posterior.
    """

    correction: EngineCorrection
    launches: str
    token_time_mape: float
    prompt_time_mape: float
    token_rows: int
    prompt_rows: int
    notes: tuple[str, ...] = ()
    standard_errors: Mapping[str, float] = field(default_factory=dict)


def decode_times_s(calibrations: Sequence[Calibration], rows: DecodeTimes) -> Array:
    """Return predicted decode steps [s] at the tp of each row.

    Parameters
    ----------
    calibrations : sequence of Calibration
        One model and GPU at several tp.
    rows : DecodeTimes
        Steps.
    """
    out = np.empty(len(rows))
    for tp in np.unique(rows.tp):
        at = rows.tp == tp
        law = at_tp(calibrations, int(tp)).step
        out[at] = np.asarray(law.step_time_s(rows.batch[at], rows.context[at]))
    return out


def prompt_times_s(calibrations: Sequence[Calibration], rows: PromptTimes) -> Array:
    """Return predicted prompt phases [s] at the tp of each row.

    Parameters
    ----------
    calibrations : sequence of Calibration
        One model and GPU at several tp.
    rows : PromptTimes
        Prompt batches.
    """
    out = np.empty(len(rows))
    for tp in np.unique(rows.tp):
        at = rows.tp == tp
        out[at] = np.asarray(at_tp(calibrations, int(tp)).prompt_batch_s(rows.prompts[at], rows.tokens[at]))
    return out


def fitting_rows(
    calibrations: Sequence[Calibration], decode: DecodeTimes, prompt: PromptTimes
) -> tuple[DecodeTimes, PromptTimes, list[str]]:
    """Return the rows that the calibrations can speak of: tp within theirs, KV cache within the capacity.

    Parameters
    ----------
    calibrations : sequence of Calibration
        One model and GPU at several tp.
    decode, prompt : DecodeTimes, PromptTimes
        Measured rows.

    Returns
    -------
    tuple
        Rows kept, and a note for each reason to set rows aside.
    """
    notes: list[str] = []
    keep_decode, keep_prompt = np.ones(len(decode), bool), np.ones(len(prompt), bool)
    for tp in np.unique(np.concatenate([decode.tp, prompt.tp])):
        mine_decode, mine_prompt = decode.tp == tp, prompt.tp == tp
        count = int(max(mine_decode.sum(), mine_prompt.sum()))
        try:
            here = at_tp(calibrations, int(tp))
            capacity = here.kv_capacity_tokens
            if here.tp not in {c.tp for c in calibrations}:
                notes.append(f"tp {tp:g}: {here.provenance['interpolation']}")
        except InputError as error:
            keep_decode &= ~mine_decode
            keep_prompt &= ~mine_prompt
            notes.append(f"{count} rows of tp {tp:g} set aside: {error}")
            continue
        too_large = mine_decode & (decode.peak > capacity), mine_prompt & (prompt.peak > capacity)
        keep_decode &= ~too_large[0]
        keep_prompt &= ~too_large[1]
        dropped = int(max(too_large[0].sum(), too_large[1].sum()))
        if dropped:
            notes.append(
                f"{dropped} rows of tp {tp:g} set aside: their KV cache exceeds the {capacity} tokens that fit"
            )
    return decode.take(keep_decode), prompt.take(keep_prompt), notes


def fit_engine(
    calibrations: Sequence[Calibration],
    decode: DecodeTimes,
    prompt: PromptTimes,
    usual: Literal["eager", "graph"] = "graph",
) -> EngineFit:
    """Return the engine correction that best explains measurements, shared by every tp; *empirical*.

    Maximum a posteriori with a robust (soft L1) loss on log ratios; equal states count once, by their median. The
    priors matter only where the data say nothing, for example a floor that no measured step reached.

    Parameters
    ----------
    calibrations : sequence of Calibration
        Kernels of one model and GPU, at several tp, without correction.
    decode, prompt : DecodeTimes, PromptTimes
        Measured rows; either may be empty.
    usual : {"eager", "graph"}
        How engines that write such files launch kernels; decides where the data cannot.

    Returns
    -------
    EngineFit
        Correction, fit errors and notes.

    Raises
    ------
    InputError
        When no row can be used.
    """
    bare = [c.without_engine() for c in calibrations]
    decode, prompt, notes = fitting_rows(bare, decode, prompt)
    if not len(decode) and not len(prompt):
        raise InputError("measured rows that fit the calibration", 0, ">= 1", "; ".join(notes))
    _check_unit("token", decode_times_s(bare, decode), decode.time_s)
    _check_unit("prompt", prompt_times_s(bare, prompt), prompt.time_s)
    eager_s = _eager_floor_s(bare[0])
    spread = GPUS.get(bare[0].gpu, GPUS["h200"]).launch_spread
    fits = {
        "eager": _fit(bare, decode, prompt, eager_s, spread, max(spread, PREFILL_FLOOR_SPREAD)),
        "graph": _fit(bare, decode, prompt, GRAPH_FLOOR_S, GRAPH_SPREAD, GRAPH_SPREAD),
    }
    launches = min(fits, key=lambda name: fits[name][0] - (ODDS if name == usual else 0.0))
    correction = fits[launches][1]
    corrected = [c.with_engine(correction) for c in bare]
    return EngineFit(
        correction=correction,
        launches=launches,
        token_time_mape=_mape(decode_times_s(corrected, decode), decode.time_s),
        prompt_time_mape=_mape(prompt_times_s(corrected, prompt), prompt.time_s),
        token_rows=len(decode),
        prompt_rows=len(prompt),
        notes=tuple(notes),
        standard_errors=fits[launches][2],
    )


def expected_engine(calibration: Calibration) -> EngineCorrection:
    """Return what an engine that launches kernels one by one is expected to add, before any measurement.

    Parameters
    ----------
    calibration : Calibration
        Its layers and GPU set the floor.
    """
    floor = _eager_floor_s(calibration)
    return EngineCorrection(
        floor_s=floor, floor_per_request_s=REQUEST_S, gain=GAIN, prefill_floor_s=floor, prefill_gain=GAIN
    )


def carried_engine(calibration: Calibration, target: Calibration) -> EngineCorrection | None:
    """Return a calibration's engine correction for another model or GPU: floors follow layers and launch time.

    Parameters
    ----------
    calibration : Calibration
        Where the correction was fitted.
    target : Calibration
        Where it is wanted.

    Returns
    -------
    EngineCorrection or None
        None when there is no correction.
    """
    if calibration.engine is None:
        return None
    ratio = _eager_floor_s(target) / _eager_floor_s(calibration)
    engine = calibration.engine
    return replace(engine, floor_s=ratio * engine.floor_s, prefill_floor_s=ratio * engine.prefill_floor_s)


def _eager_floor_s(calibration: Calibration) -> float:
    gpu = GPUS.get(calibration.gpu, GPUS["h200"])
    return LAUNCHES_PER_LAYER * calibration.layers * gpu.launch_s


def _check_unit(what: str, predicted: Array, measured: Array) -> None:
    if len(measured):
        check_ratio(f"median {what} time over its kernels", float(np.median(measured / predicted)), ENGINE_RANGE)


def _mape(predicted: Array, measured: Array) -> float:
    return float(np.mean(np.abs(predicted / measured - 1))) if len(measured) else 0.0


def _fit(
    bare: Sequence[Calibration],
    decode: DecodeTimes,
    prompt: PromptTimes,
    floor_s: float,
    spread: float,
    prefill_spread: float,
) -> tuple[float, EngineCorrection, dict[str, float]]:
    """Return loss, correction and standard errors around a floor that is known to within a factor exp(spread)."""
    states, times = _states(np.column_stack([decode.tp, decode.batch, decode.context]), decode.time_s)
    batch = states[:, 1]
    kernels = decode_times_s(bare, _decode(states, times))

    def tokens(theta: Array) -> Array:
        o0, o1, g = np.exp(theta)
        return np.asarray(np.maximum(o0 + o1 * batch, g * kernels))

    centre, width = np.log([floor_s, REQUEST_S, GAIN]), np.array([spread, REQUEST_SPREAD, GAIN_SPREAD])
    loss, theta, spread_of = _posterior(tokens, times, centre, width)
    o0, o1, g = np.exp(theta)
    errors = dict(zip(_DECODE_NAMES, (np.exp(theta) * spread_of).tolist(), strict=True))

    shapes, durations = _states(np.column_stack([prompt.tp, prompt.prompts, prompt.tokens]), prompt.time_s)
    phases = prompt_times_s(bare, _prompt(shapes, durations))
    unit = EngineCorrection(batch_exponent=1.0)
    growth = np.asarray(unit.batch_factor(shapes[:, 1], shapes[:, 1] * shapes[:, 2]))

    def prompts(theta: Array) -> Array:
        f, gp = np.exp(theta[:2])
        return np.asarray(np.maximum(f, gp * phases) * growth ** max(theta[2], 0.0))

    centre = np.array([np.log(floor_s), np.log(GAIN), EXPONENT])
    width = np.array([prefill_spread, GAIN_SPREAD, EXPONENT_SPREAD])
    more, theta, spread_of = _posterior(prompts, durations, centre, width)
    f, gp = np.exp(theta[:2])
    errors |= dict(zip(_PROMPT_NAMES, (np.array([f, gp, 1.0]) * spread_of).tolist(), strict=True))
    correction = EngineCorrection(
        floor_s=float(o0),
        floor_per_request_s=float(o1),
        gain=float(g),
        prefill_floor_s=float(f),
        prefill_gain=float(gp),
        batch_exponent=float(max(theta[2], 0.0)),
    )
    return loss + more, correction, errors


def _decode(states: Array, times: Array) -> DecodeTimes:
    tp, batch, context = states.T
    return DecodeTimes(tp=tp, batch=batch, context=context, time_s=times, peak=context)


def _prompt(states: Array, times: Array) -> PromptTimes:
    tp, prompts, tokens = states.T
    return PromptTimes(tp=tp, prompts=prompts, tokens=tokens, time_s=times, peak=tokens)


def _states(keys: Array, times: Array) -> tuple[Array, Array]:
    """Return distinct states and the median time of each."""
    if not len(times):
        return keys.reshape(0, 3), times
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    return unique, np.array([np.median(times[inverse == i]) for i in range(len(unique))])


def _posterior(
    predict: Callable[[Array], Array], times: Array, centre: Array, width: Array
) -> tuple[float, Array, Array]:
    """Return the smallest loss, where it is, and the spread around it; without data, those of the prior."""
    from scipy.optimize import minimize

    def loss(theta: Array) -> float:
        residual = np.log(predict(theta) / times) / NOISE
        prior = 0.5 * float(np.sum(((theta - centre) / width) ** 2))
        return float(np.sum(np.sqrt(1 + residual**2) - 1)) + prior

    if not len(times):
        return 0.0, centre, width
    best: tuple[float, Array] = (np.inf, centre)
    shifts = np.vstack([np.zeros(len(centre)), -1.5 * width, 1.5 * width])
    for shift in shifts:
        options = {"maxiter": 1000, "maxfev": 1000, "xatol": 1e-5, "fatol": 1e-7}
        result = minimize(loss, centre + shift, method="Nelder-Mead", options=options)
        if result.fun < best[0] - 1e-9:
            best = (float(result.fun), np.asarray(result.x))
    return (*best, _spread(loss, best[1], width))


def _spread(loss: Callable[[Array], float], theta: Array, width: Array) -> Array:
    """Return the standard deviation of each parameter: curvature of the loss across a tenth of its prior's width."""
    step = 0.1 * width
    here = loss(theta)
    bend = np.array([loss(theta + e) - 2 * here + loss(theta - e) for e in np.diag(step)]) / step**2
    return np.asarray(np.minimum(width, 1.0 / np.sqrt(np.maximum(bend, 1.0 / width**2))))

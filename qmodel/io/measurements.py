"""Measurement files that users already have, recognised by themselves: what an engine was seen to take."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.io.measured_reports import aiperf_requests, guidellm_requests, inference_perf_requests, vllm_requests
from qmodel.io.measured_requests import steps_of_requests
from qmodel.laws.measured import DecodeTimes, Measurements, PromptTimes
from qmodel.laws.samples import StepSamples
from qmodel.units import MS

__all__ = ["read_measurements", "read_steps"]

Array = npt.NDArray[np.float64]

_SPLITWISE = ("model", "hardware", "prompt_size", "batch_size", "token_size", "prompt_time", "token_time")
_STEPS = ("B", "K", "chi", "done", "t_ms")
_UNIT_LIMIT_S = 300.0  # no prompt batch or decode step takes longer: the file is in another unit


def read_measurements(path: str | Path, tp: int = 1, model: str = "", gpu: str = "") -> list[Measurements]:
    """Return what a measurement file says, one entry per (model, GPU) in it.

    Parameters
    ----------
    path : str or Path
        Splitwise-style CSV (columns of ``perf_model.csv``), step CSV (``B,K,chi,done,t_ms``), vLLM ``bench serve``
        JSON, aiperf ``profile_export.jsonl``, GuideLLM ``benchmarks.json``, inference-perf
        ``per_request_lifecycle_metrics.json``, Dynamo profiler ``raw_data.npz``, or Prometheus text of vLLM.
    tp : int
        GPUs of the measured instance, for files that do not say.
    model, gpu : str
        Names, for files that do not say.

    Returns
    -------
    list of Measurements
        At least one.

    Raises
    ------
    InputError
        When the file is missing, empty, of no known format, or holds values that cannot be times.
    """
    file = Path(path)
    if not file.exists():
        raise InputError("measurement file", f"'{file}', which does not exist", remedy="check the path")
    if file.is_dir():
        raise InputError("measurement file", f"'{file}', a directory", "a file")
    if file.stat().st_size == 0:
        raise InputError("measurement file", f"'{file}', which is empty", "a file with measurements")
    if file.suffix == ".npz":
        return [_dynamo(file, tp, model, gpu)]
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("measurement file", f"'{file}': {error}", "readable text or .npz") from None
    head = text.lstrip()[:4000]
    if head.startswith(("{", "[")):
        return [_json(file, text, tp, model, gpu)]
    if "vllm:" in text or head.startswith("# HELP"):
        return [_prometheus(file, text, tp, model, gpu)]
    return _csv(file, text, tp, model, gpu)


def read_steps(path: str | Path) -> StepSamples:
    """Return measured steps from a CSV with columns ``B,K,chi,done,t_ms``.

    Parameters
    ----------
    path : str or Path
        CSV file: decode requests, sum of their contexts, chunk, tokens done, time in ms.

    Returns
    -------
    StepSamples
        Steps, in seconds.

    Raises
    ------
    InputError
        When a column is missing or a value is not a number, not finite or negative.
    """
    file = Path(path)
    try:
        text = file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError("step file", f"'{file}', which does not exist", remedy="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("step file", f"'{file}': {error}", "readable text") from None
    return _steps(_columns(file, text, _STEPS))


def _steps(columns: dict[str, Array]) -> StepSamples:
    b, k, chi, done, t = (columns[name] for name in _STEPS)
    return StepSamples(batch=b, context=k, chunk=chi, done=done, time_s=t * MS)


def _columns(file: Path, text: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    rows = list(csv.reader(text.splitlines()))
    header = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in wanted if name not in header]
    if missing:
        raise InputError(f"columns of '{file}'", f"without {', '.join(missing)}", f"with {', '.join(wanted)}")
    twice = [name for name in wanted if header.count(name) > 1]
    if twice:
        raise InputError(f"columns of '{file}'", f"with {', '.join(twice)} more than once", "each there once")
    body = [row for row in rows[1:] if any(cell.strip() for cell in row)]
    if not body:
        raise InputError(f"rows of '{file}'", 0, ">= 1", "the file has a header only")
    out: dict[str, Any] = {}
    for name in wanted + (("tensor_parallel",) if "tensor_parallel" in header else ()):
        at = header.index(name)
        cells = [row[at].strip() if at < len(row) else "" for row in body]
        out[name] = cells if name in ("model", "hardware") else _numbers(file, name, cells)
    return out


def _numbers(file: Path, name: str, cells: list[str]) -> Array:
    values = np.empty(len(cells))
    for i, cell in enumerate(cells):
        try:
            values[i] = float(cell)
        except ValueError:
            raise InputError(f"{name} in row {i + 1} of '{file}'", repr(cell), "a number") from None
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        at = int(np.argmax(bad))
        raise InputError(f"{name} in row {at + 1} of '{file}'", float(values[at]), "finite and >= 0")
    return values


def _csv(file: Path, text: str, tp: int, model: str, gpu: str) -> list[Measurements]:
    header = {name.strip() for name in text.splitlines()[0].split(",")}
    if set(_STEPS) <= header:
        return [_from_steps(_steps(_columns(file, text, _STEPS)), tp, model, gpu)]
    if not {"prompt_time", "token_time"} & header:
        limit = (
            "a Splitwise-style CSV, a step CSV (B,K,chi,done,t_ms), a result of vLLM bench, aiperf, GuideLLM or "
            "inference-perf, Dynamo's raw_data.npz or Prometheus text of vLLM"
        )
        raise InputError("measurement file", f"'{file}', of no known format", limit)
    columns = _columns(file, text, _SPLITWISE)
    degrees = columns.get("tensor_parallel", np.full(len(columns["prompt_time"]), float(tp)))
    keys = sorted(set(zip(columns["model"], columns["hardware"], strict=True)))
    return [_splitwise(file, columns, degrees, key) for key in keys]


def _splitwise(file: Path, columns: dict[str, Any], degrees: Array, key: tuple[str, str]) -> Measurements:
    """Return one (model, hardware) of a Splitwise file; token_time is a decode step at the run's mean context."""
    pairs = zip(columns["model"], columns["hardware"], strict=True)
    mask = np.array([pair == key for pair in pairs])
    b, prompt, out = (columns[name][mask] for name in ("batch_size", "prompt_size", "token_size"))
    t_prompt, t_token = columns["prompt_time"][mask] * MS, columns["token_time"][mask] * MS
    _check_unit(file, t_prompt, t_token)
    tp = degrees[mask]
    return Measurements(
        kind="Splitwise-style CSV",
        decode=DecodeTimes(tp=tp, batch=b, context=b * (prompt + out / 2), time_s=t_token, peak=b * (prompt + out)),
        prompt=PromptTimes(tp=tp, prompts=b, tokens=prompt, time_s=t_prompt, peak=b * (prompt + out)),
        model=key[0],
        gpu=key[1],
        eager=True,  # published profiles of this form are of 2023 engines
    )


def _check_unit(file: Path, *times: Array) -> None:
    for values in times:
        if len(values) and float(np.median(values)) > _UNIT_LIMIT_S:
            value = float(np.median(values))
            raise InputError(f"median time in '{file}' [s]", value, f"<= {_UNIT_LIMIT_S:g}", "check the unit: ms")
        if len(values) and float(np.median(values)) < 20e-6:
            value = float(np.median(values))
            raise InputError(f"median time in '{file}' [s]", value, ">= 2e-05", "check the unit: ms, not s")


def _from_steps(steps: StepSamples, tp: int, model: str, gpu: str) -> Measurements:
    plain = (steps.chunk == 0) & (steps.batch > 0)
    alone = (steps.batch == 0) & (steps.done == 0) & (steps.chunk > 0)
    ones = np.ones(len(steps))
    other = int((~plain & ~alone).sum())
    notes = (f"{other} steps that host a chunk are left to the law's fit",) if other else ()
    return Measurements(
        kind="step CSV",
        decode=DecodeTimes(
            tp=tp * ones[plain],
            batch=steps.batch[plain],
            context=steps.context[plain],
            time_s=steps.time_s[plain],
            peak=steps.context[plain],
        ),
        prompt=PromptTimes(
            tp=tp * ones[alone],
            prompts=ones[alone],
            tokens=steps.chunk[alone],
            time_s=steps.time_s[alone],
            peak=steps.chunk[alone],
        ),
        model=model,
        gpu=gpu,
        notes=notes,
    )


def _json(file: Path, text: str, tp: int, model: str, gpu: str) -> Measurements:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and "ttfts" in whole:
        requests, notes = vllm_requests(file, whole)
        kind = "vLLM bench serve JSON"
    elif isinstance(whole, dict) and "benchmarks" in whole:
        requests, notes = guidellm_requests(file, whole)
        kind = "GuideLLM JSON"
    elif isinstance(whole, list):
        requests, notes = inference_perf_requests(file, whole)
        kind = "inference-perf JSON"
    elif isinstance(whole, dict) and "metrics" not in whole:
        limit = "a vLLM result saved with --save-detailed (arrays ttfts, itls, input_lens, output_lens)"
        raise InputError("measurement file", f"'{file}', a JSON object without ttfts", limit)
    else:
        requests, notes = aiperf_requests(file, text)
        kind = "aiperf JSONL"
    decode, prompt, more = steps_of_requests(requests, tp)
    return Measurements(
        kind=kind, decode=decode, prompt=prompt, requests=requests, model=model, gpu=gpu, notes=(*notes, *more)
    )


def _dynamo(file: Path, tp: int, model: str, gpu: str) -> Measurements:
    """Return the points of Dynamo's profiler: TTFT [ms] by prompt length, ITL [ms] by KV use and context."""
    try:
        with np.load(io.BytesIO(file.read_bytes())) as data:
            arrays = {name: np.asarray(data[name], dtype=float).ravel() for name in data.files}
    except _BROKEN_ARCHIVE as error:
        raise InputError("measurement file", f"'{file}': {error}", "a readable raw_data.npz") from None
    empty = np.zeros(0)
    decode = DecodeTimes(tp=empty, batch=empty, context=empty, time_s=empty, peak=empty)
    prompt = PromptTimes(tp=empty, prompts=empty, tokens=empty, time_s=empty, peak=empty)
    if {"prefill_isl", "prefill_ttft"} <= set(arrays):
        isl, ttft = arrays["prefill_isl"], arrays["prefill_ttft"] * MS
        ones = np.ones(len(isl))
        prompt = PromptTimes(tp=tp * ones, prompts=ones, tokens=isl, time_s=ttft, peak=isl)
    if {"x_kv_usage", "y_context_length", "z_itl", "max_kv_tokens"} <= set(arrays):
        context = arrays["x_kv_usage"] * arrays["max_kv_tokens"][0]
        batch = np.maximum(1.0, context / arrays["y_context_length"])
        itl = arrays["z_itl"] * MS
        full = np.full(len(itl), float(tp))
        decode = DecodeTimes(tp=full, batch=batch, context=context, time_s=itl, peak=context)
    if not len(decode) and not len(prompt):
        limit = "with prefill_isl, prefill_ttft or x_kv_usage, y_context_length, z_itl, max_kv_tokens"
        raise InputError(f"arrays of '{file}'", ", ".join(sorted(arrays)) or "none", limit)
    _check_unit(file, prompt.time_s, decode.time_s)
    return Measurements(kind="Dynamo profiler npz", decode=decode, prompt=prompt, model=model, gpu=gpu)


# What numpy and zipfile raise for an archive that is cut, changed, encrypted or holds objects.
_BROKEN_ARCHIVE = (
    OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError, MemoryError, OverflowError,
    SyntaxError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError,
)  # fmt: skip
_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+(?P<value>\S+)")


def _prometheus(file: Path, text: str, tp: int, model: str, gpu: str) -> Measurements:
    """Return one decode point (and one prompt point) from the counters of a running vLLM.

    Mean tokens of a step from ``iteration_tokens_total``, mean step from the inter-token latency; the share of
    prompt tokens is taken out by the token counters.
    """
    totals: dict[str, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match:
            try:
                value = float(match["value"])
            except ValueError:
                raise InputError(f"{match['name']} in '{file}'", repr(match["value"]), "a number") from None
            totals[match["name"]] = totals.get(match["name"], 0.0) + value

    def mean(*names: str) -> float | None:
        for name in names:
            total, count = totals.get(f"vllm:{name}_sum", 0.0), totals.get(f"vllm:{name}_count", 0.0)
            if count > 0 and total > 0 and np.isfinite(total / count):
                return total / count
        return None

    step_s = mean("inter_token_latency_seconds", "time_per_output_token_seconds")
    tokens = mean("iteration_tokens_total")
    if step_s is None or tokens is None:
        limit = "with iteration_tokens_total and inter_token_latency_seconds (or time_per_output_token_seconds)"
        raise InputError(
            f"metrics of '{file}'", "incomplete", limit, "scrape /metrics of a vLLM that has served requests"
        )
    prompt_total, output_total = (totals.get(f"vllm:{n}_tokens_total", 0.0) for n in ("prompt", "generation"))
    share = output_total / (prompt_total + output_total) if output_total else 1.0
    length, output = mean("request_prompt_tokens") or 0.0, mean("request_generation_tokens") or 0.0
    batch = max(1.0, tokens * share)
    context = batch * (length + output / 2)
    point = np.ones(1)
    held = context * point
    decode = DecodeTimes(tp=tp * point, batch=batch * point, context=held, time_s=step_s * point, peak=held)
    prefill_s = mean("request_prefill_time_seconds")
    has_prompt = prefill_s is not None and length > 0
    size = point if has_prompt else np.zeros(0)
    lengths = length * size
    prompt = PromptTimes(tp=tp * size, prompts=size, tokens=lengths, time_s=(prefill_s or 0.0) * size, peak=lengths)
    notes = (f"{share:.0%} of the tokens of a step were generated; steps that host chunks are averaged in",)
    return Measurements(kind="Prometheus text of vLLM", decode=decode, prompt=prompt, model=model, gpu=gpu, notes=notes)

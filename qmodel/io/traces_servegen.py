"""Reader of ServeGen clients: a table of arrival laws by window, with length histograms in a sibling file."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.io.traces_text import MAX_ROWS, Options, RawTrace, column, csv_rows, load_json, read_text, shown

__all__ = ["read_servegen"]

FloatArray = npt.NDArray[np.float64]
Law = tuple[FloatArray, FloatArray]

WINDOW_S = 600.0
_ENTRY = re.compile(r"\s*(\d{1,12})\s*:\s*([0-9.eE+-]{1,32})\s*")


def read_servegen(text: str, options: Options) -> RawTrace:
    """Return requests drawn, with seed 0, from one client's arrival laws and length histograms.

    Parameters
    ----------
    text : str
        Headerless rows: window start [s], rate [1/s], CV, family, shape, scale [s].
    options : Options
        The histograms are read from ``chunk-N-dataset.json`` beside ``chunk-N-trace.csv``.

    Returns
    -------
    RawTrace
        Renewal arrivals in each window of 600 s, input and output lengths independent.
    """
    rows = list(csv_rows(text, options.path))
    for line, row in rows:
        if len(row) != 6:
            raise InputError(f"'{options.path}', line {line}", f"a row of {len(row)} fields", "one of 6 fields")
    laws, sibling = _length_laws(options)
    rng = np.random.default_rng(0)
    parts: list[tuple[FloatArray, FloatArray, FloatArray, int]] = []
    total = 0
    for line, row in rows:
        names = ("window start", "rate")
        start, rate = (float(column(n, [v], [line], options.path)[0]) for n, v in zip(names, row, strict=False))
        if rate < 0 or start < 0:
            raise InputError(f"'{options.path}', line {line}", f"start {start:g}, rate {rate:g}", ">= 0")
        total += math.ceil(rate * WINDOW_S)
        if total > MAX_ROWS:
            raise InputError(f"'{options.path}', line {line}", f"{total:,} requests so far", f"at most {MAX_ROWS:,}")
        at = start + _arrivals(rate, row, line, options.path, rng)
        prompt, output = laws[max([t for t in laws if t <= start], default=min(laws))]
        parts.append((at, _drawn(prompt, len(at), rng), _drawn(output, len(at), rng), line))
    columns = [np.concatenate([part[i] for part in parts]) for i in range(3)]
    return RawTrace(
        arrival_s=columns[0],
        prompt_tokens=columns[1],
        output_tokens=columns[2],
        lines=np.repeat([part[3] for part in parts], [len(part[0]) for part in parts]).tolist(),
        notices=(f"drawn with seed 0 from the arrival laws and the histograms of {sibling}",),
    )


def _arrivals(rate: float, row: list[str], line: int, path: str, rng: np.random.Generator) -> FloatArray:
    """Return renewal arrivals within one window [s]."""
    if rate == 0:
        return np.empty(0)
    family = row[3].strip().lower()
    if family not in ("gamma", "weibull", ""):
        raise InputError(f"family in '{path}', line {line}", shown(row[3]), "Gamma, Weibull or empty")
    count = int(rate * WINDOW_S * 1.5 + 50)
    if not family:
        gaps = rng.exponential(1 / rate, count)
    else:
        shape, scale = (float(column(n, [v], [line], path)[0]) for n, v in (("shape", row[4]), ("scale", row[5])))
        if not (1e-3 <= shape <= 1e6 and scale > 0):
            raise InputError(
                f"shape and scale in '{path}', line {line}", f"{shape:g} and {scale:g}", ">= 0.001 and > 0"
            )
        gaps = rng.gamma(shape, size=count) if family == "gamma" else rng.weibull(shape, count)
        gaps = gaps * (1 / rate / max(float(shape if family == "gamma" else math.gamma(1 + 1 / shape)), 1e-300))
    at = np.cumsum(gaps)
    return np.asarray(at[at < WINDOW_S])


def _drawn(law: Law, count: int, rng: np.random.Generator) -> FloatArray:
    values, ends = law
    return values[np.minimum(np.searchsorted(ends, rng.random(count), side="right"), len(values) - 1)]


def _length_laws(options: Options) -> tuple[dict[float, tuple[Law, Law]], str]:
    """Return window start to the laws of input and output tokens, and the sibling file's name."""
    own = options.path.rsplit("/", 1)[-1]
    name = re.sub(r"\.csv(\.gz)?$", "", own).removesuffix("trace") + "dataset.json"
    if options.folder is None or not (options.folder / name).is_file():
        limit = f"beside it as '{name}'"
        raise InputError(f"lengths of ServeGen client '{own}'", "missing", limit, "put both files in one folder")
    what = f"ServeGen lengths '{options.folder / name}'"
    windows = load_json(read_text(options.folder / name), what)
    if not isinstance(windows, dict) or not windows:
        raise InputError(what, shown(windows), "an object of windows")
    laws = {}
    for key, entry in windows.items():
        start = float(column("window start", [key], [1], name)[0])
        found = [entry.get(part) if isinstance(entry, dict) else None for part in ("input_tokens", "output_tokens")]
        laws[start] = (_histogram(found[0], what), _histogram(found[1], what))
    return laws, name


def _histogram(literal: Any, what: str) -> Law:
    """Return values and cumulative probabilities of a ``{length: probability}`` literal, read without evaluating it."""
    body = literal.strip() if isinstance(literal, str) else ""
    entries = [_ENTRY.fullmatch(part) for part in body[1:-1].split(",") if part.strip()]
    if not (body.startswith("{") and body.endswith("}")) or not entries or None in entries:
        raise InputError(what, shown(literal), "a {length: probability} literal")
    values = column("length", [e[1] for e in entries if e], [1] * len(entries), what)
    weights = column("probability", [e[2] for e in entries if e], [1] * len(entries), what)
    if np.any(weights < 0) or not np.sum(weights) > 0:
        raise InputError(what, f"probabilities that sum to {np.sum(weights):g}", ">= 0, some > 0")
    kept = (weights > 0) & (values >= 1)
    if not np.any(kept):
        raise InputError(what, "no length of 1 token or more", "lengths >= 1")
    return values[kept], np.cumsum(weights[kept]) / np.sum(weights[kept])

"""Formats of trace files: how each is told from the others, and what reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qmodel.errors import InputError
from qmodel.io.traces_csv import (
    BLIS_FIRST,
    read_azure,
    read_blis,
    read_burstgpt,
    read_lengths_only,
    table_reader,
)
from qmodel.io.traces_json import read_aiperf, read_llmservingsim, read_timed, read_vllm_bench, timed_reader
from qmodel.io.traces_servegen import read_servegen
from qmodel.io.traces_text import Options, RawTrace, csv_rows, load_json, shown

__all__ = ["FORMATS", "Format", "recognised"]

HEAD_LINES = 200  # a BLIS header in YAML is shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A trace format.

    Parameters
    ----------
    title : str
        Name for people.
    read : callable
        Text and options to `RawTrace`.
    json : bool
        Whether it is JSON or JSONL rather than CSV.
    names : frozenset of str
        Columns of the header, or keys of the first object, that tell it.
    plain_times : bool
        Whether times are numbers in a unit that can be overruled; dates and arrival laws have their own.
    """

    title: str
    read: Callable[[str, Options], RawTrace]
    json: bool
    names: frozenset[str]
    plain_times: bool = True


def _csv(title: str, names: str, read: Callable[[str, Options], RawTrace], *, plain_times: bool = True) -> Format:
    told = frozenset(names.split(",") if names else ())
    return Format(title=title, read=read, json=False, names=told, plain_times=plain_times)


def _json(title: str, names: str, read: Callable[[str, Options], RawTrace], *, plain_times: bool = True) -> Format:
    return Format(title=title, read=read, json=True, names=frozenset(names.split(",")), plain_times=plain_times)


# In order: the first whose names are all there is taken, so those with more names come first.
FORMATS: dict[str, Format] = {
    "canonical": _csv(
        "canonical CSV",
        "arrival_s,prompt_tokens,output_tokens",
        table_reader("arrival_s", "prompt_tokens", "output_tokens"),
    ),
    "azure": _csv("Azure LLM trace (CSV)", "TIMESTAMP,ContextTokens,GeneratedTokens", read_azure, plain_times=False),
    "burstgpt": _csv("BurstGPT (CSV)", "Timestamp,Request tokens,Response tokens", read_burstgpt),
    "vidur": _csv(
        "Vidur (CSV)",
        "arrived_at,num_prefill_tokens,num_decode_tokens",
        table_reader("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    ),
    "vidur-lengths": _csv("Vidur lengths (CSV)", "num_prefill_tokens,num_decode_tokens", read_lengths_only),
    "splitwise-sim": _csv(
        "splitwise-sim (CSV)",
        "arrival_timestamp,prompt_size,token_size",
        table_reader("arrival_timestamp", "prompt_size", "token_size"),
    ),
    "blis": _csv("BLIS trace (CSV)", "request_id,input_tokens,output_tokens,arrival_time_us,status", read_blis),
    "guidellm-csv": _csv(
        "GuideLLM trace (CSV)",
        "timestamp,input_length,output_length",
        table_reader("timestamp", "input_length", "output_length"),
    ),
    "servegen": _csv("ServeGen client (CSV and JSON)", "", read_servegen, plain_times=False),
    "bailian": _json(
        "Qwen-Bailian (JSONL)",
        "chat_id,timestamp,input_length,output_length",
        timed_reader("timestamp", "input_length", "output_length", 1.0),
    ),
    "mooncake": _json(
        "Mooncake trace (JSONL)",
        "timestamp,input_length,output_length,hash_ids",
        timed_reader("timestamp", "input_length", "output_length", 1e-3),
    ),
    "weka": _json("GuideLLM trace, WEKA layout (JSONL)", "t,in,out", timed_reader("t", "in", "out", 1.0)),
    "aiperf": _json("aiperf result (JSONL)", "metadata,metrics", read_aiperf),
    "llmservingsim": _json("LLMServingSim (JSONL)", "input_toks,output_toks,arrival_time_ns", read_llmservingsim),
    "llmservingsim-agentic": _json("LLMServingSim (JSONL)", "session_id,sub_requests", read_llmservingsim),
    "vllm-bench": _json("vLLM bench serve result (JSON)", "input_lens,output_lens", read_vllm_bench, plain_times=False),
    "timed": _json("timed trace (JSON)", "timestamp,input_length", read_timed),
    "aiperf-input": _json(
        "aiperf input (JSONL)",
        "input_length",
        timed_reader("timestamp", "input_length", "output_length", 1e-3),
    ),
}


def recognised(text: str, path: str) -> str:
    """Return the name of the format of a trace text.

    Parameters
    ----------
    text : str
        Whole text of the file.
    path : str
        For messages.

    Returns
    -------
    str
        Key of `FORMATS`.

    Raises
    ------
    InputError
        When no format fits: says what was seen and which are known.
    """
    body = text.lstrip()
    first = body.split("\n", 1)[0].strip()
    if body[:1] in ("{", "["):
        found = _by_names(_first_keys(body, first, path), json=True)
    else:
        fields = next(csv_rows(first, path), (0, []))[1]
        found = _by_names({name.strip() for name in fields}, json=False) or _without_header(body, fields)
    if found is None:
        what, value = f"format of trace '{path}'", f"unknown (it begins with {shown(first, 60)})"
        remedy = "the simplest is a CSV with arrival_s,prompt_tokens,output_tokens"
        raise InputError(what, value, f"one of {', '.join(FORMATS)}", remedy)
    return found


def _by_names(names: set[str], *, json: bool) -> str | None:
    fitting = (name for name, fmt in FORMATS.items() if fmt.json == json and fmt.names and fmt.names <= names)
    return next(fitting, None)


def _first_keys(body: str, first: str, path: str) -> set[str]:
    """Return the keys of the first object of JSONL, a JSON list or one JSON object over several lines."""
    try:
        value = load_json(first, f"trace '{path}', line 1")
    except InputError:
        if "\n" not in body:
            raise
        try:
            value = load_json(body, f"trace '{path}'")
        except InputError:
            # a broken first line of JSONL is the likelier fault than a broken long object
            value = load_json(first, f"trace '{path}', line 1")
    if isinstance(value, list):
        value = value[0] if value else None
    return set(value) if isinstance(value, dict) else set()


def _without_header(body: str, fields: list[str]) -> str | None:
    """Return the format of a CSV whose first line is no header of its own."""
    head = body.split("\n", HEAD_LINES)[:HEAD_LINES]
    if any(line.startswith(BLIS_FIRST) and "arrival_time_us" in line for line in head):
        return "blis"
    if len(fields) == 6 and fields[3].strip().lower() in ("gamma", "weibull", ""):
        return "servegen" if all(_is_number(f) for f in fields[:2]) else None
    return None


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False

"""Configuration files: the scenario options as YAML, checked key by key with the line of each error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from qmodel.errors import InputError
from qmodel.io.problems import limit_of
from qmodel.units import parse_bandwidth_gb_s, parse_duration_s, parse_rate_per_s

__all__ = ["SECTIONS", "ScenarioConfig", "config_schema", "load_config", "starter_config"]

# Commands whose own options a file may hold, each under its name.
SECTIONS = (
    "thresholds", "predict", "simulate", "compare", "capacity", "sweep", "calibrate", "validate", "emit", "figures",
    "evaluate",
)  # fmt: skip
_MAX_BYTES = 1_000_000
_MAX_BRACKETS = 100  # values are plain; a reader of nested ones takes time that grows with the square of their depth
_MAX_VALUES = 100_000


class ScenarioConfig(BaseModel):
    """Keys a configuration file may hold; the meaning of each is that of the flag of the same name."""

    model_config = ConfigDict(extra="forbid", strict=True, title="qmodel configuration")

    model: str | None = Field(
        None, description="Model by name, or a calibration file (.json).", examples=["deepseek-v2-lite"]
    )
    gpu: str | None = Field(None, description="GPU type of every instance.", examples=["a100"])
    tp: int | None = Field(None, ge=1, description="GPUs per instance; 1 or the fewest calibrated.", examples=[1])
    cluster: str | None = Field(None, description="Prefill and decode instances, kPdD.", examples=["2P2D"])
    bandwidth: str | None = Field(None, description="Network bandwidth of one GPU.", examples=["25GB/s"])
    max_num_batched_tokens: int | None = Field(
        None, ge=1, description="Token budget of a prefill step.", examples=[2048]
    )
    max_num_seqs: int | None = Field(None, ge=1, description="Largest decode batch of an instance.", examples=[256])
    max_prefill_seqs: int | None = Field(None, ge=1, description="Most prompts in a prefill step.", examples=[256])
    transfer_block_tokens: int | None = Field(
        None, ge=1, description="KV caches are sent in whole blocks of so many tokens.", examples=[16]
    )
    clock_tick: str | None = Field(
        None, description="Tick of the simulator's clock; continuous time without it.", examples=["1us"]
    )
    workload: str | None = Field(
        None, description="Built-in name (azure-conv, azure-code, ...) or a trace file.", examples=["azure-conv"]
    )
    trace_format: str | None = Field(
        None, description="Format of the trace file, where recognising it goes wrong.", examples=["azure"]
    )
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="Unit of the trace's times, where the format leaves it open.", examples=["ms"]
    )
    cached: str | None = Field(
        None, description="Column of the trace with prompt tokens found in a prefix cache.", examples=["prefix_hit"]
    )
    load: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Scale arrivals to this load of the prefill pool.", examples=[0.9]
    )
    rate: str | None = Field(None, description="Scale arrivals to this rate, instead of load.", examples=["30/s"])
    ttft_slo: str | None = Field(None, description="Limit on the time to first token.", examples=["1s"])
    tbt_slo: str | None = Field(None, description="Limit on the time between tokens.", examples=["60ms"])

    @field_validator("ttft_slo", "tbt_slo", "clock_tick")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        if value is not None:
            parse_duration_s(value, "duration")
        return value

    @field_validator("rate")
    @classmethod
    def _is_rate(cls, value: str | None) -> str | None:
        if value is not None:
            parse_rate_per_s(value, "rate")
        return value

    @field_validator("bandwidth")
    @classmethod
    def _is_bandwidth(cls, value: str | None) -> str | None:
        if value is not None:
            parse_bandwidth_gb_s(value)
        return value

    @model_validator(mode="after")
    def _is_one_of_load_and_rate(self) -> ScenarioConfig:
        if self.load is not None and self.rate is not None:
            raise ValueError("load and rate are both given; give one of the two")
        return self


def config_schema(sections: Mapping[str, type[BaseModel]] | None = None) -> dict[str, Any]:
    """Return the JSON Schema of a configuration file.

    Parameters
    ----------
    sections : mapping, optional
        Command to the model of its own options, which a file may hold under the command's name.
    """
    schema = ScenarioConfig.model_json_schema()
    for name, model in (sections or {}).items():
        schema["properties"][name] = model.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


_STARTER = ("model", "gpu", "cluster", "workload", "load", "ttft_slo", "tbt_slo")


def starter_config(
    values: Mapping[str, Any] | None = None, sections: Mapping[str, type[BaseModel]] | None = None
) -> str:
    """Return a commented configuration file: the keys most people set, and the others commented out.

    Parameters
    ----------
    values : mapping, optional
        Values to write instead of the examples.
    sections : mapping, optional
        Command to the model of its own options; all are commented out.
    """
    chosen = {name: value for name, value in (values or {}).items() if value is not None}
    lines = ["# qmodel configuration: use it with  qmodel thresholds --config THIS_FILE; flags win over it."]
    for name, field in ScenarioConfig.model_fields.items():
        value = chosen.get(name, (field.examples or [None])[0])
        active = name in chosen or (name in _STARTER and not (name == "load" and "rate" in chosen))
        lines += ["", f"# {field.description}", f"{'' if active else '# '}{name}: {json.dumps(value)}"]
    for command, model in (sections or {}).items():
        lines += ["", f"# Options of `qmodel {command}` alone.", f"# {command}:"]
        for name, field in model.model_fields.items():
            lines.append(f"#   {name}: {json.dumps(field.default)}  # {field.description}")
    if sections:
        lines += ["", "# Every other command takes its options in the same way: see  qmodel config schema."]
    return "\n".join(lines) + "\n"


def load_config(path: str | Path, sections: Mapping[str, type[BaseModel]] | None = None) -> dict[str, Any]:
    """Return the options a configuration file sets.

    Parameters
    ----------
    path : str or Path
        YAML file; keys are the flags' names, with ``-`` or ``_``.
    sections : mapping, optional
        Command to the model of its own options; without it sections are passed over.

    Returns
    -------
    dict
        Option name to value, only those that the file sets; with `sections` also command to a dict of its options.

    Raises
    ------
    InputError
        When the file is missing, is not YAML, or has an unknown key or a value of the wrong type; the message
        names the line.
    """
    source = Path(path)
    tree = _tree(source)
    values, lines = _entries(tree)
    own = {name: value for name, value in values.items() if name in SECTIONS and isinstance(value, dict)}
    top = {name: value for name, value in values.items() if name not in own}
    found = _validated(ScenarioConfig, _plain(top), lines, source, SECTIONS) if top else {}
    for name, value in own.items():
        if sections is not None:
            inner, inner_lines = _entries(value)
            found[name] = _validated(sections[name], _plain(inner), inner_lines, source, ())
    return found


def _entries(tree: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values of a parsed mapping, and the line of each key."""
    where_is = tree.lc.key  # the parser's own mapping type
    own = [key for key in tree if key in tree.lc.data]  # keys merged from an anchor stand elsewhere
    lines = {str(key).replace("-", "_"): where_is(key)[0] + 1 for key in own}
    return {str(key).replace("-", "_"): value for key, value in tree.items()}, lines


def _tree(source: Path) -> Any:
    """Return the parsed file, a mapping with line numbers."""
    if not source.is_file():
        raise InputError("configuration file", f"'{source}'", "a YAML file that exists", "check the path")
    if source.stat().st_size > _MAX_BYTES:
        raise InputError("config", f"'{source}', {source.stat().st_size} bytes", f"at most {_MAX_BYTES} bytes")
    try:
        text = source.read_text(encoding="utf-8")
        if sum(map(text.count, "[{")) > _MAX_BRACKETS:
            raise ValueError
        tree = YAML(typ="rt", pure=True).load(text)
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source.name} line {mark.line + 1}" if mark else source.name
        problem = getattr(error, "problem", None) or "not readable as plain UTF-8 YAML"
        raise InputError(f"config {where}", problem, "valid YAML") from None
    _check_size(tree, source)
    if not isinstance(tree, dict) or not tree:
        raise InputError("config", f"'{source}', without keys", "a mapping such as 'cluster: 2P2D'")
    return tree


def _check_size(tree: Any, source: Path) -> None:
    """Refuse a file whose aliases, written out, would be endless or fill the memory."""
    left, found = [tree], 0
    while left:
        item = left.pop()
        found += 1
        if found > _MAX_VALUES:
            raise InputError("config", f"'{source}' with its aliases written out", f"at most {_MAX_VALUES:,} values")
        if isinstance(item, dict):
            left.extend(item.values())
        elif isinstance(item, (list, tuple, set)):
            left.extend(item)


def _validated(
    model: type[BaseModel], values: dict[str, Any], lines: Mapping[str, int], source: Path, more: tuple[str, ...]
) -> dict[str, Any]:
    """Return checked values; the first error names line and key, and for an unknown key those that there are."""
    try:
        return model.model_validate(values).model_dump(exclude_none=True, exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InputError(f"config {source.name}", None, limit_of(first["msg"])) from None
        key = str(first["loc"][0])
        where = f"config {source.name} line {lines.get(key, '?')}, key '{key}'"
        if first["type"] == "extra_forbidden":
            raise InputError(where, "unknown", f"one of {', '.join((*model.model_fields, *more))}") from None
        raise InputError(where, repr(values.get(key)), limit_of(first["msg"])) from None


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Strip the parser's own number, string and list types."""
    return {key: _plain_value(value) for key, value in values.items()}


def _plain_value(value: Any) -> Any:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return [_plain_value(item) for item in value] if isinstance(value, list) else value

"""Configuration files: the scenario options as YAML, checked key by key with the line of each error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from qmodel.errors import InputError

__all__ = ["ScenarioConfig", "load_config"]

_MAX_BYTES = 1_000_000


class ScenarioConfig(BaseModel):
    """Keys a configuration file may hold; the meaning of each is that of the flag of the same name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    gpu: str | None = None
    tp: int | None = None
    cluster: str | None = None
    bandwidth: str | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    workload: str | None = None
    load: float | None = None
    rate: str | None = None
    ttft_slo: str | None = None
    tbt_slo: str | None = None


def load_config(path: str | Path) -> dict[str, Any]:
    """Return the options a configuration file sets.

    Parameters
    ----------
    path : str or Path
        YAML file; keys are the flags' names, with ``-`` or ``_``.

    Returns
    -------
    dict
        Option name to value, only those that the file sets.

    Raises
    ------
    InputError
        When the file is missing, is not YAML, or has an unknown key or a value of the wrong type; the message
        names the line.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError("config", f"'{source}'", "a YAML file that exists", "check the path")
    if source.stat().st_size > _MAX_BYTES:
        raise InputError("config", f"'{source}', {source.stat().st_size} bytes", f"at most {_MAX_BYTES} bytes")
    try:
        tree = YAML(typ="rt", pure=True).load(source.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source.name} line {mark.line + 1}" if mark else source.name
        problem = getattr(error, "problem", None) or "not readable as UTF-8 YAML"
        raise InputError(f"config {where}", problem, "valid YAML") from None
    if not isinstance(tree, dict) or not tree:
        raise InputError("config", f"'{source}', without keys", "a mapping such as 'cluster: 2P2D'")
    where_is = tree.lc.key  # type: ignore[attr-defined] # the parser's own mapping type
    lines = {str(key).replace("-", "_"): where_is(key)[0] + 1 for key in tree}
    values = {str(key).replace("-", "_"): value for key, value in tree.items()}
    try:
        return ScenarioConfig.model_validate(_plain(values)).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where = f"config {source.name} line {lines.get(key, '?')}, key '{key}'"
        if first["type"] == "extra_forbidden":
            raise InputError(where, "unknown", f"one of {', '.join(ScenarioConfig.model_fields)}") from None
        raise InputError(where, repr(values.get(key)), first["msg"].lower()) from None


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Strip the parser's own number and string types."""
    plain: dict[str, Any] = {}
    for key, value in values.items():
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                value = kind(value)
                break
        plain[key] = value
    return plain

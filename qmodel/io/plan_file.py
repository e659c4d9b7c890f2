"""Plan files: JSON, checked against a schema on the way in, whole or not at all on the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qmodel.errors import InputError
from qmodel.io.atomic import write_text
from qmodel.io.problems import first_problem
from qmodel.policies.rule import Binding, DecodeTables, Order, ThresholdRule
from qmodel.scenario import SLO
from qmodel.scenario.plan import SCHEMA_VERSION, Plan, ShadowPrice

__all__ = ["SCHEMA_PATH", "load_plan", "plan_schema", "save_plan"]

SCHEMA_PATH = Path(__file__).parent.parent / "data" / "schemas" / "plan.schema.json"
# No plan is larger: the biggest tables take half a megabyte.
MAX_BYTES = 64 * 1024 * 1024

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Column = Annotated[list[NotNegative], Field(min_length=2)]
Cube = list[list[list[NotNegative]]]
Chunks = list[list[list[Annotated[int, Field(ge=0)]]]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class _Slo(_Strict):
    ttft_s: Positive
    tbt_s: Positive
    tbt_quantile: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight: Positive = 1.0


class _Cluster(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    name: str
    prefill: Annotated[int, Field(ge=1)]
    decode: Annotated[int, Field(ge=1)]
    model: str
    gpu: str
    tp: Annotated[int, Field(ge=1)]
    calibrations: list[dict[str, str]]


class _Workload(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    name: str
    fingerprint: str
    rate_per_s: Positive
    load: Positive
    model: dict[str, Any]


class _Inputs(_Strict):
    cluster: _Cluster
    workload: _Workload
    slo: _Slo
    options: dict[str, Any] = {}


class _Bin(_Strict):
    prompt_tokens: NotNegative
    share_of_requests: Annotated[float, Field(ge=0, le=1)]
    kept: Annotated[float, Field(ge=0, le=1)]
    prefill_s: NotNegative
    transfer_s: NotNegative
    host_s: NotNegative


class _Split(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    bins: Annotated[list[_Bin], Field(min_length=1)]
    duals: dict[str, NotNegative]


class _ShadowPrice(_Strict):
    resource: str
    unit: str
    mean_ttft_s: float
    sentence: str


class _Tables(_Strict):
    chunks: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    tbt_limit_s: Positive
    lengths: Column
    batches: Column
    contexts: Column
    work_s: Column
    execution_s: Column
    transfer_s: Column
    host_s: Cube
    harm_s: Cube
    step_s: list[list[Positive]] | None = None


class _KindTables(_Strict):
    contexts: Column
    host_s: Cube
    harm_s: Cube
    step_s: list[list[Positive]] | None = None


class _DecodeKinds(_Strict):
    kind_of: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    tables: Annotated[list[_KindTables], Field(min_length=1)]


class _Rule(_Strict):
    binding: Binding
    order: Order
    price_prefill_per_s: NotNegative
    price_decode_per_s: NotNegative
    harm_weight: NotNegative
    max_waiting_tokens: Annotated[int, Field(ge=0)]
    ageing_per_s: NotNegative
    relief_weight: NotNegative
    deadline_s: NotNegative
    max_batch: Annotated[int, Field(ge=0)] = 0
    fault_harm: NotNegative = 1.0
    patience_s: NotNegative = 0.0
    slow_factor: NotNegative = 0.0


class _KindThresholds(_Strict):
    name: str
    threshold_s: list[list[float | None]]


class _ThresholdTable(_Strict):
    prompt_tokens: list[NotNegative]
    decode_backlog_s: list[NotNegative]
    batch: NotNegative
    context_tokens: NotNegative
    threshold_s: list[list[float | None]]
    kinds: list[_KindThresholds] = []


class _KindChunks(_Strict):
    name: str
    contexts: list[NotNegative]
    chunk_tokens: Chunks


class _ChunkTable(_Strict):
    batches: list[NotNegative]
    contexts: list[NotNegative]
    done: list[NotNegative]
    chunk_tokens: Chunks
    kinds: list[_KindChunks] = []


class _CalibrationInterval(_Strict):
    draws: Annotated[int, Field(ge=2)]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    unstable: Annotated[int, Field(ge=0)]
    intervals: dict[str, Annotated[list[NotNegative], Field(min_length=2, max_length=2)]]
    threshold_low_s: list[list[float | None]]
    threshold_high_s: list[list[float | None]]


class _PlanFile(_Strict):
    schema_version: Literal[1, 2]
    qmodel_version: str
    objective: str
    inputs: _Inputs
    split: _Split
    shadow_prices: list[_ShadowPrice]
    constants: dict[str, float]
    tables: _Tables
    decode_kinds: _DecodeKinds | None = None
    dispatch_rule: _Rule
    late_rule: _Rule | None
    threshold_table: _ThresholdTable
    chunk_table: _ChunkTable
    predicted: dict[str, Any]
    simulated: dict[str, Any] | None
    better: bool | None
    calibration_interval: _CalibrationInterval | None = None
    warnings: list[str]


def plan_schema() -> dict[str, Any]:
    """Return the JSON Schema of plan files, as shipped in `SCHEMA_PATH`."""
    schema = _PlanFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "qmodel plan"}


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan as JSON; floats are written so that they read back as the same bits.

    Parameters
    ----------
    plan : Plan
        What to write.
    path : str or Path
        File to write, atomically.

    Raises
    ------
    InputError
        When the file cannot be written there.
    """
    text = json.dumps(_rows_on_lines(plan.to_dict()), allow_nan=False, indent=1)
    write_text(path, _unquote(text) + "\n")


_MARK = "\u0001"


def _rows_on_lines(value: Any) -> Any:
    """Return JSON data in which each list of numbers is one marked string, so that it takes one line of the file."""
    if isinstance(value, dict):
        return {key: _rows_on_lines(item) for key, item in value.items()}
    if isinstance(value, list):
        if all(isinstance(item, (int, float)) or item is None for item in value):
            return _MARK + json.dumps(value, allow_nan=False) + _MARK
        return [_rows_on_lines(item) for item in value]
    return value


def _unquote(text: str) -> str:
    mark = json.dumps(_MARK)[1:-1]
    return text.replace(f'"{mark}', "").replace(f'{mark}"', "")


def load_plan(path: str | Path) -> Plan:
    """Read a plan; it decides bit for bit as the one that was saved.

    Parameters
    ----------
    path : str or Path
        File that `save_plan` wrote.

    Returns
    -------
    Plan
        Validated plan.

    Raises
    ------
    InputError
        When the file is missing, is no plan, or comes from a newer schema.
    """
    file = Path(path)
    data = _read(file)
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(f"schema version of '{file}'", version, f"<= {SCHEMA_VERSION}", "upgrade qmodel")
    try:
        _PlanFile.model_validate(data)
    except ValidationError as bad:
        where, problem, limit = first_problem(bad)
        what = f"plan file '{file}'{f', {where}' if where else ''}"
        raise InputError(what, problem, limit, "derive the plan again") from None
    return _as_plan(data)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError("plan file", f"'{file}'", "an existing file", "write one with qmodel thresholds -o plan.json")
    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"size of '{file}' [bytes]", file.stat().st_size, f"<= {MAX_BYTES}", "is this a plan?")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as bad:
        raise InputError(f"plan file '{file}'", "not readable as JSON", "a plan", str(bad)[:80]) from None
    if not isinstance(data, dict):
        raise InputError(f"plan file '{file}'", f"a JSON {type(data).__name__}", "a JSON object")
    return data


def _as_plan(data: dict[str, Any]) -> Plan:
    shared = _arrays(data["tables"])
    shared["chunks"] = tuple(int(c) for c in data["tables"]["chunks"])
    kinds = data.get("decode_kinds")
    if kinds is not None:
        shared["kinds"] = tuple(DecodeTables(**_arrays(tables)) for tables in kinds["tables"])
        shared["kind_of"] = tuple(kinds["kind_of"])
    late = data["late_rule"]
    table = dict(data["threshold_table"])
    table["threshold_s"] = _with_inf(table["threshold_s"])
    if "kinds" in table:
        table["kinds"] = [kind | {"threshold_s": _with_inf(kind["threshold_s"])} for kind in table["kinds"]]
    interval = data.get("calibration_interval")
    if interval is not None:
        limits = ("threshold_low_s", "threshold_high_s")
        interval = dict(interval) | {name: _with_inf(interval[name]) for name in limits}
    return Plan(
        qmodel_version=data["qmodel_version"],
        objective=data["objective"],
        slo=SLO(**data["inputs"]["slo"]),
        cluster=data["inputs"]["cluster"],
        workload=data["inputs"]["workload"],
        options=data["inputs"].get("options", {}),
        split=data["split"],
        shadow_prices=tuple(ShadowPrice(**price) for price in data["shadow_prices"]),
        constants=data["constants"],
        dispatch_rule=ThresholdRule(**data["dispatch_rule"], **shared),
        late_rule=None if late is None else ThresholdRule(**late, **shared),
        thresholds=table,
        chunk_table=data["chunk_table"],
        predicted=data["predicted"],
        simulated=data["simulated"],
        better=data["better"],
        warnings=tuple(data["warnings"]),
        calibration_interval=interval,
    )


def _arrays(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields of a rule with lists of numbers as arrays."""
    return {
        name: np.array(value, dtype=np.float64) if isinstance(value, list) else value for name, value in fields.items()
    }


def _with_inf(rows: list[list[float | None]]) -> list[list[float]]:
    return [[np.inf if t is None else t for t in row] for row in rows]


def rule_fields() -> set[str]:
    """Return the fields of a rule that plan files carry, for the test that none is forgotten."""
    return set(_Rule.model_fields) | set(_Tables.model_fields) | {"kinds", "kind_of"}

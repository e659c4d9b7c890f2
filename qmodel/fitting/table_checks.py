"""Checks of aiconfigurator's kernel tables before they are used: columns, numbers, rows, and the unit of times."""

from __future__ import annotations

from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.fitting.gpus import Gpu
from qmodel.fitting.models import BYTES
from qmodel.fitting.unit_checks import PRODUCT_RANGE, check_ratio
from qmodel.units import MS

__all__ = ["checked_rows", "rows_with"]

_ATTENTION = ("batch_size", "isl", "num_heads")
_GROUPED = (*_ATTENTION, "num_key_value_heads", "head_dim")
_EXPERTS = ("hidden_size", "inter_size", "moe_tp_size", "moe_ep_size", "num_experts", "topk", "num_tokens")
# Columns that hold sizes, all > 0, and those that hold words.
_SIZES = {
    "gemm_perf": ("m", "n", "k"),
    "context_attention_perf": _GROUPED,
    "generation_attention_perf": _GROUPED,
    "mla_bmm_perf": ("num_heads", "num_tokens"),
    "context_mla_perf": _ATTENTION,
    "generation_mla_perf": _ATTENTION,
    "moe_perf": _EXPERTS,
    "custom_allreduce_perf": ("num_gpus", "message_size"),
}
_WORDS = {
    "gemm_perf": ("gemm_dtype",),
    "context_attention_perf": ("kv_cache_dtype",),
    "generation_attention_perf": ("kv_cache_dtype",),
    "mla_bmm_perf": ("bmm_dtype", "op_name"),
    "context_mla_perf": ("mla_dtype", "kv_cache_dtype"),
    "generation_mla_perf": ("mla_dtype", "kv_cache_dtype"),
    "moe_perf": ("moe_dtype", "distribution"),
}
_FROM_ZERO = {"generation_attention_perf": ("step",), "generation_mla_perf": ("step",)}  # tokens before this one
# Fastest row of a table [ms]: the smallest kernel is its launch, 2 to 40 us in every table from A100 to B200.
_LAUNCH_LOW_MS, _LAUNCH_HIGH_MS = 0.0005, 1.0


def checked_rows(frame: Any, name: str, gpu: Gpu) -> tuple[Any, int]:
    """Return the usable rows of a kernel table, and how many are not.

    Parameters
    ----------
    frame : pandas.DataFrame
        Table as the package has it; times in ms.
    name : str
        Name of the table, e.g. ``moe_perf``.
    gpu : Gpu
        Where it was measured.

    Returns
    -------
    tuple
        Rows whose sizes and times are finite and in range, and the number of others.

    Raises
    ------
    InputError
        When a column is missing or holds text, fewer than two rows can be used, or times are in another unit.
    """
    sizes, from_zero = _SIZES.get(name, ()), _FROM_ZERO.get(name, ())
    numbers = (*sizes, *from_zero, "latency")
    missing = [column for column in (*_WORDS.get(name, ()), *numbers) if column not in frame]
    if missing:
        raise InputError(f"columns of kernel table {name}", f"without {', '.join(missing)}", "as the package has it")
    for column in numbers:
        if frame[column].dtype.kind not in "fiu":
            limit = "numbers, in ms" if column == "latency" else "numbers"
            raise InputError(f"{column} in kernel table {name}", "text", limit)
    good = np.ones(len(frame), dtype=bool)
    for column in numbers:
        values = frame[column].to_numpy(dtype=float)
        good &= np.isfinite(values) & ((values >= 0) if column in from_zero else (values > 0))
    if good.sum() < 2:
        limit = f">= 2, with {', '.join(numbers)} > 0" if len(frame) > 1 else ">= 2"
        raise InputError(f"usable rows of kernel table {name}", int(good.sum()), limit)
    rows = frame[good]
    _check_unit(rows, name, gpu)
    return rows, int((~good).sum())


def rows_with(frame: Any, name: str, **wanted: Any) -> Any:
    """Return the rows of a kernel table that hold the wanted values.

    Parameters
    ----------
    frame : pandas.DataFrame
        Checked table.
    name : str
        Name of the table.
    **wanted
        Column to value.

    Raises
    ------
    InputError
        When there are none.
    """
    for column, value in wanted.items():
        rows = frame[frame[column] == value]
        if not len(rows):
            found = ", ".join(map(str, sorted(frame[column].unique())[:8]))
            raise InputError(f"{column} in kernel table {name}", f"never {value} but {found}", "with such rows")
        frame = rows
    return frame


def _check_unit(rows: Any, name: str, gpu: Gpu) -> None:
    """Raise when the fastest kernel, or reading the largest weights, takes a time that only another unit explains."""
    if name == "gemm_perf":
        alone = rows[rows["m"] == rows["m"].min()]
        largest = alone.loc[(alone["n"] * alone["k"]).idxmax()]
        ratio = float(largest["latency"] * MS * gpu.bytes_per_s / (largest["n"] * largest["k"] * BYTES))
        check_ratio("latency in gemm_perf over the time to read its weights", ratio, PRODUCT_RANGE)
    fastest = float(rows["latency"].min())
    if not _LAUNCH_LOW_MS <= fastest <= _LAUNCH_HIGH_MS:
        limit = f"between {_LAUNCH_LOW_MS:g} and {_LAUNCH_HIGH_MS:g} ms, a launch"
        raise InputError(f"smallest latency in kernel table {name}", fastest, limit, "is it in ms?")

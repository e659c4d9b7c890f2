"""Vidur profiling directories (MIT, Microsoft) as a `KernelSource`: mlp.csv, attention.csv, all_reduce.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qmodel.errors import InputError
from qmodel.fitting.curves import Curve, Surface
from qmodel.fitting.gpus import Gpu
from qmodel.fitting.models import BYTES, ModelShape
from qmodel.fitting.sources import CleaningReport
from qmodel.fitting.unit_checks import OPERATIONS_PER_BYTE, PRODUCT_RANGE, check_ratio
from qmodel.units import GB, MS

__all__ = ["VidurDirectory"]

_PRODUCTS = {"qkv": "attn_pre_proj", "o": "attn_post_proj", "mlp up": "mlp_up_proj", "mlp down": "mlp_down_proj"}
_ELEMENTWISE = ("input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act", "add")
_OTHERS = (0.1, 100.0)  # as `PRODUCT_RANGE`, of kernels whose least time is known less well
_NODE_BYTES_PER_S = 600e9  # NVLink of an A100, both directions (data sheet); the profiles are of such nodes


class VidurDirectory:
    """Profiles of one dense model on one GPU type at one tensor-parallel degree.

    Parameters
    ----------
    folder : str or Path
        Holds ``mlp.csv`` and ``attention.csv``, and ``all_reduce.csv`` for tp > 1; times in ms.
    model : ModelShape
        Must have the shape that was profiled.
    gpu : Gpu
        GPU type that was profiled; its bandwidth tells a wrong unit.
    tp : int
        Tensor-parallel degree.

    Raises
    ------
    InputError
        When a file or column is missing, a time is not finite and > 0, the shape is another model's, there are no
        rows for `tp`, or times cannot be ms.
    """

    def __init__(self, folder: str | Path, model: ModelShape, gpu: Gpu, tp: int) -> None:
        self.folder, self.model, self.gpu, self.tp = Path(folder), model, gpu, tp
        self.report = CleaningReport()
        self._mlp = self._read("mlp.csv", ("num_tokens", "num_tensor_parallel_workers", "n_embd", "n_head"))
        shape = (int(self._mlp["n_embd"].iloc[0]), int(self._mlp["n_head"].iloc[0]))
        if shape != (model.hidden, model.heads):
            limit = f"hidden {model.hidden}, {model.heads} heads as {model.name} has"
            raise InputError("profiled model", f"hidden {shape[0]}, {shape[1]} heads", limit)
        self._mlp = self._of_tp(self._mlp, "mlp.csv")
        self._check_unit()

    @property
    def description(self) -> dict[str, str]:
        """Return provenance: format and folder."""
        return {"source": "Vidur directory", "source_version": self.folder.name, "tables": "mlp, attention, all_reduce"}

    def gemm(self, role: str, n: int, k: int) -> Curve:
        """Return the measured product of a layer part; the head, which Vidur leaves out, is scaled from mlp up."""
        if role in _PRODUCTS:
            return self._product(_PRODUCTS[role], role)
        if role != "head":
            raise InputError(
                "layer part", repr(role), f"one of {', '.join(_PRODUCTS)}, head", "Vidur profiles dense models"
            )
        inner = (2 if self.model.gated else 1) * -(-self.model.inter // self.tp)
        factor = n * k / (inner * self.model.hidden)
        text = f"head (n {n}, k {k}) from mlp up times {factor:.3g}"
        self._note(text)
        return self._product("mlp_up_proj", "mlp up").scaled(factor, label=text)

    def elementwise(self, role: str, kernels: int, bytes_per_token: float) -> Curve:
        """Return the norms, rotation, activation and addition of one layer, as measured."""
        total = sum(self._times(name) for name in _ELEMENTWISE)
        return self._curve(self._mlp["num_tokens"], total, role, 1.0)

    def context_attention(self, model: ModelShape, tp: int) -> Curve:
        """Return the prefill attention of one prompt, from the rows without a cached prefix."""
        frame = self._attention("attn_prefill")
        rows = frame[_is_true(frame["is_prefill"]) & (frame["kv_cache_size"] == 0) & (frame["batch_size"] == 1)]
        self._need(rows, "prefill rows of attention.csv at batch 1")
        times = rows["time_stats.attn_prefill.median"] * MS
        tokens = rows["prefill_chunk_size"]
        width = model.heads // tp * model.head_dim
        least = 2 * width * tokens**2 / (OPERATIONS_PER_BYTE * self.gpu.bytes_per_s)
        _check_unit("attn_prefill over the least time of its longest prompt", times, least)
        return self._curve(rows["prefill_chunk_size"], times, "context attention", 2.0)

    def generation_attention(self, model: ModelShape, tp: int) -> Surface:
        """Return the decode attention against batch and context."""
        frame = self._attention("attn_decode")
        rows = frame[~_is_true(frame["is_prefill"]) & (frame["kv_cache_size"] > 0)]
        self._need(rows, "decode rows of attention.csv")
        times = rows["time_stats.attn_decode.median"] * MS
        cache = 2 * BYTES * max(1, model.kv_heads // tp) * model.head_dim * rows["batch_size"] * rows["kv_cache_size"]
        _check_unit("attn_decode over the time to read its largest cache", times, cache / self.gpu.bytes_per_s)
        return Surface.fit(rows["batch_size"], rows["kv_cache_size"], times, "generation attention")

    def latent_projection(self, model: ModelShape, tp: int) -> Curve:
        """Refuse: Vidur profiles grouped-query attention only."""
        raise InputError("latent attention", "not in Vidur profiles", "a model with grouped-query attention")

    def experts(self, model: ModelShape, tp: int) -> Curve:
        """Refuse: Vidur profiles dense models only."""
        raise InputError("experts", "not in Vidur profiles", "a dense model", "use --profiles aiconfigurator")

    def all_reduce(self, gpus: int) -> Curve:
        """Return the all-reduce inside one node, against message bytes."""
        frame = self._read("all_reduce.csv", ("num_workers", "devices_per_node", "size"))
        rows = frame[(frame["num_workers"] == gpus) & (frame["devices_per_node"] == gpus)]
        self._need(rows, f"rows of all_reduce.csv for {gpus} GPUs in one node")
        times = self._column(rows, "all_reduce", "all_reduce.csv")
        what = f"all_reduce over the time to move its largest message at {_NODE_BYTES_PER_S / GB:g} GB/s"
        _check_unit(what, times, rows["size"] / _NODE_BYTES_PER_S)
        return self._curve(rows["size"], times, f"all-reduce {gpus}", 1.0)

    def _read(self, name: str, needed: tuple[str, ...]) -> Any:
        import pandas as pd

        path = self.folder / name
        if not path.is_file():
            remedy = "a Vidur folder has mlp.csv and attention.csv"
            raise InputError("profile", f"'{path}', which does not exist", remedy=remedy)
        try:
            frame = pd.read_csv(path)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise InputError("profile", f"'{path}': {error}", "a CSV file") from None
        missing = [column for column in needed if column not in frame]
        if missing:
            raise InputError(f"columns of '{path}'", f"without {', '.join(missing)}", f"with {', '.join(needed)}")
        if len(frame) < 2:
            raise InputError(f"rows of '{path}'", len(frame), ">= 2")
        for column in needed:
            if column != "is_prefill":
                frame[column] = _numbers(frame[column], column, name)
        return frame

    def _of_tp(self, frame: Any, name: str) -> Any:
        rows = frame[frame["num_tensor_parallel_workers"] == self.tp]
        if not len(rows):
            there = ", ".join(str(v) for v in sorted(frame["num_tensor_parallel_workers"].unique()))
            raise InputError(f"tp in {name}", self.tp, f"one of {there}")
        return rows

    def _need(self, rows: Any, what: str) -> None:
        if len(rows) < 2:
            raise InputError(what, len(rows), ">= 2")

    def _attention(self, op: str) -> Any:
        keys = ("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill", "num_tensor_parallel_workers")
        frame = self._of_tp(self._read("attention.csv", (*keys, f"time_stats.{op}.median")), "attention.csv")
        return frame[frame[f"time_stats.{op}.median"].notna() & (frame[f"time_stats.{op}.median"] != 0)]

    def _times(self, op: str) -> Any:
        return self._column(self._mlp, op, "mlp.csv")

    def _column(self, frame: Any, op: str, name: str) -> Any:
        column = f"time_stats.{op}.median"
        if column not in frame:
            raise InputError(f"columns of '{self.folder / name}'", f"without {column}", "a Vidur profile")
        values = _numbers(frame[column], column, name)
        if np.isnan(values).any():
            at = int(np.argmax(np.isnan(values)))
            raise InputError(f"{column} in row {at + 1} of '{name}'", float("nan"), "finite and >= 0")
        return np.maximum(values, 1e-4) * MS  # Vidur rounds to a microsecond: a zero is less than one

    def _product(self, op: str, role: str) -> Curve:
        return self._curve(self._mlp["num_tokens"], self._times(op), role, 1.0)

    def _curve(self, x: Any, y_s: Any, label: str, tail: float) -> Curve:
        curve = Curve.fit(x, y_s, label, tail)
        self.report.merged[label] = len(np.asarray(x)) - len(curve.x)
        self.report.smoothed[label] = int(np.sum(np.abs(curve.noise) > 1e-9))
        return curve

    def _note(self, text: str) -> None:
        if text not in self.report.scaled:
            self.report.scaled.append(text)

    def _check_unit(self) -> None:
        inner = (2 if self.model.gated else 1) * -(-self.model.inter // self.tp)
        least = inner * self.model.hidden * BYTES / self.gpu.bytes_per_s
        ratio = float(self._product("mlp_up_proj", "mlp up")(1.0) / least)
        check_ratio("mlp_up_proj over the time to read its weights", ratio, PRODUCT_RANGE)


def _numbers(values: Any, column: str, name: str) -> Any:
    """Return a column as numbers >= 0; only times of kernels that a row did not run may be absent."""
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    blank = values.isna().to_numpy() & column.startswith("time_stats.")
    bad = ~(blank | (np.isfinite(numbers) & (numbers >= 0)))
    if bad.any():
        at = int(np.argmax(bad))
        raise InputError(f"{column} in row {at + 1} of '{name}'", str(values.iloc[at])[:40], "finite and >= 0")
    return numbers


def _is_true(values: Any) -> Any:
    """Return a column of truth values, which is text in files of mixed content."""
    return values.astype(str).str.strip().str.lower().isin(("true", "1", "1.0"))


def _check_unit(what: str, times: Any, least: Any) -> None:
    """Raise when the largest kernel takes a time that only another unit explains."""
    at = int(np.argmax(np.asarray(least)))
    check_ratio(what, float(np.asarray(times)[at] / np.asarray(least)[at]), _OTHERS)

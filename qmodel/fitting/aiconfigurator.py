"""Kernel tables of the ``aiconfigurator-core`` package (Apache-2.0, NVIDIA) as a `KernelSource`."""

from __future__ import annotations

import math
import re
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from qmodel.errors import InputError, MissingExtraError
from qmodel.fitting.curves import Curve, Surface, merge_duplicates, outliers
from qmodel.fitting.gpus import gpu_named
from qmodel.fitting.models import ModelShape
from qmodel.fitting.sources import CleaningReport
from qmodel.fitting.table_checks import checked_rows, rows_with
from qmodel.units import MS

__all__ = ["AiconfiguratorTables"]

MOE_LAUNCH_S = 0.018 * MS  # routing and sorting, which do not grow with the experts' size (DESIGN section 2)
# Norms and activations: the package's own constants; Vidur's A100 profile has 4-5 us a launch, 0.7 of bandwidth.
ELEMENTWISE_LAUNCH_S = 3e-6
ELEMENTWISE_EFFICIENCY = 0.8
NO_SPLIT_RATIO = 4.0  # a kernel that splits the KV cache keeps one request within this factor of the full rate
_FULL_BATCH = 128  # batch from which the A100's latent-attention kernel fills the GPU
_DISTRIBUTION = "power_law_1.2"  # how unevenly tokens load the experts; both recorded laws differ by 2 %


class AiconfiguratorTables:
    """Tables of one GPU, with an engine preferred and others where it has none.

    Parameters
    ----------
    gpu : str
        GPU name, e.g. ``a100``.
    engine : str
        Preferred engine: ``vllm``, ``trtllm`` or ``sglang``; where it has no table, another's is taken and reported.
    version : str, optional
        Version of that engine's tables; the newest by default.

    Raises
    ------
    MissingExtraError
        When the package is not installed.
    InputError
        When it has no tables for the GPU, engine or version.
    """

    def __init__(self, gpu: str = "a100", engine: str = "vllm", version: str | None = None) -> None:
        self.gpu = gpu_named(gpu)
        self.engine, self.version = engine, version
        self.report = CleaningReport()
        self._root = _package_root() / "systems" / "data" / self.gpu.tables
        self._frames: dict[tuple[str, str], Any] = {}
        self._gemm: tuple[Any, ...] | None = None
        self._used: dict[str, str] = {}
        engines = sorted(path.name for path in (self._root / "gemm").glob("*"))
        if engine not in engines:  # without its products nothing of the engine would be left
            raise InputError(f"engine of the kernel tables for {self.gpu.name}", repr(engine), f"one of {_or(engines)}")
        versions = _versions(self._root / "gemm" / engine, None)
        if version not in (None, *versions):
            raise InputError(f"version of the tables of {engine}", repr(version), f"one of {_or(versions)}")

    @property
    def description(self) -> dict[str, str]:
        """Return provenance: package, version, GPU and the tables used."""
        return {
            "source": "aiconfigurator-core",
            "source_version": metadata.version("aiconfigurator-core"),
            "source_licence": "Apache-2.0, NVIDIA Corporation",
            "tables": "; ".join(f"{name}: {used}" for name, used in sorted(self._used.items())),
        }

    def gemm(self, role: str, n: int, k: int) -> Curve:
        """Return the time of an (m, n, k) matrix product against m; bilinear in log n, log k between shapes."""
        ns, ks, ms, logs = self._gemm_cube()
        curve, exact = _interpolated(ns, ks, logs, n, k)
        if not exact:
            self._note_scaled(f"gemm {role} (n {n}, k {k}) between measured shapes")
        return self._curve(ms, np.exp(curve), f"gemm {role}", tail_slope=1.0)

    def context_attention(self, model: ModelShape, tp: int) -> Curve:
        """Return the prefill attention of one prompt on one GPU and layer, against its tokens."""
        if model.is_mla:
            return self._latent_context(model, tp)
        heads, kv = _local_heads(model, tp)
        frame = self._grouped_rows("context_attention_perf", model.head_dim, batch_size=1)
        dim, group = int(frame["head_dim"].iloc[0]), heads / kv

        def distance(h: int, g: int) -> float:
            return abs(math.log(h / heads)) + 0.1 * abs(math.log((h / g) / group))

        ref_heads, ref_kv = min(_pairs(frame), key=lambda pair: (distance(*pair), pair))
        rows = frame[(frame["num_heads"] == ref_heads) & (frame["num_key_value_heads"] == ref_kv)]
        curve = self._curve(rows["isl"], rows["latency"] * MS, "context attention", tail_slope=2.0)
        factor = heads / ref_heads * model.head_dim / dim
        if (ref_heads, ref_kv, dim) == (heads, kv, model.head_dim):
            return curve
        wanted = f"context attention ({heads} heads, {kv} KV heads of {model.head_dim})"
        text = f"{wanted} from ({ref_heads}, {ref_kv} of {dim}) times {factor:.3g}"
        return curve.scaled(factor, label=self._note_scaled(text))

    def generation_attention(self, model: ModelShape, tp: int) -> Surface:
        """Return the decode attention on one GPU and layer, against batch and context of each request."""
        if model.is_mla:
            return self._latent_generation(model, tp)
        heads, kv = _local_heads(model, tp)
        frame = self._grouped_rows("generation_attention_perf", model.head_dim)
        dim, group = int(frame["head_dim"].iloc[0]), heads / kv

        def distance(h: int, g: int) -> float:
            return 2 * abs(math.log((h / g) / group)) + abs(math.log(g / kv))

        ref_heads, ref_kv = min(_pairs(frame), key=lambda pair: (distance(*pair), pair))
        rows = frame[(frame["num_heads"] == ref_heads) & (frame["num_key_value_heads"] == ref_kv)]
        surface = self._surface(rows, "generation attention")
        if (ref_heads, ref_kv, dim) == (heads, kv, model.head_dim):
            return surface
        wanted = f"generation attention ({heads} heads, {kv} KV heads of {model.head_dim})"
        text = f"{wanted} from ({ref_heads}, {ref_kv} of {dim}) at {kv / ref_kv:.3g} times the batch"
        # KV heads of one request and requests are both units of work that the kernel spreads over the GPU.
        return surface.scaled(model.head_dim / dim, batch_factor=kv / ref_kv, label=self._note_scaled(text))

    def latent_projection(self, model: ModelShape, tp: int) -> Curve:
        """Return the absorbed projections of latent attention in decode on one GPU and layer, against the batch."""
        frame = self._table("mla_bmm", "mla_bmm_perf", engines=("trtllm", "sglang", "vllm"))
        frame = rows_with(frame, "mla_bmm_perf", bmm_dtype="bfloat16")
        heads = max(1, model.heads // tp)
        ref = _nearest(frame["num_heads"], heads)
        frame = frame[frame["num_heads"] == ref]
        times = frame.groupby(["op_name", "num_tokens"])["latency"].median().unstack("op_name").dropna()
        curve = self._curve(times.index, times.sum(axis=1) * MS, "latent projection", tail_slope=1.0)
        text = f"latent projection ({heads} heads) from {ref}"
        return curve if ref == heads else curve.scaled(heads / ref, label=self._note_scaled(text))

    def experts(self, model: ModelShape, tp: int) -> Curve:
        """Return the routed experts of one layer on one GPU, against tokens.

        A shape (hidden H, inner I, E experts, k a token) that was not measured is scaled from the nearest one:
        n tokens load its experts like n*(k/E)/(k'/E') tokens load those of the reference, and the work is
        H*I*E / (H'*I'*E') of its own, launch time apart (DESIGN section 2).
        """
        wanted = {"moe_dtype": "bfloat16", "moe_ep_size": 1, "distribution": _DISTRIBUTION}
        frame = rows_with(self._table("moe", "moe_perf"), "moe_perf", **wanted)
        hidden, inter = model.hidden, model.expert_inter / tp
        experts, top = model.experts, model.experts_per_token
        keys = ["hidden_size", "inter_size", "moe_tp_size", "num_experts", "topk"]

        def distance(key: tuple[int, ...]) -> float:
            h, i, t, e, k = key
            spread = abs(math.log((e / k) / (experts / top))) + 0.5 * abs(math.log(e / experts))
            return abs(math.log(h / hidden)) + abs(math.log(i / t / inter)) + spread

        shapes = sorted({tuple(int(v) for v in row) for row in frame[keys].itertuples(index=False)})
        h, i, t, e, k = best = min(shapes, key=lambda shape: (distance(shape), shape))
        rows = frame[(frame[keys].to_numpy() == np.array(best)).all(axis=1)]
        curve = self._curve(rows["num_tokens"], rows["latency"] * MS, "experts", tail_slope=1.0)
        if (h, i / t, e, k) == (hidden, inter, experts, top):
            return curve
        factor = hidden * inter * experts / (h * i / t * e)
        tokens = (top / experts) / (k / e)
        text = (
            f"experts (hidden {hidden}, inner {inter:.0f}, {experts} experts, top {top}) from "
            f"({h}, {i / t:.0f}, {e}, {k}): 0.018 + {factor:.4g}*(t({tokens:.4g} n) - 0.018) ms"
        )
        return curve.scaled(factor, tokens, MOE_LAUNCH_S, label=self._note_scaled(text))

    def all_reduce(self, gpus: int) -> Curve:
        """Return the all-reduce over `gpus` GPUs of one node, against message bytes (graph-captured kernels)."""
        frame = rows_with(self._table("comm", "custom_allreduce_perf"), "custom_allreduce_perf", num_gpus=gpus)
        if "backend" in frame:
            graph = frame["backend"].str.contains("graph")
            frame = frame[graph] if graph.any() else frame
        return self._curve(frame["message_size"], frame["latency"] * MS, f"all-reduce {gpus}", tail_slope=1.0)

    def elementwise(self, role: str, kernels: int, bytes_per_token: float) -> Curve:
        """Return the time of memory-bound kernels (norms, activations) against tokens; modelled, not in the tables."""
        tokens = np.asarray(2.0 ** np.arange(17), dtype=np.float64)
        rate = ELEMENTWISE_EFFICIENCY * self.gpu.bytes_per_s
        y = np.asarray(kernels * ELEMENTWISE_LAUNCH_S + bytes_per_token * tokens / rate, dtype=np.float64)
        return Curve(x=tokens, y_s=y, noise=np.zeros(len(tokens)), label=role, tail_slope=1.0)

    def _latent_context(self, model: ModelShape, tp: int) -> Curve:
        frame = self._latent_rows("context_mla_perf")
        heads = max(1, model.heads // tp)
        ref = _nearest(frame["num_heads"], heads)
        rows = frame[(frame["num_heads"] == ref) & (frame["batch_size"] == 1)]
        curve = self._curve(rows["isl"], rows["latency"] * MS, "latent context attention", tail_slope=2.0)
        text = f"latent context attention ({heads} heads) from {ref} times {heads / ref:.3g}"
        return curve if ref == heads else curve.scaled(heads / ref, label=self._note_scaled(text))

    def _latent_generation(self, model: ModelShape, tp: int) -> Surface:
        frame = self._latent_rows("generation_mla_perf")
        heads = max(1, model.heads // tp)
        ref = _nearest(frame["num_heads"], heads)
        surface = self._surface(frame[frame["num_heads"] == ref], "latent generation attention")
        if ref != heads:
            text = f"latent generation attention ({heads} heads) from {ref}"
            surface = surface.scaled(1.0, label=self._note_scaled(text))  # the latents read are the same
        return self._with_split_cache(surface)

    def _with_split_cache(self, surface: Surface) -> Surface:
        """Return the surface as a kernel that splits the KV cache would have it, where the measured one does not.

        Without the split one request occupies few multiprocessors, so time follows the longest context and not
        the sum (TRT-LLM 1.0 on A100). Engines that serve this model split: keep the measured launch time of each
        batch, and read the cache at the rate that the kernel reaches with a full batch.
        """
        long_ = 16384.0
        full = [(b, c) for b, c in zip(surface.batches, surface.curves, strict=True) if b >= _FULL_BATCH]
        slopes = [float(c(np.array(long_)) - c(np.array(64.0))) / (b * (long_ - 64.0)) for b, c in full]
        rate = float(np.median(slopes))
        alone = float(surface.curves[0](np.array(long_)) - surface.curves[0](np.array(64.0))) / (long_ - 64.0)
        if alone <= NO_SPLIT_RATIO * rate:
            return surface
        text = f"latent generation attention: kernel without KV split, read at {rate * 1e9:.3g} ns per token instead"
        label = self._note_scaled(text)
        curves = []
        for batch, curve in zip(surface.batches, surface.curves, strict=True):
            floor = float(curve(np.array(64.0)))
            y = floor + rate * batch * np.maximum(curve.x - 64.0, 0.0)
            curves.append(Curve(x=curve.x, y_s=y, noise=curve.noise, label=label, tail_slope=1.0))
        return Surface(batches=surface.batches, curves=tuple(curves), label=label)

    def _latent_rows(self, name: str) -> Any:
        frame = self._table("mla", name, engines=("trtllm", "sglang", "vllm"))
        return rows_with(frame, name, mla_dtype="bfloat16", kv_cache_dtype="bfloat16")

    def _grouped_rows(self, name: str, head_dim: int, **wanted: Any) -> Any:
        """Return the rows of grouped-query attention over whole contexts in bfloat16, at the nearest head size."""
        frame = self._table("attention", name)
        full = {"kv_cache_dtype": "bfloat16", "attn_dtype": "bfloat16", "window_size": 0}
        frame = rows_with(frame, name, **{column: value for column, value in full.items() if column in frame})
        return rows_with(frame, name, head_dim=_nearest(frame["head_dim"], head_dim), **wanted)

    def _table(self, kind: str, name: str, engines: tuple[str, ...] = ()) -> Any:
        """Return one table as a pandas frame: the preferred engine's, else the next that has it."""
        if (kind, name) in self._frames:
            return self._frames[kind, name]
        for engine in engines or (self.engine, "vllm", "trtllm", "sglang"):
            for version in _versions(self._root / kind / engine, self.version if engine == self.engine else None):
                path = self._root / kind / engine / version / f"{name}.parquet"
                if path.is_file():
                    self._frames[kind, name] = frame = self._checked(_read(path), name)
                    self._used[name] = f"{engine} {version}"
                    return frame
        raise InputError(f"kernel table {name}", f"absent for GPU {self.gpu.name!r}", "in the package")

    def _checked(self, frame: Any, name: str) -> Any:
        rows, rejected = checked_rows(frame, name, self.gpu)
        if rejected:
            self.report.rejected[name] = rejected
        return rows

    def _gemm_cube(self) -> tuple[Any, ...]:
        if self._gemm is None:
            frame = rows_with(self._table("gemm", "gemm_perf"), "gemm_perf", gemm_dtype="bfloat16")
            ns, ks, ms = (np.unique(frame[c].to_numpy()) for c in "nkm")
            cube = np.full((len(ns), len(ks), len(ms)), np.nan)
            where = tuple(np.searchsorted(v, frame[c].to_numpy()) for v, c in ((ns, "n"), (ks, "k"), (ms, "m")))
            cube[where] = np.log(frame["latency"].to_numpy() * MS)
            self._gemm = (ns, ks, ms, cube)
        return self._gemm

    def _curve(self, x: Any, y_s: Any, label: str, tail_slope: float) -> Curve:
        xs, ys, merged = merge_duplicates(x, y_s)
        keep = ~outliers(xs, ys)
        for at, value in zip(xs[~keep], ys[~keep], strict=True):
            self.report.outliers.append(f"{label} at {at:g}: {value / MS:.4g} ms stands out from its neighbours")
        curve = Curve.fit(xs[keep], ys[keep], label, tail_slope)
        for counts, number in (
            (self.report.merged, merged),
            (self.report.smoothed, int(np.sum(np.abs(curve.noise) > 1e-9))),
        ):
            if number:
                counts[label] = counts.get(label, 0) + number
        return curve

    def _surface(self, rows: Any, label: str) -> Surface:
        batch = rows["batch_size"].to_numpy()
        levels = np.unique(batch)
        context = (rows["step"] + rows["isl"]).to_numpy()
        times = rows["latency"].to_numpy() * MS
        curves = tuple(self._curve(context[batch == b], times[batch == b], label, 1.0) for b in levels)
        return Surface(batches=levels.astype(float), curves=curves, label=label)

    def _note_scaled(self, text: str) -> str:
        if text not in self.report.scaled:
            self.report.scaled.append(text)
        return text


def _package_root() -> Path:
    spec = util.find_spec("aiconfigurator_core")
    if spec is None or util.find_spec("pyarrow") is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "kernel profiles need the packages aiconfigurator-core and pyarrow",
            remedy="pip install 'qmodel[profiles]'",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _read(path: Path) -> Any:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"kernel table '{path.name}'", f"not readable ({line[:80]})", "a parquet file") from None


def _or(names: list[str]) -> str:
    return ", ".join(names) or "none: there are no tables for this GPU"


def _versions(folder: Path, wanted: str | None) -> list[str]:
    found = sorted((p.name for p in folder.glob("*") if p.is_dir()), key=_version_key, reverse=True)
    if wanted is None:
        return found
    return [wanted] if wanted in found else []


def _version_key(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)]


def _interpolated(ns: Any, ks: Any, logs: Any, n: int, k: int) -> tuple[Any, bool]:
    """Return log times against m at (n, k), and whether the table has that shape; beyond it, time grows as n*k."""
    n_in, k_in = min(n, int(ns[-1])), min(k, int(ks[-1]))
    beyond = math.log(n / n_in) + math.log(k / k_in)
    i, u = _bracket(np.log(ns), math.log(n_in))
    j, v = _bracket(np.log(ks), math.log(k_in))
    curve = np.zeros(logs.shape[2])
    for di, wi in ((0, 1 - u), (1, u)):
        for dj, wj in ((0, 1 - v), (1, v)):
            if wi * wj > 0:
                curve += wi * wj * logs[i + di, j + dj]
    if np.isnan(curve).any():
        raise InputError("matrix shape", f"n {n}, k {k}", "within the kernel tables")
    return curve + beyond, beyond == 0 and u in (0.0, 1.0) and v in (0.0, 1.0)


def _bracket(grid: Any, at: float) -> tuple[int, float]:
    i = int(np.clip(np.searchsorted(grid, at, side="right") - 1, 0, len(grid) - 2))
    share = (at - grid[i]) / (grid[i + 1] - grid[i])
    return i, float(np.clip(round(share, 12), 0.0, 1.0))


def _local_heads(model: ModelShape, tp: int) -> tuple[int, int]:
    return max(1, model.heads // tp), max(1, model.kv_heads // tp)


def _pairs(frame: Any) -> list[tuple[int, int]]:
    columns = frame[["num_heads", "num_key_value_heads"]].drop_duplicates()
    return sorted((int(h), int(g)) for h, g in columns.itertuples(index=False))


def _nearest(values: Any, wanted: int) -> int:
    return min(sorted({int(v) for v in values}), key=lambda v: abs(math.log(v / wanted)))

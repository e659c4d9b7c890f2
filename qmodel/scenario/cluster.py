"""A cluster of prefill and decode instances, their engines' limits and the network between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from qmodel.errors import InputError
from qmodel.laws import Calibration, TransferLaw
from qmodel.laws.step import FloatLike
from qmodel.laws.tables import InstanceLaws, instance_laws
from qmodel.units import GB

__all__ = ["CLUSTER_OPTIONS", "Cluster", "InstanceGroup"]

MAX_INSTANCES = 1024
#: Largest token budget and batch of a step; beyond all engines, and small enough for tables.
MAX_STEP = 1_000_000
# What vLLM has by default, for whoever gives something else than a whole number.
_USUAL = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "max_prefill_seqs": 256, "transfer_block_tokens": 16}
#: Finest clock, whose ticks double precision can count for days, and coarsest: half a tick is 1 % of a 5 ms step [s].
MIN_TICK_S, MAX_TICK_S = 1e-9, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanceGroup:
    """Equal instances: how many, and the calibration they share.

    Parameters
    ----------
    count : int
        Instances in the group, >= 1.
    calibration : Calibration
        Laws and KV capacity of each.
    """

    count: int
    calibration: Calibration

    def __post_init__(self) -> None:
        if not (isinstance(self.count, (int, np.integer)) and self.count >= 1):
            raise InputError("instances of a group", self.count, "a whole number >= 1", "write e.g. 2P2D")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cluster:
    """k prefill and d decode instances (kPdD) joined by a network.

    Parameters
    ----------
    prefill, decode : int or tuple of InstanceGroup
        Number of instances, all with `calibration`, or groups that each bring their own.
    calibration : Calibration
        Laws of instances given by number; the reference for the model's KV size otherwise.
    max_num_batched_tokens : int
        Token budget of a prefill step [tokens].
    max_num_seqs : int
        Largest decode batch of an instance.
    max_prefill_seqs : int, optional
        Most prompts in a prefill step; without it only the token budget limits them.
    bandwidth_gb_s : float
        Nominal network bandwidth of one GPU [GB/s].
    efficiency : float
        Share of it that a transfer reaches, in (0, 1].
    transfer_fixed_s : float
        Hand-over time of one transfer [s].
    transfer_block_tokens : int
        Caches are sent in whole blocks of so many tokens, the last one padded; 1: as many bytes as tokens.
    link_sharing : {"fcfs", "fair", "none"}
        How concurrent transfers share an instance's link; "none": each has all of it.
    pipelined_transfer : bool
        Whether KV layers are sent while later ones are computed.
    packing : bool
        Whether a prefill step carries several prompts; False: one prompt at a time in S(L).
    first_token : {"decode", "prefill"}
        Where TTFT ends: at the first decode step, or at the end of prefill.
    clock_tick_s : float
        Tick of the simulator's clock [s]: step times are cut, and transfers rounded up, to whole ticks, as simulators
        that count microseconds do; 0: continuous time. At most 0.1 ms, and a whole number of them in a second.

    Raises
    ------
    InputError
        When a pool is empty, larger than 1,024 instances together, or a number is out of range.
    """

    prefill: int | tuple[InstanceGroup, ...]
    decode: int | tuple[InstanceGroup, ...]
    calibration: Calibration
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    max_prefill_seqs: int | None = None
    bandwidth_gb_s: float = 25.0
    efficiency: float = 0.75
    transfer_fixed_s: float = 0.001
    transfer_block_tokens: int = 1
    link_sharing: Literal["fcfs", "fair", "none"] = "fcfs"
    pipelined_transfer: bool = False
    packing: bool = True
    first_token: Literal["decode", "prefill"] = "decode"
    clock_tick_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("prefill", "decode"):
            _check_pool(name, getattr(self, name))
        total = self.prefill_count + self.decode_count
        if total > MAX_INSTANCES:
            raise InputError("instances", total, f"<= {MAX_INSTANCES}", "model a smaller cluster")
        for name, usual in _USUAL.items():
            value = getattr(self, name)
            if value is None and name == "max_prefill_seqs":
                continue
            if not (isinstance(value, (int, np.integer)) and 1 <= value <= MAX_STEP):
                raise InputError(name, value, f"a whole number in 1..{MAX_STEP:,}", f"vLLM has {usual}")
        for name, low in (("bandwidth_gb_s", True), ("efficiency", True), ("transfer_fixed_s", False)):
            value = getattr(self, name)
            number = isinstance(value, (int, float, np.number)) and np.isfinite(value)
            if not (number and (value > 0 if low else value >= 0)):
                raise InputError(name, value, "finite and > 0" if low else "finite and >= 0")
        for name, known in (("link_sharing", ("fcfs", "fair", "none")), ("first_token", ("decode", "prefill"))):
            if getattr(self, name) not in known:
                raise InputError(name, repr(getattr(self, name)), f"one of {', '.join(known)}")
        if self.efficiency > 1:
            raise InputError("efficiency", self.efficiency, "in (0, 1]", "0.75 fits published A100 tables")
        _check_tick(self.clock_tick_s)

    @classmethod
    def parse(cls, text: str, calibration: Calibration | Mapping[str, Calibration], **options: Any) -> Cluster:
        """Return the cluster that a text such as ``2P2D`` means.

        Parameters
        ----------
        text : str
            ``kPdD``; with several GPU types ``1P@a100+1P@h100+2D@a100``.
        calibration : Calibration or mapping
            Laws of all instances, or by GPU name when the text names GPUs.
        **options
            Any other field of `Cluster`.

        Returns
        -------
        Cluster
            Validated cluster.

        Raises
        ------
        InputError
            When the text is not of that form, or names a GPU without a calibration.
        """
        one = calibration if isinstance(calibration, Calibration) else next(iter(calibration.values()))
        plain = re.fullmatch(r"\s*(\d+)[Pp](\d+)[Dd]\s*", text)
        if plain:
            return cls(prefill=int(plain[1]), decode=int(plain[2]), calibration=one, **options)
        pools: dict[str, list[InstanceGroup]] = {"P": [], "D": []}
        for part in text.split("+"):
            match = re.fullmatch(r"\s*(\d+)([PpDd])@([\w.-]+)\s*", part)
            if not match:
                raise InputError("cluster", repr(text), "of the form 2P2D or 1P@a100+1P@h100+2D@a100")
            by_gpu = {one.gpu: one} if isinstance(calibration, Calibration) else calibration
            if match[3] not in by_gpu:
                raise InputError("GPU in cluster", repr(match[3]), f"one of {', '.join(by_gpu)}")
            pools[match[2].upper()].append(InstanceGroup(count=int(match[1]), calibration=by_gpu[match[3]]))
        return cls(prefill=tuple(pools["P"]), decode=tuple(pools["D"]), calibration=one, **options)

    @property
    def prefill_count(self) -> int:
        """Number of prefill instances k."""
        return _count(self.prefill)

    @property
    def decode_count(self) -> int:
        """Number of decode instances d."""
        return _count(self.decode)

    @property
    def options(self) -> dict[str, Any]:
        """Limits of the engines and the network, by field name: everything but the instances themselves."""
        return {name: getattr(self, name) for name in CLUSTER_OPTIONS}

    @property
    def ticks_per_s(self) -> int:
        """Ticks of the clock in a second; 0: continuous time."""
        return round(1 / self.clock_tick_s) if self.clock_tick_s > 0 else 0

    @property
    def name(self) -> str:
        """The cluster as ``kPdD``."""
        return f"{self.prefill_count}P{self.decode_count}D"

    @property
    def prefill_calibrations(self) -> tuple[Calibration, ...]:
        """Calibration of each prefill instance, in order of its id; length k."""
        return _expand(self.prefill, self.calibration)

    @property
    def decode_calibrations(self) -> tuple[Calibration, ...]:
        """Calibration of each decode instance, in order of its id; length d."""
        return _expand(self.decode, self.calibration)

    @property
    def gpus(self) -> int:
        """GPUs of the whole cluster."""
        return sum(c.tp for c in self.prefill_calibrations + self.decode_calibrations)

    @property
    def packed_budget(self) -> int:
        """Tokens of a full prefill step; 0 where steps hold one prompt each."""
        return int(self.max_num_batched_tokens) if self.packing else 0

    def instance_laws(self, size: int) -> InstanceLaws:
        """Return the laws of all instances, prefill first, as kernels read them.

        Parameters
        ----------
        size : int
            One more than the most tokens of a step.
        """
        prefill, decode = self.prefill_calibrations, self.decode_calibrations
        return instance_laws([c.prefill for c in prefill], [c.step for c in decode], self.packed_budget, size)

    def with_(self, **changes: Any) -> Cluster:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def transfer_law(self, calibration: Calibration | None = None) -> TransferLaw:
        """Return the law of one instance's link.

        Parameters
        ----------
        calibration : Calibration, optional
            Of the sending instance; its tp GPUs send side by side.
        """
        cal = calibration or self.calibration
        return TransferLaw(
            fixed_s=self.transfer_fixed_s,
            bytes_per_s=self.efficiency * self.bandwidth_gb_s * GB * cal.tp,
            kv_bytes_per_token=cal.kv_bytes_per_token,
            layers=cal.layers,
            pipelined=self.pipelined_transfer,
            block_tokens=self.transfer_block_tokens,
        )

    def work_s(self, prompt_tokens: FloatLike, cached_tokens: FloatLike = 0.0) -> FloatLike:
        """Return W(L) [s], a prompt's share of full prefill steps, averaged over the prefill instances.

        Parameters
        ----------
        prompt_tokens, cached_tokens : float or ndarray
            Prompt length and cached prefix [tokens].
        """
        works = [
            c.work_s(prompt_tokens, self.max_num_batched_tokens, cached_tokens)
            if self.packing
            else c.lone_prefill_s(prompt_tokens, cached_tokens)
            for c in self.prefill_calibrations
        ]
        mean = np.mean(np.asarray(works), axis=0)
        return float(mean) if np.ndim(mean) == 0 else mean

    def execution_s(self, prompt_tokens: FloatLike, cached_tokens: FloatLike = 0.0) -> FloatLike:
        """Return the prefill time of a lone prompt on an idle instance [s]: S_b(L), or S(L) without packing.

        Parameters
        ----------
        prompt_tokens, cached_tokens : float or ndarray
            Prompt length and cached prefix [tokens].
        """
        cal = self.prefill_calibrations[0]
        if self.packing:
            return cal.chunked_prefill_s(prompt_tokens, self.max_num_batched_tokens, cached_tokens)
        return cal.lone_prefill_s(prompt_tokens, cached_tokens)

    def zero_load_ttft_s(self, prompt_tokens: FloatLike, cached_tokens: FloatLike = 0.0) -> FloatLike:
        """Return TTFT on the empty cluster's default path [s]: prefill, transfer and the first decode step.

        Parameters
        ----------
        prompt_tokens, cached_tokens : float or ndarray
            Prompt length and cached prefix [tokens].
        """
        prefill = self.execution_s(prompt_tokens, cached_tokens)
        if self.first_token == "prefill":
            return prefill
        moved = prompt_tokens - np.asarray(cached_tokens)
        step = self.decode_calibrations[0].decode_step_s(1.0, np.asarray(prompt_tokens, dtype=float))
        total = prefill + self.transfer_law().exposed_s(moved, prefill) + step
        return float(total) if np.ndim(total) == 0 else total


#: Fields of a cluster that say how it works, not of which instances it is made.
CLUSTER_OPTIONS = tuple(f.name for f in fields(Cluster) if f.name not in ("prefill", "decode", "calibration"))


def _check_pool(name: str, pool: Any) -> None:
    groups = isinstance(pool, tuple) and all(isinstance(group, InstanceGroup) for group in pool)
    if not (groups or isinstance(pool, (int, np.integer))):
        raise InputError(f"{name} instances", repr(pool), "a whole number or groups", "write e.g. 2P2D")
    if _count(pool) < 1:
        raise InputError(f"{name} instances", _count(pool), ">= 1", "write e.g. 2P2D")


def _check_tick(tick_s: Any) -> None:
    number = isinstance(tick_s, (int, float, np.number)) and (tick_s == 0 or MIN_TICK_S <= tick_s <= MAX_TICK_S)
    if not number or (tick_s > 0 and abs(round(1 / tick_s) * tick_s - 1) > 1e-9):
        limit = f"0, or in {MIN_TICK_S:g}..{MAX_TICK_S:g} [s] with a whole number of them in a second"
        raise InputError("clock_tick_s", tick_s, limit, "1e-6 counts microseconds")


def _count(pool: int | tuple[InstanceGroup, ...]) -> int:
    return sum(g.count for g in pool) if isinstance(pool, tuple) else int(pool)


def _expand(pool: int | tuple[InstanceGroup, ...], calibration: Calibration) -> tuple[Calibration, ...]:
    groups = pool if isinstance(pool, tuple) else (InstanceGroup(count=pool, calibration=calibration),)
    return tuple(g.calibration for g in groups for _ in range(g.count))

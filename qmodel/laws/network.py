"""Networks between instances: presets with ranges and sources, from which transfer laws are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qmodel.errors import InputError
from qmodel.laws.transfer import TransferLaw
from qmodel.units import GB, MS

__all__ = ["NETWORKS", "Network", "Spread", "network_named"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A number with the range that is seen in practice.

    Parameters
    ----------
    low, typical, high : float
        In increasing order.
    """

    low: float
    typical: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.typical <= self.high:
            raise InputError("range", f"{self.low}, {self.typical}, {self.high}", "in increasing order")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What one GPU reaches when it sends KV cache to another instance.

    Parameters
    ----------
    name : str
        Name, e.g. ``infiniband-hdr``.
    link_bytes_per_s : float
        Nominal rate of one GPU's link [bytes/s].
    efficiency : Spread
        Share of it that bulk transfers reach.
    fixed_s : Spread
        Hand-over time of one transfer [s].
    stream_bytes_per_s : float
        What one stream reaches [bytes/s]; infinite when a single stream fills the link.
    source : str
        Where the numbers come from.
    """

    name: str
    link_bytes_per_s: float
    efficiency: Spread
    fixed_s: Spread
    stream_bytes_per_s: float
    source: str

    def transfer_law(
        self,
        kv_bytes_per_token: float,
        *,
        layers: int = 1,
        gpus: int = 1,
        streams: int = 1,
        pipelined: bool = False,
        case: str = "typical",
    ) -> TransferLaw:
        """Return the transfer law of one instance; *empirical*.

        Rate = gpus * min(efficiency * link, streams * stream rate).

        Parameters
        ----------
        kv_bytes_per_token : float
            Size of the cache of one token [bytes].
        layers : int
            Layers of the model, for pipelining.
        gpus : int
            GPUs of the instance, which send side by side.
        streams : int
            Streams of each GPU.
        pipelined : bool
            Whether layers are sent while later ones are computed.
        case : {"low", "typical", "high"}
            ``low``: slow (low efficiency, high fixed time); ``high``: fast.

        Returns
        -------
        TransferLaw
            Law of the instance's link.

        Raises
        ------
        InputError
            When a number is out of range or the case is unknown.
        """
        if case not in ("low", "typical", "high"):
            raise InputError("case", repr(case), "low, typical or high")
        if gpus < 1 or streams < 1:
            raise InputError("gpus and streams", f"{gpus}, {streams}", ">= 1")
        slow = {"low": "high", "high": "low"}.get(case, case)
        rate = min(getattr(self.efficiency, case) * self.link_bytes_per_s, streams * self.stream_bytes_per_s)
        return TransferLaw(
            fixed_s=getattr(self.fixed_s, slow),
            bytes_per_s=gpus * rate,
            kv_bytes_per_token=kv_bytes_per_token,
            layers=layers,
            pipelined=pipelined,
        )


_MOONCAKE = (
    "nominal line rate; efficiency and hand-over fitted to the transfer table of Mooncake (Qin et al., FAST 2025), "
    "whose engine reaches 0.87 of 4 x 200 Gb/s and 0.48 of 8 x 400 Gb/s; hand-over grows to milliseconds before tuning "
    "(vLLM issues 23780, 50913)"
)
_VIDUR = "microsoft/vidur 7d475133, data/profiling/network/a100_dgx/send_recv.csv (MIT), relative-error fit of medians"
_TUNED = Spread(low=0.2 * MS, typical=0.4 * MS, high=5 * MS)


def _rdma(name: str, gigabits: float) -> Network:
    return Network(
        name=name,
        link_bytes_per_s=gigabits / 8 * GB,
        efficiency=Spread(low=0.48, typical=0.75, high=0.87),
        fixed_s=_TUNED,
        stream_bytes_per_s=np.inf,
        source=_MOONCAKE,
    )


NETWORKS = {
    network.name: network
    for network in (
        _rdma("infiniband-hdr", 200),
        _rdma("roce-100g", 100),
        _rdma("roce-200g", 200),
        _rdma("roce-400g", 400),
        Network(
            name="nccl-single-stream",
            link_bytes_per_s=25 * GB,
            efficiency=Spread(low=0.31, typical=0.75, high=0.87),
            fixed_s=Spread(low=0.029 * MS, typical=0.029 * MS, high=1 * MS),
            stream_bytes_per_s=7.8 * GB,
            source=f"{_VIDUR}: between two nodes, one pair, 7.8 GB/s and 0.029 ms",
        ),
        Network(
            name="nvlink",
            link_bytes_per_s=300 * GB,
            efficiency=Spread(low=0.75, typical=0.95, high=0.95),
            fixed_s=Spread(low=0.013 * MS, typical=0.013 * MS, high=1 * MS),
            stream_bytes_per_s=np.inf,
            source=f"{_VIDUR}: inside one A100 node, 286 GB/s and 0.013 ms",
        ),
        Network(
            name="tcp",
            link_bytes_per_s=25 * GB,
            efficiency=Spread(low=0.10, typical=0.36, high=0.36),
            fixed_s=Spread(low=0.5 * MS, typical=1 * MS, high=10 * MS),
            stream_bytes_per_s=np.inf,
            source="Mooncake's engine is 2.4 and 4.6 times faster than TCP on 4 x 200 and 8 x 400 Gb/s (FAST 2025)",
        ),
    )
}


def network_named(name: str) -> Network:
    """Return the preset of that name.

    Parameters
    ----------
    name : str
        Name, in any case.

    Returns
    -------
    Network
        Preset.

    Raises
    ------
    InputError
        When there is none.

    Examples
    --------
    >>> law = network_named("infiniband-hdr").transfer_law(31_104)
    >>> round(law.exposed_s(8192) * 1e3, 1)
    14.0
    """
    try:
        return NETWORKS[name.lower()]
    except KeyError:
        raise InputError("network", repr(name), f"one of {', '.join(NETWORKS)}") from None

"""GPUs that qmodel knows by name: memory, and where the kernel tables of the profile package keep them."""

from __future__ import annotations

from dataclasses import dataclass

from qmodel.errors import InputError

__all__ = ["GPUS", "Gpu", "gpu_named"]

GIB = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU type.

    Parameters
    ----------
    name : str
        Name, e.g. ``a100``.
    tables : str
        Folder of its tables in ``aiconfigurator-core``.
    memory_bytes : float
        Memory that a process sees [bytes].
    bytes_per_s : float
        Nominal memory bandwidth [bytes/s].
    launch_s : float
        Host time of one kernel launched without a captured graph [s].
    launch_spread : float
        Spread of its logarithm.
    """

    name: str
    tables: str
    memory_bytes: float
    bytes_per_s: float
    launch_s: float
    launch_spread: float


# Launch: smallest message of the eager all-reduce tables of aiconfigurator-core 0.12.0. On A100 (vLLM 0.14.0) 44, 58
# and 49 us on 2, 4 and 8 GPUs: median and spread. On H100 and H200 21 to 23 us, but with vLLM 0.24.0: host and software
# both changed, so half of the difference is taken, in logs, with a spread that covers both ends. Others: as H100.
_A100, _NEWER = (49e-6, 0.14), (33e-6, 0.4)
# Memory: what the driver leaves to a process; bandwidth: NVIDIA's data sheets of the SXM parts and the L40S.
_ROWS = (
    ("a100", "a100_sxm", 79.15, 2.039e12, _A100),
    ("h100", "h100_sxm", 79.19, 3.35e12, _NEWER),
    ("h200", "h200_sxm", 139.8, 4.8e12, _NEWER),
    ("b200", "b200_sxm", 178.4, 7.7e12, _NEWER),
    ("l40s", "l40s", 44.4, 0.864e12, _NEWER),
)
GPUS = {
    name: Gpu(
        name=name, tables=tables, memory_bytes=gib * GIB, bytes_per_s=bandwidth, launch_s=launch_s, launch_spread=spread
    )
    for name, tables, gib, bandwidth, (launch_s, spread) in _ROWS
}


def gpu_named(name: str) -> Gpu:
    """Return the GPU of that name.

    Parameters
    ----------
    name : str
        Name, in any case.

    Returns
    -------
    Gpu
        Its memory and tables.

    Raises
    ------
    InputError
        When the GPU is not known.
    """
    try:
        return GPUS[name.lower()]
    except KeyError:
        raise InputError("GPU", repr(name), f"one of {', '.join(GPUS)}") from None

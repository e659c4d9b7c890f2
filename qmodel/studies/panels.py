"""The panels of the evaluation: two traces superposed so that both pools meet stated loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from qmodel.errors import InputError
from qmodel.io.traces import read_trace, shared_data
from qmodel.laws import Calibration
from qmodel.scenario import Cluster, Requests

__all__ = [
    "CELLS",
    "Cell",
    "capacity_tokens",
    "cell_requests",
    "halves",
    "multipliers",
    "panel_cell",
    "superpose",
    "trace_requests",
]

SOURCES = {"conv": "azure2023_conv_h1", "code": "azure2023_code_h1", "r1": "servegen_r1_a"}
SWEEP = (0.7, 0.9, 1.1)
THIN_SEED = 7
# A decode instance counts as full when a step takes this share of the TBT SLO with contexts of this many tokens.
FULL_STEP_SHARE = 0.6
FULL_CONTEXT_TOKENS = 1500.0
FULL_BATCH = 256
# The multipliers are solved once, for this TBT SLO [s]; other SLOs replay the same requests.
PANEL_TBT_S = 0.060
_LOAD_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the evaluation.

    Parameters
    ----------
    panel : str
        LL, HL, LH, HH or LT: low or high prefill load, low or high decode load; long-tail bursty.
    sweep : float
        t of the sweep.
    sources : tuple of str
        The two traces, by the names of `SOURCES`.
    load_prefill, load_decode : float
        Target loads rho_p and rho_d.
    """

    panel: str
    sweep: float
    sources: tuple[str, str]
    load_prefill: float
    load_decode: float

    @property
    def name(self) -> str:
        """Panel and sweep, e.g. ``HL 0.9``."""
        return f"{self.panel} {self.sweep:g}"


def panel_cell(panel: str, sweep: float) -> Cell:
    """Return a panel at one t of the sweep, by the protocol's targets; *exact*.

    Parameters
    ----------
    panel : str
        LL, HL, LH, HH or LT; LL does not depend on t.
    sweep : float
        t; above 0.2 for LT.
    """
    targets = {
        "LL": (("code", "conv"), 0.5, 0.5),
        "HL": (("code", "conv"), sweep, 0.5 * sweep),
        "LH": (("conv", "r1"), 0.5, sweep),
        "HH": (("code", "conv"), sweep, sweep),
        "LT": (("code", "r1"), sweep - 0.2, sweep - 0.2),
    }
    sources, rho_p, rho_d = targets[panel]
    return Cell(panel=panel, sweep=sweep, sources=sources, load_prefill=rho_p, load_decode=rho_d)


CELLS = (panel_cell("LL", 0.9), *(panel_cell(panel, t) for t in SWEEP for panel in ("HL", "LH", "HH", "LT")))


def trace_requests(name: str, folder: Path | None = None) -> Requests:
    """Return the requests of a shared trace.

    Parameters
    ----------
    name : str
        File name without ``.csv.gz``, or a short name of `SOURCES`.
    folder : Path, optional
        Folder of shared data; found by itself when absent.

    Returns
    -------
    Requests
        As recorded.

    Raises
    ------
    InputError
        When the shared data are absent.
    """
    root = folder or shared_data()
    if root is None:
        raise InputError("shared data", "not found", "there", "set QMODEL_DATA to their folder")
    return read_trace(root / "traces" / f"{SOURCES.get(name, name)}.csv.gz").requests


def capacity_tokens(calibration: Calibration, tbt_s: float = PANEL_TBT_S) -> float:
    """Return the KV tokens at which a decode step with contexts of 1,500 tokens takes 0.6 of the TBT SLO; *exact*.

    Parameters
    ----------
    calibration : Calibration
        Laws of the decode instance.
    tbt_s : float
        TBT SLO [s].

    Returns
    -------
    float
        Tokens, at most the KV capacity; the batch is at most 256.
    """
    low, high = 0.0, float(calibration.kv_capacity_tokens)

    def step_s(tokens: float) -> float:
        batch = min(tokens / FULL_CONTEXT_TOKENS, float(FULL_BATCH))
        return float(calibration.decode_step_s(batch, tokens))

    if step_s(high) <= FULL_STEP_SHARE * tbt_s:
        return high
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if step_s(middle) <= FULL_STEP_SHARE * tbt_s else (low, middle)
    return low


def _loads(requests: Requests, cluster: Cluster, tbt_s: float) -> tuple[float, float]:
    """Return rho_p and rho_d of a trace at its own rate."""
    span = requests.span_s
    work = np.asarray(cluster.work_s(requests.prompt_tokens.astype(float), requests.cached_tokens.astype(float)))
    held = requests.output_tokens * (requests.prompt_tokens + requests.output_tokens / 2)
    full = capacity_tokens(cluster.decode_calibrations[0], tbt_s)
    return (
        float(work.sum()) / span / cluster.prefill_count,
        float(held.sum()) / span * FULL_STEP_SHARE * tbt_s / (cluster.decode_count * full),
    )


def multipliers(cell: Cell, cluster: Cluster, first: Requests, second: Requests) -> tuple[float, float]:
    """Return the rate multipliers of the two traces that meet the cell's loads; *exact*, a 2x2 linear system.

    Where a trace alone meets the targets almost, its partner's multiplier can come out just below 0: then it is left
    out, and the other takes the multiplier of least squares.

    Parameters
    ----------
    cell : Cell
        Target loads.
    cluster : Cluster
        Instances and laws.
    first, second : Requests
        The traces of the cell's sources.

    Returns
    -------
    tuple of float
        m1 and m2, >= 0.

    Raises
    ------
    InputError
        When the targets lie more than 5 % outside what the two traces can mix to.
    """
    loads = np.array([_loads(first, cluster, PANEL_TBT_S), _loads(second, cluster, PANEL_TBT_S)]).T
    target = np.array([cell.load_prefill, cell.load_decode])
    m, _ = nnls(loads / target[:, None], np.ones(2))
    met = loads @ m
    if np.any(np.abs(met / target - 1) > _LOAD_TOLERANCE):
        nearest, wanted = (f"({a:.3g}, {b:.3g})" for a, b in (met, target))
        raise InputError(f"multipliers of {cell.name} meet loads", nearest, wanted, "use laws with another balance")
    return float(m[0]), float(m[1])


def superpose(first: Requests, second: Requests, m1: float, m2: float) -> Requests:
    """Return two traces at m1 and m2 times their rates, together, over the shorter one's horizon.

    A multiplier >= 1 compresses time, one below 1 thins at random (seed 7) and keeps the clock.

    Parameters
    ----------
    first, second : Requests
        Traces.
    m1, m2 : float
        Rate multipliers, >= 0; 0 leaves a trace out.

    Returns
    -------
    Requests
        Sorted by arrival.
    """
    rng = np.random.default_rng(THIN_SEED)
    parts, horizons = [], []
    for trace, m in ((first, m1), (second, m2)):
        kept = np.ones(len(trace), dtype=bool) if m >= 1 else rng.random(len(trace)) < m
        parts.append((trace, kept, trace.arrival_s / max(m, 1.0)))
        if m > 0:
            horizons.append(trace.span_s / max(m, 1.0))
    horizon = min(horizons)
    columns = []
    for trace, kept, arrival in parts:
        kept = kept & (arrival <= horizon)
        columns.append((arrival[kept], trace.prompt_tokens[kept], trace.output_tokens[kept], trace.cached_tokens[kept]))
    arrival, prompt, output, cached = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(arrival, kind="stable")
    return Requests.from_arrays(arrival[order], prompt[order], output[order], cached[order])


def cell_requests(cell: Cell, cluster: Cluster, folder: Path | None = None) -> Requests:
    """Return the requests of a cell, built for a cluster's laws.

    Parameters
    ----------
    cell : Cell
        One of `CELLS`.
    cluster : Cluster
        2P2D of the model that the multipliers are solved for.
    folder : Path, optional
        Folder of shared data.

    Returns
    -------
    Requests
        Sorted by arrival.
    """
    first, second = (trace_requests(name, folder) for name in cell.sources)
    return superpose(first, second, *multipliers(cell, cluster, first, second))


def halves(requests: Requests) -> tuple[Requests, Requests]:
    """Return the requests of the first and of the second half of the horizon, each from time 0.

    Parameters
    ----------
    requests : Requests
        A finished cell.

    Returns
    -------
    tuple of Requests
        One to plan on, the other to evaluate on.
    """
    middle = 0.5 * requests.span_s
    early = requests.arrival_s < middle
    return requests.take(early), requests.take(~early, middle)

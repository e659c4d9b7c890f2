"""How busy every instance was over time, from the rows of a run; *exact*."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qmodel.errors import InputError
from qmodel.simulation.result import SimulationResult

__all__ = ["occupancy"]

FloatArray = npt.NDArray[np.float64]

_MOST_WINDOWS = 1_000_000


def occupancy(result: SimulationResult, window_s: float) -> Any:
    """Return busy share, waiting and running requests of each instance, per window of time.

    An instance works exactly while it has a request in prefill or decode, so its busy share of a window is the union of
    those intervals. Of requests that a fault made start again only the last attempt counts.

    Parameters
    ----------
    result : SimulationResult
        The run.
    window_s : float
        Width of a window [s].

    Returns
    -------
    pandas.DataFrame
        One row per window and instance: ``time_s`` (middle of the window), ``pool``, ``instance``, ``utilisation``,
        and the means over the window of ``waiting`` (queued, or landed and not yet admitted) and ``running``.

    Raises
    ------
    InputError
        When the width is not positive, or gives more than a million windows.
    """
    import pandas as pd

    if not (np.isfinite(window_s) and window_s > 0 and result.makespan_s / window_s <= _MOST_WINDOWS):
        raise InputError("window_s", window_s, f"> 0 and at most {_MOST_WINDOWS:,} windows", "give e.g. 10 s")
    edges: FloatArray = window_s * np.arange(int(np.ceil(result.makespan_s / window_s)) + 1, dtype=np.float64)
    edges[-1] = min(edges[-1], result.makespan_s)
    width = np.diff(edges)
    c = result.columns
    started = c["arrival_s"] + c["queue_s"]
    prefilled = started + c["prefill_s"]
    admitted = np.where(c["deflected"], prefilled, c["finish_s"] - (c["e2e_s"] - c["ttft_s"]) - c["first_step_s"])
    landed = admitted - np.where(c["deflected"], 0.0, c["admission_s"])
    frames = []
    for pool, number in zip(result.units["pool"], result.units["instance"], strict=True):
        if pool == "prefill":
            mine = c["prefill_instance"] == number
            waits, runs = [(c["arrival_s"][mine], started[mine])], [(started[mine], prefilled[mine])]
        else:
            mine = c["decode_instance"] == number
            hosted, moved = mine & c["deflected"], mine & ~c["deflected"]
            waits = [(c["arrival_s"][hosted], started[hosted]), (landed[moved], admitted[moved])]
            runs = [(started[hosted], c["finish_s"][hosted]), (admitted[moved], c["finish_s"][moved])]
        begin, end = (np.concatenate(side) for side in zip(*runs, strict=True))
        waiting = sum(_integral(a, b, edges) for a, b in waits) / width
        running = _integral(begin, end, edges)
        busy = _integral(*_union(begin, end), edges)
        columns = {"time_s": 0.5 * (edges[1:] + edges[:-1]), "pool": pool, "instance": number}
        shares = {"utilisation": busy / width, "waiting": waiting, "running": running / width}
        frames.append(pd.DataFrame(columns | shares))
    return pd.concat(frames, ignore_index=True)


def _integral(begin: FloatArray, end: FloatArray, edges: FloatArray) -> FloatArray:
    """Return the time that intervals spend in each window, summed over the intervals [s]."""

    def before(times: FloatArray) -> FloatArray:
        """Return the sum over all times of max(edge - time, 0), for every edge."""
        ordered = np.sort(times)
        total = np.concatenate(([0.0], np.cumsum(ordered)))
        count = np.searchsorted(ordered, edges)
        return np.asarray(count * edges - total[count])

    return np.diff(before(begin) - before(end))


def _union(begin: FloatArray, end: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return disjoint intervals with the same union."""
    if not len(begin):
        return begin, end
    order = np.argsort(begin, kind="stable")
    begin, reach = begin[order], np.maximum.accumulate(end[order])
    first = np.concatenate(([True], begin[1:] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return begin[first], reach[last]

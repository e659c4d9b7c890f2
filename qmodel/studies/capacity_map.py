"""The feasibility map: predicted attainment of every split of some GPUs over a range of rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qmodel.errors import UnstableError
from qmodel.system import predict

if TYPE_CHECKING:
    from qmodel.scenario import SLO, Cluster, Workload
    from qmodel.studies.comparison import Progress

__all__ = ["capacity_map"]

MOST_SPLITS, RATES = 16, 9


def capacity_map(
    cluster: Cluster,
    workload: Workload,
    slo: SLO,
    gpus: int,
    rate_per_s: float,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Predict attainment without deflection for the splits of some GPUs at 0.4 to 1.4 times a rate.

    Parameters
    ----------
    cluster : Cluster
        Laws and network of every split; its pools may differ in GPU type.
    workload : Workload
        Lengths and arrivals, scaled to each rate.
    slo : SLO
        Objectives.
    gpus : int
        GPUs to split; above 16 splits an even choice is shown.
    rate_per_s : float
        Rate around which to look [1/s].
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of dict
        ``cluster``, ``prefill``, ``decode``, ``rate_per_s``, ``slo_attainment`` and ``goodput_per_s`` of each cell.
    """
    prefill, decode = cluster.prefill_calibrations[0], cluster.decode_calibrations[0]
    sizes = [(k, (gpus - k * prefill.tp) // decode.tp) for k in range(1, (gpus - decode.tp) // prefill.tp + 1)]
    sizes = sizes[:: max(1, -(-len(sizes) // MOST_SPLITS))]
    rates = [float(f"{rate_per_s * share:.3g}") for share in np.linspace(0.4, 1.4, RATES)]
    rows = []
    for number, (k, d) in enumerate(sizes):
        if progress is not None:
            progress("drawing the map", number, len(sizes))
        split = _resized(cluster, k, d)
        for rate in rates:
            try:
                share = predict(split, workload.at_rate(rate), slo).slo_attainment
            except UnstableError:
                share = 0.0
            cell = {"cluster": split.name, "prefill": k, "decode": d, "rate_per_s": rate}
            rows.append(cell | {"slo_attainment": share, "goodput_per_s": rate * share})
    return rows


def _resized(cluster: Cluster, prefill: int, decode: int) -> Cluster:
    from qmodel.scenario.cluster import InstanceGroup

    if not isinstance(cluster.prefill, tuple):
        return cluster.with_(prefill=prefill, decode=decode)
    pools = (cluster.prefill_calibrations[0], prefill), (cluster.decode_calibrations[0], decode)
    groups = [(InstanceGroup(count=n, calibration=c),) for c, n in pools]
    return cluster.with_(prefill=groups[0], decode=groups[1])

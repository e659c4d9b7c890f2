"""Compile every kernel of the main job once, so that the first real run does not wait for it.

Run as ``python -m qmodel.studies.warm``; compiled code is kept in the user's cache (see `qmodel._kernels`).
"""

from __future__ import annotations

__all__ = ["warm_kernels"]


def warm_kernels() -> None:
    """Derive, predict and simulate a tiny case, which compiles and caches the kernels of the main job."""
    from qmodel.io.calibrations import load_calibration
    from qmodel.scenario import SLO, Cluster, Workload
    from qmodel.studies.thresholds import derive_thresholds
    from qmodel.system import predict

    cluster = Cluster.parse("1P1D", load_calibration("deepseek-v2-lite"))
    slo = SLO()
    steady = Workload.poisson(1.0, prompt_tokens=1000, output_tokens=100).at_load(0.3, cluster)
    predict(cluster, steady, slo)
    moving = Workload.builtin("azure-conv").at_load(0.3, cluster)
    derive_thresholds(cluster, moving, slo, confirm=True, seeds=range(1), requests=200)


if __name__ == "__main__":
    warm_kernels()

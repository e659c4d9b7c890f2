"""The arrivals of one simulated run as a workload, so that a prediction can be held beside it."""

from __future__ import annotations

from qmodel.scenario import Workload

__all__ = ["replayed"]


def replayed(workload: Workload, seed: int = 0, requests: int | None = None) -> Workload:
    """Return what to predict beside the run of a seed: its very arrivals, or of a Poisson stream its steady state.

    Parameters
    ----------
    workload : Workload
        What is simulated.
    seed : int, optional
        Seed of the run.
    requests : int, optional
        Requests of the run; the workload's own number by default.

    Returns
    -------
    Workload
        A trace of the run's requests; a Poisson workload as it is, since its prediction is that of every run.
    """
    if workload.kind == "poisson":
        return workload
    return Workload.from_requests(workload.requests(seed=seed, count=requests), workload.name)

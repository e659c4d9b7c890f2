"""The prefill queue alone in other simulation packages: same arrivals, same work, first come first served.

Neither package is needed by anything else; both come with the extra ``peers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

__all__ = ["ciw_waits_s", "simpy_waits_s"]


def simpy_waits_s(arrival_s: FloatArray, work_s: FloatArray, servers: int) -> FloatArray:
    """Return the wait of each arrival in simpy [s].

    Parameters
    ----------
    arrival_s, work_s : ndarray, shape (n,)
        Arrival times, rising, and service times [s].
    servers : int
        Servers.

    Returns
    -------
    ndarray, shape (n,)
        Waits in order of arrival [s].
    """
    import simpy

    env, waits = simpy.Environment(), np.zeros(len(arrival_s))
    pool = simpy.Resource(env, servers)

    def customer(number: int, work: float) -> Generator[Any]:
        with pool.request() as turn:
            yield turn
            waits[number] = env.now - arrival_s[number]
            yield env.timeout(work)

    def source() -> Generator[Any]:
        for number, work in enumerate(work_s):
            yield env.timeout(max(arrival_s[number] - env.now, 0.0))
            env.process(customer(number, work))

    env.process(source())
    env.run()
    return waits


def ciw_waits_s(arrival_s: FloatArray, work_s: FloatArray, servers: int) -> FloatArray:
    """Return the wait of each arrival in ciw [s].

    Parameters
    ----------
    arrival_s, work_s : ndarray, shape (n,)
        Arrival times, rising, and service times [s].
    servers : int
        Servers.

    Returns
    -------
    ndarray, shape (n,)
        Waits in order of arrival [s].
    """
    import ciw

    gaps = np.diff(arrival_s, prepend=0.0)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*gaps.tolist(), float("inf")])],
        service_distributions=[ciw.dists.Sequential(work_s.tolist())],
        number_of_servers=[servers],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(float(arrival_s[-1] + work_s.sum()))
    records = sorted(simulation.get_all_records(), key=lambda record: record.arrival_date)
    return np.array([record.waiting_time for record in records])

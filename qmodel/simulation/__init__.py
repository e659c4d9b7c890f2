"""Simulation of a cluster under a routing policy: exact about what it models, request by request."""

from qmodel.simulation.conditions import Fault, Signals
from qmodel.simulation.engine import simulate, simulate_requests
from qmodel.simulation.result import SimulationResult
from qmodel.simulation.statistics import mean_interval

__all__ = [
    "Fault",
    "Signals",
    "SimulationResult",
    "mean_interval",
    "simulate",
    "simulate_requests",
]

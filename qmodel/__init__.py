"""qmodel: queueing model and optimizer for prefill deflection in disaggregated LLM serving.

The names below are the public interface; each is loaded when it is first used, so that ``import qmodel`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmodel import policies, queueing, runtime
    from qmodel.errors import QModelError
    from qmodel.io.calibrations import list_calibrations, load_calibration
    from qmodel.laws import Calibration
    from qmodel.scenario import SLO, Cluster, Workload
    from qmodel.scenario.plan import Plan
    from qmodel.simulation import SimulationResult, simulate
    from qmodel.studies import calibrate, compare, derive_thresholds, plan_capacity
    from qmodel.studies.comparison import Comparison
    from qmodel.system import Prediction, predict

__version__ = "0.1.0"

_HOME = {
    "Calibration": "laws",
    "Cluster": "scenario",
    "Comparison": "studies.comparison",
    "Plan": "scenario.plan",
    "Prediction": "system",
    "QModelError": "errors",
    "SLO": "scenario",
    "SimulationResult": "simulation",
    "Workload": "scenario",
    "calibrate": "studies",
    "compare": "studies",
    "derive_thresholds": "studies",
    "list_calibrations": "io.calibrations",
    "load_calibration": "io.calibrations",
    "plan_capacity": "studies",
    "predict": "system",
    "simulate": "simulation",
}
_MODULES = ("policies", "queueing", "runtime")

__all__ = [
    "SLO",
    "Calibration",
    "Cluster",
    "Comparison",
    "Plan",
    "Prediction",
    "QModelError",
    "SimulationResult",
    "Workload",
    "calibrate",
    "compare",
    "derive_thresholds",
    "list_calibrations",
    "load_calibration",
    "plan_capacity",
    "policies",
    "predict",
    "queueing",
    "runtime",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"qmodel.{name}")
    if name in _HOME:
        value = getattr(import_module(f"qmodel.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'qmodel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

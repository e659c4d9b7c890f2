"""Studies: one function per job, table or figure, each returning tidy data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmodel.studies.calibration import calibrate
    from qmodel.studies.capacity import plan_capacity
    from qmodel.studies.comparison import compare
    from qmodel.studies.thresholds import derive_thresholds

__all__ = ["calibrate", "compare", "derive_thresholds", "plan_capacity"]

_HOME = {
    "calibrate": "calibration",
    "compare": "comparison",
    "derive_thresholds": "thresholds",
    "plan_capacity": "capacity",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"qmodel.studies.{_HOME[name]}"), name)
    raise AttributeError(f"module 'qmodel.studies' has no attribute {name!r}")

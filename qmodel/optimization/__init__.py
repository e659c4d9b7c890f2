"""The optimizer: static split (stage 1), thresholds (stage 2), choice of form (stage 3); the only user of cvxpy."""

from qmodel.optimization.plan import derive_plan
from qmodel.optimization.split import StaticSplit, static_split
from qmodel.optimization.tables import host_tables
from qmodel.optimization.thresholds import threshold_rule, thresholds_s

__all__ = ["StaticSplit", "derive_plan", "host_tables", "static_split", "threshold_rule", "thresholds_s"]

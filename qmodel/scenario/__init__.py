"""Frozen inputs of every computation: cluster, SLO, requests and workload."""

from qmodel.scenario.cluster import Cluster, InstanceGroup
from qmodel.scenario.requests import Requests
from qmodel.scenario.slo import SLO
from qmodel.scenario.workload import Workload

__all__ = ["SLO", "Cluster", "InstanceGroup", "Requests", "Workload"]

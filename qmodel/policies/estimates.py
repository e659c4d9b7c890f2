"""Estimates for compiled decisions (`Compiled`): the laws of the cluster as functions that numba can call.

`state` and `request` are those that the decision is given; instances count from 0 within their pool. Importing this
module loads numba.
"""

from qmodel._kernels.user import execution_s, limit_s, schedule_s, transfer_s
from qmodel.policies.compiled import DECODE, PREFILL

__all__ = ["DECODE", "PREFILL", "execution_s", "limit_s", "schedule_s", "transfer_s"]

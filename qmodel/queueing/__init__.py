"""Queues with one or many servers: exact, approximate and time-varying; every result says how it was computed.

Nothing here knows about language models, except `decode_batch`: it is a queueing library of its own.
"""

from qmodel.distributions import ServiceTime
from qmodel.queueing.decode import DecodeBatch, decode_batch
from qmodel.queueing.metrics import QueueMetrics
from qmodel.queueing.mgk import mgk

__all__ = ["DecodeBatch", "QueueMetrics", "ServiceTime", "decode_batch", "mgk"]

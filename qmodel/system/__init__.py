"""Prediction of a whole cluster: laws and queues joined into TTFT and TBT."""

from qmodel.system.predict import predict
from qmodel.system.prediction import Prediction

__all__ = ["Prediction", "predict"]

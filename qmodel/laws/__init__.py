"""Latency laws: step, prefill and transfer times, and the calibrations that carry them."""

from qmodel.laws.calibration import Calibration, ValidRange
from qmodel.laws.engine import EngineCorrection
from qmodel.laws.measured import DecodeTimes, Measurements, PromptTimes, RequestTimes
from qmodel.laws.prefill import chunked_prefill_s, lone_prefill_s, prefill_work_s
from qmodel.laws.samples import StepSamples
from qmodel.laws.step import LinearLaw, PNormLaw, StepLaw
from qmodel.laws.transfer import TransferLaw

__all__ = [
    "Calibration",
    "DecodeTimes",
    "EngineCorrection",
    "LinearLaw",
    "Measurements",
    "PNormLaw",
    "PromptTimes",
    "RequestTimes",
    "StepLaw",
    "StepSamples",
    "TransferLaw",
    "ValidRange",
    "chunked_prefill_s",
    "lone_prefill_s",
    "prefill_work_s",
]

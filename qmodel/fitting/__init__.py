"""Fits: kernel profiles and measurements to laws, traces to compact workload models."""

from qmodel.fitting import design
from qmodel.fitting.composition import StepComposition, compose
from qmodel.fitting.gpus import GPUS, gpu_named
from qmodel.fitting.models import ModelShape, known_models, load_model
from qmodel.fitting.pipeline import calibrate_model
from qmodel.fitting.sources import CleaningReport, KernelSource
from qmodel.fitting.steplaw import errors_of, fit_step_law

__all__ = [
    "GPUS",
    "CleaningReport",
    "KernelSource",
    "ModelShape",
    "StepComposition",
    "calibrate_model",
    "compose",
    "design",
    "errors_of",
    "fit_step_law",
    "gpu_named",
    "known_models",
    "load_model",
]

"""Service-time and arrival laws, and fits of phase-type laws to them."""

from qmodel.distributions.phase_type import PhaseType2, fit_phase_type
from qmodel.distributions.service import ServiceTime

__all__ = ["PhaseType2", "ServiceTime", "fit_phase_type"]

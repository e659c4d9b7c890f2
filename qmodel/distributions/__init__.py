"""Service-time and arrival laws, and fits to moments, counts and traces."""

from qmodel.distributions.arrival_fit import ArrivalFit, fit_arrivals, fit_mmpp, measured_dispersion
from qmodel.distributions.arrivals import Arrivals, MmppArrivals, PoissonArrivals, RenewalArrivals, WindowedArrivals
from qmodel.distributions.phase_type import PhaseType2, fit_phase_type
from qmodel.distributions.service import ServiceTime

__all__ = [
    "ArrivalFit",
    "Arrivals",
    "MmppArrivals",
    "PhaseType2",
    "PoissonArrivals",
    "RenewalArrivals",
    "ServiceTime",
    "WindowedArrivals",
    "fit_arrivals",
    "fit_mmpp",
    "fit_phase_type",
    "measured_dispersion",
]

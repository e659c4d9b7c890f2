"""Queues with one or many servers: exact, approximate and time-varying; every result says how it was computed.

Nothing here knows about language models, except `decode_batch`: it is a queueing library of its own.
"""

from qmodel.distributions import (
    ArrivalFit,
    Arrivals,
    MmppArrivals,
    PhaseType2,
    PoissonArrivals,
    RenewalArrivals,
    ServiceTime,
    WindowedArrivals,
    fit_arrivals,
    fit_mmpp,
    fit_phase_type,
    measured_dispersion,
)
from qmodel.queueing.approximations import (
    MethodRow,
    approximate,
    compare_methods,
    heavy_traffic_mean_s,
)
from qmodel.queueing.balking import BalkingMetrics, mgk_balking
from qmodel.queueing.bounds import daley_bound_s, kingman_bound_s, whitt_bound_s
from qmodel.queueing.bursty import map_k, mmpp_k
from qmodel.queueing.decay import lundberg_rate
from qmodel.queueing.decode import DecodeBatch, decode_batch
from qmodel.queueing.descriptors import BusyPeriod, DepartureScv, busy_period, departure_scv, queue_length_tail
from qmodel.queueing.erlang import FiniteQueue, erlang_b, erlang_c, mmk, mmkn
from qmodel.queueing.general import ggk, ggk_bounds_s, ggk_lower_bound_s
from qmodel.queueing.links import FcfsLink, SharedLink, fcfs_link, shared_link
from qmodel.queueing.metrics import QueueMetrics
from qmodel.queueing.mgk import mgk
from qmodel.queueing.paths import kiefer_wolfowitz
from qmodel.queueing.pool_answer import TwoPools
from qmodel.queueing.pool_chain import PoolChain
from qmodel.queueing.sizing import least_servers
from qmodel.queueing.sojourn import sojourn_quantile_s, sojourn_tail
from qmodel.queueing.time_varying import TimeVaryingWaits, mtgk
from qmodel.queueing.two_pools import priced_thresholds, two_pools
from qmodel.queueing.two_pools_time import TwoPoolsOverTime, two_pools_over_time

__all__ = [
    "ArrivalFit",
    "Arrivals",
    "BalkingMetrics",
    "BusyPeriod",
    "DecodeBatch",
    "DepartureScv",
    "FcfsLink",
    "FiniteQueue",
    "MethodRow",
    "MmppArrivals",
    "PhaseType2",
    "PoissonArrivals",
    "PoolChain",
    "QueueMetrics",
    "RenewalArrivals",
    "ServiceTime",
    "SharedLink",
    "TimeVaryingWaits",
    "TwoPools",
    "TwoPoolsOverTime",
    "WindowedArrivals",
    "approximate",
    "busy_period",
    "compare_methods",
    "daley_bound_s",
    "decode_batch",
    "departure_scv",
    "erlang_b",
    "erlang_c",
    "fcfs_link",
    "fit_arrivals",
    "fit_mmpp",
    "fit_phase_type",
    "ggk",
    "ggk_bounds_s",
    "ggk_lower_bound_s",
    "heavy_traffic_mean_s",
    "kiefer_wolfowitz",
    "kingman_bound_s",
    "least_servers",
    "lundberg_rate",
    "map_k",
    "measured_dispersion",
    "mgk",
    "mgk_balking",
    "mmk",
    "mmkn",
    "mmpp_k",
    "mtgk",
    "priced_thresholds",
    "queue_length_tail",
    "shared_link",
    "sojourn_quantile_s",
    "sojourn_tail",
    "two_pools",
    "two_pools_over_time",
    "whitt_bound_s",
]


def __dir__() -> list[str]:
    return [*__all__, "__all__", "__doc__", "__name__"]

"""The pictures of docs/queueing, each model beside a simulation: python -m qmodel.studies.queueing_pictures FOLDER."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qmodel.distributions import MmppArrivals, PoissonArrivals, RenewalArrivals, ServiceTime, WindowedArrivals
from qmodel.queueing import (
    approximate,
    decode_batch,
    ggk,
    kiefer_wolfowitz,
    mgk,
    mgk_balking,
    mmk,
    mtgk,
    queue_length_tail,
    two_pools,
)

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PICTURES", "QueuePicture", "make_queueing_pictures"]

FloatArray = npt.NDArray[np.float64]
Row = tuple[str, float, float, float]
#: Waits that a point of a simulated tail must rest on.
SEEN = 50
LAW = ServiceTime.hyperexponential([0.8, 0.2], [0.5, 3.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePicture:
    """A picture and how its table is made.

    Parameters
    ----------
    name : str
        Stem of the file.
    x_label, y_label : str
        Axis labels.
    log : str
        Logarithmic axes.
    rows : callable
        Number of simulated arrivals to rows (series, x, model, simulation).
    """

    name: str
    x_label: str
    y_label: str
    log: str
    rows: Callable[[int], Iterable[Row]]

    def table(self, arrivals: int = 400_000) -> DataFrame:
        """Return the tidy table behind the picture.

        Parameters
        ----------
        arrivals : int, optional
            Arrivals simulated for each series.
        """
        import pandas as pd

        return pd.DataFrame(list(self.rows(arrivals)), columns=["series", "x", "model", "simulation"])


def _tails(series: str, metrics: Any, waits: FloatArray, reach: float) -> Iterable[Row]:
    for t in np.linspace(0.0, reach, 21):
        seen = float((waits > t).mean())
        if seen * waits.size > SEEN:
            yield series, float(t), float(metrics.wait_tail(t)), seen


def _waits(arrivals: Any, service: ServiceTime, servers: int, count: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    return kiefer_wolfowitz(arrivals.sample(count, rng), service.sample(count, rng), servers)[count // 20 :]


def _mgk(count: int) -> Iterable[Row]:
    laws = {
        "M/D/1": (ServiceTime.deterministic(1.0), 1),
        "M/H2/2": (LAW, 2),
        "M/G/4, gamma": (ServiceTime.gamma(1.0, 0.4), 4),
    }
    for seed, (name, (law, servers)) in enumerate(laws.items()):
        rate = 0.8 * servers / law.mean_s
        waits = _waits(PoissonArrivals(rate_per_s=rate), law, servers, count, seed)
        yield from _tails(name, mgk(rate, servers, law), waits, 12.0 / servers)


def _bursty(count: int) -> Iterable[Row]:
    for name, (rates, switch) in {"mild": ((1.0, 2.0), (0.2, 0.2)), "strong": ((0.7, 3.5), (0.05, 0.15))}.items():
        arrivals = MmppArrivals(rates_per_s=rates, switch_per_s=switch)
        waits = _waits(arrivals, ServiceTime.exponential(1.0), 2, count, 3)
        yield from _tails(f"{name} bursts", ggk(arrivals, 2, ServiceTime.exponential(1.0)), waits, 30.0)


def _arrivals(count: int) -> Iterable[Row]:
    from qmodel.distributions import measured_dispersion

    laws: dict[str, Any] = {
        "MMPP": MmppArrivals(rates_per_s=(1.0, 10.0), switch_per_s=(0.05, 0.2)),
        "H2 gaps, SCV 4": RenewalArrivals.hyperexponential(3.0, 4.0),
        "gamma gaps, SCV .3": RenewalArrivals.gamma(3.0, 0.3),
    }
    windows = np.geomspace(0.1, 100.0, 13)
    for name, law in laws.items():
        _, _, _, seen = measured_dispersion(law.sample(count, np.random.default_rng(4)), windows)
        for window, value in zip(windows, seen, strict=True):
            yield name, float(window), law.idc(float(window)), float(value)


def _beside(count: int) -> Iterable[Row]:
    for name, (law, servers) in {"M/D/1": (ServiceTime.deterministic(1.0), 1), "M/H2/2": (LAW, 2)}.items():
        rate, rng = 0.8 * servers / law.mean_s, np.random.default_rng(5)
        arrival = PoissonArrivals(rate_per_s=rate).sample(count, rng)
        starts = np.sort(arrival + kiefer_wolfowitz(arrival, law.sample(count, rng), servers))
        waiting = (np.arange(count) - np.searchsorted(starts, arrival, side="right"))[count // 20 :]
        tail = queue_length_tail(mgk(rate, servers, law), np.arange(16))
        for n in range(16):
            yield name, float(n), float(tail[n]), float((waiting > n).mean())


def _thresholds(count: int) -> Iterable[Row]:
    shares, work = np.array([0.7, 0.25, 0.05]), np.array([0.5, 1.5, 5.0])
    for servers in (1, 2):
        rng = np.random.default_rng(6)
        kinds = rng.choice(3, count, p=shares)
        gaps = rng.exponential(1.0, count)
        for load in (0.6, 0.9, 1.2, 1.6):
            rate = load * servers / float(shares @ work)
            metrics = mgk_balking(rate * shares, work, 3.0, servers)
            waits = kiefer_wolfowitz(np.cumsum(gaps) / rate, work[kinds], servers, balk_above_s=3.0)[count // 20 :]
            yield f"k = {servers}", load, metrics.rejected, float((waits < 0).mean())


def _time_varying(count: int) -> Iterable[Row]:
    edges = np.arange(21, dtype=np.float64) * 60.0
    rates = 1.6 + 0.7 * np.sin(np.arange(20) / 3)
    waits = mtgk(edges, rates, LAW, 2)
    arrivals, rng = WindowedArrivals(edges_s=edges, rates_per_s=rates), np.random.default_rng(7)
    total, number = np.zeros(20), np.zeros(20)
    for _ in range(max(count // 2_000, 1)):
        times = arrivals.sample(3_000, rng)
        times = times[times < edges[-1]]
        window = np.searchsorted(edges, times, side="right") - 1
        found = kiefer_wolfowitz(times, LAW.sample(times.size, rng), 2)
        total += np.bincount(window, found, 20)
        number += np.bincount(window, minlength=20)
    for w in range(20):
        yield "mean wait by window", (w + 0.5), float(waits.window_mean_s[w]), float(total[w] / number[w])


def _two_pools(count: int) -> Iterable[Row]:
    rates, work, host, limits = np.array([2.0, 0.4]), [0.2, 1.0], [0.2, 1.2], [0.5, 1.5]
    for load in (0.7, 1.1):
        scaled = rates * load / 0.8
        pools, rng = two_pools(scaled, work, host, limits), np.random.default_rng(8)
        kinds = rng.choice(2, count, p=scaled / scaled.sum())
        near = far = 0.0
        waits = np.empty(count)
        for n, (gap, b) in enumerate(zip(rng.exponential(1 / scaled.sum(), count), kinds, strict=True)):
            near, far = max(near - gap, 0.0), max(far - gap, 0.0)
            if near <= limits[b]:
                waits[n], near = near, near + work[b]
            else:
                waits[n], far = far, far + host[b]
        for t in np.linspace(0.0, 8.0, 21):
            seen = float((waits[count // 20 :] > t).mean())
            if seen * count > SEEN:
                yield f"load {load:g}", float(t), 1 - float(pools.wait_cdf(t)), seen


def _decode(count: int) -> Iterable[Row]:
    step, rate, tokens, most = 0.02 + 0.002 * np.arange(1, 25), 1.2, 100.0, 24
    batch, rng = decode_batch(rate, tokens, step, most), np.random.default_rng(9)
    residents, waiting, time_at = 0, 0, np.zeros(most + 1)
    for _ in range(count):
        leave = residents / (tokens * step[residents - 1]) if residents else 0.0
        time_at[residents] += rng.exponential(1 / (rate + leave))
        if rng.random() < rate / (rate + leave):
            residents, waiting = (residents + 1, waiting) if residents < most else (residents, waiting + 1)
        elif waiting:
            waiting -= 1
        else:
            residents -= 1
    time_at /= time_at.sum()
    for n in range(most + 1):
        yield "residents of a decode batch", float(n), float(batch.time_law[n]), float(time_at[n])


def _service_times(count: int) -> Iterable[Row]:
    laws = {
        "lognormal, SCV 2, at most 20": ServiceTime.lognormal(1.0, 2.0, upper_s=20.0),
        "Erlang-4": ServiceTime.erlang(4, 1.0),
        "H2, SCV 3.2": LAW.scaled(1 / LAW.mean_s),
    }
    for seed, (name, law) in enumerate(laws.items()):
        drawn = law.sample(count, np.random.default_rng(10 + seed))
        for t in np.linspace(0.0, 8.0, 21):
            seen = float((drawn > t).mean())
            if seen * count > SEEN:
                yield name, float(t), float(law.tail(t)), seen


def _sizing(count: int) -> Iterable[Row]:
    # Calls of 4 minutes, 400 an hour: 26.7 agents' worth.
    rate, wait = 400 / 3600, 20.0
    for name, scv in {"SCV .5": 0.5, "SCV 1": 1.0, "SCV 4": 4.0}.items():
        law = ServiceTime.gamma(240.0, scv)
        for servers in range(27, 37):
            waits = _waits(PoissonArrivals(rate_per_s=rate), law, servers, count, servers)
            yield name, float(servers), float(mgk(rate, servers, law).wait_tail(wait)), float((waits > wait).mean())


def _approximations(count: int) -> Iterable[Row]:
    law, servers = ServiceTime.gamma(1.0, 3.0), 4
    for load in (0.5, 0.6, 0.7, 0.8, 0.9):
        waits = _waits(PoissonArrivals(rate_per_s=load * servers), law, servers, count, 12)
        # In mean waits of M/M/k, so that the formulas are told apart.
        unit = mmk(load * servers, servers, 1.0).mean_wait_s
        for name in ("lee-longton", "kimura", "boxma-cohen-huffels"):
            found = approximate(load * servers, servers, law, name)
            yield name, load, found.mean_wait_s / unit, float(waits.mean()) / unit


PICTURES = (
    QueuePicture(name="service-times", x_label="t [means]", y_label="P(S > t)", log="y", rows=_service_times),
    QueuePicture(name="sizing", x_label="agents", y_label="P(W > 20 s)", log="", rows=_sizing),
    QueuePicture(
        name="approximations", x_label="load", y_label="mean wait over that of M/M/4", log="", rows=_approximations
    ),
    QueuePicture(name="mgk", x_label="t [mean services]", y_label="P(W > t)", log="y", rows=_mgk),
    QueuePicture(name="bursty", x_label="t [mean services]", y_label="P(W > t)", log="y", rows=_bursty),
    QueuePicture(name="arrivals", x_label="window [s]", y_label="index of dispersion", log="xy", rows=_arrivals),
    QueuePicture(name="beside-the-wait", x_label="n", y_label="P(more than n wait)", log="y", rows=_beside),
    QueuePicture(name="thresholds", x_label="offered load", y_label="share turned away", log="", rows=_thresholds),
    QueuePicture(name="time-varying", x_label="minutes", y_label="mean wait [s]", log="", rows=_time_varying),
    QueuePicture(name="two-pools", x_label="t [s]", y_label="P(W > t)", log="y", rows=_two_pools),
    QueuePicture(name="decode-and-links", x_label="n", y_label="P(n residents)", log="", rows=_decode),
)


def make_queueing_pictures(folder: str | Path, arrivals: int = 400_000) -> list[Path]:
    """Draw every picture as PNG.

    Parameters
    ----------
    folder : str or Path
        Where files go; it is made.
    arrivals : int, optional
        Arrivals simulated for each series.

    Returns
    -------
    list of Path
        Files written.
    """
    from qmodel.plotting.figure import save_figure
    from qmodel.plotting.queueing import draw_beside_simulation

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in PICTURES:
        drawn = draw_beside_simulation(picture.table(arrivals), picture.x_label, picture.y_label, picture.log)
        save_figure(drawn, target / f"{picture.name}.png")
        written.append(target / f"{picture.name}.png")
    return written


if __name__ == "__main__":
    make_queueing_pictures(sys.argv[1] if len(sys.argv) > 1 else "docs/queueing")

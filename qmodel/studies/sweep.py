"""Grids of any study on the engines of joblib: streamed to disk as they come, resumed after a stop."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from qmodel.errors import InputError, MissingExtraError, QModelError
from qmodel.io.journal import Journal

if TYPE_CHECKING:
    from qmodel.studies.comparison import Progress

__all__ = ["Cell", "Engine", "grid", "run_grid"]

Cell = Mapping[str, Any]
Engine = Literal["local", "dask", "ray"]
ENGINES = ("local", "dask", "ray")
# Cells run in this process for so long before others are started, and only when so much is left for them to save.
TRIAL_S, WORTH_S = 1.0, 4.0
# The table is written anew at most so often [s], and at most every so many times as long as writing it takes.
TABLE_S, TABLE_SHARE = 10.0, 20.0
# Batches per worker: enough to balance unequal cells, few enough to keep the cost of handing them over small.
BATCHES_PER_WORKER = 16
LARGEST_BATCH = 50
AHEAD = 2  # batches handed to each local process: one to run, one to go on with
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
RAY_ROUND = 4  # batches per worker of one round


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the axes' values, the last axis fastest.

    Parameters
    ----------
    axes : mapping
        Name to values.

    Returns
    -------
    list of dict
        One cell per combination.

    Examples
    --------
    >>> grid({"cluster": ["1P1D", "2P1D"], "rate": ["5/s"]})
    [{'cluster': '1P1D', 'rate': '5/s'}, {'cluster': '2P1D', 'rate': '5/s'}]
    """
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def run_grid(
    study: Callable[[Cell], Mapping[str, Any]],
    cells: Sequence[Cell],
    *,
    output: str | Path | None = None,
    engine: Engine = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Run a study in every cell of a grid and return one row per cell, in the order of the cells.

    A cell that fails becomes a row with the reason in ``error`` and does not end the sweep. With an output, rows are
    kept beside it as they come and the table is renewed every ten seconds, whole each time; the same call after a stop
    goes on where it stopped. A table of failures alone is not written.

    Parameters
    ----------
    study : callable
        From a cell to columns of JSON values; a function of a module, so that other processes find it.
    cells : sequence of mapping
        JSON values by name.
    output : str or Path, optional
        Table to write, .csv or .parquet.
    engine : {"local", "dask", "ray"}
        Where cells run.
    workers : int, optional
        Processes; by default all cores, and this process alone where the first cells show that starting others would
        save nothing.
    address : str, optional
        Of a Dask scheduler or a Ray cluster; without it one is started here.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of dict
        The cell's values, the study's columns, and ``error`` (empty when it went well).

    Raises
    ------
    InputError
        When the grid is empty, the engine unknown or the output cannot be written.
    MissingExtraError
        When the engine is not installed.
    """
    if not cells:
        raise InputError("cells of the grid", 0, "at least one", "give every axis a value")
    if engine not in ENGINES:
        raise InputError("engine", repr(engine), f"one of {', '.join(ENGINES)}")
    if address is not None and engine == "local":
        raise InputError("address", repr(address), "left out with the local engine", "choose dask or ray")
    if workers is not None and workers < 1:
        raise InputError("workers", workers, ">= 1", "leave it out for all cores")
    journal = Journal.open(output, _fingerprint(cells))
    rows = dict(journal.rows)
    left = [number for number in range(len(cells)) if number not in rows]
    say = progress or (lambda what, done, total: None)
    say("sweeping", len(rows), len(cells))
    written, spent_s = time.monotonic(), 0.0
    try:
        for found in _batches(study, cells, left, engine, workers, address):
            journal.append(found)
            rows.update(found)
            say("sweeping", len(rows), len(cells))
            if time.monotonic() - written > max(TABLE_S, TABLE_SHARE * spent_s):
                begun = time.monotonic()
                journal.write_table([rows[number] for number in sorted(rows)])
                written, spent_s = time.monotonic(), time.monotonic() - begun
    finally:  # an interrupted sweep leaves a table of what it has, and its journal to go on from
        journal.write_table([rows[number] for number in sorted(rows)])
    journal.close()
    return [rows[number] for number in range(len(cells))]


def _fingerprint(cells: Sequence[Cell]) -> str:
    try:
        text = json.dumps([dict(cell) for cell in cells], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError("cells of the grid", str(error), "JSON values", "use texts and numbers") from None
    return hashlib.sha256(text.encode()).hexdigest()


def _run_batch(
    study: Callable[[Cell], Mapping[str, Any]], batch: Sequence[tuple[int, Cell]]
) -> list[tuple[int, dict[str, Any]]]:
    return [(number, _run_cell(study, cell)) for number, cell in batch]


def _run_cell(study: Callable[[Cell], Mapping[str, Any]], cell: Cell) -> dict[str, Any]:
    try:
        columns, error = dict(study(cell)), ""
    except QModelError as reason:
        columns, error = {}, str(reason)
    except Exception as reason:  # noqa: BLE001 - one cell's fault is a row of the table, not the end of the sweep
        columns, error = {}, f"{type(reason).__name__}: {reason}"
    bad = [name for name, value in columns.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        columns, error = {}, f"{bad[0]} is {columns[bad[0]]}; it must be finite"
    return {**cell, **columns, "error": " ".join(error.split())}


def _alone(
    study: Callable[[Cell], Mapping[str, Any]], cells: Sequence[Cell], left: Sequence[int], count: int
) -> Generator[list[tuple[int, dict[str, Any]]], None, Sequence[int]]:
    """Yield batches run in this process until sharing the rest would save time; return the cells left then."""
    begun, at = time.monotonic(), 0
    while at < len(left):
        batch: list[tuple[int, dict[str, Any]]] = []
        until = time.monotonic() + TRIAL_S
        while at < len(left) and len(batch) < LARGEST_BATCH and time.monotonic() < until:
            batch.append((left[at], _run_cell(study, cells[left[at]])))
            at += 1
        yield batch
        spent = time.monotonic() - begun
        if spent > TRIAL_S and spent / at * (len(left) - at) * (1 - 1 / count) > WORTH_S:
            break
    return left[at:]


def _batches(
    study: Callable[[Cell], Mapping[str, Any]],
    cells: Sequence[Cell],
    left: Sequence[int],
    engine: Engine,
    workers: int | None,
    address: str | None,
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield finished batches in any order."""
    count = workers or os.cpu_count() or 1
    if engine == "local" and workers is None:
        left = yield from _alone(study, cells, left, count)
    size = max(1, min(LARGEST_BATCH, math.ceil(len(left) / (count * BATCHES_PER_WORKER))))
    batches = [[(n, cells[n]) for n in left[at : at + size]] for at in range(0, len(left), size)]
    if not batches:
        return
    if engine == "local" and (count == 1 or len(left) == 1):
        for batch in batches:
            yield _run_batch(study, batch)
        return
    if engine == "local":
        yield from _beside(study, batches, count - 1)
        return
    from joblib import Parallel, delayed

    jobs = [delayed(_run_batch)(study, batch) for batch in batches]
    with _backend(engine, count, address):
        if engine == "ray":  # its backend returns nothing before everything is done: hand over few at a time
            for at in range(0, len(jobs), RAY_ROUND * count):
                yield from Parallel(n_jobs=-1, batch_size=1)(jobs[at : at + RAY_ROUND * count])
            return
        yield from Parallel(n_jobs=-1, return_as="generator_unordered", batch_size=1)(jobs)


def _beside(
    study: Callable[[Cell], Mapping[str, Any]], batches: Sequence[Sequence[tuple[int, Cell]]], helpers: int
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield batches run by worker processes and by this one, which does not wait for the others to start."""
    from joblib.externals.loky import ProcessPoolExecutor  # of our own: `Parallel` may be used before and after

    waiting = deque(batches)
    done: SimpleQueue[Any] = SimpleQueue()
    workers = ProcessPoolExecutor(helpers, env=dict.fromkeys(ONE_THREAD, "1"))

    def hand_over(finished: Any = None) -> None:  # also called by the executor's thread, whenever a batch is done
        if finished is not None:
            done.put(finished)
        with suppress(IndexError):
            batch = waiting.popleft()
            try:
                workers.submit(_run_batch, study, batch).add_done_callback(hand_over)
            except RuntimeError:  # the pool broke; what was handed over says why
                waiting.append(batch)

    left = len(batches)
    try:
        for _ in range(AHEAD * helpers):
            hand_over()
        while left:
            with suppress(IndexError):
                yield _run_batch(study, waiting.popleft())
                left -= 1
            while left and not (done.empty() and waiting):
                yield done.get().result()
                left -= 1
    except BaseException as stop:
        waiting.clear()
        workers.shutdown(wait=True, kill_workers=True)
        if type(stop).__name__ in ("TerminatedWorkerError", "BrokenProcessPool"):
            raise InputError("worker process", "killed", "memory for each", "run again with fewer --workers") from None
        raise
    workers.shutdown()


@contextmanager
def _backend(engine: Engine, workers: int, address: str | None) -> Iterator[None]:
    """Make joblib use an engine, starting a cluster on this machine where no address is given."""
    from joblib import parallel_config

    if engine == "dask":
        with _dask_client(workers, address), parallel_config(backend="dask"):
            yield
    else:
        with _ray(workers, address), parallel_config(backend="ray"):
            yield


@contextmanager
def _dask_client(workers: int, address: str | None) -> Iterator[None]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingExtraError(
            "the dask engine needs distributed", remedy="pip install 'qmodel[dask]', or the local engine"
        ) from None
    if address is not None:
        try:
            client = Client(address, timeout="10s")
        except (OSError, ValueError) as error:
            raise InputError("Dask scheduler", repr(address), "reachable", str(error)) from None
        with client:
            yield
        return
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        yield


@contextmanager
def _ray(workers: int, address: str | None) -> Iterator[None]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise MissingExtraError(
            "the ray engine needs ray", remedy="pip install 'qmodel[ray]', or the local engine"
        ) from None
    started = not ray.is_initialized()
    if started:
        options = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError("Ray cluster", repr(address or "local"), "reachable", str(error)) from None
    register_ray()
    try:
        yield
    finally:
        if started:
            ray.shutdown()

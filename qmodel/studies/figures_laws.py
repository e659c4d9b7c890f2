"""Studies of the figures about latency laws: what a chunk costs a decode step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qmodel.laws import PNormLaw
from qmodel.studies.published import PUBLISHED
from qmodel.studies.scenes import Stage, decode_state

if TYPE_CHECKING:
    from pandas import DataFrame

    from qmodel.laws import StepLaw

__all__ = ["chunk_cost", "law_errors", "with_engine"]

LARGEST_CHUNK = 2048
SMALLEST_CHUNK = 32


def with_engine(kernels: StepLaw) -> StepLaw:
    """Return a law with the overhead that a published engine shows over its kernels: a gain and a host-bound floor.

    Parameters
    ----------
    kernels : StepLaw
        Law of composed kernels.

    Returns
    -------
    StepLaw
        The same law, slower; laws without a floor and a gain come back as they are.
    """
    if not isinstance(kernels, PNormLaw):
        return kernels
    gain, floor = PUBLISHED["engine_prompt_gain"], PUBLISHED["engine_floor_s"]
    return replace(kernels, gain=gain.low, floor_s=floor.low)


def chunk_cost(stage: Stage) -> DataFrame:
    """Return by how much a chunk lengthens a decode step at each panel's mean decode state.

    Parameters
    ----------
    stage : Stage
        Scenes and runs; the decode state is that of simulated runs without deflection.

    Returns
    -------
    DataFrame
        Columns panel, source, batch, context_tokens, engine, done_tokens, chunk_tokens, step_s, increase_s and
        published_s: what is published for that chunk.
    """
    import pandas as pd

    points = 8 if not stage.full else 24
    chunks = np.unique(np.geomspace(SMALLEST_CHUNK, LARGEST_CHUNK, 6 * points + 1).round())
    chunks = np.union1d(chunks, 2.0 ** np.arange(5, 12))
    runs = stage.runs(["disaggregated"], stage.at_centre())
    batches = runs[runs["metric"] == "mean_batch"].groupby("panel", sort=False)["value"].mean()
    known = {
        PUBLISHED["flat_chunk_tokens"].high: PUBLISHED["flat_chunk_s"].high,
        float(LARGEST_CHUNK): PUBLISHED["large_chunk_s"].low,
    }
    tables = []
    for scene in stage.at_centre():
        B, K = decode_state(scene, float(batches[scene.panel]))
        kernels = scene.cluster.decode_calibrations[0].step
        longest = float(scene.cluster.decode_calibrations[0].valid_range.prompt_tokens)
        for engine, law, done in (
            ("kernels alone", kernels, 0.0),
            ("kernels alone", kernels, longest - LARGEST_CHUNK),
            ("with engine overhead", with_engine(kernels), 0.0),
            ("with engine overhead", with_engine(kernels), longest - LARGEST_CHUNK),
        ):
            step = np.asarray(law.step_time_s(B, K, chunks, chunks * (done + chunks / 2), np.full_like(chunks, done)))
            tables.append(
                pd.DataFrame(
                    {
                        "panel": scene.panel, "source": scene.source, "batch": B, "context_tokens": K,
                        "engine": engine, "done_tokens": done, "chunk_tokens": chunks.astype(int), "step_s": step,
                        "increase_s": step - float(np.asarray(law.step_time_s(B, K))),
                        "published_s": [known.get(float(chi), np.nan) for chi in chunks],
                    }
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def law_errors(stage: Stage) -> DataFrame:
    """Return the off-grid errors of every shipped calibration, as its file states them.

    Parameters
    ----------
    stage : Stage
        Not used: calibrations are made by `make calibrations`.

    Returns
    -------
    DataFrame
        Columns calibration, model, gpu, tp, kind ("mixture of experts" or "dense"), measure ("step", "step, linear
        law", "prompt", "dT of a chunk"), error (mean, relative) and published_error (of the paper's step model, at
        most).
    """
    import pandas as pd

    from qmodel.io.calibrations import list_calibrations, load_calibration

    measures = {
        "step": "step_mape", "step, linear law": "linear_step_mape", "prompt": "prefill_mape",
        "dT of a chunk": "chunk_increment_mape",
    }  # fmt: skip
    rows = []
    for model, gpu, tp in list_calibrations():
        cal = load_calibration(model, gpu, tp)
        grows = isinstance(cal.step, PNormLaw) and cal.step.a > 0
        for measure, key in measures.items():
            rows.append(
                {
                    "calibration": cal.name, "model": cal.model, "gpu": cal.gpu, "tp": cal.tp,
                    "kind": "mixture of experts" if grows else "dense", "measure": measure, "error": cal.fit[key],
                    "published_error": PUBLISHED["step_law_mape"].high,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)

"""Pictures of calibrations: measured against fitted, residuals, chunk increments, and KV transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qmodel.fitting.engine import decode_times_s, fitting_rows, prompt_times_s
from qmodel.laws import Calibration, Measurements, StepSamples
from qmodel.laws.calibration import MEASURED_TABLES
from qmodel.plotting.figure import COLORS, LINES, log_ticks, new_figure, plain_log, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qmodel.laws import TransferLaw

__all__ = [
    "chunk_increment_table",
    "draw_calibration",
    "draw_chunk_increment",
    "draw_fit",
    "draw_transfers",
    "draw_validation",
    "measured_table",
]

Array = npt.NDArray[np.float64]

BAND = 0.10  # the band drawn around equality
# The decode batch that a chunk joins, the context of each request [tokens], and how deep in its prompt it may lie.
_BATCH, _CONTEXT_EACH, _DEEP = 40.0, 1500.0, 16_384.0
_LAWS = {"ttft": "time to first token", "tbt": "time between tokens"}
CHUNKS = np.array([128, 256, 512, 1024, 2048])  # the candidates of the paper's Figure 1
_STATED = {
    "step_mape": "steps, mean",
    "step_p95": "steps, P95",
    "step_worst": "steps, worst",
    "chunk_increment_mape": "chunk increment, mean",
    "prefill_mape": "prompts, mean",
    "prefill_p95": "prompts, P95",
    "prefill_short_mape": "prompts below 256 tokens, mean",
    "linear_step_mape": "linear law on steps, mean",
}


def measured_table(
    calibrations: Sequence[Calibration], measured: Sequence[Measurements]
) -> dict[str, tuple[Array, Array, Array]]:
    """Return measured and predicted times [s] and the tp of each row, by ``decode`` and ``prompt``.

    Parameters
    ----------
    calibrations : sequence of Calibration
        One model and GPU at several tp.
    measured : sequence of Measurements
        Rows; those beyond the calibrations' tp or KV capacity are left out.
    """
    steps, phases = [np.empty((3, 0))], [np.empty((3, 0))]
    for rows in measured:
        decode, prompt, _ = fitting_rows(calibrations, rows.decode, rows.prompt)
        steps.append(np.array([decode.time_s, decode_times_s(calibrations, decode), decode.tp], dtype=float))
        phases.append(np.array([prompt.time_s, prompt_times_s(calibrations, prompt), prompt.tp], dtype=float))
    return {
        name: (measured_s, predicted_s, tp)
        for name, parts in (("decode", steps), ("prompt", phases))
        for measured_s, predicted_s, tp in (np.concatenate(parts, axis=1),)
    }


def _nothing(axes: Axes, text: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes)
    axes.set_axis_off()


def _draw_equality(axes: Axes, table: tuple[Array, Array, Array], what: str) -> None:
    measured, predicted, tp = table
    if not len(measured):
        axes.set_title(what)
        _nothing(axes, "no such rows in the file")
        return
    ends = np.array([min(measured.min(), predicted.min()) / 1.2, max(measured.max(), predicted.max()) * 1.2]) * 1e3
    axes.plot(ends, ends, color="black", lw=0.8)
    axes.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color="#eeeeee", zorder=0)
    for number, degree in enumerate(np.unique(tp)):
        at = tp == degree
        label = f"tp {degree:g}"
        axes.plot(
            measured[at] * 1e3, predicted[at] * 1e3, "os^Dv"[number % 5], ms=4, color=COLORS[number + 1], label=label
        )
    axes.set(xscale="log", yscale="log", xlabel="measured [ms]", ylabel="predicted [ms]")
    log_ticks(axes.xaxis)
    log_ticks(axes.yaxis)
    error = np.mean(np.abs(predicted / measured - 1))
    axes.set_title(f"{what}: mean error {error:.1%}")
    axes.legend(loc="upper left")


def draw_validation(
    calibrations: Sequence[Calibration],
    measured: Sequence[Measurements],
    path: str | Path,
    laws: Mapping[str, tuple[Array, Array]] | None = None,
) -> None:
    """Draw predicted against measured decode steps and prompt phases, with a band of 10 %, and laws below them.

    Parameters
    ----------
    calibrations : sequence of Calibration
        One model and GPU at several tp.
    measured : sequence of Measurements
        Rows to compare with.
    path : str or Path
        File to write (.png, .pdf, .svg).
    laws : mapping, optional
        ``ttft`` and ``tbt`` to predicted and measured samples [s].
    """
    tables = measured_table(calibrations, measured)
    with style():
        figure = new_figure(8.0, 7.2 if laws else 3.8)
        panels: Any = figure.subplots(2 if laws else 1, 2, squeeze=False)
        _draw_equality(panels[0][0], tables["decode"], "decode step")
        _draw_equality(panels[0][1], tables["prompt"], "prompt phase")
        for axes, (name, title) in zip(panels[1] if laws else (), _LAWS.items(), strict=False):
            _draw_law(axes, (laws or {}).get(name), title)
        save_figure(figure, path)


def _draw_law(axes: Axes, law: tuple[Array, Array] | None, title: str) -> None:
    """Draw the distribution functions of predicted and measured times."""
    axes.set_title(title)
    if law is None:
        _nothing(axes, "not in the file")
        return
    shares = np.linspace(0.005, 0.995, 199)
    looks = (("predicted", "--", COLORS[4]), ("measured", "-", COLORS[0]))
    for times, (name, line, color) in zip(law, looks, strict=True):
        axes.plot(np.quantile(times, shares) * 1e3, 100 * shares, line, color=color, label=name)
    axes.set(xscale="log", xlabel="t [ms]", ylabel="share within t [%]")
    log_ticks(axes.xaxis)
    axes.legend(loc="lower right")


def chunk_increment_table(
    calibration: Calibration, batch: float, context_each: float, done: float
) -> tuple[Array, Array]:
    """Return chunks [tokens] and how much longer they make a decode step [s].

    Parameters
    ----------
    calibration : Calibration
        Laws, with or without an engine correction.
    batch, context_each : float
        Decode requests, and context of each [tokens].
    done : float
        Tokens of the chunk's prompt already processed.
    """
    chunks = CHUNKS.astype(float)
    plain = calibration.decode_step_s(batch, batch * context_each)
    hosting = [float(calibration.decode_step_s(batch, batch * context_each, c, done)) for c in chunks]
    return chunks, np.array(hosting) - float(plain)


def draw_chunk_increment(axes: Axes, calibrations: Sequence[tuple[str, Calibration]]) -> None:
    """Draw dT against chunk for calibrations of one model, at an empty and a long prefix.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    calibrations : sequence of (str, Calibration)
        Label and calibration, e.g. kernels and engine.
    """
    for number, (label, calibration) in enumerate(calibrations):
        for line, done in enumerate((0.0, _DEEP)):
            chunks, increment = chunk_increment_table(calibration, _BATCH, _CONTEXT_EACH, done)
            text = f"{label}, {done / 1024:.0f}k done"
            axes.plot(chunks, increment * 1e3, "o", ls=LINES[4 - 3 * line], color=COLORS[number + 1], ms=3, label=text)
    axes.set(xscale="log", yscale="log", xlabel="chunk [tokens]", ylabel="longer decode step dT [ms]")
    axes.set_xticks(CHUNKS, [str(c) for c in CHUNKS], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_title(f"Chunk hosted by a decode step of {_BATCH:g} requests")
    axes.legend(loc="upper left", fontsize=7)


def draw_fit(axes: Axes, residuals: Axes, calibration: Calibration, held: StepSamples) -> None:
    """Draw composed steps against the law, and the law's residuals against tokens.

    Parameters
    ----------
    axes, residuals : Axes
        Where to draw the two.
    calibration : Calibration
        Laws of kernels.
    held : StepSamples
        Steps that the fit has not seen.
    """
    law = calibration.step
    fitted = np.asarray(law.step_time_s(held.batch, held.context, held.chunk, held.quadratic, held.reloaded))
    hosting = held.chunk > 0
    tokens = held.batch + held.chunk
    for mask, label, color in ((~hosting, "decode alone", COLORS[4]), (hosting, "with a chunk", COLORS[6])):
        axes.plot(held.time_s[mask] * 1e3, fitted[mask] * 1e3, ".", ms=3, color=color, label=label)
        error = 100 * (fitted[mask] / held.time_s[mask] - 1)
        residuals.plot(tokens[mask], error, ".", ms=3, color=color)
    ends = np.array([held.time_s.min(), held.time_s.max()]) * 1e3
    axes.plot(ends, ends, color="black", lw=0.8)
    axes.set(xscale="log", yscale="log", xlabel="composed [ms]", ylabel="law [ms]", title=calibration.name)
    axes.legend(loc="upper left")
    residuals.axhline(0.0, color="black", lw=0.8)
    residuals.set(xscale="log", xlabel="tokens in the step", ylabel="residual [%]", title="off-grid residuals")


def draw_transfers(axes: Axes, laws: Sequence[tuple[str, TransferLaw]]) -> None:
    """Draw the time to move a prompt's KV cache against its length, for several networks.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    laws : sequence of (str, TransferLaw)
        Label and law.
    """
    tokens = np.geomspace(64, 32_768, 60)
    for number, (label, law) in enumerate(laws):
        time = np.asarray(law.exposed_s(tokens)) * 1e3
        axes.plot(tokens, time, color=COLORS[number % 7], ls=LINES[number % 7], lw=1.4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="prompt [tokens]", ylabel="KV transfer [ms]", title="KV transfer")
    axes.legend(loc="upper left")


def _stated(calibration: Calibration) -> list[str]:
    """Return a calibration's errors in words."""
    lines = [f"{text}: {calibration.fit[name]:.1%}" for name, text in _STATED.items() if name in calibration.fit]
    return ["Relative errors on what the fit has not seen", *lines] if lines else []


def draw_calibration(calibrations: Sequence[Calibration], measured: Sequence[Measurements], path: str | Path) -> None:
    """Draw a calibration: steps, prompts, chunk increments, and the measurements where there are some.

    Parameters
    ----------
    calibrations : sequence of Calibration
        The one asked for first, then other tp.
    measured : sequence of Measurements
        What it was corrected with; may be empty.
    path : str or Path
        File to write (.png, .pdf, .svg).
    """
    first = calibrations[0]
    fitted_to = "engine steps" if first.provenance.get("tables") == MEASURED_TABLES else "kernels"
    versions = [(fitted_to, first.without_engine())] + ([("engine", first)] if first.engine else [])
    with style():
        figure = new_figure(8.0, 7.0)
        (steps, prompts), (left, right) = figure.subplots(2, 2)
        batches, lengths = np.unique(np.geomspace(1, 256, 40).round()), np.geomspace(64, 32_768, 60)
        for number, (label, cal) in enumerate(versions):
            color, line = COLORS[number + 1], LINES[4 - number]
            step = np.asarray(cal.decode_step_s(batches, batches * _CONTEXT_EACH))
            steps.plot(batches, step * 1e3, color=color, ls=line, label=label)
            prompts.plot(lengths, np.asarray(cal.lone_prefill_s(lengths)) * 1e3, color=color, ls=line, label=label)
        steps.set(
            xscale="log",
            xlabel=f"decode requests, {_CONTEXT_EACH:,.0f} tokens each",
            ylabel="step [ms]",
            title=first.name,
        )
        prompts.set(xscale="log", yscale="log", xlabel="prompt [tokens]", ylabel="prefill [ms]", title="lone prompts")
        steps.set_ylim(bottom=0)
        plain_log(steps.xaxis)
        plain_log(prompts.xaxis)
        plain_log(prompts.yaxis)
        steps.legend()
        prompts.legend()
        tables = measured_table(calibrations, measured)
        if measured:
            _draw_equality(left, tables["decode"], "decode step")
            _draw_equality(right, tables["prompt"], "prompt phase")
        else:
            draw_chunk_increment(left, versions)
            plain_log(left.yaxis)
            right.axis("off")
            right.text(0.0, 0.95, "\n".join(_stated(first)), va="top", fontsize=8)
        save_figure(figure, path)

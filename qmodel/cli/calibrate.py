"""`qmodel calibrate` and `qmodel validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmodel.cli import show
from qmodel.cli.options import JsonOption, check_plot

__all__ = ["calibrate", "validate"]


def calibrate(
    output: Annotated[Path, typer.Option("-o", "--output", help="Calibration file to write (JSON).")],
    model: Annotated[str, typer.Option(help="Known model or a Hugging Face config.json.")],
    gpu: Annotated[str, typer.Option(help="GPU type.")] = "a100",
    tp: Annotated[int, typer.Option(min=1, max=64, help="GPUs per instance.")] = 1,
    profiles: Annotated[
        str | None, typer.Option(help="aiconfigurator, a Vidur folder or a CSV of steps. [default: aiconfigurator]")
    ] = None,
    measured: Annotated[Path | None, typer.Option(help="Measurements of your own engine.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the fit (.png, .pdf, .svg).")] = None,
    json: JsonOption = False,
) -> None:
    """Fit latency laws to kernel profiles and measurements.

    Example: qmodel calibrate --model llama-3.1-8b --gpu a100 --profiles aiconfigurator -o cal.json
    """
    from qmodel.io.atomic import check_target

    check_target(output)
    check_plot(plot)
    from qmodel.studies.calibration import calibrate as run

    result = run(model, gpu, tp, profiles=profiles, measured=measured)
    result.save(output)
    written = [str(output)]
    if plot is not None:
        result.draw(plot)
        written.append(str(plot))
    if json:
        show.print_json(result.to_dict())
    else:
        show.console().print(*result.lines(), sep="\n")
    show.notices([f"wrote {name}" for name in written])


def validate(
    calibration: Annotated[Path, typer.Option(help="Calibration file.")],
    measured: Annotated[Path, typer.Option(help="Measurements to compare with.")],
    plot: Annotated[Path | None, typer.Option(help="Draw predicted against measured (.png, .pdf, .svg).")] = None,
    json: JsonOption = False,
) -> None:
    """Say how far a calibration is from measurements.

    Example: qmodel validate --calibration cal.json --measured bench.json
    """
    check_plot(plot)
    from qmodel.studies.calibration_validation import validate_calibration as run

    result = run(calibration, measured)
    if plot is not None:
        result.draw(plot)
    if json:
        show.print_json(result.to_dict())
    else:
        show.console().print(*result.lines(), sep="\n")
    show.notices([] if plot is None else [f"wrote {plot}"])

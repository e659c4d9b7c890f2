"""Rebuild every calibration file and the report page: ``python calibration/build.py`` (needs qmodel[profiles])."""

from __future__ import annotations

import sys
from pathlib import Path

from qmodel.fitting import calibrate_model, gpu_named, load_model
from qmodel.fitting.aiconfigurator import AiconfiguratorTables
from qmodel.io.calibrations import save_calibration
from qmodel.studies.calibration_report import write_report

WANTED: dict[str, dict[str, tuple[int, ...]]] = {
    "a100": {
        "bloom-176b": (8,),
        "deepseek-v2-lite": (1, 2),
        "llama-2-7b": (1, 2),
        "llama-2-70b": (2, 4, 8),
        "llama-3.1-8b": (1, 2, 4),
        "llama-3.1-70b": (4, 8),
        "mistral-7b": (1, 2),
        "mixtral-8x7b": (2, 4, 8),
        "qwen2.5-7b": (1, 2),
        "qwen3-8b": (1, 2),
        "qwen3-30b-a3b": (1, 2, 4),
        "qwen3-32b": (1, 2, 4, 8),
    },
    "h100": {
        "bloom-176b": (8,),
        "deepseek-v2-lite": (1, 2),
        "llama-2-70b": (2, 4, 8),
        "llama-3.1-8b": (1, 2),
    },
    "h200": {
        "deepseek-v2-lite": (1, 2),
        "llama-2-70b": (2, 4, 8),
        "llama-3.1-8b": (1, 2),
    },
}


def main() -> None:
    """Build each calibration and say so."""
    folder = (Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent).resolve()
    for gpu, models in WANTED.items():
        for model, degrees in models.items():
            for tp in degrees:
                calibration = calibrate_model(load_model(model), AiconfiguratorTables(gpu), gpu_named(gpu), tp)
                save_calibration(calibration, folder / f"{calibration.name}.json")
                print(f"{calibration.name}: off-grid error {100 * calibration.fit['step_mape']:.1f} %", flush=True)
    if folder == Path(__file__).resolve().parent:
        for path in write_report(folder, folder.parent / "docs"):
            print(f"wrote {path.relative_to(folder.parent)}")


if __name__ == "__main__":
    main()

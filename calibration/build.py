"""Rebuild every calibration file from kernel profiles: ``python calibration/build.py`` (needs qmodel[profiles])."""

from __future__ import annotations

import sys
from pathlib import Path

from qmodel.fitting import calibrate_model, gpu_named, load_model
from qmodel.fitting.aiconfigurator import AiconfiguratorTables
from qmodel.io.calibrations import save_calibration

WANTED = [
    ("a100", "deepseek-v2-lite", (1,)),
    ("a100", "llama-3.1-8b", (1,)),
    ("a100", "llama-2-70b", (2, 4, 8)),
]


def main() -> None:
    """Build each calibration and say so."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for gpu, model, degrees in WANTED:
        for tp in degrees:
            calibration = calibrate_model(load_model(model), AiconfiguratorTables(gpu), gpu_named(gpu), tp)
            save_calibration(calibration, folder / f"{calibration.name}.json")
            print(f"{calibration.name}: off-grid error {100 * calibration.fit['step_mape']:.1f} %")


if __name__ == "__main__":
    main()

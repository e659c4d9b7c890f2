"""A coverage-guided fuzz target over every loader: `python tools/fuzz_loaders.py -runs=20000`.

Its first byte chooses the loader, the rest is the file. Anything but an answer or a QModelError is a finding.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["qmodel.io"]):
    from qmodel.io.calibrations import read_calibrations
    from qmodel.io.config import load_config
    from qmodel.io.measurements import read_measurements
    from qmodel.io.plan_file import load_plan
    from qmodel.io.traces import read_trace

from qmodel.errors import QModelError

LOADERS = (
    (read_trace, ".csv"), (read_trace, ".jsonl"), (load_config, ".yaml"), (load_plan, ".json"),
    (read_calibrations, ".json"), (read_measurements, ".json"), (read_measurements, ".csv"),
    (read_measurements, ".prom"), (read_measurements, ".npz"),
)  # fmt: skip
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def one_input(data: bytes) -> None:
    """Read one made-up file."""
    if not data:
        return
    load, suffix = LOADERS[data[0] % len(LOADERS)]
    path = FOLDER / f"input{suffix}"
    path.write_bytes(data[1:])
    try:
        load(path)
    except QModelError as error:
        if not str(error):
            raise AssertionError("an error without a word") from error


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()

"""Fit the built-in workloads to the shared traces and write them, with provenance and errors, into the package.

Run from the root of the project: ``python calibration/build_workloads.py [folder of traces]``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qmodel.fitting.workload import fit_workload
from qmodel.io.atomic import write_text
from qmodel.io.traces import shared_data
from qmodel.scenario import Workload

AZURE = "Azure/AzurePublicDataset @ b469a113, CC-BY 4.0 (Patel et al., Splitwise, ISCA 2024)"
MOONCAKE = "kvcache-ai/Mooncake @ 3b5a5941, Apache-2.0 (Qin et al., Mooncake, FAST 2025)"
BUILTINS = {
    "azure-conv": ("azure2023_conv_h1", f"{AZURE}, AzureLLMInferenceTrace_conv.csv, first 1,750 s"),
    "azure-code": ("azure2023_code_h1", f"{AZURE}, AzureLLMInferenceTrace_code.csv, first 1,750 s"),
    "mooncake-conversation": (
        "mooncake_conversation_a",
        f"{MOONCAKE}, FAST25-release/traces/conversation_trace.jsonl, first 2,124 s, requests spread over 3 s ticks",
    ),
}


def main() -> None:
    """Write every built-in workload."""
    root = shared_data()
    traces = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "traces" if root else None
    if traces is None:
        sys.exit("no shared traces: set QMODEL_DATA or name their folder")
    target = Path(__file__).resolve().parents[1] / "qmodel" / "data" / "workloads"
    for name, (stem, source) in BUILTINS.items():
        model = fit_workload(Workload.from_trace(traces / f"{stem}.csv.gz"))
        provenance = {
            "source": source,
            "method": "windowed model fitted by moments, calibration/build_workloads.py; no row of the trace is kept",
            "fit": "each statistic of the trace, its mean over 20 draws of one span and their standard deviation",
        }
        entry = {**model, "name": name, "provenance": provenance}
        write_text(target / f"{name}.json", _dumped(entry))


def _dumped(model: dict[str, object]) -> str:
    """Return JSON with one line per entry, so that a change of a model can be read."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in model.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()

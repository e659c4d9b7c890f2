"""The shared reference cases as (id, law, case)."""

import json
from pathlib import Path

from qmodel.queueing import ServiceTime


def load(shared_data: Path) -> dict:
    return json.loads((shared_data / "queueing" / "reference.json").read_text(encoding="utf-8"))


def service_of(case: dict, laws: dict) -> ServiceTime:
    model, params = case["model"], case.get("params", {})
    if model == "M/G/1-lattice":
        values, weights = zip(*params["pmf"], strict=True)
        return ServiceTime.from_samples(values, weights)
    if model.startswith("MMPP2"):
        params = params["service"]
        model = "M/H2/k" if "p" in params else "M/E2/k" if params.get("scv") == 0.5 else "M/M/k"
    if model == "M/H2/k":
        return ServiceTime.hyperexponential([params["p"], 1 - params["p"]], [params["mean1"], params["mean2"]])
    if model in ("M/M/k", "M/D/k", "M/E2/k"):
        return {
            "M/M/k": ServiceTime.exponential(1.0),
            "M/D/k": ServiceTime.deterministic(1.0),
            "M/E2/k": ServiceTime.erlang(2, 1.0),
        }[model]
    name = case["service_law"]
    if name.startswith("lognormal"):
        return ServiceTime.lognormal(1.0, float(name.split()[-1]))
    law = laws["llm_law_200" if name.startswith("LLM200") else "llm_law_40"]
    return ServiceTime.from_samples(law["service"], law["weight"])

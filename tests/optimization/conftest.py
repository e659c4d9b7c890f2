"""A calibration, clusters and workloads for the optimizer's tests; coefficients of published A100 fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from qmodel.laws import Calibration, PNormLaw, ValidRange
from qmodel.scenario import SLO, Cluster, Workload


@dataclass(frozen=True)
class Lengths:
    """The least that the optimizer asks of a workload."""

    rate_per_s: float
    prompt: npt.NDArray[np.float64]
    output: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    name: str = "stand-in"

    def lengths(self) -> tuple[npt.NDArray[np.float64], ...]:
        return self.prompt, self.output, np.zeros_like(self.prompt), self.weights


def deepseek_v2_lite() -> Calibration:
    return Calibration(
        model="deepseek-v2-lite",
        gpu="a100",
        tp=1,
        step=PNormLaw(
            t0_s=0.0, w_s=6.113e-3, a=0.3012, c_s=3.761e-5, p=5.93,
            context_s=4.736e-8, attention_s=1.608e-9, reload_s=5.96e-7,
        ),
        prefill=PNormLaw(
            t0_s=0.0, w_s=6.527e-3, a=0.282, c_s=3.376e-5, p=3.65, attention_s=1.941e-9, reload_s=5.96e-7
        ),
        layers=27,
        kv_bytes_per_token=31104.0,
        kv_capacity_tokens=1_380_000,
        valid_range=ValidRange(batch=256, context_tokens=1_000_000, chunk_tokens=8192, prompt_tokens=131_072),
    )  # fmt: skip


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    return deepseek_v2_lite()


@pytest.fixture(scope="session")
def cluster(calibration: Calibration) -> Cluster:
    return Cluster(prefill=2, decode=2, calibration=calibration)


@pytest.fixture(scope="session")
def slo() -> SLO:
    return SLO(ttft_s=1.0, tbt_s=0.060)


@pytest.fixture(scope="session")
def prompts() -> Lengths:
    """Chat-like prompts with a long tail, output about 200 tokens."""
    rng = np.random.default_rng(5)
    prompt = np.clip(rng.lognormal(6.6, 1.1, 400).round(), 16, 30_000)
    output = np.clip(rng.lognormal(4.6, 1.0, 400).round(), 1, 2000)
    return Lengths(20.0, prompt, output, np.full(400, 1 / 400))


@pytest.fixture(scope="session")
def chat(cluster: Cluster) -> Workload:
    return Workload.builtin("azure-conv").at_load(0.9, cluster)

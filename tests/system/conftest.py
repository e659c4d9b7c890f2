"""Laws and lengths that the tests of predictions share."""

import numpy as np
import pytest

from qmodel.laws import Calibration, PNormLaw, ValidRange


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    """Fits for DeepSeek-V2-Lite on A100 as DESIGN section 2 gives them."""
    ms = 1e-3
    return Calibration(
        model="deepseek-v2-lite",
        gpu="a100",
        tp=1,
        step=PNormLaw(
            t0_s=0.0, w_s=6.113 * ms, a=0.3012, c_s=0.03761 * ms, p=5.93, context_s=4.736e-5 * ms,
            attention_s=1.608e-6 * ms, reload_s=5.96e-4 * ms,
        ),
        prefill=PNormLaw(
            t0_s=0.0, w_s=6.527 * ms, a=0.282, c_s=0.03376 * ms, p=3.65, attention_s=1.941e-6 * ms,
            reload_s=5.96e-4 * ms,
        ),
        layers=27,
        kv_bytes_per_token=31_104.0,
        kv_capacity_tokens=1_380_000,
        valid_range=ValidRange(batch=256, context_tokens=1_000_000, chunk_tokens=8192, prompt_tokens=131_072),
    )  # fmt: skip


@pytest.fixture(scope="session")
def chat_lengths() -> tuple[np.ndarray, np.ndarray]:
    """Prompt lengths and weights like a chat service's: many short, some long [tokens]."""
    values = np.unique(np.geomspace(16, 16_000, 60).astype(int))
    weights = np.exp(-0.5 * ((np.log(values) - np.log(900.0)) / 0.9) ** 2)
    return values, weights / weights.sum()

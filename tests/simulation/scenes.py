"""Scenarios that several test modules share: laws of DESIGN 2, small clusters, random requests, a rule."""

import numpy as np

from qmodel.laws import Calibration, PNormLaw, TransferLaw, ValidRange
from qmodel.policies import ThresholdRule
from qmodel.scenario import Cluster, Requests

STEP = PNormLaw(
    t0_s=0, w_s=6.113e-3, a=0.3012, c_s=3.761e-5, p=5.93, context_s=4.736e-8, attention_s=1.608e-9, reload_s=5.96e-7
)
PREFILL = PNormLaw(t0_s=0, w_s=6.527e-3, a=0.282, c_s=3.376e-5, p=3.65, attention_s=1.941e-9, reload_s=5.96e-7)


def calibration(**changes):
    """Return DeepSeek-V2-Lite on an A100 with the coefficients of DESIGN 2."""
    values = {
        "model": "deepseek-v2-lite", "gpu": "a100", "tp": 1, "step": STEP, "prefill": PREFILL, "layers": 27,
        "kv_bytes_per_token": 31104, "kv_capacity_tokens": 1_380_000,
        "valid_range": ValidRange(batch=256, context_tokens=10**6, chunk_tokens=8192, prompt_tokens=131_072),
    }  # fmt: skip
    return Calibration(**(values | changes))


def cluster(prefill=2, decode=2, cal=None, **options):
    """Return a cluster of equal instances."""
    return Cluster(prefill=prefill, decode=decode, calibration=cal or calibration(), **options)


def chat_requests(n, load, target, seed=0, longest=14_000):
    """Return Poisson arrivals with lengths like a chat service's, at a load of the prefill pool."""
    rng = np.random.default_rng(seed)
    prompt = np.clip(rng.lognormal(np.log(1035), 0.75, n), 16, longest).astype(int)
    output = np.clip(rng.lognormal(np.log(150), 0.9, n), 1, 1000).astype(int)
    rate = load * target.prefill_count / np.mean(target.work_s(prompt))
    return Requests.from_arrays(np.cumsum(rng.exponential(1 / rate, n)), prompt, output)


def host_time(law, length, batch, context, chunks, limit):
    """Return (host time, delay of the residents) of a prompt's chunk schedule; a large number if unsafe."""
    done, total, harm = 0, 0.0, 0.0
    alone = law.step_time_s(batch, context)
    while done < length:
        for candidate in chunks:
            chunk = min(candidate, length - done)
            step = law.step_time_s(batch, context, chunk, chunk * (done + chunk / 2), done)
            if step <= limit:
                break
        else:
            return 1e6, 1e6
        total += step
        harm += batch * (step - alone)
        done += chunk
    return total, harm


def rule(target, *, binding="dispatch", order="fcfs", gp=2.0, gd=1.0, harm=0.0, limit=0.060, room=2000, ageing=0.0):
    """Return a threshold rule with exact tables for the cluster's laws."""
    chunks = (2048, 1024, 512, 256, 128)
    lengths = np.unique(np.geomspace(16, 16_384, 14).astype(int)).astype(float)
    batches, contexts = np.linspace(0, 256, 5), np.linspace(0, 400_000, 5)
    law = target.decode_calibrations[0].step
    both = np.array([[[host_time(law, L, B, K, chunks, limit) for K in contexts] for B in batches] for L in lengths])
    transfer: TransferLaw = target.transfer_law()
    return ThresholdRule(
        binding=binding, order=order, price_prefill_per_s=gp, price_decode_per_s=gd, harm_weight=harm, chunks=chunks,
        tbt_limit_s=limit, max_waiting_tokens=room, ageing_per_s=ageing, lengths=lengths, batches=batches,
        contexts=contexts, work_s=target.work_s(lengths), execution_s=target.execution_s(lengths),
        transfer_s=transfer.exposed_s(lengths), host_s=both[..., 0], harm_s=both[..., 1],
    )  # fmt: skip
